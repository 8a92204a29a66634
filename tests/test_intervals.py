"""Intervals: known answers, coverage and power in simulation, and what must not matter."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import InputError
from spaces.fronts import non_dominated
from spaces.intervals import (
    paired_difference,
    plausible_front,
    replicate_sd,
    simultaneous_intervals,
    smallest_difference,
)


def population(rng: np.random.Generator, means: np.ndarray, cases: int, noise: float = 0.2) -> np.ndarray:
    """Shares whose true means are given: hard cases in common, noise of their own."""
    hard = 0.3 * rng.standard_normal(cases)
    return means[:, None] + hard + noise * rng.standard_normal((len(means), cases))


def test_paired_difference_by_hand() -> None:
    a, b = np.array([1.0, 2, 3, 6]), np.array([1.0, 1, 1, 1])
    mean, se = paired_difference(a, b)
    assert mean == 2.0
    assert se == pytest.approx(np.std([0, 1, 2, 5], ddof=1) / 2)


def test_what_two_networks_share_cancels() -> None:
    hard = np.random.default_rng(0).standard_normal(50) * 100
    assert paired_difference(hard + 0.5, hard) == pytest.approx((0.5, 0), abs=1e-12)


def test_cases_of_one_patient_are_one_observation() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 30))
    patients = np.repeat(rng.permutation(30), 4)
    mean, se = paired_difference(np.repeat(a, 4), np.repeat(b, 4), patients)
    assert (mean, se) == pytest.approx(paired_difference(a, b)), "four copies of a case say nothing new"
    assert paired_difference(np.repeat(a, 4), np.repeat(b, 4))[1] < 0.6 * se
    assert paired_difference(a, b, np.arange(30)) == pytest.approx(paired_difference(a, b))


def test_paired_difference_without_enough_to_go_on() -> None:
    assert np.isnan(paired_difference(np.array([np.nan, 1]), np.ones(2))).all()
    mean, se = paired_difference(np.array([3.0]), np.array([1.0]))
    assert mean == 2.0
    assert np.isnan(se)
    assert np.isnan(paired_difference(np.arange(4.0), np.zeros(4), np.zeros(4))[1]), "one patient"


def test_replicate_sd_pools_over_networks() -> None:
    values = np.array([1.0, 3.0, 10.0, 10.0, 13.0, 99.0, np.nan, 7.0])
    networks = np.array(["a", "a", "b", "b", "b", "c", "d", "d"])
    assert replicate_sd(values, networks) == pytest.approx(np.sqrt((2 + 6) / 3))
    assert np.isnan(replicate_sd(np.array([1.0, 2.0]), np.array([0, 1])))
    assert np.isnan(replicate_sd(np.array([]), np.array([])))


@pytest.mark.parametrize(
    ("cases", "training_noise", "patients"), [(80, 0.0, None), (80, 0.03, None), (160, 0.0, 40)]
)
def test_a_network_on_the_true_front_is_rarely_dropped(
    cases: int, training_noise: float, patients: int | None
) -> None:
    """The hardest case: 40 cheaper challengers, all exactly as good as the network in question."""
    rng, runs, dropped = np.random.default_rng(2), 300, 0
    groups = None if patients is None else np.repeat(np.arange(patients), cases // patients)
    for run in range(runs):
        shares = population(rng, np.full(41, 0.8), cases)
        if groups is not None:
            shares += 0.2 * rng.standard_normal((41, len(np.unique(groups))))[:, groups]
        shares += training_noise * rng.standard_normal((41, 1))
        mask = plausible_front(
            np.arange(41.0), shares, groups=groups, replicate_sd=training_noise, n_boot=400, seed=run
        )
        dropped += not mask[-1]
    assert dropped / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)


def test_noise_of_training_that_is_ignored_drops_far_too_many() -> None:
    """The test above can fail: without the replicates' noise the promise is broken."""
    rng, dropped = np.random.default_rng(3), 0
    for run in range(60):
        shares = population(rng, np.full(41, 0.8), 80) + 0.03 * rng.standard_normal((41, 1))
        dropped += not plausible_front(np.arange(41.0), shares, n_boot=400, seed=run)[-1]
    assert dropped / 60 > 0.15


def test_a_network_that_is_clearly_dominated_is_dropped() -> None:
    rng = np.random.default_rng(4)
    means = np.array([0.7, 0.8, 0.72, 0.9, 0.8])  # 2 and 4 are dominated by 1 and 3
    masks = [
        plausible_front(np.arange(5.0), population(rng, means, 200), seed=run).tolist() for run in range(40)
    ]
    assert np.mean([mask == [True, True, False, True, False] for mask in masks]) >= 0.9


def test_more_replicates_sharpen_and_more_noise_blurs() -> None:
    means = np.where(np.arange(30) == 0, 0.85, 0.8)
    shares = population(np.random.default_rng(5), means, 400, noise=0.05)
    flops = np.arange(30.0)
    sharp = plausible_front(flops, shares, replicate_sd=0.03, replicates=np.full(30, 50))
    assert sharp.sum() < plausible_front(flops, shares, replicate_sd=0.03).sum()
    assert plausible_front(flops, shares, replicate_sd=1.0).all()


def test_identical_networks_all_stay() -> None:
    row = np.random.default_rng(6).random(50)
    assert plausible_front(np.arange(6.0), np.tile(row, (6, 1))).all()
    assert plausible_front(np.ones(6), np.tile(row, (6, 1))).all()
    shares = np.vstack([row - 0.5, row, row, row - 0.25])
    assert plausible_front(np.arange(4.0), shares).tolist() == [True, True, True, False]


