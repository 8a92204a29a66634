"""Deep copies of a module tree whose tensors are replaced on the way, so that they are never copied."""

import copy
import gc
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from spaces.errors import NetworkError
from spaces.space import SIZE, ChannelSpace

Memo = dict[int, Any]
"""Copies so far, by the id of the original, as `copy.deepcopy` keeps them."""

Replace = Callable[[str, Tensor], Tensor]
"""What takes a tensor's place, by its name."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The modules of a network by path and its tensors by name, each once."""

    modules: Sequence[tuple[str, nn.Module]]
    tensors: Sequence[tuple[str, Tensor]]

    @classmethod
    def of(cls, model: nn.Module) -> "Inventory":
        """Walk through the network."""
        modules = walk(model)
        return cls(modules, list(_named_tensors(modules)))


def walk(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What `model.named_modules()` yields, without its generator inside a generator for every level."""
    found = []
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            found.append((path, module))
            prefix = f"{path}." if path else ""
            children = [
                (prefix + name, child) for name, child in module._modules.items() if child is not None
            ]
            waiting += reversed(children)
    return found


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each once, under its first name."""
    return _named_tensors(walk(model))


def _named_tensors(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for owned in ("_parameters", "_buffers"):
        for path, module in modules:
            for name, tensor in module.__dict__[owned].items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else name, tensor


def check_fit(held: Inventory, space: ChannelSpace) -> None:
    """Refuse a model that is not the one that the space describes.

    Raises:
        NetworkError: A tensor is missing, or has another length along a dimension.
    """
    shapes = {name: tensor.shape for name, tensor in held.tensors}
    for axis in space.axes:
        shape = shapes.get(axis.tensor)
        if shape is None:
            if axis.tensor.endswith(SIZE):
                continue
            raise NetworkError(f"the model is not the one that was traced: it has no {axis.tensor}")
        if axis.dim >= len(shape) or shape[axis.dim] != len(axis.units):
            raise NetworkError(
                f"the model is not the one that was traced: {axis.tensor} has shape {tuple(shape)}, "
                f"but {len(axis.units)} channels are known along dimension {axis.dim}"
            )


def clone_with(model: nn.Module, replace: Replace, held: Inventory | None = None) -> nn.Module:
    """A deep copy whose parameters and buffers are what `replace(name, tensor)` returns.

    A replacement of a parameter becomes a parameter with the same `requires_grad`; what was shared stays
    shared. Tensors that modules hold elsewhere (features kept by a forward pass, say) are replaced, too,
    detached and without a name. Who has taken the model's inventory already may hand it over.
    """
    memo: Memo = {}
    held = Inventory.of(model) if held is None else held
    for name, tensor in held.tensors:
        new = replace(name, tensor)
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = new
    plain = []
    with _collector_paused():
        for _, module in held.modules:
            if _is_plain(type(module)):  # type: ignore[arg-type]  # classes are hashable
                plain.append(module)
                memo[id(module)] = module.__class__.__new__(module.__class__)
            else:
                for name, value in vars(module).items():
                    if name not in _OWNED:
                        _replace_loose(value, memo, replace)
        for module in plain:
            _fill(module, memo, replace)
        return copy.deepcopy(model, memo)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A copy makes thousands of objects and no garbage: the collector would search all that torch holds."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def to_meta(_: str, tensor: Tensor) -> Tensor:
    """The tensor without its values."""
    return tensor.detach().to("meta")


def named_to_meta(name: str, tensor: Tensor) -> Tensor:
    """The tensor without its values, unless some module only holds it in a plain attribute."""
    return to_meta(name, tensor) if name else to_cpu(name, tensor)


def to_cpu(_: str, tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", copy=True)


def drop_modules(model: nn.Module, paths: Iterable[str]) -> None:
    """Put the identity in the place of these modules, in place."""
    for path in paths:
        model.set_submodule(path, nn.Identity())


@cache
def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether copying attribute by attribute is what `copy.deepcopy` would do, only slower."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__getstate__ is nn.Module.__getstate__
    )


def _fill(module: nn.Module, memo: Memo, replace: Replace) -> None:
    state: dict[str, Any] = memo[id(module)].__dict__
    state.update(module.__dict__)
    for name, value in module.__dict__.items():
        kind = type(value)
        if kind in _SHARED:
            continue
        if (kind is dict or kind is OrderedDict) and not value:  # in most modules: hooks
            state[name] = kind()
        elif name in _OWNED:
            state[name] = kind((key, _copied(item, memo)) for key, item in value.items())
        elif isinstance(value, _ATOMS) or (kind is tuple and _SHARED.issuperset(map(type, value))):
            continue
        elif kind is set and _SHARED.issuperset(map(type, value)):
            state[name] = set(value)
        else:
            _replace_loose(value, memo, replace)
            state[name] = copy.deepcopy(value, memo)


def _copied(value: Any, memo: Memo) -> Any:
    known = memo.get(id(value))
    return copy.deepcopy(value, memo) if known is None else known


def _replace_loose(value: object, memo: Memo, replace: Replace) -> None:
    """Tensors in plain attributes, or in the lists, tuples and dictionaries there."""
    if isinstance(value, Tensor):
        if id(value) not in memo:
            memo[id(value)] = replace("", value.detach())
    elif isinstance(value, list | tuple):
        for item in value:
            if type(item) not in _SHARED:  # most often numbers, as strides
                _replace_loose(item, memo, replace)
    elif isinstance(value, dict):
        for item in value.values():
            _replace_loose(item, memo, replace)


_OWNED = frozenset({"_parameters", "_buffers", "_modules"})
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_ATOMS = (int, float, str, bytes, type(None), type, torch.dtype, *_FUNCTIONS)
"""What a deep copy shares with the original."""
_SHARED = frozenset({bool, int, float, str, bytes, type(None), torch.dtype, *_FUNCTIONS})
"""The same by exact type, which is quicker to look up."""
