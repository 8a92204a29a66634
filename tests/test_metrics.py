"""Metrics: known answers, scikit-learn beside them, and shares whose spread is the right standard error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from evaluators.metrics import (
    METRICS,
    Metric,
    auc_shares,
    dice_scores,
    find_metric,
    margin_over_chance,
)
from spaces.errors import ConfigError, DataError

CLASSIFICATION = [metric for metric in METRICS.values() if metric.kind == "classification"]


def labels_and_scores(n: int, k: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(k, size=n)
    targets[:k] = np.arange(k)  # every class is there
    logits = rng.standard_normal((n, k)) + signal * np.eye(k)[targets]
    p = np.exp(logits)
    return targets, p / p.sum(axis=1, keepdims=True)


def standard_error(shares: np.ndarray) -> float:
    return float(shares.std(ddof=1) / np.sqrt(len(shares)))


def sklearn_value(metric: Metric, targets: np.ndarray, scores: np.ndarray) -> float:
    if metric.name == "accuracy":
        return float(accuracy_score(targets, scores.argmax(1)))
    if metric.name == "balanced_accuracy":
        return float(balanced_accuracy_score(targets, scores.argmax(1)))
    if scores.shape[1] == 2:
        return float(roc_auc_score(targets, scores[:, 1]))
    return float(roc_auc_score(targets, scores, multi_class="ovr", average="macro"))


@pytest.mark.parametrize("metric", CLASSIFICATION, ids=lambda metric: metric.name)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_values_are_those_of_scikit_learn(metric: Metric, k: int) -> None:
    for seed in range(5):
        targets, scores = labels_and_scores(60, k, seed)
        shares = metric.shares(scores, targets)
        assert shares.shape == (60,)
        assert metric.value(scores, targets) == pytest.approx(
            sklearn_value(metric, targets, scores), abs=1e-12
        )
        assert shares.mean() == pytest.approx(metric.value(scores, targets), abs=1e-12)


def test_ties_count_half() -> None:
    targets = np.array([0, 0, 1, 1])
    p = np.array([0.2, 0.5, 0.5, 0.9])
    scores = np.column_stack([1 - p, p])
    assert auc_shares(scores, targets).mean() == pytest.approx(3.5 / 4)
    assert auc_shares(np.full((4, 2), 0.5), targets).mean() == 0.5


def test_the_perfect_ranking_has_auc_one_without_spread() -> None:
    targets = np.array([0, 0, 0, 1, 1])
    scores = np.column_stack([1 - targets, targets]).astype(float)
    np.testing.assert_array_equal(auc_shares(scores, targets), 1.0)


def test_probabilities_that_float32_rounds_to_one_are_still_ranked() -> None:
    scores = np.array([[1e-12, 1.0], [1e-10, 1.0], [1e-11, 1.0], [0.4, 0.6]], dtype=np.float32)
    assert METRICS["auc"].value(scores, np.array([1, 0, 1, 0])) == 1.0


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_an_auc_depends_on_the_order_only_and_mirrors(seed: int, k: int) -> None:
    targets, scores = labels_and_scores(30, 2, seed)
    p = scores[:, 1]
    squeezed = np.column_stack([1 - p**k, p**k])
    auc = METRICS["auc"].value(scores, targets)
    assert METRICS["auc"].value(squeezed, targets) == pytest.approx(auc, abs=1e-12)
    assert METRICS["auc"].value(scores[:, ::-1], targets) == pytest.approx(1 - auc, abs=1e-12)


def delong(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> float:
    """DeLong's standard error of the difference of two AUCs, as printed, by loops."""
    positive, negative = np.flatnonzero(targets == 1), np.flatnonzero(targets == 0)

    def wins(score: np.ndarray) -> np.ndarray:
        return np.array([[np.heaviside(score[i] - score[j], 0.5) for j in negative] for i in positive])

    psi = wins(a) - wins(b)
    return float(np.sqrt(psi.mean(1).var(ddof=1) / len(positive) + psi.mean(0).var(ddof=1) / len(negative)))


def test_the_spread_of_auc_shares_is_delongs_standard_error() -> None:
    targets, a = labels_and_scores(80, 2, 0)
    b = 0.6 * a + 0.4 * labels_and_scores(80, 2, 1, signal=0)[1]
    difference = auc_shares(a, targets) - auc_shares(b, targets)
    assert standard_error(difference) == pytest.approx(delong(a[:, 1], b[:, 1], targets), rel=1e-9)


