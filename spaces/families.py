"""Networks of MONAI and nnU-Net whose constructors take the widths that pruning changes, as one table.

A family says, by a module's path, which element of which argument decides how many channels the module gives.
Everything else is read off the network and its space.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from spaces.constructors import Constructor, Entry, Follower, NormGroups, Shortcut
from spaces.costs import Form
from spaces.space import ChannelSpace

Place = Callable[[str, int], int | None]
"""(path of a convolution, deepest level of the network) -> element of the argument; None: none of them."""


@dataclass(frozen=True)
class Family:
    """Networks whose constructors derive their widths in the same way.

    Attributes:
        argument: Name of the argument that holds the widths.
        place: Which of them a convolution gives.
        level: Finds levels in paths, to count them; None where places do not count from the end.
        scalar: Whether the argument is one number.
        projections: Finds the projections made only between unlike widths.
        at_any_stride: Whether these depend on widths alone; else a strided one is always made.
    """

    argument: str
    place: Place
    level: str | None = None
    scalar: bool = False
    projections: str | None = None
    at_any_stride: bool = False


@dataclass(frozen=True)
class Assignment:
    """Which genes a family's constructor allows.

    Attributes:
        keys: Name of the gene of every group; None for a group that no width of the constructor reaches.
        constructor: From kept units to arguments.
    """

    keys: tuple[str | None, ...]
    constructor: Constructor


def assign(model: nn.Module, space: ChannelSpace) -> Assignment | None:
    """The genes that the network's family has; None where it belongs to none that is known."""
    family = FAMILIES.get(type(model).__name__)
    library = type(model).__module__.partition(".")[0]
    if family is None or library not in ("monai", "dynamic_network_architectures"):
        return None
    return _assign(model, space, family)


def _assign(model: nn.Module, space: ChannelSpace, family: Family) -> Assignment | None:
    convolutions = _convolutions(model)
    places = _places(list(convolutions), family)
    if not places or set(places.values()) != set(range(max(places.values()) + 1)):
        return None
    forms = _Forms(space)
    widths = {path: forms.output(path, convolutions[path]) for path in places}
    entries: dict[int, Entry] = {}
    followers = []
    leads: dict[int, int] = {}
    for path, place in places.items():
        width = _width(convolutions[path])
        if place not in entries:
            entries[place] = Entry(family.argument, None if family.scalar else place, widths[path])
            leads[place] = width
        else:
            followers.append(Follower(path, widths[path], place, (width, leads[place])))
    constructor = Constructor(
        type(model).__name__,
        tuple(entries[place] for place in sorted(entries)),
        tuple(followers),
        tuple(_shortcuts(convolutions, family, forms)),
        tuple(_norm_groups(model, forms)),
        space.dense,
    )
    keys = _keys(space, family, {path: (place, widths[path]) for path, place in places.items()})
    return Assignment(keys, constructor)


def _convolutions(model: nn.Module) -> dict[str, _ConvNd]:
    return {path: module for path, module in model.named_modules() if isinstance(module, _ConvNd)}


def _places(paths: Sequence[str], family: Family) -> dict[str, int]:
    """Which element of the argument each convolution gives, in the network's order."""
    levels = [re.match(family.level, path) for path in paths] if family.level else []
    deepest = max((int(level[1]) for level in levels if level), default=0)
    found = ((path, family.place(path, deepest)) for path in paths)
    return {path: place for path, place in found if place is not None}


def _width(module: _ConvNd) -> int:
    return int(module.weight.shape[1 if module.transposed else 0])


class _Forms:
    """The length of a tensor's dimension, in kept units."""

    def __init__(self, space: ChannelSpace) -> None:
        self._axes = {(axis.tensor, axis.dim): axis.units for axis in space.axes}
        self._units = np.array([group.units for group in space.groups])
        self._offsets = space.offsets

    def along(self, tensor: str, dim: int, length: int) -> Form:
        units = self._axes.get((tensor, dim))
        if units is None:
            return Form(length)
        held = units[units >= 0]
        groups = np.searchsorted(self._offsets, held, side="right") - 1
        positions = np.bincount(groups, minlength=len(self._units)) // self._units
        multiples = tuple((int(group), int(positions[group])) for group in np.flatnonzero(positions))
        return Form(length - len(held), multiples)

    def output(self, path: str, module: _ConvNd) -> Form:
        return self.along(f"{path}.weight", 1 if module.transposed else 0, _width(module))

    def input(self, path: str, module: _ConvNd) -> Form:
        return self.along(f"{path}.weight", 1, module.weight.shape[1])


def _shortcuts(convolutions: Mapping[str, _ConvNd], family: Family, forms: _Forms) -> Iterator[Shortcut]:
    for path, module in convolutions.items():
        conditional = family.at_any_stride or set(module.stride) == {1}
        if family.projections and conditional and re.search(family.projections, path):
            yield Shortcut(path, forms.input(path, module), forms.output(path, module))


