"""What is left of a measured difference once its noise is taken out: shrunken estimates of all networks.

The best of a hundred noisy measurements is partly the luckiest. What networks of the same FLOPs and with
similar groups kept have in common is real more often than what one of them has alone. So each measured
difference to dense is drawn towards a regression over all of them, the more the noisier it is.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from spaces.errors import InputError

_SCALES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Variances of the two random parts that are tried, in units of the spread that was measured."""

_FLAT = 100.0
"""Variance of the regression's fixed part in the same units: as good as unknown."""

_SHARED = 0.9
"""How much of the measured covariance between two networks' noise is believed."""


@dataclass(frozen=True, eq=False)
class Estimates:
    """Of every network's true difference to dense, larger is better.

    Attributes:
        mean: (n,) posterior mean.
        se: (n,) posterior standard deviation.
    """

    mean: np.ndarray
    se: np.ndarray


def shrunken_estimates(
    differences: np.ndarray,
    octaves: np.ndarray,
    kept: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    training: np.ndarray | float = 0.0,
) -> Estimates:
    """Posterior of the true differences to dense under a simple additive model: see `Estimates`.

    A true difference is a parabola in log FLOPs, plus a linear term for every channel group, plus a part of
    the network's own; the last two are normal with variances that make the measurements most likely
    (empirical Bayes, over a small grid). The noise is normal with the covariance that the cases show:
    networks that err on the same cases have noise in common, which does not blur their order.
    O(n^3) for n networks: seconds at n = 1,000.

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
    noise = noise_covariance(differences, groups)
    noise = _SHARED * noise + (1 - _SHARED) * np.diag(np.diag(noise))
    noise[np.diag_indices(n)] += training
    spread = float(measured.var()) or 1.0
    noise[np.diag_indices(n)] += 1e-6 * spread
    fixed, additive = _designs(np.asarray(octaves, dtype=float), np.asarray(kept, dtype=float))
    best, chosen = -np.inf, None
    for of_groups, own in product(_SCALES, _SCALES):
        prior = spread * (_FLAT * fixed + of_groups * additive + own * np.eye(n))
        likelihood, posterior = _posterior(measured, prior, noise)
        if likelihood > best:
            best, chosen = likelihood, posterior
    assert chosen is not None  # the noise is positive definite, so every grid point has a likelihood
    return Estimates(*chosen)


def noise_covariance(differences: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Covariance of the networks' means over cases: (n, cases) -> (n, n), whole patients together.

    A case that one of two networks was not measured on (NaN) adds nothing to what they share.
    """
    there = ~np.isnan(differences)
    counts = there.sum(axis=1)
    means = np.nanmean(differences, axis=1, keepdims=True)
    deviations = np.where(there, differences - means, 0.0) / counts[:, None]
    index = np.arange(differences.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    per_patient = np.zeros((len(differences), int(index.max()) + 1))
    np.add.at(per_patient.T, index, deviations.T)
    n_patients = np.array([len(np.unique(index[row])) for row in there])
    correction = np.sqrt(n_patients / np.maximum(n_patients - 1, 1))
    per_patient *= correction[:, None]
    return per_patient @ per_patient.T


def _designs(octaves: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of the fixed part (a parabola in the octaves) and of the additive part, unit mean variance.

    The octaves and each group's log2(kept) are standardised; what the octaves explain of a group is taken
    out of it, so that the additive part is about where units are kept and not how many.
    """
    x = (octaves - octaves.mean()) / (octaves.std() or 1.0)
    basis = np.column_stack([np.ones_like(x), x, x**2])
    columns = np.log2(np.maximum(kept, 1e-3))
    columns = columns - basis @ np.linalg.lstsq(basis, columns, rcond=None)[0]
    additive = columns @ columns.T
    return basis @ basis.T, additive / (np.trace(additive) / len(x) or 1.0)


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
