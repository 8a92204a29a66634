"""The dense network with silenced units: what a pruned network is compared with."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spaces.channels import Ids
from spaces.clone import clone_with
from spaces.space import ChannelSpace
from spaces.step import Step
from spaces.tracer import Tracer


class Reference(Tracer):
    """Runs the dense network, taking statistics over kept channels only.

    It follows ids as tracing did, so that it knows which positions of an activation are kept.
    """

    def __init__(self, model: nn.Module, space: ChannelSpace, kept: np.ndarray, opened: bool = False) -> None:
        super().__init__(model)
        self.opened = opened
        self.unit = np.full(self.graph.size, -1)
        for axis in space.axes:
            if (axis.tensor, axis.dim) in self.axes:
                self.unit[self.axes[axis.tensor, axis.dim]] = axis.units
        self.keep = np.where(self.unit >= 0, kept[self.unit], True)

    def looks(self, ids: Ids) -> Ids:
        """A reshape need not guess here: ids of one unit look alike."""
        return np.where(ids >= 0, self.unit[ids], -1)

    def execute(self, step: Step) -> Any:
        """Run the operator, or its variant that looks at kept channels only."""
        variant = _VARIANTS.get(step.func.overloadpacket.__name__)
        result = variant(self, step) if variant else None
        if result is None and self.opened:
            result = open_up(step.func, step["*"], step["**"])
        return super().execute(step) if result is None else result

    def kept_along(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Which positions along the dimension are kept; None when all are."""
        ids = self.dims(tensor)[dim]
        if ids is None:
            return None
        kept = np.where(ids >= 0, self.keep[ids], True)
        return None if kept.all() else torch.from_numpy(kept)


def _layer_norm(reference: Reference, step: Step) -> Any:
    source, count = step["input"], len(step["normalized_shape"])
    mask = torch.ones(source.shape[-count:], dtype=source.dtype)
    for dim in range(-count, 0):
        kept = reference.kept_along(source, dim)
        if kept is not None:
            mask = mask * kept.reshape(-1, *[1] * (-1 - dim))
    if bool(mask.all()):
        return None
    axes = list(range(-count, 0))
    kept_positions = mask.sum().clamp(min=1)  # where nothing is kept, nobody reads what comes out
    mean = (source * mask).sum(axes, keepdim=True) / kept_positions
    deviation = (source - mean) * mask
    scale = (deviation.square().sum(axes, keepdim=True) / kept_positions + step["eps"]).rsqrt()
    out = deviation * scale
    if step["weight"] is not None:
        out = out * step["weight"]
    if step["bias"] is not None:
        out = out + step["bias"]
    return out, mean, scale


def _attention(reference: Reference, step: Step) -> Any:
    kept = reference.kept_along(step["query"], -1)
    if kept is None or step["scale"] is not None:
        return None
    return step.func(*step["*"], **{**step["**"], "scale": 1 / math.sqrt(max(1, int(kept.sum())))})


_VARIANTS: dict[str, Callable[[Reference, Step], Any]] = {
    "native_layer_norm": _layer_norm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}


class Opened(TorchDispatchMode):
    """Within it, activations that are flat let a tenth of everything pass."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, or what it is when opened."""
        kwargs = kwargs or {}
        result = open_up(func, args, kwargs)
        return func(*args, **kwargs) if result is None else result


def open_up(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operator plus a tenth of what it is given, where it is flat somewhere; else None."""
    name = func.overloadpacket.__name__
    if name.rstrip("_") not in _FLAT or not args[0].is_floating_point():
        return None
    leak = 0.1 * args[0]
    result = func(*args, **kwargs)
    return result.add_(leak) if name.endswith("_") else result + leak


_FLAT = ("relu", "hardtanh", "threshold")


def silenced(model: nn.Module, space: ChannelSpace, kept: np.ndarray) -> nn.Module:
    """A copy with zeros at every position of every removed unit."""
    removed: dict[str, list[tuple[int, Tensor]]] = {}
    for axis in space.axes:
        positions = np.flatnonzero((axis.units >= 0) & ~kept[axis.units])
        if len(positions):
            removed.setdefault(axis.tensor, []).append((axis.dim, torch.from_numpy(positions)))

    def silence(name: str, tensor: Tensor) -> Tensor:
        copied = tensor.detach().clone()
        for dim, positions in removed.get(name, ()):
            copied.index_fill_(dim, positions, 0)
        return copied

    return clone_with(model, silence)


def randomised(name: str, tensor: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A random tensor of the same role, on the CPU: signals neither die nor explode on their way.

    Matrices and kernels keep the variance of what they read; vectors named weight scale by around one;
    variances stay positive; other buffers (position tables, masks) are rescaled element by element, so that
    signs, zeros and infinities stay.
    """
    if not tensor.is_floating_point():
        return tensor.detach().cpu().clone()
    leaf = name.rpartition(".")[2]
    is_parameter = isinstance(tensor, nn.Parameter)

    def normal() -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    def around_one() -> Tensor:
        return torch.rand(tensor.shape, generator=generator) + 0.5

    if "mean" in leaf or (is_parameter and tensor.ndim == 1 and "weight" not in leaf):
        drawn = 0.3 * normal()
    elif "var" in leaf or (is_parameter and tensor.ndim < 2):
        drawn = around_one()
    elif is_parameter:
        drawn = normal() * (1.4 / math.sqrt(max(1, tensor.numel() // max(1, len(tensor)))))
    else:
        drawn = tensor.detach().cpu().double() * around_one()
    return drawn.to(dtype)
