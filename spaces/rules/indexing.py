"""Selecting positions: channels that code addresses by number cannot move."""

import numpy as np
import torch

from spaces.channels import Dims
from spaces.step import Rule, Step


def slice_(step: Step) -> list[Dims]:
    """A range of positions; whether its bounds follow the pruned size, verification finds out."""
    dims = list(step.dims(step["self"]))
    axis = step["dim"] % len(dims)
    if dims[axis] is not None:
        dims[axis] = dims[axis][step["start"] : step["end"] : step["step"]]
    return [tuple(dims)]


def select(step: Step) -> list[Dims]:
    """One position of a dimension."""
    dims = step.dims(step["self"])
    axis = step["dim"] % len(dims)
    step.freeze(dims[axis], "is addressed by position")
    return [(*dims[:axis], *dims[axis + 1 :])]


def index_select(step: Step) -> list[Dims]:
    """Chosen positions of a dimension."""
    dims = step.dims(step["self"])
    axis = step["dim"] % len(dims)
    step.freeze(dims[axis], "is addressed by position")
    return [(*dims[:axis], None, *dims[axis + 1 :])]


def index(step: Step) -> list[Dims]:
    """Advanced indexing: indexed dimensions stay; the others are carried where their place is certain."""
    dims, given = step.dims(step["self"]), list(step["indices"])
    indexed = [axis for axis, positions in enumerate(given) if positions is not None]
    for axis in indexed:
        step.freeze(dims[axis], "is addressed by position")
    if len(indexed) == 1 and given[indexed[0]].dtype not in (torch.bool, torch.uint8):
        axis, width = indexed[0], given[indexed[0]].ndim
        return [(*dims[:axis], *(None for _ in range(width)), *dims[axis + 1 :])]
    for ids in dims:
        step.freeze(ids, "is indexed by several tensors")
    return [(None,) * step.out.ndim]


def flip(step: Step) -> list[Dims]:
    """Backwards; what is kept keeps its order."""
    dims = list(step.dims(step["self"]))
    for axis in step["dims"]:
        ids = dims[axis]
        dims[axis] = None if ids is None else np.flip(ids)
    return [tuple(dims)]


RULES: dict[str, Rule] = {
    "slice": slice_,
    "select": select,
    "index_select": index_select,
    "index": index,
    "flip": flip,
}