def test_a_costlier_network_challenges_nobody() -> None:
    shares = population(np.random.default_rng(7), np.array([0.1, 0.9]), 200)
    assert plausible_front(np.array([1.0, 2.0]), shares).all()
    assert plausible_front(np.array([2.0, 1.0]), shares).tolist() == [False, True]
    assert plausible_front(np.array([1.0, 1.0]), shares).tolist() == [False, True], "equal costs"


def test_a_failed_network_is_never_plausible_and_challenges_nobody() -> None:
    shares = population(np.random.default_rng(8), np.array([0.9, 0.5]), 50)
    shares[0, 3] = np.nan
    assert plausible_front(np.array([1.0, 2.0]), shares).tolist() == [False, True]
    assert plausible_front(np.array([np.nan, 2.0]), shares).tolist() == [False, True]
    assert plausible_front(np.empty(0), np.empty((0, 5))).tolist() == []


def test_one_patient_shows_nothing() -> None:
    shares = population(np.random.default_rng(9), np.array([0.9, 0.1]), 20)
    assert plausible_front(np.array([1.0, 2.0]), shares, groups=np.zeros(20)).all()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 15), st.integers(2, 30))
def test_the_observed_front_is_always_plausible(seed: int, n: int, cases: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.integers(0, 3, (n, cases)) / 2  # ties abound
    flops = rng.integers(0, 5, n).astype(float)
    mask = plausible_front(flops, shares, n_boot=50, seed=seed)
    observed = non_dominated(np.column_stack([flops, -shares.mean(axis=1)]))
    assert mask[observed].all()
    assert mask.tolist() == plausible_front(flops, shares, n_boot=50, seed=seed).tolist(), "seeded"


def test_the_order_of_the_cases_does_not_matter() -> None:
    rng = np.random.default_rng(10)
    shares = population(rng, 0.8 + 0.02 * rng.standard_normal(40), 60)
    patients = np.repeat(np.arange(20), 3)
    flops = rng.random(40)
    order = rng.permutation(60)
    for groups in (None, patients):
        shuffled = None if groups is None else (groups + 5)[order]
        expected = plausible_front(flops, shares, groups=groups)
        assert plausible_front(flops, shares[:, order], groups=shuffled).tolist() == expected.tolist()


def test_two_thousand_networks_take_seconds() -> None:
    rng = np.random.default_rng(11)
    flops = rng.uniform(0.02, 1, 2000)
    shares = population(rng, 0.8 + 0.1 * flops - 0.05 * rng.random(2000), 500).astype(np.float32)
    start = time.perf_counter()
    mask = plausible_front(flops, shares, replicate_sd=0.005)
    assert time.perf_counter() - start < 20, "1.4 s on an idle core"
    assert 0 < mask.sum() < 2000


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\) and \(3,\)"):
        plausible_front(np.zeros(3), np.zeros((2, 3)))
    with pytest.raises(InputError, match="between 0 and 1; got 95"):
        plausible_front(np.zeros(2), np.zeros((2, 3)), level=95)
    with pytest.raises(InputError, match="0 or more; got nan"):
        plausible_front(np.zeros(2), np.zeros((2, 3)), replicate_sd=np.nan)
    with pytest.raises(InputError, match="each of 3 cases"):
        plausible_front(np.zeros(2), np.zeros((2, 3)), groups=np.zeros(2))
    with pytest.raises(InputError, match="each of 3 cases"):
        paired_difference(np.zeros(3), np.zeros(3), groups=np.zeros(2))


def test_the_smallest_difference_is_that_of_a_median_network() -> None:
    assert smallest_difference(np.array([0.0, 0.01, 0.02, 0.03, np.nan])) == pytest.approx(2.802 * 0.02)
    assert np.isnan(smallest_difference(np.array([0.0])))


@pytest.mark.parametrize(("cases", "patients"), [(60, None), (200, None), (120, 40)])
def test_simultaneous_intervals_all_hold(cases: int, patients: int | None) -> None:
    """Ten networks that share the hard cases: all ten true values are inside in 95 % of the samples."""
    rng, runs, held = np.random.default_rng(7), 300, 0
    groups = None if patients is None else np.repeat(np.arange(patients), cases // patients)
    truth = np.linspace(0.7, 0.9, 10)
    for run in range(runs):
        shares = population(rng, truth, cases)
        if groups is not None:
            shares += 0.3 * rng.standard_normal(len(np.unique(groups)))[groups]
        means, low, high = simultaneous_intervals(shares, groups, n_boot=500, seed=run)
        assert np.allclose(means, shares.mean(axis=1))
        held += bool(((low <= truth) & (truth <= high)).all())
    assert held / runs >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / runs)


def test_simultaneous_intervals_widen_with_rows_but_not_with_copies() -> None:
    rng = np.random.default_rng(8)
    shares = rng.standard_normal((20, 100))
    width = {n: np.diff(simultaneous_intervals(shares[:n])[1:], axis=0)[0, 0] for n in (1, 2, 20)}
    assert width[1] < width[2] < width[20]
    copies = simultaneous_intervals(np.tile(shares[:1], (20, 1)))
    assert np.diff(copies[1:], axis=0)[0, 0] == pytest.approx(width[1])
    assert (copies[2] > copies[1]).all()


def test_simultaneous_intervals_without_enough_to_go_on() -> None:
    rng = np.random.default_rng(9)
    shares = np.stack([rng.standard_normal(50), np.full(50, 0.5), np.full(50, np.nan)])
    means, low, high = simultaneous_intervals(shares)
    assert np.isfinite([low[0], high[0]]).all()
    assert means[1] == 0.5
    assert np.isnan([low[1], low[2], means[2]]).all()
    assert np.isnan(simultaneous_intervals(shares, np.zeros(50))[1]).all(), "one patient"
    assert np.isnan(simultaneous_intervals(np.ones((1, 9)))[1]).all()
