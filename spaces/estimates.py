"""What is left of a measured difference once its noise is taken out: shrunken estimates of all networks.

The best of a hundred noisy measurements is partly the luckiest. What networks of similar FLOPs, of similar
ratios, and as close to the dense network's outputs have in common is real more often than what one of them
has alone. So each measured difference to dense is drawn towards a regression over all of them, the more the
noisier it is; a front is chosen by the lower end of what is left, one standard error below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg import solve_triangular

from spaces.errors import InputError

_SCALES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Variances of the two random parts that are tried, in units of the spread that was measured."""

_FLAT = 100.0
"""Variance of the regression's constant in the same units: as good as unknown."""

_SLOPES = (0.1, 1.0, 100.0)
"""Variances of its other coefficients that are tried: where the noise is all there is, they are held back."""

_SCALES_OF_LENGTH = (0.5, 1.0, 2.0)
"""Distances, in standard deviations of the logarithm of every kept share, over which networks are alike."""

_SHARED = 0.5
"""Part of the covariances between networks that is believed: few patients cannot tell all of them, and what
networks have in common on these patients is partly what they truly lost."""

_WINDOW = 0.15
"""A network that is shown to be this far below the best ones is measured well enough: it takes no part."""


Parts: TypeAlias = tuple[float, ...]
"""Variance of the slopes, length, variances of the smooth part and of the networks' own."""


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
    disagreement: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    training: np.ndarray | float = 0.0,
) -> Estimates:
    """Posterior of the true differences to dense: see `Estimates`.

    A true difference is a parabola in log FLOPs, plus a line in the root of the disagreement, plus a smooth
    part that similar networks share, plus a part of the network's own; all are normal with variances, and
    the smooth part with a length, that make the measurements most likely (empirical Bayes, over a small
    grid). The last two parts are the larger the further a network is from dense, by its disagreement or else
    by its octaves: what is hardly pruned hardly differs. The noise of the measurements is that of paired
    differences over patients, of all networks together: those that err on the same patients are lucky
    together, and learn less from each other. Networks that are far below the best beyond doubt keep what was
    measured: the cliffs that they fell from say nothing about those that matter. O(n^3):
    seconds for 1,000 networks.

    Args:
        differences: (n, cases) each case's share in the metric minus that of dense; NaN where a network was
            not measured on a case (it was on at least two patients).
        octaves: (n,) log2 of FLOPs over dense.
        kept: (n, groups) share of its units that every group keeps, above 0.
        disagreement: (n,) mean over images of how far the outputs are from dense's, at least 0; without
            labels it has little noise. Default, and where some are NaN: not used.
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
    covariance = paired_covariance(differences, groups)
    sampling = np.diag(covariance)
    noise = _SHARED * covariance + np.diag((1 - _SHARED) * sampling + training)
    errors = np.sqrt(sampling + training)
    away = np.abs(np.asarray(octaves, dtype=float))
    regressors = [away, np.square(away)]
    if disagreement is not None and not np.isnan(disagreement).any():
        away = np.sqrt(np.asarray(disagreement, dtype=float))
        regressors.append(away)
    top = np.sort(measured)[-min(n, 5) :].mean()
    near = np.flatnonzero(measured + 2 * errors > top - _WINDOW)
    mean, se = measured.copy(), errors
    mean[near], se[near] = _shrunken(
        measured[near],
        noise[np.ix_(near, near)],
        np.column_stack(regressors)[near],
        np.asarray(kept)[near],
        away[near],
    )
    return Estimates(mean, se)


def paired_covariance(differences: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Covariance of the rows' means over the cases each was measured on, whole patients together: (n, n)."""
    there = ~np.isnan(differences)
    means = np.nanmean(differences, axis=1, keepdims=True)
    deviations = np.where(there, differences - means, 0.0) / there.sum(axis=1, keepdims=True)
    if groups is None:
        n_patients = there.sum(axis=1)
    else:
        index = np.unique(groups, return_inverse=True)[1]
        members = np.eye(int(index.max()) + 1)[index]
        deviations, n_patients = deviations @ members, ((there @ members) > 0).sum(axis=1)
    deviations = deviations * np.sqrt(n_patients / np.maximum(n_patients - 1, 1))[:, None]
    covariance: np.ndarray = deviations @ deviations.T
    return covariance


def _shrunken(
    measured: np.ndarray, noise: np.ndarray, regressors: np.ndarray, kept: np.ndarray, away: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of the rows under the likeliest variances and length."""
    spread = float(measured.var()) or 1.0
    noise = noise + 1e-6 * (spread + np.diag(noise).mean()) * np.eye(len(measured))
    scale = away / np.maximum(np.sqrt(np.square(away).mean()), 1e-9)
    lines = _standard(regressors) @ _standard(regressors).T
    shares = _standard(np.log2(np.maximum(kept, 1e-3)))
    apart = np.square(shares[:, None] - shares[None]).mean(axis=-1)

    scales, itself = np.outer(scale, scale), np.diag(np.square(scale))
    smooth = {length: scales * np.exp(-apart / (2 * length**2)) for length in _SCALES_OF_LENGTH}

    def prior(parts: Parts) -> np.ndarray:
        slopes, length, alike, own = parts
        return np.asarray(spread * (_FLAT + slopes * lines + alike * smooth[length] + own * itself))

    likeliest = prior(_likeliest(lambda parts: _log_likelihood(measured, prior(parts) + noise)))
    root = np.linalg.cholesky(likeliest + noise)
    white, seen = (solve_triangular(root, part, lower=True) for part in (measured, likeliest))
    variance = np.diag(likeliest) - np.square(seen).sum(axis=0)
    return seen.T @ white, np.sqrt(np.maximum(variance, 0.0))


def _likeliest(log_likelihood: Callable[[Parts], float]) -> Parts:
    """The best of the grid, one part after the other, until none can be bettered."""
    grids = (_SLOPES, _SCALES_OF_LENGTH, _SCALES, _SCALES)
    parts: Parts = (1.0, 1.0, 0.1, 0.03)
    best = log_likelihood(parts)
    while True:
        before = parts
        for i, values in enumerate(grids):
            for value in set(values) - {parts[i]}:
                other = (*parts[:i], value, *parts[i + 1 :])
                if (found := log_likelihood(other)) > best:
                    best, parts = found, other
        if parts == before:
            return parts


def _log_likelihood(measured: np.ndarray, covariance: np.ndarray) -> float:
    """Of normal measurements with mean 0, up to a constant."""
    root = np.linalg.cholesky(covariance)
    white = solve_triangular(root, measured, lower=True)
    return -0.5 * float(white @ white) - float(np.log(np.diag(root)).sum())


def _standard(columns: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and deviation 1; one that never varies with zeros."""
    return np.asarray((columns - columns.mean(axis=0)) / np.maximum(columns.std(axis=0), 1e-9))
