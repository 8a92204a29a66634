"""What tasks share: a network's outputs batch by batch, judged per case, joined and summed up by metrics."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.data.tensors import PackedImages
from evaluators.metrics import Metric, metrics_of
from evaluators.protocols import Images
from spaces.errors import NetworkError, RunError
from spaces.objectives import Objective

LARGEST_BATCH = 256
LARGEST_VALUES = 2**20
"""Most input values of a batch when measuring: bounds the memory for large images."""


def batch_size(images: torch.Tensor | PackedImages) -> int:
    """How many of these images a network is shown at once when it is only measured."""
    return max(1, min(LARGEST_BATCH, LARGEST_VALUES // images[0].numel()))


def run_in_batches(network: nn.Module, data: Images) -> Iterator[tuple[Any, torch.Tensor]]:
    """Outputs and targets batch by batch, without gradients."""
    size = batch_size(data.images)
    with torch.inference_mode():
        for images, targets in zip(data.images.split(size), data.targets.split(size), strict=True):
            yield network(images), targets


class JudgedTask(ABC):
    """A task whose cases are judged one by one from the outputs.

    Args:
        kind: Of the task.
        metric: What is maximised.
        chance: What a network that has learnt nothing reaches.
        classes: Names of the classes, labels or regions.
    """

    trains = True
    flip_axes: tuple[int, ...] = (-1,)  # left and right; patients seldom stand on their heads

    def __init__(self, kind: str, metric: Metric, chance: float, classes: tuple[str, ...]) -> None:
        self.kind = kind
        self.signature = kind
        self.metric = Objective(metric.name, maximize=True)
        self.chance = chance
        self.classes = classes
        self._metric = metric

    @abstractmethod
    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: "loss" (n,) and "score" (n, k), float32."""

    def class_shares(self, scores: np.ndarray, targets: np.ndarray) -> tuple[str, np.ndarray | None]:
        """The measure per class: its name, and shares (n, classes), NaN where a class has too few cases.

        None where the scores themselves are these shares, or there are no classes.
        """
        del scores, targets
        return self.metric.name, None

    def gather(
        self, batches: Sequence[Mapping[str, np.ndarray]], targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The judged batches joined, with each case's share in the metric, and in each class's measure."""
        joined = {key: np.concatenate([batch[key] for batch in batches]) for key in ("loss", "score")}
        if not all(np.isfinite(array).all() for array in joined.values()):
            raise RunError("the network's outputs on the validation cases are not finite")
        joined["metric"] = self._metric.shares(joined["score"], targets).astype(np.float32)
        shares = self.class_shares(joined["score"], targets)[1]
        return joined if shares is None else joined | {"classes": shares.astype(np.float32)}

    def per_case(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """`judge` and `gather` in one, for outputs that fit into one batch."""
        return self.gather([self.judge(outputs, targets)], targets.cpu().numpy())

    def examine(
        self, network: nn.Module, data: Images, train: Images | None = None, *, rung: str = "", seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Per case, how the network does on these images; see `Task.examine`."""
        del train, rung, seed
        judged = [self.judge(outputs, targets) for outputs, targets in run_in_batches(network, data)]
        return self.gather(judged, data.targets.cpu().numpy())

    def values(self, per_case: Mapping[str, np.ndarray], targets: np.ndarray) -> dict[str, float]:
        """The metric, the mean "loss", further metrics and "measure/class", where they are defined."""
        values = {"loss": float(per_case["loss"].mean(dtype=np.float64))}
        for metric in metrics_of(self._metric.kind):
            if metric.defined_on(targets, len(self.classes)):
                values[metric.name] = metric.value(per_case["score"], targets)
        measure, found = self.class_shares(per_case["score"], targets)
        shares = per_case["score"] if found is None else found
        if self._class_names and shares.shape[1] == len(self._class_names):
            means = shares.mean(axis=0, dtype=np.float64)
            named = zip(self._class_names, means, strict=True)
            values |= {f"{measure}/{name}": float(mean) for name, mean in named if np.isfinite(mean)}
        return values

    @property
    def _class_names(self) -> tuple[str, ...]:
        """Names of the columns of the measure per class."""
        return self.classes

    def strata(self, targets: torch.Tensor) -> torch.Tensor:
        """What balanced sampling balances: a number per case (n,)."""
        return targets

    def _width_error(self, shape: tuple[int, ...], expected: str) -> NetworkError:
        return NetworkError(
            f"the network's output has shape {shape}, but the {len(self.classes)} classes "
            f"({', '.join(self.classes)}) need {expected}; set network.arguments accordingly"
        )