@pytest.mark.parametrize("name", ["auc", "balanced_accuracy", "accuracy"])
@pytest.mark.parametrize("k", [2, 3])
def test_the_spread_of_paired_differences_is_the_bootstraps(name: str, k: int) -> None:
    metric = METRICS[name]
    targets, a = labels_and_scores(300, k, 2)
    b = 0.5 * a + 0.5 * labels_and_scores(300, k, 3, signal=0)[1]
    rng = np.random.default_rng(0)
    draws = [rng.integers(300, size=300) for _ in range(400)]
    differences = [metric.value(a[d], targets[d]) - metric.value(b[d], targets[d]) for d in draws]
    analytic = standard_error(metric.shares(a, targets) - metric.shares(b, targets))
    assert analytic == pytest.approx(np.std(differences), rel=0.15)


def test_dice_per_case_and_class_by_hand() -> None:
    truth = np.array([[[0, 1], [1, 2]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=np.uint8)
    predicted = np.array([[[1, 1], [0, 2]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]], dtype=np.uint8)
    # Case 0: 2 x 1 / (2 + 2), and class 2 whole. Case 1: empty in both. Case 2: class 1 only predicted.
    expected = np.array([[0.5, 1.0], [1.0, 1.0], [0.0, 1.0]])
    scores = dice_scores(predicted, truth, 3)
    np.testing.assert_array_equal(scores, expected)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(METRICS["dice"].shares(scores, truth), expected.mean(axis=1))


@given(hnp.arrays(np.uint8, (3, 4, 4), elements=st.integers(0, 2)), st.integers(0, 1000))
def test_dice_is_symmetric_bounded_and_one_for_the_truth(truth: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).integers(3, size=truth.shape).astype(np.uint8)
    scores = dice_scores(other, truth, 3)
    np.testing.assert_array_equal(scores, dice_scores(truth, other, 3))
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(dice_scores(truth, truth, 3), 1.0)


def test_chance_is_what_blind_answers_reach() -> None:
    targets = np.array([0, 0, 0, 1, 2])
    assert METRICS["auc"].chance(targets, 3) == 0.5
    assert METRICS["accuracy"].chance(targets, 3) == 0.6
    assert METRICS["balanced_accuracy"].chance(targets, 3) == pytest.approx(1 / 3)
    truth = np.random.default_rng(0).integers(2, size=(4, 8, 8)).astype(np.uint8)
    truth[0] = 0
    everywhere = np.ones_like(truth)
    assert METRICS["dice"].chance(truth, 2) == pytest.approx(dice_scores(everywhere, truth, 2).mean())


@pytest.mark.parametrize("name", ["auc", "balanced_accuracy"])
def test_a_class_without_cases_is_refused_by_name(name: str) -> None:
    with pytest.raises(DataError, match=r"val has none of class 2 \('naevus'\)"):
        METRICS[name].check(np.array([0, 1, 1]), ("a", "b", "naevus"))
    METRICS["accuracy"].check(np.array([0, 1, 1]), ("a", "b", "naevus"))
    with pytest.raises(DataError, match="cases of both classes"):
        auc_shares(np.full((3, 2), 0.5), np.array([1, 1, 1]))


def test_metrics_are_found_by_name_and_kind() -> None:
    assert find_metric(None, "classification").name == "auc"
    assert find_metric(None, "segmentation").name == "dice"
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        find_metric("acuracy", "classification")
    with pytest.raises(ConfigError, match=r"'dice' does not judge classification; known: auc"):
        find_metric("dice", "classification")


def test_chance_of_dice_counts_empty_masks() -> None:
    truth = np.zeros((10, 8, 8), dtype=np.uint8)
    truth[:3, 0, 0] = 1
    nothing = dice_scores(np.zeros_like(truth), truth, 2).mean()
    assert METRICS["dice"].chance(truth, 2) == pytest.approx(nothing) == pytest.approx(0.7)


def test_a_blind_network_is_at_chance_and_a_good_one_is_not() -> None:
    blind = auc_shares(*reversed(labels_and_scores(100, 2, 0, signal=0)))
    good = auc_shares(*reversed(labels_and_scores(100, 2, 0, signal=2)))
    assert margin_over_chance(blind, 0.5).at_chance
    margin = margin_over_chance(good, 0.5)
    assert not margin.at_chance
    assert margin.value == pytest.approx(good.mean())
    assert margin.se == pytest.approx(standard_error(good))
    assert margin_over_chance(np.full(9, 0.5), 0.5).at_chance
    assert not margin_over_chance(np.full(9, 1.0), 0.5).at_chance
    assert margin_over_chance(np.full(9, 0.3), 0.5).at_chance, "below chance is no margin"


def test_patients_are_the_units_of_the_margin() -> None:
    shares = np.repeat([0.9, 0.6, 0.8, 0.7], 5)
    patients = np.repeat([0, 1, 2, 3], 5)
    assert margin_over_chance(shares, 0.5, patients).se > 1.9 * margin_over_chance(shares, 0.5).se
