"""Tasks: what a network is for. They know its loss and its measures, and nothing of how it is trained.

A network may return one tensor, or a tuple or list whose first tensor counts (supervision heads, a
variational branch). Two classes may come as two outputs (softmax) or as one (sigmoid).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evaluators.data.splits import Splits
from evaluators.metrics import METRICS, Metric, dice_scores, find_metric
from evaluators.protocols import Task
from evaluators.settings import TaskSettings
from spaces.errors import ConfigError, NetworkError, RunError
from spaces.objectives import Objective

SMOOTHING = 1.0
"""Pixels added to both sides of a soft Dice, so that it has a gradient on an empty mask."""


def make_task(settings: TaskSettings, splits: Splits) -> Task:
    """The task that these settings and images define.

    Raises:
        ConfigError: The kind or the metric does not fit.
        DataError: The metric is not defined on these validation images.
    """
    if settings.kind != splits.kind:
        raise ConfigError(
            f"task.kind = {settings.kind!r}, but {splits.name} is made for {splits.kind}; "
            f"set task.kind = {splits.kind!r} or take another data.source"
        )
    metric = find_metric(settings.metric, settings.kind)
    metric.check(splits.val.targets, splits.classes)
    chance = metric.chance(splits.val.targets, len(splits.classes))
    if settings.kind == "classification":
        return Classification(metric, chance, splits.classes)
    return Segmentation(metric, chance, splits.classes, dims=len(splits.spatial))


def main_output(outputs: Any) -> torch.Tensor:
    """The tensor that counts among a network's outputs: the only one, or the first."""
    while isinstance(outputs, tuple | list) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, torch.Tensor):
        raise NetworkError(
            f"the network returns {type(outputs).__name__}; it must return a tensor, or a tuple or list "
            "whose first element is one"
        )
    return outputs


class _JudgedTask:
    """What all tasks share: the metric, and joining what was judged batch by batch."""

    def __init__(self, kind: str, metric: Metric, chance: float, classes: tuple[str, ...]) -> None:
        self.kind = kind
        self.metric = Objective(metric.name, maximize=True)
        self.chance = chance
        self.classes = classes
        self._metric = metric

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def gather(
        self, batches: Sequence[Mapping[str, np.ndarray]], targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The judged batches joined, with each case's share in the metric: "loss", "score", "metric"."""
        joined = {key: np.concatenate([batch[key] for batch in batches]) for key in ("loss", "score")}
        if not all(np.isfinite(array).all() for array in joined.values()):
            raise RunError("the network's outputs on the validation cases are not finite")
        shares = self._metric.shares(joined["score"], targets)
        return joined | {"metric": shares.astype(np.float32)}

    def per_case(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """`judge` and `gather` in one, for outputs that fit into one batch."""
        return self.gather([self.judge(outputs, targets)], targets.cpu().numpy())

    def values(self, per_case: Mapping[str, np.ndarray], targets: np.ndarray) -> dict[str, float]:
        """The metric, the mean "loss", and further metrics by name; those not defined here are left out."""
        values = {"loss": float(per_case["loss"].mean(dtype=np.float64))}
        complete = len(np.unique(targets)) == len(self.classes)
        for metric in METRICS.values():
            if metric.kind == self.kind and (complete or not metric.per_class):
                values[metric.name] = metric.value(per_case["score"], targets)
        return values

    def _width_error(self, shape: tuple[int, ...], expected: str) -> NetworkError:
        return NetworkError(
            f"the network's output has shape {shape}, but the {len(self.classes)} classes "
            f"({', '.join(self.classes)}) need {expected}; set network.arguments accordingly"
        )


class Classification(_JudgedTask):
    """One class per image; outputs (n, classes), or (n, 1) for two classes; targets (n,)."""

    flip_axes: tuple[int, ...] = (-1,)  # left and right; patients seldom stand on their heads

    def __init__(self, metric: Metric, chance: float, classes: tuple[str, ...]) -> None:
        super().__init__("classification", metric, chance, classes)

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Refuse outputs that cannot mean these classes.

        Raises:
            NetworkError: Names the shape and the classes.
        """
        shape = tuple(main_output(outputs).shape)
        n, k = len(targets), len(self.classes)
        if shape != (n, k) and not (shape == (n, 1) and k == 2):
            raise self._width_error(shape, f"({n}, {k})" + (f" or ({n}, 1)" if k == 2 else ""))

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        return self._cross_entropy(main_output(outputs), targets).mean()

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: the log-loss (n,) and the probabilities of the classes (n, classes)."""
        logits = main_output(outputs).float()
        loss = self._cross_entropy(logits, targets)
        if logits.shape[1] == 1:
            score = torch.sigmoid(torch.cat([-logits, logits], dim=1))
        else:
            score = torch.softmax(logits, dim=1)
        return {"loss": loss.cpu().numpy(), "score": score.cpu().numpy()}

    @staticmethod
    def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(
                logits[:, 0], targets.to(logits.dtype), reduction="none"
            )
        return F.cross_entropy(logits, targets, reduction="none")


class Segmentation(_JudgedTask):
    """A class per pixel or voxel; outputs (n, classes, *spatial), or one channel for two classes.

    Trained with cross-entropy plus soft Dice (per case, mean over the foreground classes).
    """

    def __init__(self, metric: Metric, chance: float, classes: tuple[str, ...], dims: int) -> None:
        super().__init__("segmentation", metric, chance, classes)
        self.flip_axes = tuple(range(-dims, 0))

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Refuse outputs that cannot mean these classes at this size.

        Raises:
            NetworkError: Names the shape and the classes.
        """
        shape = tuple(main_output(outputs).shape)
        (n, *spatial), k = targets.shape, len(self.classes)
        if shape != (n, k, *spatial) and not (shape == (n, 1, *spatial) and k == 2):
            one = f" or {(n, 1, *spatial)}" if k == 2 else ""
            raise self._width_error(shape, f"{(n, k, *spatial)}{one}")

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean over pixels of the cross-entropy plus mean over cases of the soft Dice loss."""
        logits = self._two_sided(main_output(outputs).float())
        log_p = F.log_softmax(logits, dim=1)
        entropy = F.nll_loss(log_p, targets.long())
        return entropy + self._dice_loss(log_p.exp(), targets).mean()

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: the soft Dice loss (n,) and Dice per foreground class (n, classes - 1)."""
        logits = self._two_sided(main_output(outputs).float())
        if not bool(torch.isfinite(logits).all()):
            raise RunError("the network's outputs on the validation cases are not finite")
        loss = self._dice_loss(torch.softmax(logits, dim=1), targets)
        predicted = logits.argmax(dim=1).to(torch.uint8)
        score = dice_scores(predicted.cpu().numpy(), targets.cpu().numpy(), len(self.classes))
        return {"loss": loss.cpu().numpy(), "score": score}

    @staticmethod
    def _two_sided(logits: torch.Tensor) -> torch.Tensor:
        """One channel (sigmoid) as the equivalent two (softmax)."""
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits

    @staticmethod
    def _dice_loss(p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 - soft Dice per case, mean over the foreground classes: (n, classes, *spatial) -> (n,)."""
        foreground = torch.arange(1, p.shape[1], device=p.device).view(1, -1, *[1] * (p.ndim - 2))
        truth = (targets.unsqueeze(1) == foreground).to(p.dtype)
        p = p[:, 1:]
        axes = tuple(range(2, p.ndim))
        both = (p * truth).sum(axes)
        total = p.sum(axes) + truth.sum(axes)
        return 1 - ((2 * both + SMOOTHING) / (total + SMOOTHING)).mean(dim=1)
