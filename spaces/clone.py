"""Deep copies of a module tree whose tensors are replaced on the way, so that they are never copied."""

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.errors import NetworkError
from spaces.space import SIZE, ChannelSpace

Memo = dict[int, Any]
"""Copies so far, by the id of the original, as `copy.deepcopy` keeps them."""


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
            for name, tensor in getattr(module, owned).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else name, tensor


def check_fit(model: nn.Module, space: ChannelSpace) -> None:
    """Refuse a model that is not the one that the space describes.

    Raises:
        NetworkError: A tensor is missing, or has another length along a dimension.
    """
    tensors = dict(named_tensors(model))
    for axis in space.axes:
        if axis.tensor.endswith(SIZE):
            continue
        if axis.tensor not in tensors:
            raise NetworkError(f"the model is not the one that was traced: it has no {axis.tensor}")
        shape = tuple(tensors[axis.tensor].shape)
        if axis.dim >= len(shape) or shape[axis.dim] != len(axis.units):
            raise NetworkError(
                f"the model is not the one that was traced: {axis.tensor} has shape {shape}, "
                f"but {len(axis.units)} channels are known along dimension {axis.dim}"
            )


def clone_with(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A deep copy whose parameters and buffers are what `replace(name, tensor)` returns.

    A replacement of a parameter becomes a parameter with the same `requires_grad`; what was shared stays
    shared. Tensors that modules hold elsewhere (features kept by a forward pass, say) are replaced, too,
    detached and without a name.
    """
    memo: Memo = {}
    modules = walk(model)
    for name, tensor in _named_tensors(modules):
        new = replace(name, tensor)
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = new
    for tensor in _loose_tensors(modules):
        if id(tensor) not in memo:
            memo[id(tensor)] = replace("", tensor.detach())
    plain = [module for _, module in modules if _is_plain(type(module))]
    for module in plain:
        memo[id(module)] = module.__class__.__new__(module.__class__)
    for module in plain:
        _fill(module, memo)
    return copy.deepcopy(model, memo)


def drop_modules(model: nn.Module, paths: Iterable[str]) -> None:
    """Put the identity in the place of these modules, in place."""
    for path in paths:
        model.set_submodule(path, nn.Identity())


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether copying attribute by attribute is what `copy.deepcopy` would do, only slower."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__getstate__ is nn.Module.__getstate__
    )


def _fill(module: nn.Module, memo: Memo) -> None:
    state: dict[str, Any] = memo[id(module)].__dict__
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _SHARED:
            state[name] = value
        elif kind is dict or kind is OrderedDict:  # empty in most modules: hooks
            state[name] = kind((key, _copied(item, memo)) for key, item in value.items()) if value else kind()
        elif isinstance(value, _ATOMS):
            state[name] = value
        elif kind in (tuple, set) and _SHARED.issuperset(map(type, value)):
            state[name] = kind(value)
        else:
            state[name] = copy.deepcopy(value, memo)


def _copied(value: Any, memo: Memo) -> Any:
    known = memo.get(id(value))  # most often: parameters, buffers and modules
    return copy.deepcopy(value, memo) if known is None else known


def _loose_tensors(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[Tensor]:
    """Tensors in plain attributes, or in the lists, tuples and dictionaries there."""
    for _, module in modules:
        for name, value in vars(module).items():
            if type(value) in _SHARED or name in _OWNED:
                continue
            if isinstance(value, Tensor) or (isinstance(value, list | tuple | dict) and value):
                yield from _tensors_in(value)


_OWNED = frozenset({"_parameters", "_buffers", "_modules"})


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if type(item) not in _SHARED:  # most often numbers, as strides
                yield from _tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_ATOMS = (int, float, str, bytes, type(None), type, torch.dtype, *_FUNCTIONS)
"""What a deep copy shares with the original."""
_SHARED = frozenset({bool, int, float, str, bytes, type(None), torch.dtype, *_FUNCTIONS})
"""The same by exact type, which is quicker to look up."""
