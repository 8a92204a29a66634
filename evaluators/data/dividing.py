"""Dividing cases: by patient, stratified, the same for the same seed."""

from collections.abc import Sequence

import numpy as np


def divide(strata: np.ndarray, groups: np.ndarray | None, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part that each case goes to: (n,) int64, 0 to len(shares) - 1.

    Patients are placed one after the other, those with most cases first and else at random, each where it
    brings the numbers per stratum nearest to their shares. No patient is in two parts, and with as many
    patients as parts no part is empty.

    Args:
        strata: What should be spread evenly, as the class of each case (n,).
        groups: Patient of each case (n,); None: every case is a patient of its own.
        shares: Of the cases, by part; they add up to 1.
        seed: Decides between equals.
    """
    _, stratum = np.unique(strata, return_inverse=True)
    _, patient = np.unique(np.arange(len(strata)) if groups is None else groups, return_inverse=True)
    table = np.zeros((patient.max(initial=-1) + 1, stratum.max(initial=-1) + 1))
    np.add.at(table, (patient, stratum), 1)
    rarity = 1 / np.maximum(table.sum(axis=0), 1)  # rare strata weigh as much as common ones
    order = np.random.default_rng([seed, len(strata)]).permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    want = np.outer(shares, table.sum(axis=0))
    parts, cases = np.zeros((len(shares), table.shape[1])), np.zeros(len(shares), dtype=np.int64)
    place = np.empty(len(table), dtype=np.int64)
    for turn, index in enumerate(order):
        row = table[index]
        gain = ((2 * (want - parts) - row) * row * rarity / np.array(shares)[:, None]).sum(axis=1)
        if len(order) - turn <= np.count_nonzero(cases == 0):  # the last ones fill what is empty
            gain[cases > 0] = -np.inf
        place[index] = np.argmax(gain)
        parts[place[index]] += row
        cases[place[index]] += 1
    return place[patient]


def quotas(sizes: np.ndarray, n: int) -> np.ndarray:
    """Split `n` over strata in proportion to `sizes`: largest remainder, at least one each if `n` allows."""
    exact = sizes * (n / sizes.sum())
    result = np.floor(exact).astype(np.int64)
    if n >= len(sizes):
        result = np.maximum(result, 1)
    while result.sum() < n:
        result[np.argmax(exact - result)] += 1
    while result.sum() > n:
        result[np.argmin(np.where(result > 1, exact - result, np.inf))] -= 1
    return result


def chosen(strata: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Indices, ascending, of a stratified choice of `n` cases: every stratum gets its share; see `quotas`."""
    rng = np.random.default_rng([seed, n])
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    sizes = quotas(np.array([len(part) for part in members]), n)
    drawn = [rng.permutation(part)[:quota] for part, quota in zip(members, sizes, strict=True)]
    return np.sort(np.concatenate(drawn))


def quarters(values: np.ndarray) -> np.ndarray:
    """The quarter of each value by rank, 0 to 3: strata of what has no classes."""
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * 4 // max(1, len(values))
