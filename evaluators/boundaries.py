"""How far drawn borders lie from true ones: the 95th percentile of the Hausdorff distance, by case and class.

It is reported beside Dice and decides nothing: one stray pixel can make it large, and where nothing is drawn
there is no border to measure.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evaluators.protocols import Task
from evaluators.tasks.classification import two_sided
from spaces.finals import Distance

PERCENTILE = 95


def drawn(task: Task, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What a network drew and what is true, of each foreground class or region: (n, k, *spatial) bool, twice.

    Args:
        task: A segmentation.
        logits: (n, channels, *spatial), of the finest head.
        targets: (n, *spatial) of mask values.
    """
    regions: Mapping[str, tuple[int, ...]] = getattr(task, "regions", {}) or {}
    if regions:
        masks = [torch.isin(targets, targets.new_tensor(values)) for values in regions.values()]
        return logits > 0, torch.stack(masks, dim=1)
    said = two_sided(logits).argmax(dim=1)
    values = range(1, len(task.classes))
    return (
        torch.stack([said == value for value in values], dim=1),
        torch.stack([targets == value for value in values], dim=1),
    )


def hausdorff_95(said: Tensor, truth: Tensor, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Symmetric 95 % Hausdorff distance between borders: (n, k, *spatial) bool, twice -> (n, k).

    Args:
        said: What was drawn.
        truth: What is there.
        spacing: Millimetres between pixels along each axis; None: distances are in pixels.

    Returns:
        `distances`; -inf where something is there and nothing was drawn, inf where something was drawn and
        nothing is there, NaN where neither.
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    axes = tuple(range(2, said.ndim))
    some, there = said.sum(axes).cpu().numpy() > 0, truth.sum(axes).cpu().numpy() > 0
    found = np.full(some.shape, np.nan)
    found[there & ~some], found[some & ~there] = -np.inf, np.inf
    given = None if spacing is None else list(spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what MONAI calls in itself
        for case, k in np.argwhere(some & there):
            pair = (drawing[case, k][None, None].float().cpu() for drawing in (said, truth))
            found[case, k] = float(
                compute_hausdorff_distance(
                    *pair, include_background=True, percentile=PERCENTILE, spacing=given
                )
            )
    return found


def summed_up(names: Sequence[str], distances: np.ndarray, unit: str) -> tuple[Distance, ...]:
    """By class, over the cases (n, k) of `hausdorff_95`."""
    found = []
    for name, column in zip(names, distances.T, strict=True):
        measured = column[np.isfinite(column)]
        mean, median = (float(f(measured)) if len(measured) else None for f in (np.mean, np.median))
        missed, invented = (int(np.count_nonzero(column == end)) for end in (-np.inf, np.inf))
        found.append(Distance(name, unit, mean, median, len(measured), missed, invented))
    return tuple(found)
