"""From settings and images to the task that they define."""

from collections.abc import Mapping

import numpy as np

from evaluators.data.splits import Splits
from evaluators.metrics import Metric, chance_of_dice, find_metric
from evaluators.protocols import Task
from evaluators.settings import TaskSettings
from evaluators.tasks.classification import Classification
from evaluators.tasks.custom import DEFAULT_NAME, Custom
from evaluators.tasks.embedding import Embedding
from evaluators.tasks.multilabel import MultiLabel
from evaluators.tasks.regression import Regression
from evaluators.tasks.segmentation import Segmentation
from spaces.errors import ConfigError, DataError

DATA_FOR = {"embedding": "classification"}
"""Kind of task -> kind of data, where they are called differently."""


def make_task(settings: TaskSettings, splits: Splits) -> Task:
    """The task that these settings and images define.

    Raises:
        ConfigError: The kind or the metric does not fit.
        DataError: The metric is not defined on these validation images.
    """
    if settings.evaluator is not None:
        name = settings.metric or DEFAULT_NAME
        return Custom(settings.evaluator, name, settings.chance or 0.0, splits.classes)
    kind = DATA_FOR.get(settings.kind, settings.kind)
    if kind != splits.kind:
        fitting = [k for k in (*DATA_FOR, splits.kind) if DATA_FOR.get(k, k) == splits.kind]
        raise ConfigError(
            f"task.kind = {settings.kind!r}, but {splits.name} is made for {splits.kind}; "
            f"set task.kind = {' or '.join(map(repr, reversed(fitting)))} or take another data.source"
        )
    metric = find_metric(settings.metric, kind)
    classes, targets = splits.classes, splits.val.targets
    if settings.kind == "segmentation":
        return _segmentation(settings.regions or splits.regions, splits, metric)
    metric.check(targets, classes)
    chance = metric.chance(targets, len(classes))
    if settings.kind == "regression":
        return _regression(metric, chance, splits.train.targets, settings.standardise)
    makers: dict[str, type[Classification | MultiLabel]] = {
        "classification": Classification,
        "embedding": Embedding,
        "multilabel": MultiLabel,
    }
    return makers[settings.kind](metric, chance, classes)


def _segmentation(regions: Mapping[str, tuple[int, ...]], splits: Splits, metric: Metric) -> Task:
    classes, truth, dims = splits.classes, splits.val.targets, len(splits.spatial)
    if not regions:
        return Segmentation(metric, metric.chance(truth, len(classes)), classes, dims)
    for name, values in regions.items():
        if bad := [value for value in values if not 0 < value < len(classes)]:
            raise ConfigError(
                f"task.regions.{name}: there is no mask value {bad[0]}; foreground values are 1 to "
                f"{len(classes) - 1} ({', '.join(classes[1:])})"
            )
    chance = chance_of_dice(np.isin(truth, values) for values in regions.values())
    return Segmentation(metric, chance, classes, dims, regions)


def _regression(metric: Metric, chance: float, targets: np.ndarray, standardise: bool) -> Task:
    centre, spread = float(targets.mean(dtype=np.float64)), float(targets.std(dtype=np.float64))
    if not spread > 0:
        raise DataError(f"all numbers to predict in train are {centre:g}; there is nothing to learn")
    if not standardise:
        return Regression(metric, chance, centre=0.0, scale=1.0, spread=spread)
    return Regression(metric, chance, centre=centre, scale=spread, spread=spread)
