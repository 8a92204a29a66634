"""Log-linear slopes, drawn towards the gradients' scan: what lessons add to what a network tells itself."""

from collections.abc import Sequence

import numpy as np

from search.prior.features import GROUP_FEATURES
from search.prior.lessons import Lesson

FISHER_POWER = 0.4
"""Slopes go as the share in Fisher's information to this power, before any lesson."""

_FISHER = GROUP_FEATURES.index("fisher_log_share")
_STEPS = 12
_STRIDE = 0.5  # most that a coefficient moves in a step, in units of the prior
_OWN = 0.5  # standard deviation of what a group has of its own, relative to the mean slope


def log_slopes(
    lessons: Sequence[Lesson], features: np.ndarray, scale: np.ndarray, strength: float
) -> np.ndarray:
    """Slopes exp(features w), relative to their mean, of the groups of a network: (g, k) -> (g,).

    The coefficients w are fitted to the lessons' slopes by least squares (Gauss-Newton steps), and drawn
    towards `FISHER_POWER` for Fisher's share and 0 for everything else.

    Args:
        lessons: What is known; each is a network, whose slopes have mean 1 in it.
        features: Of the groups to foresee.
        scale: Standard deviation of each feature, infinite where it never varied: (k,).
        strength: Prior standard deviation of a coefficient, per standard deviation of its feature; 0: none is
            learnt.
    """
    unit = np.where(np.isfinite(scale), strength / np.where(np.isfinite(scale), scale, 1.0), 0.0)
    centre = np.zeros(len(scale))
    centre[_FISHER] = FISHER_POWER
    found = np.zeros(len(scale))  # in units of the prior
    for _ in range(_STEPS if strength else 0):
        precision, pull = np.eye(len(unit)), -found
        for lesson in lessons:
            wanted = lesson.slopes / max(float(lesson.slopes.mean()), 0.1)
            expected = relative(lesson.features @ (centre + unit * found))
            slopes = lesson.features * unit
            slopes = expected[:, None] * (slopes - (expected[:, None] * slopes).mean(axis=0))
            counts = 1 / (np.square(lesson.errors) + _OWN**2)
            precision += slopes.T @ (slopes * counts[:, None])
            pull += slopes.T @ (counts * (wanted - expected))
        step = np.linalg.solve(precision, pull)
        found += np.clip(step, -_STRIDE, _STRIDE)
        if np.abs(step).max() < 1e-4:
            break
    return relative(features @ (centre + unit * found))


def relative(logs: np.ndarray) -> np.ndarray:
    """Slopes of mean 1 from their logarithms: (g,) -> (g,)."""
    slopes = np.exp(logs - logs.max(initial=0.0))
    return slopes / slopes.mean() if len(slopes) else slopes
