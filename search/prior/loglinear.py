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


def coefficients(lessons: Sequence[Lesson], scale: np.ndarray, strength: float) -> np.ndarray:
    """Of slopes exp(features w), relative to their mean in a network: w, one a feature, (k,).

    Fitted to the lessons' slopes by least squares (Gauss-Newton steps), and drawn towards `FISHER_POWER` for
    Fisher's share and 0 for everything else.

    Args:
        lessons: What is known; each is a network, whose slopes have mean 1 in it.
        scale: Standard deviation of each feature, infinite where it never varied: (k,).
        strength: Prior standard deviation of a coefficient, per standard deviation of its feature; 0: none is
            learnt.
    """
    unit = np.where(np.isfinite(scale), strength / np.where(np.isfinite(scale), scale, 1.0), 0.0)
    centre = np.zeros(len(scale))
    centre[_FISHER] = FISHER_POWER
    if not strength or not lessons:
        return centre
    sizes = np.array([len(lesson.slopes) for lesson in lessons])
    starts, network = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)

    def relatively(values: np.ndarray) -> np.ndarray:
        """Values over their mean in each network: (groups of all lessons,)."""
        return np.asarray(values / (np.add.reduceat(values, starts) / sizes)[network])

    features = np.concatenate([lesson.features for lesson in lessons])
    means = [max(float(lesson.slopes.mean()), 0.1) for lesson in lessons]
    wanted = np.concatenate([lesson.slopes for lesson in lessons]) / np.array(means)[network]
    counts = 1 / (np.square(np.concatenate([lesson.errors for lesson in lessons])) + _OWN**2)
    found = np.zeros(len(scale))  # in units of the prior
    for _ in range(_STEPS):
        logs = features @ (centre + unit * found)
        expected = relatively(np.exp(logs - np.maximum.reduceat(logs, starts)[network]))
        tilted = expected[:, None] * features
        slopes = tilted - expected[:, None] * (np.add.reduceat(tilted, starts) / sizes[:, None])[network]
        slopes *= unit
        precision = np.eye(len(unit)) + slopes.T @ (slopes * counts[:, None])
        step = np.linalg.solve(precision, slopes.T @ (counts * (wanted - expected)) - found)
        found += np.clip(step, -_STRIDE, _STRIDE)
        if np.abs(step).max() < 1e-4:
            break
    return centre + unit * found


def relative(logs: np.ndarray) -> np.ndarray:
    """Slopes of mean 1 from their logarithms: (g,) -> (g,)."""
    slopes = np.exp(logs - logs.max(initial=0.0))
    return slopes / slopes.mean() if len(slopes) else slopes
