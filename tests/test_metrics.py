"""Metrics: known answers, scikit-learn beside them, and shares whose spread is the right standard error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    hamming_loss,
    mean_absolute_error,
    r2_score,
    recall_score,
    roc_auc_score,
)

from evaluators.metrics import (
    Metric,
    auc_shares,
    dice_scores,
    find_metric,
    label_auc_shares,
    margin_over_chance,
    metrics_of,
    recall_shares,
    region_dice_scores,
)
from spaces.errors import ConfigError, DataError

CLASSIFICATION = metrics_of("classification")
AUC, BALANCED = find_metric("auc", "classification"), find_metric("balanced_accuracy", "classification")
ACCURACY, DICE = find_metric("accuracy", "classification"), find_metric("dice", "segmentation")


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
    assert AUC.value(scores, np.array([1, 0, 1, 0])) == 1.0


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_an_auc_depends_on_the_order_only_and_mirrors(seed: int, k: int) -> None:
    targets, scores = labels_and_scores(30, 2, seed)
    p = scores[:, 1]
    squeezed = np.column_stack([1 - p**k, p**k])
    auc = AUC.value(scores, targets)
    assert AUC.value(squeezed, targets) == pytest.approx(auc, abs=1e-12)
    assert AUC.value(scores[:, ::-1], targets) == pytest.approx(1 - auc, abs=1e-12)


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
    metric = find_metric(name, "classification")
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
    np.testing.assert_array_equal(DICE.shares(scores, truth), expected.mean(axis=1))


@given(hnp.arrays(np.uint8, (3, 4, 4), elements=st.integers(0, 2)), st.integers(0, 1000))
def test_dice_is_symmetric_bounded_and_one_for_the_truth(truth: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).integers(3, size=truth.shape).astype(np.uint8)
    scores = dice_scores(other, truth, 3)
    np.testing.assert_array_equal(scores, dice_scores(truth, other, 3))
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(dice_scores(truth, truth, 3), 1.0)


def test_chance_is_what_blind_answers_reach() -> None:
    targets = np.array([0, 0, 0, 1, 2])
    assert AUC.chance(targets, 3) == 0.5
    assert ACCURACY.chance(targets, 3) == 0.6
    assert BALANCED.chance(targets, 3) == pytest.approx(1 / 3)
    truth = np.random.default_rng(0).integers(2, size=(4, 8, 8)).astype(np.uint8)
    truth[0] = 0
    everywhere = np.ones_like(truth)
    assert DICE.chance(truth, 2) == pytest.approx(dice_scores(everywhere, truth, 2).mean())


@pytest.mark.parametrize("name", ["auc", "balanced_accuracy"])
def test_a_class_without_cases_is_refused_by_name(name: str) -> None:
    with pytest.raises(DataError, match=r"val has none of class 2 \('naevus'\)"):
        find_metric(name, "classification").check(np.array([0, 0, 1, 1]), ("a", "b", "naevus"))
    ACCURACY.check(np.array([0, 0, 1, 1]), ("a", "b", "naevus"))
    with pytest.raises(DataError, match="2 cases of both classes, and there are 3 positive and 0 negative"):
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
    assert DICE.chance(truth, 2) == pytest.approx(nothing) == pytest.approx(0.7)


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


def test_one_case_of_a_class_is_too_few_for_an_error() -> None:
    """Its spread is unknown, and the standard error would leave it out."""
    one = np.array([0, 0, 0, 0, 1])
    with pytest.raises(DataError, match=r"needs 2 cases of every class, but val has 1 of class 1 \('b'\)"):
        AUC.check(one, ("a", "b"))
    with pytest.raises(DataError, match="there are 1 positive and 4 negative"):
        auc_shares(np.full((5, 2), 0.5), one)
    labels = np.array([[0, 1], [1, 1], [0, 0], [1, 1]])
    with pytest.raises(DataError, match="val has 1 without the label 'b'"):
        find_metric("auc", "multilabel").check(labels, ("a", "b"))
    assert np.isnan(label_auc_shares(np.random.default_rng(0).random((4, 2)), labels)).any(
        axis=0
    ).tolist() == [
        False,
        True,
    ]


def test_recall_per_class_is_scikit_learns_and_its_spread_the_binomial() -> None:
    targets, scores = labels_and_scores(90, 3, 0)
    shares = recall_shares(scores, targets)
    expected = recall_score(targets, scores.argmax(1), average=None)
    np.testing.assert_allclose(shares.mean(0), expected, atol=1e-12)
    for c, recall in enumerate(expected):
        n = np.count_nonzero(targets == c)
        assert standard_error(shares[:, c]) == pytest.approx(np.sqrt(recall * (1 - recall) / (n - 1)))
    assert np.isnan(recall_shares(scores, np.minimum(targets, 1))[:, 2]).all()


def test_label_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=(50, 4)).astype(np.uint8)
    scores = np.clip(rng.random((50, 4)) * 0.6 + 0.3 * labels, 0, 1)
    auc, accuracy = metrics_of("multilabel")
    assert auc.value(scores, labels) == pytest.approx(roc_auc_score(labels, scores, average="macro"))
    assert accuracy.value(scores, labels) == pytest.approx(1 - hamming_loss(labels, scores > 0.5))
    always = np.tile((labels.mean(0) > 0.5).astype(float), (50, 1))
    assert accuracy.chance(labels, 4) == pytest.approx(accuracy.value(always, labels))


def concordant_pairs(predicted: np.ndarray, targets: np.ndarray) -> float:
    """By loops over pairs."""
    found = [
        np.heaviside((predicted[i] - predicted[j]) * (targets[i] - targets[j]), 0.5)
        for i in range(len(targets))
        for j in range(i)
        if targets[i] != targets[j]
    ]
    return float(np.mean(found))


def test_numbers_are_judged_as_scikit_learn_and_by_hand() -> None:
    rng = np.random.default_rng(0)
    targets = np.round(rng.normal(60, 12, 80)).astype(np.float32)
    scores = (targets + rng.normal(2, 8, 80)).astype(np.float32)[:, None]
    r2, skill, concordance = metrics_of("regression")
    assert r2.value(scores, targets) == pytest.approx(r2_score(targets, scores[:, 0]), rel=1e-6)
    mae = mean_absolute_error(targets, scores[:, 0])
    median = mean_absolute_error(targets, np.full(80, np.median(targets)))
    assert skill.value(scores, targets) == pytest.approx(1 - mae / median, rel=1e-5)
    assert concordance.value(scores, targets) == pytest.approx(concordant_pairs(scores[:, 0], targets))
    for metric in (r2, skill, concordance):
        assert metric.value(targets[:, None], targets) == 1
        blind = np.full((80, 1), np.mean(targets) if metric is r2 else np.median(targets), dtype=np.float32)
        assert metric.value(blind, targets) == pytest.approx(metric.chance(targets, 0), abs=1e-6)
        with pytest.raises(DataError, match="all numbers to predict in val are 3"):
            metric.check(np.full(4, 3.0), ())


def test_the_spread_of_concordance_is_the_bootstraps() -> None:
    rng = np.random.default_rng(1)
    targets = rng.normal(size=150)
    a, b = (targets[:, None] + rng.normal(0, spread, (150, 1)) for spread in (0.5, 1.0))
    metric = find_metric("concordance", "regression")
    draws = [rng.integers(150, size=150) for _ in range(300)]
    differences = [metric.value(a[d], targets[d]) - metric.value(b[d], targets[d]) for d in draws]
    analytic = standard_error(metric.shares(a, targets) - metric.shares(b, targets))
    assert analytic == pytest.approx(np.std(differences), rel=0.15)


def test_regions_are_judged_one_by_one_and_may_overlap() -> None:
    truth = np.zeros((1, 2, 2, 2), dtype=bool)
    truth[0, 0], truth[0, 1, 0] = True, True
    predicted = truth.copy()
    predicted[0, 1, 1] = True
    np.testing.assert_allclose(region_dice_scores(predicted, truth), [[1.0, 2 * 2 / (4 + 2)]])
