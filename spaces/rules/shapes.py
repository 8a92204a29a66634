"""Views: the same values under another shape."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from spaces.channels import Dims, Ids
from spaces.step import Rule, Site, Step


def permute(step: Step) -> list[Dims]:
    """Dimensions in another order."""
    dims = step.dims(step["self"])
    return [tuple(dims[axis] for axis in step["dims"])]


def transpose(step: Step) -> list[Dims]:
    """Two dimensions change places; `t` without arguments swaps both of a matrix."""
    dims = list(step.dims(step["self"]))
    if len(dims) > 1:
        first, second = step.get("dim0"), step.get("dim1")
        first, second = (0, 1) if first is None or second is None else (first, second)
        dims[first], dims[second] = dims[second], dims[first]
    return [tuple(dims)]


def squeeze(step: Step) -> list[Dims]:
    """Dimensions of size one vanish."""
    source = step["self"]
    given = step.get("dim")
    axes = range(source.ndim) if given is None else given if isinstance(given, list | tuple) else [given]
    gone = {axis % source.ndim for axis in axes if source.shape[axis] == 1} if source.ndim else set()
    dims = step.dims(source)
    for axis in gone:
        step.freeze(dims[axis], "is squeezed away")
    return [tuple(ids for axis, ids in enumerate(dims) if axis not in gone)]


def unsqueeze(step: Step) -> list[Dims]:
    """A new dimension of size one."""
    dims = step.dims(step["self"])
    axis = step["dim"] % (len(dims) + 1)
    return [(*dims[:axis], None, *dims[axis:])]


def expand(step: Step) -> list[Dims]:
    """Dimensions of size one are repeated."""
    source = step["self"]
    dims, new = step.dims(source), step.out.ndim - source.ndim
    out: list[Ids | None] = [None] * new
    for axis, ids in enumerate(dims):
        if source.shape[axis] == step.out.shape[new + axis]:
            out.append(ids)
        else:
            step.freeze(ids, "is one channel for all others")
            out.append(None)
    return [tuple(out)]


def repeat(step: Step) -> list[Dims]:
    """Whole dimensions are repeated, one copy after the other."""
    dims, times = step.dims(step["self"]), step["repeats"]
    new = len(times) - len(dims)
    tiled = [None if ids is None else np.tile(ids, n) for ids, n in zip(dims, times[new:], strict=True)]
    return [(*(None for _ in range(new)), *tiled)]


def reshape(step: Step) -> list[Dims]:
    """Dimensions are merged and split; the factors of equal products belong to each other."""
    source, out = step.inputs[0], step.out
    dims = step.dims(source)
    found: list[Ids | None] = [None] * out.ndim
    site = step.tracer.next_site()
    for before, after in _blocks(source.shape, out.shape):
        merged = _merge(step, [dims[i] for i in before], [source.shape[i] for i in before])
        parts = _split(step, merged, [out.shape[i] for i in after], site)
        for axis, ids in zip(after, parts, strict=True):
            found[axis] = ids
    return [tuple(found)]


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions with equal products, sizes of one left out.

    >>> list(_blocks((2, 12, 5), (2, 3, 4, 5)))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    if 0 in before:
        return
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    while left:
        olds, news = [left.pop(0)], [right.pop(0)]
        while (old := math.prod(before[i] for i in olds)) != (new := math.prod(after[i] for i in news)):
            if old < new:
                olds.append(left.pop(0))
            else:
                news.append(right.pop(0))
        yield olds, news


def _merge(step: Step, dims: Sequence[Ids | None], shape: Sequence[int]) -> Ids | None:
    """Ids along dimensions flattened into one; of several tracked ones only the longest stays prunable."""
    tracked = [(i, ids) for i, ids in enumerate(dims) if ids is not None]
    tracked.sort(key=lambda pair: -shape[pair[0]])
    if len(tracked) > 1:  # what stays anyway is in nobody's way
        tracked = [pair for pair in tracked if not step.tracer.graph.holds(pair[1])] or tracked[:1]
    if not tracked:
        return None
    for _, ids in tracked[1:]:
        step.freeze(ids, "is merged with another dimension of channels")
    first, ids = tracked[0]
    along = [len(ids) if i == first else 1 for i in range(len(shape))]
    return np.broadcast_to(ids.reshape(along), shape).ravel()


def _split(step: Step, ids: Ids | None, shape: Sequence[int], site: Site) -> list[Ids | None]:
    """Ids along one dimension unfolded into several: one of them carries the channels.

    Where rows repeat, or values are constant within rows, it is clear which one. Otherwise the
    interpretations are tried, the largest dimension first, until one verifies; then those in which the code
    reads the split sizes off the module's input, so that both must shrink together (queries as wide as the
    embedding, in `nn.MultiheadAttention` and in Swin transformers), the last dimension first.
    """
    found: list[Ids | None] = [None] * len(shape)
    if ids is None or len(shape) == 1:
        return [ids] if len(shape) == 1 else found
    grid = ids.reshape(shape)
    looks = step.tracer.looks(ids).reshape(shape)
    likely = sorted(range(len(shape)), key=lambda axis: -shape[axis])
    for axis in likely:
        rows = np.moveaxis(looks, axis, 0).reshape(shape[axis], -1)
        if (rows == rows[:, :1]).all():
            found[axis] = np.moveaxis(grid, axis, 0).reshape(shape[axis], -1)[:, 0]
            return found
    heads = step.tracer.wanted_heads()
    if (
        heads in shape[:-1]
    ):  # asked for: the last dimension of their number comes first, unless it is the width
        likely.sort(key=lambda axis: -axis if axis < len(shape) - 1 and shape[axis] == heads else 1)
    likely = step.tracer.order_at(site, likely)
    readings = [(axis, False) for axis in likely]
    entered = step.tracer.entered
    if entered is not None and len(ids) % len(entered) == 0:
        readings += [(axis, True) for axis in reversed(range(len(shape))) if shape[axis] > 1]
        step.tracer.tied_to[site] = entered
    step.tracer.sites[site] = (ids, len(readings))
    axis, as_entered = readings[step.tracer.decisions.get(site, 0)]
    if as_entered and entered is not None:
        step.tie(ids, np.tile(entered, len(ids) // len(entered)))
    found[axis] = rows = step.tie_rows(np.moveaxis(grid, axis, 0).reshape(shape[axis], -1))
    step.tracer.split_into_heads(rows, width=axis == len(shape) - 1)
    return found


RULES: dict[str, Rule] = {
    "permute": permute,
    **dict.fromkeys(["transpose", "transpose", "t", "swapaxes"], transpose),
    **dict.fromkeys(["squeeze", "squeeze"], squeeze),
    **dict.fromkeys(["unsqueeze", "unsqueeze"], unsqueeze),
    **dict.fromkeys(["expand", "_unsafe_expand"], expand),
    "repeat": repeat,
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias"], reshape),
}
