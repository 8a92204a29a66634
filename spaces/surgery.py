"""Cuts a network down to a genome: a new network of sliced tensors; the dense one stays as it is."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spaces.attributes import update_attributes
from spaces.clone import Inventory, check_fit, clone_with, drop_modules, walk
from spaces.ranking import Ranking
from spaces.space import SIZE, ChannelSpace
from spaces.standins import replace_empty


def prune(model: nn.Module, space: ChannelSpace, genome: Sequence[int], ranking: Ranking) -> nn.Module:
    """The network that keeps the best units of every group.

    Parameters keep `requires_grad`, shared ones stay shared, modules keep their mode, and no memory is shared
    with the dense network, which is not changed. Tens of milliseconds.

    Args:
        model: The dense network that was traced, or one of the same architecture.
        space: Its channel space.
        genome: Kept units per group.
        ranking: Which units those are.

    Raises:
        InputError: The genome is not legal here, or the ranking is of another space.
        NetworkError: The model is not the one that the space describes.
    """
    return cut(model, space, ranking.kept(space, space.check(genome)))


def cut(model: nn.Module, space: ChannelSpace, kept: np.ndarray) -> nn.Module:
    """The network that keeps these units: (number of units,) bool, in the space's numbering."""
    held = Inventory.of(model)
    check_fit(held, space)
    cuts, stated = kept_positions(space, kept)

    def slice_(name: str, tensor: Tensor) -> Tensor:
        sliced = tensor
        for dim, positions in cuts.get(name, ()):
            sliced = sliced.index_select(dim, positions.to(sliced.device))
        return sliced if name in cuts else sliced.clone()

    with torch.no_grad():
        pruned = clone_with(model, slice_, held)
    update_attributes(held.modules, walk(pruned), stated)
    if space.fine.falls:
        replace_empty(pruned, stated)
    drop_modules(pruned, space.fine.dropped)
    return pruned


Cuts = dict[str, list[tuple[int, Tensor]]]


def kept_positions(space: ChannelSpace, kept: np.ndarray) -> tuple[Cuts, dict[str, int]]:
    """(dimension, kept positions) per tensor that is cut; kept channels of modules that only state them."""
    cuts: Cuts = {}
    stated: dict[str, int] = {}
    vectors, place = space.vectors
    kept = np.append(kept, True)  # what unit -1 looks up
    found = [np.flatnonzero(kept[units]) for units in vectors]
    positions = [torch.from_numpy(held) for held in found]
    for axis, i in zip(space.axes, place, strict=True):
        if axis.tensor.endswith(SIZE):
            stated[axis.tensor.removesuffix(SIZE)] = len(found[i])
        elif len(found[i]) < len(axis.units):
            cuts.setdefault(axis.tensor, []).append((axis.dim, positions[i]))
    return cuts, stated
