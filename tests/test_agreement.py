"""Tau-b: as SciPy says, with intervals that cover, overall and among networks of similar FLOPs."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from spaces.agreement import agreement, smallest_shown
from spaces.errors import InputError


def test_tau_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 30).astype(float)
    b = a + rng.integers(0, 6, 30)
    assert agreement(a, b).tau == pytest.approx(kendalltau(a, b).statistic)
    assert agreement(a, b).pairs == 30 * 29 // 2


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    truth = 2 / np.pi * np.arcsin(0.6)  # of two normals with correlation 0.6
    covered = 0
    for _ in range(60):
        a = rng.standard_normal(24)
        b = 0.6 * a + 0.8 * rng.standard_normal(24)
        found = agreement(a, b)
        covered += found.low <= truth <= found.high
    assert 50 <= covered <= 60


def test_flops_alone_agree_overall_and_not_among_networks_of_their_size() -> None:
    rng = np.random.default_rng(2)
    octaves = np.repeat(np.arange(-5.0, 0.0), 8)
    a, b = octaves + rng.standard_normal((2, 40)) * 0.5
    assert agreement(a, b).low > 0.4
    within = agreement(a, b, octaves, within=0.5)
    assert within.low < 0 < within.high
    assert within.pairs == 5 * 8 * 7 // 2


def test_what_cannot_be_compared_is_nan() -> None:
    assert np.isnan(agreement(np.ones(5), np.arange(5.0)).tau)
    found = agreement(np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert (found.tau, found.pairs) == (1.0, 1)
    assert np.isnan(agreement(np.empty(0), np.empty(0)).high)
    with pytest.raises(InputError, match="same networks"):
        agreement(np.ones(3), np.ones(4))


def test_more_networks_show_less() -> None:
    assert smallest_shown(2) == 1.0
    assert smallest_shown(10) > smallest_shown(20) > smallest_shown(100) > 0.1
