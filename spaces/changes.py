"""What tells a pruned network from the one that its factory makes, as plain data: to rebuild it anywhere.

The changes say what surgery left behind, not how it was found, so that a network saved today is rebuilt by
any later version, whatever channels that one's tracer would find, and in which order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spaces.clone import clone_with, drop_modules, named_tensors, walk
from spaces.errors import NetworkError
from spaces.heads import relabel
from spaces.standins import standin_named

_LENGTHS = "axes_lengths"
"""Where an einops layer keeps its numbers; the rest of its state follows from them."""


@dataclass(frozen=True)
class Changes:
    """What surgery left behind besides tensors of other shapes; JSON types only.

    Attributes:
        attributes: Module path -> attribute -> its value; only those that the factory makes otherwise.
        standins: Module path -> class of `spaces.standins` that took its place.
        dropped: Paths of modules in whose place is the identity.
    """

    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    standins: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def changes_between(made: nn.Module, pruned: nn.Module) -> Changes:
    """What has to be done to a network as its factory makes it, for it to become the pruned one.

    Args:
        made: By the factory; not changed.
        pruned: Cut from a network of that factory, and perhaps trained since.

    Raises:
        NetworkError: They are not of the same modules, or not of the same tensors.
    """
    now = dict(walk(pruned))
    made = clone_with(made, lambda _, tensor: tensor.detach())
    dropped = [
        path
        for path, module in walk(made)
        if type(now.get(path)) is nn.Identity and not isinstance(module, nn.Identity)
    ]
    drop_modules(made, dropped)
    before = dict(walk(made))
    if before.keys() != now.keys():
        raise NetworkError(
            f"the factory does not make this network: {_difference(before.keys(), now.keys(), 'module')}"
        )
    attributes: dict[str, dict[str, Any]] = {}
    standins: dict[str, str] = {}
    for path, module in before.items():
        if _kind(module) != _kind(now[path]):
            if standin_named(type(now[path]).__name__) is not type(now[path]):
                raise NetworkError(
                    f"the factory does not make this network: {path or 'it'} is a {_kind(now[path])}, and "
                    f"would be a {_kind(module)}"
                )
            standins[path] = type(now[path]).__name__
        if changed := _changed(module, now[path]):
            attributes[path] = changed
    _same_tensors(made, pruned)
    return Changes(attributes, standins, tuple(dropped))


def rebuild(made: nn.Module, changes: Changes, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The pruned network, from one as its factory makes it; in eval mode.

    Args:
        made: By the factory; its tensors are not used, only its modules.
        changes: From `changes_between`.
        tensors: Parameters and buffers by their first names. Only buffers that are no part of the state dict
            may be missing; they stay as the factory makes them.

    Raises:
        NetworkError: Tensors or changes are of another network.
    """
    modules = dict(walk(made))
    for path in (*changes.dropped, *changes.standins, *changes.attributes):
        if path not in modules:
            raise NetworkError(f"they are of another network: the factory makes no module {path!r}")
    drop_modules(made, changes.dropped)
    own = dict(named_tensors(made))
    optional = own.keys() - made.state_dict(keep_vars=True).keys()
    if own.keys() - tensors.keys() - optional or tensors.keys() - own.keys():
        raise NetworkError(
            f"they are of another network: {_difference(own.keys() - optional, tensors.keys(), 'tensor')}"
        )
    network = clone_with(made, lambda name, tensor: tensors.get(name, tensor).detach().clone())
    modules = dict(walk(network))
    for path, name in changes.standins.items():
        kind = standin_named(name)
        if kind is None:
            raise NetworkError(f"{path}: there is no stand-in {name!r}")
        modules[path].__class__ = kind
    for path, values in changes.attributes.items():
        for name, value in values.items():
            _set(modules[path], path, name, value)
    return network.eval()


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _changed(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """The attributes that differ, of those that are plain data."""
    old, found = vars(before), {}
    for name, value in vars(after).items():
        if name == "training" or name.startswith("_") or not _is_plain(value):
            continue
        if name not in old or not _is_plain(old[name]) or old[name] != value:
            found[name] = value
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _set(module: nn.Module, path: str, name: str, value: Any) -> None:
    """Give an attribute this value, in the type that it had: JSON knows no tuples."""
    before = vars(module).get(name)
    taken = {*module._parameters, *module._buffers, *module._modules}
    code = callable(getattr(type(module), name, None)) or isinstance(vars(type(module)).get(name), property)
    if name.startswith("_") or name in taken or code:
        raise NetworkError(f"{path}.{name} is no attribute that surgery changes")
    if name == _LENGTHS:
        for axis, length in value.items():
            relabel(module, axis, length)
    elif isinstance(before, tuple) and isinstance(value, list):
        setattr(module, name, torch.Size(value) if isinstance(before, torch.Size) else tuple(value))
    else:
        setattr(module, name, value)


def _same_tensors(made: nn.Module, pruned: nn.Module) -> None:
    before, after = dict(named_tensors(made)), dict(named_tensors(pruned))
    if before.keys() != after.keys():
        raise NetworkError(
            f"the factory does not make this network: {_difference(before.keys(), after.keys(), 'tensor')}"
        )


def _difference(expected: Any, found: Any, what: str) -> str:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    named = f"{what} {missing[0]!r} is missing" if missing else f"{what} {unexpected[0]!r} is unexpected"
    more = len(missing) + len(unexpected) - 1
    return named + (f", and {more} more" if more else "")
