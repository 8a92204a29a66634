"""What takes the place of layers that have no channels left: they give the same and compute nothing.

A layer keeps its place, its parameters (as far as there are any) and their names; only its class changes.
"""

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


class AbsentConvolution(_ConvNd):
    """A convolution that has no input channels, and gives its bias; or has no output channels."""

    def forward(self, source: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The dense layer's result: (N, channels, *space), or without N."""
        transposed = isinstance(self, _ConvTransposeNd)
        axis = 1 if transposed else 0
        constant = self.weight.sum([i for i in range(self.weight.ndim) if i != axis])
        if transposed:  # one output channel a group, and no group left, where no output channels are left
            constant = constant[: self.out_channels]
        if self.bias is not None:
            constant = constant + self.bias
        n = len(self.kernel_size)
        space = self._transposed(source, output_size) if transposed else self._lengths(source)
        return constant.reshape(-1, *[1] * n).expand(*source.shape[: -1 - n], -1, *space).clone()

    def _lengths(self, source: Tensor) -> list[int]:
        n = len(self.kernel_size)
        lengths = []
        for i, length in enumerate(source.shape[-n:]):
            reach = self.dilation[i] * (self.kernel_size[i] - 1)
            if isinstance(self.padding, str):
                padded = reach if self.padding == "same" else 0
            else:
                padded = 2 * int(self.padding[i])
            lengths.append((length + padded - reach - 1) // self.stride[i] + 1)
        return lengths

    def _transposed(self, source: Tensor, output_size: list[int] | None) -> list[int]:
        n = len(self.kernel_size)
        extra = self._output_padding(  # type: ignore[operator]  # a method of transposed ones only
            source, output_size, self.stride, self.padding, self.kernel_size, n, self.dilation
        )
        return [
            (length - 1) * self.stride[i]
            - 2 * int(self.padding[i])
            + self.dilation[i] * (self.kernel_size[i] - 1)
            + extra[i]
            + 1
            for i, length in enumerate(source.shape[-n:])
        ]


class AbsentTransposedConvolution(AbsentConvolution, _ConvTransposeNd):
    """The same of a transposed one."""


class AbsentLinear(nn.Linear):
    """A linear layer that has no input features, and gives its bias; or has no output features."""

    def forward(self, input: Tensor) -> Tensor:
        """The dense layer's result: (..., features)."""
        constant = self.weight.sum(1)
        if self.bias is not None:
            constant = constant + self.bias
        return constant.expand(*input.shape[:-1], -1).clone()


class AbsentNorm(nn.Module):
    """A normalisation, or a PReLU, of no channels."""

    def forward(self, source: Tensor) -> Tensor:
        """What it is given: nothing."""
        return source


def replace_empty(model: nn.Module, stated: Mapping[str, int]) -> None:
    """Put stand-ins in the place of all layers that have no channels left.

    Args:
        model: A pruned network; changed in place.
        stated: Channels of modules that have no tensor to read them from, by path.
    """
    gone = {path for path, channels in stated.items() if not channels}
    for path, module in model.named_modules():
        tensors = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        if path in gone or any(not tensor.numel() for tensor in tensors):
            kind = standin_of(type(module))  # type: ignore[arg-type]  # classes are hashable
            if kind is not None:
                module.__class__ = kind


@cache
def standin_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that takes its place; None where there is none, as for a subclass that computes otherwise."""
    for known, standin in _STANDINS.items():
        if issubclass(kind, known):
            return standin if _computes_as_torch(kind) else None
    return None


def standin_named(name: str) -> type[nn.Module] | None:
    """The stand-in class of that name; None where there is none."""
    return next((kind for kind in _STANDINS.values() if kind.__name__ == name), None)


def takes_nothing(func: torch._ops.OpOverload, module: nn.Module | None) -> bool:
    """Whether an operator that runs in this module can be given tensors without channels."""
    if module is not None and _has_standin(module):
        return True
    return torch.Tag.pointwise in func.tags or func.overloadpacket.__name__.rstrip("_") in _HARMLESS


def _has_standin(module: nn.Module) -> bool:
    return standin_of(type(module)) is not None  # type: ignore[arg-type]  # classes are hashable


def _computes_as_torch(kind: type[nn.Module]) -> bool:
    forward: Callable[..., Tensor] = kind.forward
    return forward.__module__.startswith("torch.nn.modules") or kind in _STANDINS.values()


_STANDINS: dict[type[nn.Module], type[nn.Module]] = {
    _ConvTransposeNd: AbsentTransposedConvolution,
    _ConvNd: AbsentConvolution,
    nn.Linear: AbsentLinear,
    _NormBase: AbsentNorm,
    nn.GroupNorm: AbsentNorm,
    nn.LayerNorm: AbsentNorm,
    nn.PReLU: AbsentNorm,
}

_HARMLESS = frozenset(
    [
        "add",
        "sub",
        "mul",
        "cat",
        "clone",
        "detach",
        "alias",
        "_to_copy",
        "copy",
        "mean",
        "sum",
        "slice",
        "permute",
        "transpose",
        "unsqueeze",
        "expand",
        "native_dropout",
        "bernoulli",
        "empty_like",
        "zeros_like",
        "ones_like",
        "split",
        "chunk",
    ]
)
"""Operators besides the pointwise ones that work without channels."""
