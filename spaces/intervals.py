"""How sure we are: paired differences between networks, and the plausible front.

All networks are measured on the same validation cases. What two of them share (hard cases, a small
sample) cancels in the difference per case, so every statement here is about paired differences, never
about the standard error of one network's metric. Cases of one patient are not independent: where the
patients are known, whole patients are resampled.
"""

import numpy as np
from scipy.special import stdtrit

from spaces.errors import InputError
from spaces.fronts import non_dominated

_HOPELESS = 8.0
"""Beyond so many standard errors no resampling saves a network: with Poisson-like weights even a
challenger that differs in one single case gets there with probability 1e-6 a case."""

_CHUNK = 256


def paired_difference(a: np.ndarray, b: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Mean of a - b and its standard error: (cases,), (cases,) -> (mean, se).

    Args:
        a: Each case's share in the metric, so that the mean is the metric.
        b: The same cases, in the same order, of the other network.
        groups: (cases,) patient of each case; the differences are then summed per patient before their
            spread is taken (cluster-robust, Liang and Zeger 1986). Default: each case is a patient.

    Returns:
        Both NaN if any share is NaN; se NaN with fewer than two patients.
    """
    shares = np.stack([np.asarray(a, dtype=float), np.asarray(b, dtype=float)])
    if np.isnan(shares).any():
        return np.nan, np.nan
    difference = shares[0] - shares[1]
    deviations, sizes = _per_patient(difference[None, :], _patients(groups, len(difference)))
    n_patients = len(sizes)
    if n_patients < 2:
        return float(difference.mean()), np.nan
    spread = n_patients / (n_patients - 1) * np.square(deviations).sum()
    return float(difference.mean()), float(np.sqrt(spread) / len(difference))


def simultaneous_intervals(
    shares: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    level: float = 0.95,
    n_boot: int = 4000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of rows and intervals that hold for all of them at once: (n, cases) -> (n,), (n,), (n,).

    Patients are resampled, the same ones for all rows; the largest studentised deviation of any row decides
    how wide all intervals are. So rows that go together (networks measured on the same cases) cost less than
    Bonferroni. Never narrower than Student's interval of one row alone.

    Args:
        shares: Each case's share in each row's figure, whose mean is the figure.
        groups: (cases,) patient of each case. Default: each case is a patient.
        level: Probability that all intervals hold.
        n_boot: Resamples.
        seed: Of the resampling.

    Returns:
        Means, lower and upper ends. A row with NaN is NaN and widens nothing; without spread, or with fewer
        than two patients, a row's ends are NaN: nothing is known about its error.

    Source: max-T bootstrap, Westfall and Young 1993; single-step, studentised.
    """
    shares = np.asarray(shares, dtype=float)
    if shares.ndim != 2:
        raise InputError(f"shares must be (n, cases); got {shares.shape}")
    if not 0 < level < 1:
        raise InputError(f"a level of confidence lies between 0 and 1; got {level}")
    means, half = shares.mean(axis=1), np.full(len(shares), np.nan)
    deviations, sizes = _per_patient(shares, _patients(groups, shares.shape[1]))
    n_patients = len(sizes)
    errors = (
        np.sqrt(np.square(deviations).sum(axis=1) * n_patients / max(n_patients - 1, 1)) / shares.shape[1]
    )
    known = errors > 1e-12
    if n_patients < 2 or not known.any():
        return means, half, half.copy()
    rng = np.random.default_rng(seed)
    drawn = _resample(deviations[known], sizes, np.zeros(int(known.sum())), np.inf, n_boot, rng)
    largest = np.abs(drawn / errors[known, None]).max(axis=0)
    alone = float(stdtrit(n_patients - 1, 0.5 + level / 2))
    half[known] = max(float(np.quantile(largest, level)), alone) * errors[known]
    return means, means - half, means + half


def smallest_difference(errors: np.ndarray) -> float:
    """The difference to dense that this validation set shows with a power of 80 %: (n,) -> float.

    Two-sided at 95 %, for a network of median standard error; NaN where none is known.

    Args:
        errors: Standard errors of paired differences to dense; NaN and 0 (dense itself) do not count.
    """
    errors = np.asarray(errors, dtype=float)
    errors = errors[errors > 0]
    return float((1.96 + 0.842) * np.median(errors)) if len(errors) else np.nan


def replicate_sd(values: np.ndarray, networks: np.ndarray) -> float:
    """Standard deviation between repeats of one network: (n,), (n,) -> float, pooled over the networks.

    Args:
        values: The metric of each trial; NaN (failed) counts as not there.
        networks: (n,) any label of the network that each trial measured.

    Returns:
        NaN where no network was measured twice: nothing is known about the noise of training then.
    """
    values = np.asarray(values, dtype=float)
    there = ~np.isnan(values)
    _, index = np.unique(np.asarray(networks)[there], return_inverse=True)
    values = values[there]
    counts = np.bincount(index)
    freedom = int((counts - 1).sum())
    if freedom == 0:
        return np.nan
    means = np.bincount(index, weights=values) / counts
    return float(np.sqrt(np.square(values - means[index]).sum() / freedom))


def plausible_front(
    flops: np.ndarray,
    per_case: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    replicate_sd: float = 0.0,
    replicate_freedom: float = np.inf,
    replicates: np.ndarray | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Mask of the networks that may be on the true front: (n,), (n, cases) -> (n,) bool.

    A network is implausible if the data show, with `level` confidence, that some network at most as costly
    has a better metric. The confidence is simultaneous over all such challengers: the largest studentised
    paired difference is held against the distribution of the largest under the hypothesis that none is
    better. So each network that is on the true front stays with at least that probability, however many
    challengers were tried. What stays is *not* shown to be good: with few cases almost everything is
    plausible.

    Patients are resampled, the same resample for all networks, and the noise of training is added to each
    (independent between networks, known spread). The promise holds from about 30 patients up.
    Every network of the observed front is plausible; so is any that ties exactly with its best challenger.
    A network with a NaN (failed) is never plausible and challenges nobody. The dense network takes part
    like any other. The order of the cases does not matter. O(n^2 n_boot) at worst, seconds for n = 2,000.

    Args:
        flops: Cost of each network, exact.
        per_case: Each case's share in the metric (larger is better), averaged over a network's replicates.
        groups: (cases,) patient of each case. Default: each case is a patient.
        replicate_sd: Standard deviation of the metric between repeats of one network.
        replicate_freedom: Degrees of freedom that it was estimated with.
        replicates: (n,) repeats that each network's shares are the mean of. Default: 1.
        level: Simultaneous confidence that it takes to drop a network.
        n_boot: Resamples.
        seed: Of the resampling.

    Source: the model confidence set of Hansen, Lunde and Nason 2011, with costs as an order of who may
    challenge whom.
    """
    flops, per_case = np.asarray(flops, dtype=float), np.asarray(per_case, dtype=float)
    if per_case.ndim != 2 or flops.shape != per_case.shape[:1]:
        raise InputError(f"shares must be (n, cases) for n costs; got {per_case.shape} and {flops.shape}")
    if not 0 < level < 1:
        raise InputError(f"a level of confidence lies between 0 and 1; got {level}")
    if not replicate_sd >= 0:
        raise InputError(f"the spread between repeats must be 0 or more; got {replicate_sd}")
    patients = _patients(groups, per_case.shape[1])
    repeats = np.ones(len(flops)) if replicates is None else np.asarray(replicates, dtype=float)
    plausible = np.zeros(len(flops), dtype=bool)
    there = np.flatnonzero(~np.isnan(flops) & ~np.isnan(per_case).any(axis=1))
    order = there[np.argsort(flops[there], kind="stable")]
    if len(order) == 0 or per_case.shape[1] == 0:
        return plausible
    per_case, patients = _canonical(per_case[order], patients)
    deviations, sizes = _per_patient(per_case, patients)
    if len(sizes) < 2:  # one patient shows nothing about others
        plausible[there] = True
        return plausible
    noise = replicate_sd**2 / repeats[order]
    rng = np.random.default_rng(seed)
    plausible[order] = _survivors(
        flops[order],
        per_case.mean(axis=1),
        deviations * np.sqrt(len(sizes) / (len(sizes) - 1)) / per_case.shape[1],
        noise,
        _resample(deviations, sizes, noise, replicate_freedom, n_boot, rng),
        level,
    )
    return plausible


def _survivors(
    flops: np.ndarray,
    means: np.ndarray,
    deviations: np.ndarray,
    noise: np.ndarray,
    resampled: np.ndarray,
    level: float,
) -> np.ndarray:
    """Mask of the networks that no challenger refutes; rows sorted by cost."""
    keep = non_dominated(np.column_stack([flops, -means]))
    n_challengers = np.searchsorted(flops, flops, side="right")
    power = np.square(deviations).sum(axis=1)
    floor = max(np.abs(means).max(), np.sqrt(power.max()), 1.0) * 1e-9  # equal rows: no spread to divide by
    for j in np.flatnonzero(~keep):
        rivals = n_challengers[j]
        spread = power[:rivals] + power[j] - 2 * (deviations[:rivals] @ deviations[j])
        errors = np.sqrt(np.maximum(spread, 0) + noise[:rivals] + noise[j]) + floor
        lead = (means[:rivals] - means[j]) / errors
        strongest = np.argsort(-lead)
        statistic = lead[strongest[0]]
        if statistic <= _HOPELESS:
            keep[j] = statistic <= 0 or _explained(statistic, resampled, int(j), strongest, errors, level)
    return keep


def _explained(
    statistic: float, resampled: np.ndarray, j: int, rivals: np.ndarray, errors: np.ndarray, level: float
) -> bool:
    """Whether chance alone would give some rival such a lead over network j; stops as soon as it would."""
    n_boot = resampled.shape[1]
    allowed = (1 - level) * (n_boot + 1) - 1  # p-value (1 + exceedances) / (1 + n_boot)
    exceeded = np.zeros(n_boot, dtype=bool)
    for start in range(0, len(rivals), _CHUNK):
        chunk = rivals[start : start + _CHUNK]
        lead = resampled[chunk] - resampled[j]
        lead *= (1 / errors[chunk]).astype(np.float32)[:, None]
        exceeded |= lead.max(axis=0) >= statistic
        if exceeded.sum() > allowed:
            return True
    return False


def _resample(
    deviations: np.ndarray,
    sizes: np.ndarray,
    noise: np.ndarray,
    noise_freedom: float,
    n_boot: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """What chance does to each network's metric: (n, n_boot) float32, patients drawn once for all."""
    n_patients = len(sizes)
    freedom = n_patients - 1
    weights = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_boot)
    scale = np.sqrt(n_patients / freedom) / (weights @ sizes)
    scale /= np.sqrt(rng.chisquare(freedom, n_boot) / freedom)  # as Student: the spread is an estimate too
    drawn = deviations.astype(np.float32) @ (weights * scale[:, None]).T.astype(np.float32)
    if noise.any():
        training = np.sqrt(noise)[:, None].astype(np.float32) * rng.standard_normal(drawn.shape, np.float32)
        if np.isfinite(noise_freedom):  # one estimate for all, off by the same factor in each resample
            training /= np.sqrt(rng.chisquare(noise_freedom, n_boot) / noise_freedom).astype(np.float32)
        drawn += training
    return drawn


def _per_patient(shares: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums per patient of each row's deviation from its mean, and cases per patient: (n, p), (p,)."""
    deviations = shares - shares.mean(axis=1, keepdims=True)
    if groups is None:
        return deviations, np.ones(shares.shape[1])
    _, first, index = np.unique(groups, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[index]  # patients in the order of their first case
    sizes = np.bincount(by_appearance)
    together = np.argsort(by_appearance, kind="stable")
    starts = np.cumsum(sizes) - sizes
    return np.add.reduceat(deviations[:, together], starts, axis=1), sizes.astype(float)


def _canonical(per_case: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Cases sorted by what the networks make of them, so that their order in the split cannot matter."""
    order = np.lexsort(per_case[::-1])
    return per_case[:, order], None if groups is None else groups[order]


def _patients(groups: np.ndarray | None, n_cases: int) -> np.ndarray | None:
    if groups is not None and np.shape(groups) != (n_cases,):
        raise InputError(f"the patient must be given for each of {n_cases} cases; got {np.shape(groups)}")
    return None if groups is None else np.asarray(groups)
