"""Expected hypervolume improvement in closed form: FLOPs are exact and damage is Gaussian."""

import numpy as np
from scipy.special import ndtr

from spaces.fronts import OCTAVES


def expected_excess(mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(exp(-Z) - level, 0)] for Z ~ N(mean, sd^2); broadcasts; level >= 0, sd >= 0.

    `exp(-m + s^2/2) Phi((s^2 - m - ln k)/s) - k Phi((-m - ln k)/s)`: the undiscounted call of Black and
    Scholes on a lognormal value.
    """
    sd = np.maximum(sd, 1e-9)
    log_level = np.log(np.maximum(level, 1e-300))
    above = (-mean - log_level) / sd
    return np.exp(-mean + sd**2 / 2) * ndtr(above + sd) - level * ndtr(above)


def expected_improvement(
    octaves: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    front_octaves: np.ndarray,
    front: np.ndarray,
    floor: float,
) -> np.ndarray:
    """Expected growth of the hypervolume under a front by each candidate: (n,) -> (n,).

    A sum over the segments between the front's networks: length in octaves times the expected excess over
    what the front keeps there. Retention is (metric - chance) / (dense - chance) = exp(-damage).

    Args:
        octaves: (n,) log2 of FLOPs over dense; below -6 counts as -6.
        mean: (n,) of the damage.
        sd: (n,) of the damage.
        front_octaves: (f,) of the networks that there are, in any order.
        front: (f,) retention of each; dominated ones do no harm.
        floor: Retention below which nothing counts, at least 0.

    Returns:
        In octaves times retention. O(n f).
    """
    order = np.argsort(front_octaves, kind="stable")
    starts = np.clip(front_octaves[order], -OCTAVES, 0.0)
    best = np.maximum.accumulate(np.maximum(front[order], floor)) if len(order) else front
    edges = np.concatenate([[-OCTAVES], starts, [0.0]])
    levels = np.concatenate([[floor], best])
    lengths = edges[1:] - np.maximum(edges[:-1], np.clip(octaves, -OCTAVES, 0.0)[:, None])
    wide = np.diff(edges) > 0
    excess = expected_excess(mean[:, None], sd[:, None], levels[None, wide])
    return (np.maximum(lengths[:, wide], 0.0) * excess).sum(axis=1)
