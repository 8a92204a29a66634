"""How well one measurement orders networks as another does: Kendall's tau-b with intervals."""

from dataclasses import dataclass

import numpy as np

from spaces.errors import InputError

_N_BOOT = 2000


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b with a bootstrap interval over networks.

    Attributes:
        tau: -1 to 1; NaN where no pair is ordered by both.
        low: Lower end of the 95 % interval; NaN as tau.
        high: Upper end.
        pairs: Pairs that were compared.
    """

    tau: float
    low: float
    high: float
    pairs: int


def agreement(
    a: np.ndarray, b: np.ndarray, octaves: np.ndarray | None = None, *, within: float = np.inf, seed: int = 0
) -> Agreement:
    """Tau-b between two measurements of the same networks: (n,), (n,) -> `Agreement`.

    Networks with a NaN are left out. Resampling draws networks; a network is never compared with itself.

    Args:
        a: One measurement.
        b: The other; both with larger better.
        octaves: (n,) log2 FLOPs; needed with `within`.
        within: Compare only networks whose FLOPs differ by less than so many octaves: across larger gaps,
            FLOPs alone order them well, and that flatters every proxy.
        seed: Of the resampling.

    Source: Kendall 1945.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"two measurements of the same networks are needed; got {a.shape} and {b.shape}")
    there = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[there], b[there]
    compared = ~np.eye(len(a), dtype=bool)
    if np.isfinite(within):
        if octaves is None:
            raise InputError("octaves are needed to compare within a range of FLOPs")
        x = np.asarray(octaves, dtype=float)[there]
        compared &= np.abs(x[:, None] - x[None]) < within
    n = len(a)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=_N_BOOT) if n else np.zeros((_N_BOOT, 0))
    tau = tau_b(a, b, compared, np.ones((1, n)))[0]
    drawn = tau_b(a, b, compared, weights.astype(float))
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) and tau == tau else (np.nan, np.nan)
    return Agreement(float(tau), float(low), float(high), int(compared.sum()) // 2)


def smallest_shown(n: int) -> float:
    """The true tau that n networks show to be above 0 (one-sided 5 %) with a power of 80 %, roughly.

    From the standard error of tau without ties and without any agreement. 1 for fewer than three networks.
    """
    if n < 3:
        return 1.0
    return float(min(1.0, (1.645 + 0.842) * np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))))


def tau_b(a: np.ndarray, b: np.ndarray, compared: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b over some pairs, once for each row of weights: how often each network was drawn.

    (n,), (n,), (n, n) bool, (draws, n) -> (draws,); NaN where no pair is ordered by both.
    """
    sign_a, sign_b = (np.sign(values[:, None] - values[None]) for values in (a, b))
    parts = np.stack([sign_a * sign_b, np.abs(sign_a), np.abs(sign_b)]) * compared
    together, in_a, in_b = (np.einsum("di,ij,dj->d", weights, part, weights, optimize=True) for part in parts)
    norm = np.sqrt(in_a * in_b)
    return np.divide(together, norm, out=np.full(len(norm), np.nan), where=norm > 0)
