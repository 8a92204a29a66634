"""Normalisation layers: which statistics are shared decides what goes together."""

from torch import Tensor

from spaces.channels import Dims, Ids
from spaces.step import Rule, Step


def batch_norm(step: Step) -> list[Dims]:
    """Every channel by itself: batch and instance normalisation."""
    dims = step.dims(step["input"])
    batch, channels, *space = dims
    for ids in (batch, *space):
        step.freeze(ids, "is normalised over")
    own = [step.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    _tie_own(step, channels, own)
    found: list[Dims] = [dims]
    for out in step.outputs[1:]:  # statistics, where the variant returns them
        found.append(
            (channels,) if out.ndim == 1 and len(out) == step["input"].shape[1] else (None,) * out.ndim
        )
    return found


def group_norm(step: Step) -> list[Dims]:
    """A whole group of channels goes together: the statistics of the others do not change."""
    dims, groups = step.dims(step["input"]), step["group"]
    for ids in dims[2:]:
        step.freeze(ids, "is normalised over")
    if groups == 1:
        step.freeze(dims[1], "is in a GroupNorm of a single group, whose statistics span all channels")
    elif dims[1] is not None:
        step.tie_rows(dims[1].reshape(groups, -1))
    _tie_own(step, dims[1], [step["weight"], step["bias"]])
    return [dims]


def layer_norm(step: Step) -> list[Dims]:
    """Statistics over the last dimensions; those of a pruned network are over what it keeps."""
    source, affine = step["input"], [t for t in (step.get("weight"), step.get("bias")) if t is not None]
    dims = step.dims(source)
    normalised = len(step["normalized_shape"])
    for tensor in affine:
        for ids, own in zip(dims[-normalised:], step.dims(tensor), strict=True):
            step.tie(ids, own)
    if not affine and normalised == 1:
        step.states_size(dims[-1])
    elif not affine:
        for ids in dims[-normalised:]:
            step.freeze(ids, "is in a layer norm over several dimensions without parameters")
    return [dims]


def weight_norm(step: Step) -> list[Dims]:
    """Weights computed from a direction and a length: fewer inputs would change every length, so all stay."""
    direction = step.dims(step["v"])
    for ids in (*direction, *step.dims(step["g"])):
        step.freeze(ids, "is rescaled by weight_norm")
    step.produced(direction[step["dim"] % len(direction)])
    return [(None,) * out.ndim for out in step.outputs]


def _tie_own(step: Step, channels: Ids | None, own: list[Tensor | None]) -> None:
    tensors = [tensor for tensor in own if tensor is not None]
    for tensor in tensors:
        step.tie(channels, step.dims(tensor)[0])
    if not tensors:
        step.states_size(channels)


RULES: dict[str, Rule] = {
    **dict.fromkeys(["native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"], batch_norm),
    **dict.fromkeys(["_native_batch_norm_legit", "_native_batch_norm_legit_no_training"], batch_norm),
    **dict.fromkeys(["_batch_norm_with_update", "_batch_norm_no_update"], batch_norm),
    "native_group_norm": group_norm,
    "native_layer_norm": layer_norm,
    "_weight_norm_interface": weight_norm,
}
