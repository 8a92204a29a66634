"""Example inputs: one tensor, a tuple of positional arguments, or a dictionary of keyword arguments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from spaces.errors import InputError

Example: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one forward pass."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, example: object) -> "Call":
        """From what the user gave.

        Raises:
            InputError: There is no tensor with a batch axis in it.
        """
        if isinstance(example, Tensor):
            call = cls((example,), {})
        elif isinstance(example, Mapping):
            call = cls((), dict(example))
        elif isinstance(example, tuple | list):
            call = cls(tuple(example), {})
        else:
            call = cls((), {})
        if not any(tensor.ndim and tensor.numel() for tensor in call.tensors):
            raise InputError(
                "the example input must be a tensor with a batch axis, a tuple of them or a dictionary of "
                f"keyword arguments, not {type(example).__name__}"
            )
        return call

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in it."""
        return [leaf for leaf in tree_flatten((self.args, dict(self.kwargs)))[0] if isinstance(leaf, Tensor)]

    @property
    def batch(self) -> int:
        """Length of the batch axis: the first axis of the first tensor that has one."""
        return next(len(tensor) for tensor in self.tensors if tensor.ndim)

    @property
    def shapes(self) -> str:
        """For messages, as `(2, 3, 64, 64)`."""
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors)

    def map(self, function: Any) -> "Call":
        """The call with every tensor replaced."""
        args, kwargs = tree_map(
            lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, dict(self.kwargs))
        )
        return Call(args, kwargs)

    def with_batch(self, size: int) -> "Call":
        """The call on `size` images: the first of them, repeated when there are fewer."""
        given = self.batch

        def resize(tensor: Tensor) -> Tensor:
            if not tensor.ndim or len(tensor) != given:
                return tensor
            return torch.cat([tensor] * -(-size // given))[:size] if size > given else tensor[:size]

        return self.map(resize)

    def with_side(self, length: int) -> "Call":
        """The call on images of at most this length along every axis after batch and channels.

        Tensors of fewer than four dimensions are no images.
        """

        def crop(tensor: Tensor) -> Tensor:
            return tensor[:, :, *[slice(length)] * (tensor.ndim - 2)] if tensor.ndim > 3 else tensor

        return self.map(crop)

    def __call__(self, model: nn.Module) -> Any:
        """Run the model on it."""
        return model(*self.args, **self.kwargs)
