"""Judges pruned networks without the project's own verification.

It takes from a space only which positions of which tensors were removed. The dense network, in float64 with
everything randomised, then runs as it is (no tracing, no dispatch mode) with zeros at those positions, and
must agree with the pruned one: in its outputs, in eval and in train mode, on images of two sizes where the
network takes them, in the gradients of all parameters that are left, and in running statistics. Where a layer
looks at how many channels it has, this file has its own version of the layer.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from spaces.ranking import Ranking
from spaces.space import ChannelSpace
from spaces.tracer import attention_unfused
from tests.pruning_checks import find_all
from tests.random_networks import Attention

Removed = dict[tuple[str, int], np.ndarray]
"""Removed positions by (tensor, dimension); of modules that only state a size by (path + "#size", 0)."""


def random_double(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in float64 in which no parameter and no buffer is what initialisation gave."""
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 and len(parameter) else 1
            parameter.copy_(normal(parameter.shape) * 1.2 / fan**0.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(normal(buffer.shape).abs() + 0.3 if "var" in name else normal(buffer.shape))
    return model


def removed_positions(space: ChannelSpace, kept: np.ndarray) -> Removed:
    """Where what is gone was."""
    return {
        (axis.tensor, axis.dim): np.array(
            [i for i, unit in enumerate(axis.units) if unit >= 0 and not kept[unit]], dtype=np.int64
        )
        for axis in space.axes
    }


def kept_units(space: ChannelSpace, genome: tuple[int, ...], ranking: Ranking) -> np.ndarray:
    """Read off the ranking, unit by unit."""
    kept = np.zeros(sum(group.units for group in space.groups), dtype=bool)
    first = 0
    for group, count, order in zip(space.groups, genome, ranking.order, strict=True):
        for unit in order[:count]:
            kept[first + unit] = True
        first += group.units
    return kept


def silence(dense: nn.Module, removed: Removed) -> nn.Module:
    """A copy of the dense network with zeros where units are gone, and layers that count what is left."""
    model = copy.deepcopy(dense)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for (name, dim), positions in removed.items():
            if name in tensors and len(positions):
                tensors[name].index_fill_(dim, torch.from_numpy(positions), 0)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            model.set_submodule(path, _CountingNorm(module, _mask(path, module, removed)))
        elif isinstance(module, Attention) and module.fused and module.scale is None:
            module.scale = _left(module, path, removed) ** -0.5
        elif isinstance(module, nn.MultiheadAttention):
            gone = removed.get((f"{path}.out_proj.weight", 0), np.array([]))
            left = module.embed_dim - len(gone)
            with torch.no_grad():  # it scales by the number of all channels
                for tensor in (module.in_proj_weight, module.in_proj_bias):
                    tensor[: module.embed_dim] *= (module.embed_dim / left) ** 0.5
    return model


def _mask(path: str, norm: nn.Module, removed: Removed) -> Tensor:
    (width,) = norm.normalized_shape
    mask = torch.ones(width, dtype=torch.float64)
    for key in ((f"{path}.weight", 0), (f"{path}#size", 0)):
        mask[torch.from_numpy(removed.get(key, np.array([], dtype=np.int64)))] = 0
    return mask


def _left(attention: Attention, path: str, removed: Removed) -> int:
    """Channels that a head of the pruned network has, if there is a head left."""
    h, d = attention.heads, attention.deep
    weight = attention.q.weight if attention.layout == "apart" else attention.qkv.weight
    kept = np.ones(len(weight), dtype=bool)
    kept[
        removed.get((f"{path}.q.weight" if attention.layout == "apart" else f"{path}.qkv.weight", 0), [])
    ] = False
    shape, query = {
        "apart": ((h, d), np.s_[:]),
        "h3d": ((h, 3, d), np.s_[:, 0]),
        "hd3": ((h, d, 3), np.s_[..., 0]),
    }.get(attention.layout, ((3, h, d), np.s_[0]))
    return max(1, int(kept.reshape(shape)[query].sum(1).max()))


class _CountingNorm(nn.Module):
    """A layer norm, or an RMS norm, over the channels in a mask."""

    def __init__(self, norm: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, getattr(norm, "bias", None)
        self.centred, self.mask = isinstance(norm, nn.LayerNorm), mask
        self.eps = norm.eps if norm.eps is not None else torch.finfo(torch.float64).eps

    def forward(self, x: Tensor) -> Tensor:
        count = self.mask.sum().clamp(min=1)
        if self.centred:
            x = x - (x * self.mask).sum(-1, keepdim=True) / count
        x = x * self.mask
        x = x / (x.square().sum(-1, keepdim=True) / count + self.eps).sqrt()
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


def difference(found: object, wanted: object) -> float:
    """The largest between tensors of two results, relative to the largest value; infinite if unlike."""
    ours, theirs = find_all(found), find_all(wanted)
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return float("inf")
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        gap = (one - other).abs().max().item() if one.numel() else 0.0
        worst = max(worst, gap / max(1e-30, other.abs().max().item() if one.numel() else 1.0))
    return worst if worst == worst else float("inf")


def left_of(tensor: Tensor, name: str, removed: Removed) -> Tensor:
    """The tensor without what is gone."""
    for (owner, dim), positions in removed.items():
        if owner == name:
            left = np.setdiff1d(np.arange(tensor.shape[dim]), positions)
            tensor = tensor.index_select(dim, torch.from_numpy(left))
    return tensor


def disagreements(
    dense: nn.Module, pruned: nn.Module, removed: Removed, images: list[Tensor]
) -> Iterator[str]:
    """What is wrong with the pruned network, in words; nothing if it is right.

    Args:
        dense: The network in float64; never changed.
        pruned: Of it; trained on by this.
        removed: What is gone.
        images: Inputs, the first as traced; on others only where the dense network takes them.
    """
    tensors = dict(dense.named_parameters()) | dict(dense.named_buffers())
    for name, tensor in (dict(pruned.named_parameters()) | dict(pruned.named_buffers())).items():
        if not torch.equal(tensor, left_of(tensors[name], name, removed)):
            yield f"{name} is not the dense network's without what is gone"
    wanted = silence(dense, removed)
    for images_ in images:
        try:
            with torch.no_grad(), attention_unfused():  # the fused kernel has its own layer norms
                expected = wanted.eval()(images_)
        except Exception:  # a size that the dense network does not take
            continue
        with torch.no_grad():
            gap = difference(pruned.eval()(images_), expected)
        if gap > 1e-9:
            yield f"other values on {tuple(images_.shape)} in eval mode: {gap:.1g}"
    try:
        expected = wanted.train()(images[0])
    except Exception:  # a network that does not train on this input
        return
    found = pruned.train()(images[0])
    gap = difference(found, expected)
    if gap > 1e-8:
        yield f"other values in train mode: {gap:.1g}"
    yield from _unlike_gradients(wanted, pruned, removed, expected, found)


def _unlike_gradients(
    wanted: nn.Module, pruned: nn.Module, removed: Removed, expected: object, found: object
) -> Iterator[str]:
    try:
        _loss(expected).backward()
    except RuntimeError:  # the dense network overwrites what its gradients need
        return
    _loss(found).backward()
    scaled = {path for path, module in wanted.named_modules() if isinstance(module, nn.MultiheadAttention)}
    theirs = dict(wanted.named_parameters())
    largest = max((p.grad.abs().max().item() for p in theirs.values() if p.grad is not None), default=0.0)
    for name, parameter in pruned.named_parameters():
        if name.rpartition(".")[0] in scaled or not parameter.numel():
            continue
        dense = theirs[name]  # what works on nothing has no gradient, where in the dense network it is zero
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        other = torch.zeros_like(dense) if dense.grad is None else dense.grad
        gap = (own - left_of(other, name, removed)).abs().max().item()
        if not gap <= 1e-6 * max(1.0, largest):
            yield f"other gradients of {name}: {gap:.1g} where the largest is {largest:.1g}"
    buffers = dict(wanted.named_buffers())
    for name, buffer in pruned.named_buffers():
        if not buffer.is_floating_point() or not buffer.numel():
            continue
        if difference(buffer, left_of(buffers[name], name, removed)) > 1e-8:
            yield f"{name} is updated otherwise"


def _loss(result: object) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in find_all(result)]).sum()


def unexplained(model: nn.Module, space: ChannelSpace) -> set[str]:
    """Convolutions and linear layers of which some channels are in no group, without any reason given."""
    tracked = {(axis.tensor, axis.dim): axis.units for axis in space.axes}
    explained = {frozen.name for frozen in space.frozen if frozen.reason}
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # shared ones by the first
    found = set()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and len(module.weight) > 1:
            name = names[id(module.weight)]
            units = tracked.get((name, 0))
            if (units is None or (units < 0).any()) and name.removesuffix(".weight") not in explained:
                found.add(name)
    return found
