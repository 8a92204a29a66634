"""What is left of a measured difference once its noise is taken out: shrunken estimates of all networks.

The best of a hundred noisy measurements is partly the luckiest. What networks of similar FLOPs and similar
ratios have in common is real more often than what one of them has alone. So each measured difference to dense
is drawn towards a regression over all of them, the more the noisier it is; a front is chosen by the lower end
of what is left, one standard error below.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from spaces.errors import InputError

_SCALES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Variances of the two random parts that are tried, in units of the spread that was measured."""

_FLAT = 100.0
"""Variance of the regression's fixed part in the same units: as good as unknown."""

_SCALES_OF_LENGTH = (0.5, 1.0, 2.0)
"""Distances, in standard deviations of the logarithm of every kept share, over which networks are alike."""

_WINDOW = 0.15
"""A network that is shown to be this far below the best ones is measured well enough: it takes no part."""


@dataclass(frozen=True, eq=False)
class Estimates:
    """Of every network's true difference to dense, larger is better.

    Attributes:
        mean: (n,) posterior mean.
        se: (n,) posterior standard deviation.
    """

    mean: np.ndarray
    se: np.ndarray

    @property
    def cautious(self) -> np.ndarray:
        """(n,) what a front is chosen by: one standard error below the mean."""
        return self.mean - self.se


def shrunken_estimates(
    differences: np.ndarray,
    octaves: np.ndarray,
    kept: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    training: np.ndarray | float = 0.0,
) -> Estimates:
    """Posterior of the true differences to dense: see `Estimates`.

    A true difference is a parabola in log FLOPs, plus a smooth part that similar networks share, plus a part
    of the network's own; the last two are normal with variances, and the smooth part with a length, that
    make the measurements most likely (empirical Bayes, over a small grid). The noise of a measurement is its
    paired standard error. Networks that are far below the best beyond doubt keep what was measured: the
    cliffs that they fell from say nothing about those that matter. O(n^3): seconds for 1,000 networks.

    Args:
        differences: (n, cases) each case's share in the metric minus that of dense; NaN where a network was
            not measured on a case (it was on at least two patients).
        octaves: (n,) log2 of FLOPs over dense.
        kept: (n, groups) share of its units that every group keeps, above 0.
        groups: (cases,) patient of each case. Default: each case is a patient.
        training: Variance of each mean that comes from training: (n,), or one for all.

    Raises:
        InputError: The shapes do not fit, or a network was measured nowhere.

    Source: Efron and Morris 1975; Robinson 1991 (best linear unbiased prediction).
    """
    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    if differences.ndim != 2 or np.shape(octaves) != (n,) or np.shape(kept)[:1] != (n,):
        raise InputError(
            f"estimates need (n, cases), (n,) and (n, groups); got {differences.shape}, {np.shape(octaves)} "
            f"and {np.shape(kept)}"
        )
    there = ~np.isnan(differences)
    if not there.any(axis=1).all():
        raise InputError("every network must be measured on some case")
    measured = np.nanmean(differences, axis=1)
    variance = paired_variance(differences, groups) + training
    errors = np.sqrt(variance)
    top = np.sort(measured)[-min(n, 5) :].mean()
    near = np.flatnonzero(measured + 2 * errors > top - _WINDOW)
    mean, se = measured.copy(), errors.copy()
    mean[near], se[near] = _shrunken(
        measured[near], variance[near], np.asarray(octaves, dtype=float)[near], np.asarray(kept)[near]
    )
    return Estimates(mean, se)


def paired_variance(differences: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Variance of each row's mean over the cases it was measured on, whole patients together: (n,)."""
    there = ~np.isnan(differences)
    means = np.nanmean(differences, axis=1, keepdims=True)
    deviations = np.where(there, differences - means, 0.0) / there.sum(axis=1, keepdims=True)
    if groups is None:
        n_patients = there.sum(axis=1)
    else:
        index = np.unique(groups, return_inverse=True)[1]
        members = np.eye(int(index.max()) + 1)[index]
        deviations, n_patients = deviations @ members, ((there @ members) > 0).sum(axis=1)
    variance: np.ndarray = np.square(deviations).sum(axis=1) * n_patients / np.maximum(n_patients - 1, 1)
    return variance


def _shrunken(
    measured: np.ndarray, variance: np.ndarray, octaves: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of the rows under the likeliest variances and length."""
    spread = float(measured.var()) or 1.0
    noise = np.diag(variance + 1e-6 * spread)
    x = (octaves - octaves.mean()) / (octaves.std() or 1.0)
    basis = np.column_stack([np.ones_like(x), x, x**2])
    shares = np.log2(np.maximum(kept, 1e-3))
    shares = (shares - shares.mean(axis=0)) / np.maximum(shares.std(axis=0), 1e-9)
    apart = np.square(shares[:, None] - shares[None]).mean(axis=-1)
    best, chosen = -np.inf, (measured, np.sqrt(variance))
    for length, alike, own in product(_SCALES_OF_LENGTH, _SCALES, _SCALES):
        prior = _FLAT * (basis @ basis.T) + alike * np.exp(-apart / (2 * length**2)) + own * np.eye(len(x))
        likelihood, posterior = _posterior(measured, spread * prior, noise)
        if likelihood > best:
            best, chosen = likelihood, posterior
    return chosen


def _posterior(
    measured: np.ndarray, prior: np.ndarray, noise: np.ndarray
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Log-likelihood, and posterior mean and standard deviation, of normal effects seen through noise."""
    root = np.linalg.cholesky(prior + noise)
    white = np.linalg.solve(root, measured)
    seen = np.linalg.solve(root, prior)
    likelihood = -0.5 * float(white @ white) - float(np.log(np.diag(root)).sum())
    variance = np.maximum(np.diag(prior) - np.square(seen).sum(axis=0), 0.0)
    return likelihood, (seen.T @ white, np.sqrt(variance))
