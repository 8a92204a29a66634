"""Shapes of common operators on meta tensors.

Torch works most of them out in Python, which takes most of a trace's time, and loads its compiler for the
first of them. What is not in this table, torch works out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spaces.step import bind

Shape = Callable[[Mapping[str, Any]], Any]
"""An operator's result by its arguments; None where torch should work it out."""


class Shapes(TorchDispatchMode):
    """Under it, networks run on meta tensors without what torch loads and works out for them.

    Attributes:
        read: Ids of the tensors that operators were given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would load its compiler at the first operator."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        self.read.update(map(id, tree_leaves((args, kwargs))))
        values = bind(func, args, kwargs or {})
        known = shape_of(func, values)
        return func(*args, **(kwargs or {})) if known is None else known


def shape_of(func: torch._ops.OpOverload, values: Mapping[str, Any]) -> Any:
    """What the operator returns on meta tensors, or None where torch has to be asked."""
    known = TABLE.get(func.overloadpacket.__name__)
    return known(values) if known else None


def _convolution(values: Mapping[str, Any]) -> Tensor | None:
    source, weight = values["input"], values["weight"]
    if not source.is_meta or source.ndim != weight.ndim or not source.is_contiguous():
        return None
    made, read = weight.shape[:2]
    into, out = (made, read * values["groups"]) if values["transposed"] else (read * values["groups"], made)
    if source.dtype != weight.dtype:  # torch minds only where there are values
        raise TypeError(f"a convolution of {weight.dtype} is given {source.dtype}")
    if source.shape[1] != into:
        return None  # torch has the better error message
    space = [
        _length(values, axis, source.shape[2 + axis], weight.shape[2 + axis])
        for axis in range(source.ndim - 2)
    ]
    return _new(source, (len(source), out, *space)) if min(space) > 0 else None


def _length(values: Mapping[str, Any], axis: int, length: int, kernel: int) -> int:
    stride, padding, dilation, extra = (
        given[axis if len(given) > 1 else 0]
        for given in (values["stride"], values["padding"], values["dilation"], values["output_padding"])
    )
    reach = dilation * (kernel - 1)
    if values["transposed"]:
        return int((length - 1) * stride - 2 * padding + reach + extra + 1)
    return int((length + 2 * padding - reach - 1) // stride + 1)


def _batch_norm(values: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    source = values["input"]
    if not source.is_meta:
        return None
    statistics = _new(source, (source.shape[1] if values["training"] else 0,))
    return _alike(source), statistics, _alike(statistics)


def _group_norm(values: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    source, groups = values["input"], values["group"]
    if not source.is_meta or source.shape[1] % groups:
        return None
    statistics = _new(source, (len(source), groups))
    return _alike(source), statistics, _alike(statistics)


def _layer_norm(values: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    source, normalised = values["input"], values["normalized_shape"]
    if not source.is_meta or list(source.shape[-len(normalised) :]) != list(normalised):
        return None
    statistics = _new(source, (*source.shape[: -len(normalised)], *[1] * len(normalised)))
    return _alike(source), statistics, _alike(statistics)


def _activation(values: Mapping[str, Any]) -> Tensor | None:
    source = values["*"][0]
    return _alike(source) if source.is_meta and source.is_floating_point() else None


def _activation_in_place(values: Mapping[str, Any]) -> Tensor | None:
    source: Tensor = values["*"][0]
    return source if source.is_meta and source.is_floating_point() else None


def _binary(values: Mapping[str, Any]) -> Tensor | None:
    left, right = values["self"], values["other"]
    if isinstance(right, int | float):
        return _activation(values)
    if not (isinstance(right, Tensor) and left.is_meta and right.is_meta and left.dtype == right.dtype):
        return None
    if not left.is_floating_point():
        return None
    for one, other in ((left, right), (right, left)):
        if one.shape == other.shape or (one.ndim >= other.ndim and _fits(one, other)):
            return _alike(one)
    return None


def _binary_in_place(values: Mapping[str, Any]) -> Tensor | None:
    left: Tensor = values["self"]
    right = values["other"]
    known = isinstance(right, Tensor) and left.is_meta and right.is_meta and left.dtype == right.dtype
    return left if known and left.is_floating_point() and _fits(left, right) else None


def _prelu(values: Mapping[str, Any]) -> Tensor | None:
    return _alike(values["self"]) if values["self"].is_meta else None


def _mean(values: Mapping[str, Any]) -> Tensor | None:
    source = values["self"]
    if not source.is_meta or not values.get("dim") or values["dtype"] is not None:
        return None
    axes = {axis % source.ndim for axis in values["dim"]}
    shape = [1 if axis in axes else n for axis, n in enumerate(source.shape)]
    return _new(source, shape if values["keepdim"] else [n for i, n in enumerate(shape) if i not in axes])


def _cat(values: Mapping[str, Any]) -> Tensor | None:
    first, *others = values["tensors"]
    axis = values["dim"] % max(first.ndim, 1)
    for other in others:
        same = other.ndim == first.ndim and other.dtype == first.dtype
        if not same or any(
            n != m for i, (n, m) in enumerate(zip(first.shape, other.shape, strict=True)) if i != axis
        ):
            return None
    if not first.is_meta or not first.ndim or _ordered_otherwise(values["tensors"]):
        return None
    shape = list(first.shape)
    shape[axis] += sum(other.shape[axis] for other in others)
    return _new(first, shape)


def _ordered_otherwise(tensors: Sequence[Tensor]) -> bool:
    """Whether some image may have its channels last; the result would have them there, too."""
    return any(tensor.ndim > 3 and not tensor.is_contiguous() for tensor in tensors)


def _repeat(values: Mapping[str, Any]) -> Tensor | None:
    source, times = values["self"], values["repeats"]
    if not source.is_meta or len(times) < source.ndim:
        return None
    shape = [1] * (len(times) - source.ndim) + list(source.shape)
    return _new(source, [n * repeats for n, repeats in zip(shape, times, strict=True)])


def _matrix_product(values: Mapping[str, Any]) -> Tensor | None:
    left = values["self"] if "mat1" not in values else values["mat1"]
    right = values["mat2"]
    if not left.is_meta or left.shape[-1] != right.shape[-2] or left.dtype != right.dtype:
        return None
    if left.shape[:-2] != right.shape[:-2]:
        return None
    return _new(left, (*left.shape[:-1], right.shape[-1]))


def _new(source: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=source.dtype, device="meta")


def _alike(source: Tensor) -> Tensor:
    """Of the same shape and strides; `torch.empty_like` is one of the slow ones."""
    if source.is_contiguous():
        return _new(source, source.shape)
    return torch.empty_strided(source.shape, source.stride(), dtype=source.dtype, device="meta")


def _fits(wide: Tensor, narrow: Tensor) -> bool:
    """Whether broadcasting leaves the first one's shape as it is."""
    lengths = zip(reversed(wide.shape), reversed(narrow.shape), strict=False)
    return narrow.ndim <= wide.ndim and all(n in (1, length) for length, n in lengths)


_ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu", "sigmoid", "tanh", "elu", "hardswish", "hardtanh")
_BINARY = ("add", "sub", "mul", "div")

TABLE: dict[str, Shape] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "_prelu_kernel": _prelu,
    "mean": _mean,
    "cat": _cat,
    "repeat": _repeat,
    **dict.fromkeys(("mm", "addmm", "bmm"), _matrix_product),
    **dict.fromkeys((*_ACTIVATIONS, "_softmax", "_log_softmax"), _activation),
    **{f"{name}_": _activation_in_place for name in _ACTIVATIONS},
    **dict.fromkeys(_BINARY, _binary),
    **{f"{name}_": _binary_in_place for name in _BINARY},
}