def _norm_groups(model: nn.Module, forms: _Forms) -> Iterator[NormGroups]:
    for path, module in model.named_modules():
        if isinstance(module, nn.GroupNorm) and module.affine:
            each = module.num_channels // module.num_groups
            yield NormGroups(path, forms.along(f"{path}.weight", 0, module.num_channels), each)


def _keys(
    space: ChannelSpace, family: Family, widths: Mapping[str, tuple[int, Form]]
) -> tuple[str | None, ...]:
    """Gene of every group: the elements that it takes part in, those coupled to them included."""
    together: list[tuple[set[int], set[int]]] = []  # (elements, groups)
    for place, form in widths.values():
        places, groups = {place}, {group for group, _ in form.multiples}
        apart = []
        for other in together:
            if places & other[0] or groups & other[1]:
                places, groups = places | other[0], groups | other[1]
            else:
                apart.append(other)
        together = [*apart, (places, groups)]
    keys: list[str | None] = [None] * len(space.groups)
    for places, groups in together:
        elements = ",".join(map(str, sorted(places)))
        for group in groups:
            keys[group] = family.argument if family.scalar else f"{family.argument}[{elements}]"
    return tuple(keys)


def _by_pattern(*rules: tuple[str, Callable[[re.Match[str], int], int]]) -> Place:
    """The first pattern that matches the path's beginning says which element."""

    def place(path: str, deepest: int) -> int | None:
        for pattern, element in rules:
            if match := re.match(pattern, path):
                return element(match, deepest)
        return None

    return place


def _unet(path: str, _: int) -> int | None:
    depth = path.count("submodule")
    if re.search(r"(^model|submodule)\.2\.", path):  # on the way up: the width of the level above
        return depth - 1 if depth else None
    return depth


def _attention_unet(path: str, _: int) -> int | None:
    if path.startswith("model.2.") or ".psi." in path:
        return None
    return path.count("submodule")


_NNUNET = _by_pattern(
    (r"encoder\.stem\.", lambda match, deepest: 0),
    (r"encoder\.stages\.(\d+)\.", lambda match, deepest: int(match[1])),
    (r"decoder\.(?:stages|transpconvs)\.(\d+)", lambda match, deepest: deepest - 1 - int(match[1])),
)
_NNUNET_LEVEL = r"encoder\.stages\.(\d+)\."

_DYNUNET = _by_pattern(
    (r"input_block\.", lambda match, deepest: 0),
    (r"downsamples\.(\d+)\.", lambda match, deepest: int(match[1]) + 1),
    (r"bottleneck\.", lambda match, deepest: deepest + 1),
    (r"upsamples\.(\d+)\.", lambda match, deepest: deepest - int(match[1])),
)

_BASIC = _by_pattern(
    (r"conv_0\.", lambda match, deepest: 0),
    (r"down_(\d)\.", lambda match, deepest: int(match[1])),
    (r"upcat_(\d)\.upsample\.", lambda match, deepest: int(match[1])),
    (r"upcat_1\.convs\.", lambda match, deepest: 5),
    (r"upcat_(\d)\.convs\.", lambda match, deepest: int(match[1]) - 1),
)
_PLUS_PLUS = _by_pattern(
    (r"conv_(\d)_0\.", lambda match, deepest: int(match[1])),
    (r"upcat_(\d)_\d\.upsample\.", lambda match, deepest: int(match[1]) + 1),
    (r"upcat_0_4\.convs\.", lambda match, deepest: 5),
    (r"upcat_(\d)_\d\.convs\.", lambda match, deepest: int(match[1])),
)
_RESNET = _by_pattern(
    (r"conv1$", lambda match, deepest: 0),
    (r"layer(\d)\.", lambda match, deepest: int(match[1]) - 1),
)
_SEGRESNET = _by_pattern((r"(?!conv_final)", lambda match, deepest: 0))
_SEGRESNET_DS = _by_pattern((r"(?!up_layers\.\d+\.head)", lambda match, deepest: 0))

FAMILIES: dict[str, Family] = {
    "PlainConvUNet": Family("features_per_stage", _NNUNET, _NNUNET_LEVEL),
    "ResidualEncoderUNet": Family(
        "features_per_stage", _NNUNET, _NNUNET_LEVEL, projections=r"\.skip\.", at_any_stride=True
    ),
    "DynUNet": Family("filters", _DYNUNET, r"upsamples\.(\d+)\.", projections=r"\.conv3\."),
    "UNet": Family("channels", _unet, projections=r"\.residual$"),
    "AttentionUnet": Family("channels", _attention_unet),
    "BasicUNet": Family("features", _BASIC),
    "BasicUNetPlusPlus": Family("features", _PLUS_PLUS),
    "ResNet": Family("block_inplanes", _RESNET),
    "SegResNet": Family("init_filters", _SEGRESNET, scalar=True),
    "SegResNetDS": Family("init_filters", _SEGRESNET_DS, scalar=True),
}
"""By the name of the class."""
