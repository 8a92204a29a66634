"""Several labels per image, each there or not, as findings in a chest radiograph."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evaluators.metrics import Metric, label_auc_shares
from evaluators.tasks.heads import heads, loss_over_heads, main_output
from evaluators.tasks.judged import JudgedTask


class MultiLabel(JudgedTask):
    """Outputs (n, labels); targets (n, labels) of 0 and 1. Per label: AUC."""

    def __init__(self, metric: Metric, chance: float, classes: tuple[str, ...]) -> None:
        super().__init__("multilabel", metric, chance, classes)

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Refuse outputs that cannot mean these labels.

        Raises:
            NetworkError: Names the shape and the labels.
        """
        shape, expected = tuple(main_output(outputs).shape), (len(targets), len(self.classes))
        if shape != expected:
            raise self._width_error(shape, str(expected))

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy over cases and labels."""
        return loss_over_heads(heads(outputs), lambda head: self._losses(head.float(), targets).mean())

    def imitation(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy to another network's probabilities."""
        return F.binary_cross_entropy_with_logits(main_output(outputs).float(), torch.sigmoid(told.float()))

    def disagreement(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Mean over labels of the squared difference of the probabilities: at most 1."""
        p, q = torch.sigmoid(main_output(outputs).float()), torch.sigmoid(told.float())
        return (p - q).square().mean(dim=1)

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: the mean log-loss (n,) and the labels' probabilities (n, labels)."""
        logits = main_output(outputs).float()
        loss, score = self._losses(logits, targets), torch.sigmoid(logits)
        return {"loss": loss.cpu().numpy(), "score": score.cpu().numpy()}

    def class_shares(self, scores: np.ndarray, targets: np.ndarray) -> tuple[str, np.ndarray | None]:
        """Each label's AUC."""
        return "auc", label_auc_shares(scores, targets)

    def strata(self, targets: torch.Tensor) -> torch.Tensor:
        """The rarest label that a case has; one stratum more for cases without any."""
        return rarest(targets > 0)

    @staticmethod
    def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
        return losses.mean(dim=1)


def rarest(present: torch.Tensor) -> torch.Tensor:
    """Per case, the class present in it that the fewest cases have: (n, k) bool -> (n,); k where none is."""
    n, k = present.shape
    counts = present.sum(dim=0)
    rank = torch.where(present, counts, n + 1)
    return torch.where(present.any(dim=1), rank.argmin(dim=1), k)
