"""Element by element, with broadcasting: arithmetic, activations, copies, dropout."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from spaces.channels import Dims, Ids
from spaces.step import Rule, Step


def broadcast(step: Step, operands: Iterable[Tensor], shape: Sequence[int]) -> Dims:
    """Tie what lies on the same position of the common shape, and return its ids."""
    aligned = [(tensor, step.dims(tensor), len(shape) - tensor.ndim) for tensor in operands]
    out: list[Ids | None] = []
    for axis, length in enumerate(shape):
        tracked: list[Ids] = []
        given = False
        for tensor, dims, shift in aligned:
            if axis < shift:
                continue
            ids = dims[axis - shift]
            if ids is None:
                given |= tensor.shape[axis - shift] > 1
            elif len(ids) < length:
                step.freeze(ids, "is one channel for all others")
            else:
                tracked.append(ids)
        for ids in tracked[1:]:
            step.tie(tracked[0], ids)
        if given and tracked:
            step.freeze(tracked[0], "meets channels that are given")
        out.append(tracked[0] if tracked else None)
    return tuple(out)


def pointwise(step: Step) -> list[Dims]:
    """All tensors broadcast against each other."""
    return [broadcast(step, step.inputs, tensor.shape) for tensor in step.outputs]


def same_shape(step: Step) -> list[Dims]:
    """Every output of the first tensor's shape has its ids."""
    first = step.inputs[0]
    return [step.dims(first) if out.shape == first.shape else (None,) * out.ndim for out in step.outputs]


def new_like(step: Step) -> list[Dims]:
    """A new tensor whose size was most likely read off the given one, where they agree.

    Should the agreement be a coincidence, verification finds out.
    """
    dims, shape, out = step.dims(step["self"]), step["self"].shape, step.out
    if out.ndim != len(shape):
        return [(None,) * out.ndim]
    return [tuple(ids if out.shape[i] == shape[i] else None for i, ids in enumerate(dims))]


_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
_NOISE = ("native_dropout", "bernoulli", "uniform", "normal", "rrelu_with_noise", "log_sigmoid_forward")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("where", "masked_fill", "_prelu_kernel", "copy", "fill", "zero", "clamp"), pointwise),
    "hardswish": pointwise,
    **dict.fromkeys(("clone", "detach", "alias", "_to_copy", "lift_fresh", *_LIKE, *_NOISE), same_shape),
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones", "new_full"), new_like),
}
