"""Which modules of a network make up a block or a stage, from what one forward pass shows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from spaces.clone import clone_with
from spaces.families import assign
from spaces.granularity import Granularity, check_granularity, tied
from spaces.inputs import Call, Example
from spaces.space import ChannelSpace

_ADD = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_CAT = frozenset({"cat", "concat", "concatenate"})
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(eq=False)
class Survey:
    """What one forward pass shows, by module path.

    Attributes:
        positions: Pixels, voxels or tokens of each module's last output.
        adding: Modules whose own code adds two feature maps of one shape.
        joining: Modules whose own code concatenates feature maps.
    """

    positions: dict[str, int] = field(default_factory=dict)
    adding: set[str] = field(default_factory=set)
    joining: set[str] = field(default_factory=set)


def survey(model: nn.Module, example_input: Example) -> Survey:
    """Run a copy once, in eval mode on one image, without memory where the network can."""
    call = Call.of(example_input)
    try:
        return _survey(model, call, lambda tensor: tensor.detach().to("meta"))
    except Exception:  # a network that needs values
        return _survey(model, call, lambda tensor: tensor.detach().to("cpu", copy=True))


def block_of(model: nn.Module, seen: Survey) -> Callable[[str], str | None]:
    """The function from a module's path to the path of its block; None where it is in none.

    A block is the innermost module around it whose code adds feature maps (a residual block); or one that
    holds nothing but modules that concatenate (a dense block); or, outside of these, the innermost one of a
    class of its own with at least two convolutions or linear layers.
    """
    modules = dict(model.named_modules())
    dense = {path for path, module in modules.items() if path and _is_dense(path, module, seen)}
    blocks = (seen.adding - {""}) | dense

    def find(path: str) -> str | None:
        around = [ancestor for ancestor in _ancestors(path) if ancestor in modules]
        if block := next((ancestor for ancestor in around if ancestor in blocks), None):
            return block
        return next((ancestor for ancestor in around if _is_composite(modules[ancestor])), None)

    return find


def coarsen(
    space: ChannelSpace, model: nn.Module, example_input: Example, granularity: Granularity
) -> ChannelSpace:
    """The space with fewer genes; the given one for "group".

    Args:
        space: One gene for every group.
        model: The network of the space.
        example_input: As for `trace`.
        granularity: "block": one gene for the groups of a residual or dense block. "stage": one gene for all
            blocks that give feature maps of one size; in a family whose constructor takes widths, one gene
            for each of them.

    Raises:
        InputError: There is no such granularity.
    """
    check_granularity(granularity)
    if granularity == "group":
        return space
    space = space.fine
    if granularity == "stage" and (family := assign(model, space)):
        return tied(space, family.keys, named=True, constructor=family.constructor)
    seen = survey(model, example_input)
    find = block_of(model, seen)
    keys = [_key(group.name, find, seen, granularity) for group in space.groups]
    return tied(space, keys, named=granularity == "stage")


def _key(name: str, find: Callable[[str], str | None], seen: Survey, granularity: Granularity) -> str:
    """The gene of the group of this name: the path of the module that produces its channels."""
    path = name.partition("[")[0].partition("#")[0]
    block = find(path)
    if granularity == "block":
        return block or name
    positions = seen.positions.get(block or path, seen.positions.get(path))
    return name if positions is None else f"stage of {positions} positions"


def _survey(model: nn.Module, call: Call, move: Callable[[Tensor], Tensor]) -> Survey:
    copied = clone_with(model, lambda _, tensor: move(tensor)).eval()
    watcher = _Watcher()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), watcher.hooked(copied), watcher:
        call.map(move).with_batch(1)(copied)
    return watcher.seen


class _Watcher(TorchFunctionMode):
    """Notes what each module's own code adds and joins, and what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Survey()
        self._running: list[str] = [""]

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Know which module runs."""
        handles = []
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(path)))
            handles.append(module.register_forward_hook(self._leaving(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            self._running.append(path)

        return enter

    def _leaving(self, path: str) -> Callable[..., None]:
        def leave(module: nn.Module, _: object, output: object) -> None:
            self._running.pop()
            if isinstance(output, Tensor) and output.ndim >= 2:
                convolves = any(isinstance(inner, _ConvNd) for inner in module.modules())
                channels_first = convolves or isinstance(module, _CHANNELS_FIRST)
                channels = output.shape[1 if channels_first else -1]
                self.seen.positions[path] = output.numel() // max(1, channels)

        return leave

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note additions and concatenations."""
        name = getattr(func, "__name__", "")
        if name in _ADD and len(args) == 2 and all(_is_feature_map(arg) for arg in args):
            if args[0].shape == args[1].shape:
                self.seen.adding.add(self._running[-1])
        elif name in _CAT:
            self.seen.joining.add(self._running[-1])
        return func(*args, **(kwargs or {}))


_CHANNELS_FIRST = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


def _is_feature_map(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.ndim >= 3


def _ancestors(path: str) -> Iterator[str]:
    """The path itself and what is around it, innermost first; without the network."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _is_dense(path: str, module: nn.Module, seen: Survey) -> bool:
    children = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    return len(children) > 1 and all(f"{path}.{name}" in seen.joining for name in children)


def _is_composite(module: nn.Module) -> bool:
    if type(module) in _CONTAINERS:
        return False
    return sum(isinstance(inner, _ConvNd | nn.Linear) for inner in module.modules()) > 1
