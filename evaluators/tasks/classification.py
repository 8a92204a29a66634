"""One class per image."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evaluators.metrics import Metric, recall_shares
from evaluators.tasks.heads import heads, loss_over_heads, main_output
from evaluators.tasks.judged import JudgedTask


class Classification(JudgedTask):
    """Outputs (n, classes), or (n, 1) for two classes; targets (n,). Per class: recall."""

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
        return loss_over_heads(heads(outputs), lambda head: cross_entropy(head, targets).mean())

    def imitation(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Cross-entropy to another network's probabilities."""
        return soft_cross_entropy(main_output(outputs), told)

    def disagreement(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Half the squared distance of the probabilities: at most 1."""
        p, q = (torch.softmax(two_sided(found.float()), dim=1) for found in (main_output(outputs), told))
        return (p - q).square().sum(dim=1) / 2

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: the log-loss (n,) and the probabilities of the classes (n, classes)."""
        logits = main_output(outputs).float()
        loss = cross_entropy(logits, targets)
        score = torch.softmax(two_sided(logits), dim=1)
        return {"loss": loss.cpu().numpy(), "score": score.cpu().numpy()}

    def class_shares(self, scores: np.ndarray, targets: np.ndarray) -> tuple[str, np.ndarray | None]:
        """Each class's recall."""
        return "recall", recall_shares(scores, targets)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-loss per case: (n, classes) or (n, 1), (n,) -> (n,)."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets, reduction="none")


def soft_cross_entropy(outputs: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Mean over cases (and pixels) of the cross-entropy to the probabilities of another network's logits."""
    return F.cross_entropy(two_sided(outputs.float()), torch.softmax(two_sided(told.float()), dim=1))


def two_sided(logits: torch.Tensor) -> torch.Tensor:
    """One channel (sigmoid) as the equivalent two (softmax)."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
