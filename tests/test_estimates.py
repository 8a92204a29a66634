"""Shrunken estimates: nearer to the truth than what was measured, and honest about it."""

import numpy as np
import pytest

from spaces.errors import InputError
from spaces.estimates import paired_covariance, shrunken_estimates
from spaces.intervals import paired_difference


def problem(rng: np.random.Generator, n: int = 60, cases: int = 80, noise: float = 0.4):
    """Networks with a known difference to dense, measured on a few cases; the first is dense."""
    kept = np.exp(rng.uniform(np.log(0.1), 0, (n, 6)))
    kept[0] = 1.0
    octaves = 2 * np.log2(kept.mean(axis=1))
    truth = -0.02 * octaves**2 + np.log2(kept) @ np.array([0.03, 0.01, 0, 0, -0.005, 0])
    truth += 0.01 * rng.standard_normal(n)
    truth -= truth[0]
    hard = rng.standard_normal((cases, 3))  # networks err on the same cases
    errors = noise * (hard @ rng.standard_normal((3, n))).T / 2
    errors += noise * rng.standard_normal((n, cases))
    differences = truth[:, None] + errors
    differences[0] = 0.0
    return differences, octaves, kept, truth


def test_estimates_are_nearer_to_the_truth_and_their_errors_are_what_they_say() -> None:
    gains, covered = [], []
    for seed in range(12):
        differences, octaves, kept, truth = problem(np.random.default_rng(seed))
        found = shrunken_estimates(differences, octaves, kept)
        measured = differences.mean(axis=1)
        gains.append(np.abs(found.mean - truth).mean() / np.abs(measured - truth).mean())
        covered.append((np.abs(found.mean - truth) <= 2 * found.se + 1e-3).mean())
    assert np.mean(gains) < 0.75
    assert np.mean(covered) > 0.75  # networks err on the same cases; half of what is shared is believed


def test_what_dense_would_say_helps_where_the_cases_say_little() -> None:
    errors = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        kept = np.exp(rng.uniform(np.log(0.1), 0, (60, 6)))
        kept[0] = 1.0
        octaves = 2 * np.log2(kept.mean(axis=1))
        truth = -0.02 * np.abs(rng.standard_normal(60))  # not foreseen by FLOPs or ratios
        truth[0] = 0.0
        differences = truth[:, None] + 0.2 * rng.standard_normal((60, 80))
        differences[0] = 0.0
        disagreement = np.square(truth)
        alone = shrunken_estimates(differences, octaves, kept)
        helped = shrunken_estimates(differences, octaves, kept, disagreement=disagreement)
        misled = shrunken_estimates(differences, octaves, kept, disagreement=rng.permutation(disagreement))
        errors.append([(found.mean - truth).std() for found in (alone, helped, misled)])
    alone, helped, misled = np.mean(errors, axis=0)
    assert helped < 0.85 * alone
    assert misled < 1.1 * alone  # one that says nothing does little harm


def test_a_disagreement_that_is_missing_somewhere_is_not_used() -> None:
    differences, octaves, kept, truth = problem(np.random.default_rng(0))
    some = np.where(np.arange(len(truth)) == 3, np.nan, np.square(truth))
    found = shrunken_estimates(differences, octaves, kept, disagreement=some)
    assert np.array_equal(found.mean, shrunken_estimates(differences, octaves, kept).mean)


def test_the_luckiest_is_not_flattered() -> None:
    flattery = []
    for seed in range(12):
        differences, octaves, kept, truth = problem(np.random.default_rng(seed))
        found = shrunken_estimates(differences, octaves, kept)
        measured = differences.mean(axis=1)
        flattery.append(
            [measured.max() - truth[measured.argmax()], found.mean.max() - truth[found.mean.argmax()]]
        )
    naive, shrunken = np.mean(flattery, axis=0)
    assert naive > 0.03
    assert abs(shrunken) < 0.6 * naive


def test_dense_is_known_and_without_noise_nothing_is_shrunken() -> None:
    differences, octaves, kept, truth = problem(np.random.default_rng(0), noise=1e-4)
    found = shrunken_estimates(differences, octaves, kept)
    assert np.allclose(found.mean, truth, atol=2e-3)
    assert abs(found.mean[0]) < 1e-3


def test_cases_that_were_not_measured_are_left_out() -> None:
    differences, octaves, kept, _ = problem(np.random.default_rng(1))
    differences[20:, 40:] = np.nan
    found = shrunken_estimates(differences, octaves, kept)
    assert np.isfinite(found.mean).all()
    assert found.se[20:].mean() > found.se[1:20].mean()
    differences[5] = np.nan
    with pytest.raises(InputError, match="measured on some case"):
        shrunken_estimates(differences, octaves, kept)


def test_the_noise_is_that_of_paired_differences() -> None:
    differences = np.random.default_rng(2).standard_normal((2, 50))
    patients = np.repeat(np.arange(25), 2)
    for groups in (None, patients):
        variance = np.diag(paired_covariance(differences, groups))
        expected = [paired_difference(row, np.zeros(50), groups)[1] for row in differences]
        assert np.sqrt(variance) == pytest.approx(expected)


def test_what_is_far_below_keeps_what_was_measured() -> None:
    differences, octaves, kept, _ = problem(np.random.default_rng(3))
    differences[7] -= 2.0
    found = shrunken_estimates(differences, octaves, kept)
    assert found.mean[7] == differences[7].mean()
    assert (found.cautious <= found.mean).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="estimates need"):
        shrunken_estimates(np.zeros((3, 4)), np.zeros(2), np.ones((3, 1)))
