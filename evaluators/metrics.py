"""Metrics, each as one share per case: the mean of the shares is the metric. Larger is better.

The shares are the metric's linearisation (its influence values around the metric), so everything that
compares networks case by case, a paired standard error or a bootstrap, works the same for an AUC as for a
Dice. Metrics that average within classes (AUC, balanced accuracy) scale the deviations such that
`std(ddof=1) / sqrt(n)` of the shares, or of the difference of two networks' shares, is the usual standard
error: DeLong's for the AUC.

Empty masks: a class or region that is neither in the truth nor in the prediction of a case has Dice 1, one
that is in one of them only has Dice 0. So every case and class counts, whatever the network predicts, and
comparisons stay paired.

Missing classes: a metric that averages within classes needs `LEAST_CASES` of each (of several labels per
image: with and without each), because the spread within a class of one case is unknown, and its standard
error would come out too small. A metric to be maximised is then refused; a further one is left out.

Sources: DeLong, DeLong and Clarke-Pearson 1988; Sun and Xu 2014 (by ranks); Harrell 1982 (concordance);
Hand and Till 2001 (macro one-against-rest is the simpler variant).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from spaces.errors import ConfigError, DataError, did_you_mean
from spaces.intervals import paired_difference

Judged: TypeAlias = Literal["classification", "multilabel", "segmentation", "regression"]

LEAST_CASES = 2
"""Cases of a class without which nothing is known about the spread within it."""

ERRORS_ABOVE_CHANCE = 4.0
"""Standard errors that a dense network must be above chance for a search to mean anything."""


@dataclass(frozen=True)
class Metric:
    """A figure of merit: 1 is perfect, larger is better.

    Attributes:
        name: As in the settings.
        kind: What it judges.
        shares: (scores, targets) -> (n,) float64. Scores are the probabilities of classes or labels
            (n, classes), Dice per foreground class or region (n, classes), or the predicted number (n, 1).
        chance: (targets, number of classes) -> what a network that has learnt nothing reaches.
        per_class: Averages within classes, so that it needs cases of every class.
    """

    name: str
    kind: Judged
    shares: Callable[[np.ndarray, np.ndarray], np.ndarray]
    chance: Callable[[np.ndarray, int], float]
    per_class: bool = False

    def value(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The metric: the mean of the shares."""
        return float(self.shares(scores, targets).mean())

    def defined_on(self, targets: np.ndarray, n_classes: int) -> bool:
        """Whether there are cases enough for this metric and its standard error."""
        if self.kind == "regression":
            return bool(np.ptp(targets) > 0)
        return not self.per_class or bool((_class_counts(targets, n_classes) >= LEAST_CASES).all())

    def check(self, targets: np.ndarray, classes: Sequence[str], where: str = "val") -> None:
        """Refuse targets that this metric is not defined on.

        Raises:
            DataError: A class has too few cases there, or all numbers to predict are the same.
        """
        if self.defined_on(targets, len(classes)):
            return
        if self.kind == "regression":
            raise DataError(
                f"all numbers to predict in {where} are {targets.flat[0]:g}; there is no order in them"
            )
        counts = _class_counts(targets, len(classes))
        least = int(counts.argmin())
        name, found = repr(classes[least // 2 if self.kind == "multilabel" else least]), int(counts[least])
        whom = f"of class {least} ({name})"
        if self.kind == "multilabel":
            whom = f"{'with' if least % 2 else 'without'} the label {name}"
        raise DataError(
            f"the metric {self.name!r} needs {LEAST_CASES} cases of every class, but {where} has "
            f"{found or 'none'} {whom}; take more {where} images or metric = 'accuracy'"
        )


@dataclass(frozen=True)
class Margin:
    """How far a network is above chance: the metric, chance, and the metric's standard error."""

    value: float
    chance: float
    se: float

    @property
    def at_chance(self) -> bool:
        """Whether the network is less than four standard errors above chance: nothing is there to search."""
        return not self.value - self.chance > ERRORS_ABOVE_CHANCE * self.se


def margin_over_chance(shares: np.ndarray, chance: float, groups: np.ndarray | None = None) -> Margin:
    """How far a network with these shares (n,) is above chance; cases of one group count as one unit."""
    shares = np.asarray(shares, dtype=np.float64)
    difference, se = paired_difference(shares, np.full(len(shares), chance), groups)
    return Margin(difference + chance, chance, se)


def auc_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in the area under the ROC curve: (n, classes), (n,) -> (n,).

    Two classes: of class 1 against class 0, ties count half. More: mean over the classes against the rest.
    """
    scores = np.asarray(scores, dtype=np.float64)
    # p minus the rest instead of p: float32 probabilities near 1 lose in p what 1 - p still tells apart.
    ranked = 2 * scores - scores.sum(axis=1, keepdims=True)
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return np.mean([_binary_auc_shares(ranked[:, c], targets == c) for c in columns], axis=0)


def accuracy_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 where the most probable class is the true one, else 0: (n, classes), (n,) -> (n,)."""
    return (scores.argmax(axis=1) == targets).astype(np.float64)


def balanced_accuracy_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in the mean of the classes' recalls: (n, classes), (n,) -> (n,)."""
    correct, n_classes = accuracy_shares(scores, targets), scores.shape[1]
    recalls = [correct[targets == c].mean() for c in range(n_classes)]
    return np.mean(recalls) + _deviations(correct, targets) / n_classes


def recall_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in each class's recall: (n, classes), (n,) -> (n, classes); NaN for a class without cases.

    Of two classes these are specificity and sensitivity.
    """
    correct, n = accuracy_shares(scores, targets), len(targets)
    shares = np.full(scores.shape, np.nan)
    for c in np.unique(targets):
        members = targets == c
        size = int(np.count_nonzero(members))
        weight = n / size * _unbiased(n, size)
        shares[:, c] = correct[members].mean()
        shares[members, c] += weight * (correct[members] - correct[members].mean())
    return shares


def label_auc_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in each label's AUC: (n, labels), (n, labels) -> (n, labels); NaN where it is not defined."""
    shares = np.full(scores.shape, np.nan)
    for c in range(scores.shape[1]):
        if min(np.count_nonzero(targets[:, c]), np.count_nonzero(targets[:, c] == 0)) >= LEAST_CASES:
            shares[:, c] = _binary_auc_shares(np.asarray(scores[:, c], dtype=np.float64), targets[:, c] == 1)
    return shares


def macro_auc_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in the mean of the labels' AUCs: (n, labels), (n, labels) -> (n,)."""
    return label_auc_shares(scores, targets).mean(axis=1)


def label_accuracy_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Share of a case's labels that are right at a probability of one half: (n, labels) twice -> (n,)."""
    return ((scores > 0.5) == (targets == 1)).mean(axis=1, dtype=np.float64)


def r2_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in the variance explained, 1 - MSE / variance: (n, 1), (n,) -> (n,). The mean scores 0."""
    return 1 - np.square(_errors(scores, targets)) / np.var(targets, dtype=np.float64)


def mae_skill_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in 1 - MAE / (MAE of the median): (n, 1), (n,) -> (n,). The median scores 0."""
    targets = targets.astype(np.float64)
    return 1 - np.abs(_errors(scores, targets)) / np.abs(targets - np.median(targets)).mean()


def concordance_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares in the share of pairs that are in the right order: (n, 1), (n,) -> (n,).

    Ties count half. Pairs of equal targets say nothing and are left out. O(n^2).
    """
    predicted = np.asarray(scores[:, 0], dtype=np.float64)
    right, pairs = np.empty(len(targets)), np.empty(len(targets))
    for i, (prediction, target) in enumerate(zip(predicted, targets, strict=True)):
        order = np.sign(targets - target)
        right[i] = 0.5 * np.sum(np.abs(order) + order * np.sign(predicted - prediction))
        pairs[i] = np.count_nonzero(order)
    concordance = right.sum() / pairs.sum()
    return concordance + 2 * (right - concordance * pairs) / pairs.mean()


def dice_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean over the foreground classes or regions of the Dice per case: (n, classes) -> (n,)."""
    del targets  # the scores are Dice already
    return np.asarray(scores, dtype=np.float64).mean(axis=1)


def dice_scores(predicted: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    """Dice per case and foreground class: two (n, *spatial) of classes -> (n, n_classes - 1) float32."""
    columns = [_dice(predicted == c, truth == c) for c in range(1, n_classes)]
    return np.stack(columns, axis=1).astype(np.float32)


def region_dice_scores(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice per case and region: two (n, regions, *spatial) bool -> (n, regions) float32."""
    columns = [_dice(predicted[:, r], truth[:, r]) for r in range(truth.shape[1])]
    return np.stack(columns, axis=1).astype(np.float32)


def chance_of_dice(truths: Iterable[Iterable[np.ndarray]]) -> float:
    """Dice of predicting each class everywhere, or nowhere if that is better; mean over the classes.

    Everywhere scores 2 p / (1 + p) on a case with a share p of the class, nowhere 1 on cases without it.

    Args:
        truths: Per foreground class or region, a mask (*spatial) bool for every case.
    """
    best = []
    for truth in truths:
        shares = np.array([mask.mean() for mask in truth])
        best.append(max(np.mean(2 * shares / (1 + shares)), np.mean(shares == 0)))
    return float(np.mean(best))


def _dice(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dice per case: two (n, *spatial) bool -> (n,)."""
    axes = tuple(range(1, b.ndim))
    total = np.count_nonzero(a, axis=axes) + np.count_nonzero(b, axis=axes)
    return np.where(total == 0, 1.0, 2 * np.count_nonzero(a & b, axis=axes) / np.maximum(total, 1))


def _errors(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Predicted minus true number, float64: (n, 1), (n,) -> (n,)."""
    return np.asarray(scores[:, 0], dtype=np.float64) - targets


def _class_counts(targets: np.ndarray, n_classes: int) -> np.ndarray:
    """Cases per class; of several labels per image, without and with each label in turn."""
    if targets.ndim == 1:
        return np.bincount(targets, minlength=n_classes)
    positive = np.count_nonzero(targets, axis=0)
    return np.stack([len(targets) - positive, positive], axis=1).ravel()


def _binary_auc_shares(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """DeLong's structural components, centred and weighted so that their mean is the AUC."""
    n_positive = np.count_nonzero(positive)
    n_negative = len(positive) - n_positive
    if min(n_positive, n_negative) < LEAST_CASES:
        raise DataError(
            f"an AUC needs {LEAST_CASES} cases of both classes, and there are {n_positive} positive and "
            f"{n_negative} negative ones"
        )
    ranks = _midranks(scores)
    components = np.empty(len(scores))
    components[positive] = (ranks[positive] - _midranks(scores[positive])) / n_negative
    components[~positive] = 1 - (ranks[~positive] - _midranks(scores[~positive])) / n_positive
    return components[positive].mean() + _deviations(components, positive)


def _deviations(components: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Influence of each case on the sum of the strata's means: (n,) -> (n,), of mean zero.

    A case weighs n / n_stratum. The small-sample factor makes their variance / n equal to the sum of the
    strata's variances / n_stratum, all of them unbiased (ddof=1).
    """
    n, deviations = len(components), np.zeros(len(components))
    for stratum in np.unique(strata):
        members = strata == stratum
        size = int(np.count_nonzero(members))
        deviations[members] = (
            n / size * _unbiased(n, size) * (components[members] - components[members].mean())
        )
    return deviations


def _unbiased(n: int, size: int) -> float:
    """Small-sample factor of a stratum of this size among n cases."""
    return float(np.sqrt((n - 1) / n * size / max(size - 1, 1)))


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def _half(targets: np.ndarray, n_classes: int) -> float:
    return 0.5


def _majority_share(targets: np.ndarray, n_classes: int) -> float:
    return float(np.mean(targets == np.bincount(targets, minlength=n_classes).argmax()))


def _one_in_classes(targets: np.ndarray, n_classes: int) -> float:
    return 1 / n_classes


def _blind_dice(truth: np.ndarray, n_classes: int) -> float:
    return chance_of_dice(truth == c for c in range(1, n_classes))


def _majority_per_label(targets: np.ndarray, n_labels: int) -> float:
    positive = targets.mean(axis=0, dtype=np.float64)
    return float(np.maximum(positive, 1 - positive).mean())


def _none(targets: np.ndarray, n_classes: int) -> float:
    return 0.0


METRICS: tuple[Metric, ...] = (
    Metric("auc", "classification", auc_shares, _half, per_class=True),
    Metric("accuracy", "classification", accuracy_shares, _majority_share),
    Metric("balanced_accuracy", "classification", balanced_accuracy_shares, _one_in_classes, per_class=True),
    Metric("auc", "multilabel", macro_auc_shares, _half, per_class=True),
    Metric("accuracy", "multilabel", label_accuracy_shares, _majority_per_label),
    Metric("dice", "segmentation", dice_shares, _blind_dice),
    Metric("r2", "regression", r2_shares, _none),
    Metric("mae_skill", "regression", mae_skill_shares, _none),
    Metric("concordance", "regression", concordance_shares, _half),
)
"""The first of each kind is its default."""


def metrics_of(kind: str) -> list[Metric]:
    """All metrics that judge this kind of task, the default first."""
    return [metric for metric in METRICS if metric.kind == kind]


def find_metric(name: str | None, kind: str) -> Metric:
    """The metric of that name, or the default of the kind of task.

    Raises:
        ConfigError: There is no such metric, or it judges another kind of task.
    """
    fitting = {metric.name: metric for metric in metrics_of(kind)}
    if name is None:
        return next(iter(fitting.values()))
    if name not in fitting:
        if any(metric.name == name for metric in METRICS):
            raise ConfigError(f"task.metric = {name!r} does not judge {kind}; known: {', '.join(fitting)}")
        raise ConfigError(f"task.metric: there is no metric {name!r}; {did_you_mean(name, fitting)}")
    return fitting[name]
