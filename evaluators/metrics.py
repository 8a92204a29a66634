"""Metrics, each as one share per case: the mean of the shares is the metric.

The shares are the metric's linearisation (its influence values around the metric), so everything that
compares networks case by case, a paired standard error or a bootstrap, works the same for an AUC as for a
Dice. Metrics that average within classes (AUC, balanced accuracy) scale the deviations such that
`std(ddof=1) / sqrt(n)` of the shares, or of the difference of two networks' shares, is the usual standard
error: DeLong's for the AUC.

Empty masks: a class that is neither in the truth nor in the prediction of a case has Dice 1, one that is in
one of them only has Dice 0. So every case and class counts, whatever the network predicts, and comparisons
stay paired.

Sources: DeLong, DeLong and Clarke-Pearson 1988; Sun and Xu 2014 (by ranks); Hand and Till 2001 (macro
one-against-rest is the simpler variant).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spaces.errors import ConfigError, DataError, did_you_mean
from spaces.intervals import paired_difference

ERRORS_ABOVE_CHANCE = 4.0
"""Standard errors that a dense network must be above chance for a search to mean anything."""


@dataclass(frozen=True)
class Metric:
    """A figure of merit between 0 and 1; larger is better.

    Attributes:
        name: As in the settings.
        kind: What it judges.
        shares: (scores, targets) -> (n,) float64. Scores are the probabilities of the classes (n, classes) or
            the Dice per foreground class (n, classes - 1).
        chance: (targets, number of classes) -> what a network that has learnt nothing reaches.
        per_class: Needs at least one case of every class.
    """

    name: str
    kind: Literal["classification", "segmentation"]
    shares: Callable[[np.ndarray, np.ndarray], np.ndarray]
    chance: Callable[[np.ndarray, int], float]
    per_class: bool = False

    def value(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The metric: the mean of the shares."""
        return float(self.shares(scores, targets).mean())

    def check(self, targets: np.ndarray, classes: Sequence[str], where: str = "val") -> None:
        """Refuse targets that this metric is not defined on.

        Raises:
            DataError: A class has no case there.
        """
        if not self.per_class:
            return
        missing = sorted(set(range(len(classes))) - set(np.unique(targets).tolist()))
        if missing:
            raise DataError(
                f"the metric {self.name!r} needs cases of every class, but {where} has none of class "
                f"{missing[0]} ({classes[missing[0]]!r}); take more {where} images or metric = 'accuracy'"
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


def dice_shares(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean over the foreground classes of the Dice per case: (n, classes - 1) -> (n,)."""
    del targets  # the scores are Dice already
    return np.asarray(scores, dtype=np.float64).mean(axis=1)


def dice_scores(predicted: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    """Dice per case and foreground class: two (n, *spatial) of classes -> (n, n_classes - 1) float32."""
    axes = tuple(range(1, truth.ndim))
    columns = []
    for c in range(1, n_classes):
        a, b = predicted == c, truth == c
        total = np.count_nonzero(a, axis=axes) + np.count_nonzero(b, axis=axes)
        both = np.count_nonzero(a & b, axis=axes)
        columns.append(np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1)))
    return np.stack(columns, axis=1).astype(np.float32)


def _binary_auc_shares(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """DeLong's structural components, centred and weighted so that their mean is the AUC."""
    n_positive = np.count_nonzero(positive)
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        raise DataError("an AUC needs cases of both classes, and all cases are of one")
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
        unbiased = np.sqrt((n - 1) / n * size / max(size - 1, 1))
        deviations[members] = n / size * unbiased * (components[members] - components[members].mean())
    return deviations


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


def _everywhere_or_nowhere(truth: np.ndarray, n_classes: int) -> float:
    """Dice of predicting each foreground class everywhere, or nowhere if that is better; mean over classes.

    Everywhere scores 2 p / (1 + p) on a case with a share p of the class, nowhere 1 on cases without it.
    """
    axes = tuple(range(1, truth.ndim))
    shares = np.stack([(truth == c).mean(axis=axes) for c in range(1, n_classes)])
    everywhere = np.mean(2 * shares / (1 + shares), axis=1)
    nowhere = np.mean(shares == 0, axis=1)
    return float(np.maximum(everywhere, nowhere).mean())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auc", "classification", auc_shares, _half, per_class=True),
        Metric("accuracy", "classification", accuracy_shares, _majority_share),
        Metric(
            "balanced_accuracy", "classification", balanced_accuracy_shares, _one_in_classes, per_class=True
        ),
        Metric("dice", "segmentation", dice_shares, _everywhere_or_nowhere),
    )
}
DEFAULT_METRIC = {"classification": "auc", "segmentation": "dice"}


def find_metric(name: str | None, kind: str) -> Metric:
    """The metric of that name, or the default of the kind of task.

    Raises:
        ConfigError: There is no such metric, or it judges another kind of task.
    """
    name = DEFAULT_METRIC[kind] if name is None else name
    fitting = [metric.name for metric in METRICS.values() if metric.kind == kind]
    if name not in METRICS:
        raise ConfigError(f"task.metric: there is no metric {name!r}; {did_you_mean(name, fitting)}")
    if name not in fitting:
        raise ConfigError(f"task.metric = {name!r} does not judge {kind}; known: {', '.join(fitting)}")
    return METRICS[name]
