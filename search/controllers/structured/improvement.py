"""Expected hypervolume improvement in closed form: FLOPs are exact and damage is Gaussian."""

import numpy as np

from search.controllers.structured.scale import RETENTION, Scale
from spaces.fronts import OCTAVES


def expected_improvement(
    octaves: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    front_octaves: np.ndarray,
    front: np.ndarray,
    floor: float,
    scale: Scale = RETENTION,
) -> np.ndarray:
    """Expected growth of the hypervolume under a front by each candidate: (n,) -> (n,).

    A sum over the segments between the front's networks: length in octaves times the expected excess over
    what the front has there.

    Args:
        octaves: (n,) log2 of FLOPs over dense; below -6 counts as -6.
        mean: (n,) of the damage.
        sd: (n,) of the damage.
        front_octaves: (f,) of the networks that there are, in any order.
        front: (f,) worth of each, see `Scale.worth`; dominated ones do no harm.
        floor: Worth below which nothing counts.
        scale: What damage is worth.

    Returns:
        In octaves times worth. O(n f).
    """
    order = np.argsort(front_octaves, kind="stable")
    starts = np.clip(front_octaves[order], -OCTAVES, 0.0)
    best = np.maximum.accumulate(np.maximum(front[order], floor)) if len(order) else front
    edges = np.concatenate([[-OCTAVES], starts, [0.0]])
    levels = np.concatenate([[floor], best])
    lengths = edges[1:] - np.maximum(edges[:-1], np.clip(octaves, -OCTAVES, 0.0)[:, None])
    wide = np.diff(edges) > 0
    excess = scale.expected_excess(mean[:, None], sd[:, None], levels[None, wide])
    return (np.maximum(lengths[:, wide], 0.0) * excess).sum(axis=1)
