"""Pareto fronts: dominance, hypervolume and the knee. Arrays in, arrays out.

`losses` is always (n, m) with lower better in every column; rows holding NaN (failed trials) never count.
"""

from collections.abc import Sequence

import numpy as np

from spaces.errors import InputError

OCTAVES = 6.0
"""The FLOPs axis of a front's hypervolume reaches from 1/64 of dense to dense."""

MARGIN = 0.10
"""The metric axis of a front's hypervolume starts this far below dense (or at chance, if higher)."""


def non_dominated(losses: np.ndarray) -> np.ndarray:
    """Mask of the rows that no other row dominates: (n, m) -> (n,) bool; lower is better.

    A row holding NaN is never on the front; equal rows all stay. O(n log n) for m = 2, O(n f m) with f
    rows on the front for other m.
    Source: Kung, Luccio and Preparata 1975.
    """
    losses = _as_losses(losses)
    mask = np.zeros(len(losses), dtype=bool)
    valid = np.flatnonzero(~np.isnan(losses).any(axis=1))
    order = valid[np.lexsort(losses[valid].T[::-1])]
    rows = losses[order]
    first = np.ones(len(rows), dtype=bool)  # the first of each run of equal rows
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    keep = _sweep(rows[first]) if rows.shape[1] == 2 else _peel(rows[first])
    mask[order] = keep[np.cumsum(first) - 1]
    return mask


def hypervolume(losses: np.ndarray, reference: np.ndarray | Sequence[float]) -> float:
    """Volume between the rows' front and the reference point: (n, m), (m,) -> float; lower is better.

    Exact. Rows that are not better than the reference in every column, or hold NaN, add nothing; no row
    gives 0. O(n log n) for m = 2, O(n^(m-1)) beyond.
    Source: While, Hingston, Barone and Huband 2006 (slicing objectives).
    """
    losses = _as_losses(losses)
    corner = np.asarray(reference, dtype=float)
    if corner.shape != (losses.shape[1],) or np.isnan(corner).any():
        raise InputError(f"the reference point must hold {losses.shape[1]} numbers; got {corner.tolist()}")
    return _volume(losses[(losses < corner).all(axis=1)], corner)


def front_hypervolume(
    flops_ratio: np.ndarray, metric: np.ndarray, dense_metric: float, chance: float
) -> float:
    """Hypervolume of networks in metric x octaves: (n,), (n,) -> float; n may be 0.

    The FLOPs axis is log2(FLOPs/dense) from -6 to 0 (a cheaper network counts as 1/64), the metric axis
    starts at the dense network's metric - 0.10, or at chance where that is higher. Larger metrics are
    better. Rows holding NaN add nothing; so do networks at least as costly as dense.
    """
    return hypervolume(_plane(flops_ratio, metric), _corner(dense_metric, chance))


def hypervolume_history(
    flops_ratio: np.ndarray,
    metric: np.ndarray,
    dense_metric: float,
    chance: float,
    network: np.ndarray | None = None,
) -> np.ndarray:
    """`front_hypervolume` after each trial: (n,), (n,) -> (n,), in the order of the rows.

    Args:
        flops_ratio: FLOPs over dense of each trial's network.
        metric: What is known of each trial's network by then; NaN where nothing is.
        dense_metric: The dense network's metric.
        chance: The metric of a network that knows nothing.
        network: (n,) index from 0 of the network each trial measured. Of one measured several times the
            latest value counts, so the history can also fall. Default: all differ.
    """
    plane = _plane(flops_ratio, metric)
    corner = _corner(dense_metric, chance)
    index = np.arange(len(plane)) if network is None else np.asarray(network)
    known = np.full((int(index.max(initial=-1)) + 1, 2), np.nan)
    history = np.zeros(len(plane))
    volume, front = 0.0, np.empty((0, 2))
    for i, (row, j) in enumerate(zip(plane, index, strict=True)):
        if not np.isnan(row).any():
            repeated = not np.isnan(known[j]).any()
            known[j] = row
            if repeated or not (front <= row).all(axis=1).any():
                front = known if repeated else np.vstack([front, row])
                front = front[non_dominated(front)]
                volume = _volume(front[(front < corner).all(axis=1)], corner)
        history[i] = volume
    return history


def knee(losses: np.ndarray) -> int | None:
    """Row where a front bends most: (n, 2) -> index into the rows, or None without a bend; lower is better.

    Of the non-dominated rows, the one farthest below the line between the front's two ends, both axes
    scaled to the front's extent. None where fewer than three rows differ or none is below the line.
    Source: Das 1999 (normal-boundary knee).
    """
    losses = _as_losses(losses)
    if losses.shape[1] != 2:
        raise InputError(f"a knee is defined for two columns here; got {losses.shape[1]}")
    rows = np.flatnonzero(non_dominated(losses) & np.isfinite(losses).all(axis=1))
    front = losses[rows]
    if len(np.unique(front, axis=0)) < 3:
        return None
    low, high = front.min(axis=0), front.max(axis=0)
    depth = 1.0 - ((front - low) / (high - low)).sum(axis=1)  # the ends lie on x + y = 1
    best = int(depth.argmax())
    return int(rows[best]) if depth[best] > 0 else None


def _as_losses(losses: np.ndarray) -> np.ndarray:
    losses = np.asarray(losses, dtype=float)
    if losses.ndim != 2 or losses.shape[1] == 0:
        raise InputError(f"losses must be an array (n, m) with m >= 1; got the shape {losses.shape}")
    return losses


def _sweep(rows: np.ndarray) -> np.ndarray:
    """Mask of the front among distinct, lexicographically sorted rows of two columns."""
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(rows[:, 1])[:-1]])[: len(rows)]
    keep = rows[:, 1] < best_before
    keep[:1] = True  # the first row has no rival, be it infinite
    return keep


def _peel(rows: np.ndarray) -> np.ndarray:
    """Mask of the front among distinct, lexicographically sorted rows: only earlier rows can dominate."""
    keep = np.zeros(len(rows), dtype=bool)
    left = np.arange(len(rows))
    while len(left):
        keep[left[0]] = True
        left = left[(rows[left] < rows[left[0]]).any(axis=1)]
    return keep


def _volume(rows: np.ndarray, corner: np.ndarray) -> float:
    """Hypervolume of rows that are all better than the corner."""
    if len(rows) == 0:
        return 0.0
    if rows.shape[1] == 1:
        return float(corner[0] - rows.min())
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    depths = np.diff(np.append(rows[:, -1], corner[-1]))
    if rows.shape[1] == 2:
        return float(((corner[0] - np.minimum.accumulate(rows[:, 0])) * depths).sum())
    total, front = 0.0, np.empty((0, rows.shape[1] - 1))
    for row, depth in zip(rows[:, :-1], depths, strict=True):
        front = np.vstack([front, row])
        front = front[non_dominated(front)]
        if depth > 0:
            total += depth * _volume(front, corner[:-1])
    return float(total)


def _plane(flops_ratio: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Losses (n, 2): octaves of FLOPs, held at the cheap end, and the metric turned round."""
    with np.errstate(divide="ignore"):  # no FLOPs at all is the cheap end as well
        octaves = np.log2(np.asarray(flops_ratio, dtype=float))
    return np.column_stack([np.maximum(octaves, -OCTAVES), -np.asarray(metric, dtype=float)])


def _corner(dense_metric: float, chance: float) -> np.ndarray:
    return np.array([0.0, -max(dense_metric - MARGIN, chance)])
