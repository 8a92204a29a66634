"""A number per image: an age, a risk, a volume."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evaluators.metrics import Metric
from evaluators.tasks.heads import heads, loss_over_heads, main_output
from evaluators.tasks.judged import JudgedTask
from spaces.errors import NetworkError


class Regression(JudgedTask):
    """Outputs (n, 1) or (n,); targets (n,) float32. The scores are the predictions, in the targets' units.

    Args:
        metric: What is maximised.
        chance: What a constant answer reaches.
        centre: What the network's 0 means, in the targets' units.
        scale: What the network's 1 means above that.
        spread: Standard deviation of the training targets: the loss is in squares of it.
    """

    def __init__(self, metric: Metric, chance: float, centre: float, scale: float, spread: float) -> None:
        super().__init__("regression", metric, chance, ())
        self.signature = f"regression {centre!r} {scale!r} {spread!r}"
        self._centre, self._scale, self._spread = centre, scale, spread

    @property
    def units(self) -> tuple[float, float]:
        """What the network's 0 means, in the targets' units, and its 1 above that."""
        return self._centre, self._scale

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Refuse outputs that are not one number per image.

        Raises:
            NetworkError: Names the shape.
        """
        shape = tuple(main_output(outputs).shape)
        if shape not in ((len(targets),), (len(targets), 1)):
            raise NetworkError(
                f"the network's output has shape {shape}, but one number per image needs "
                f"({len(targets)}, 1); set network.arguments accordingly"
            )

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error, in variances of the training targets."""
        return loss_over_heads(heads(outputs), lambda head: self._losses(head, targets).mean())

    def imitation(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Mean squared difference to another network's predictions, as `loss`."""
        difference = self._scale * (main_output(outputs).float() - told.float()) / self._spread
        return difference.square().mean()

    def disagreement(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Squared difference of the predictions, in variances of the training targets."""
        difference = self._predicted(main_output(outputs)) - self._predicted(told)
        return (difference / self._spread).square()

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: the squared error in variances (n,) and the prediction (n, 1)."""
        found = main_output(outputs)
        loss, score = self._losses(found, targets), self._predicted(found).unsqueeze(1)
        return {"loss": loss.cpu().numpy(), "score": score.cpu().numpy()}

    def gather(self, batches: Any, targets: np.ndarray) -> dict[str, np.ndarray]:
        """As for all tasks, with each case's "error": predicted minus true, in the targets' units."""
        joined = super().gather(batches, targets)
        return joined | {"error": joined["score"][:, 0] - targets.astype(np.float32)}

    def values(self, per_case: Any, targets: np.ndarray) -> dict[str, float]:
        """As for all tasks, with "mae", "rmse" and "bias" (the mean error) in the targets' units."""
        error = per_case["score"][:, 0].astype(np.float64) - targets
        return super().values(per_case, targets) | {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt(np.square(error).mean())),
            "bias": float(error.mean()),
        }

    def strata(self, targets: torch.Tensor) -> torch.Tensor:
        """The quarter of the range that a target lies in."""
        low, high = targets.min(), targets.max()
        return ((targets - low) / (high - low).clamp_min(1e-12) * 4).long().clamp_(0, 3)

    def _predicted(self, outputs: torch.Tensor) -> torch.Tensor:
        return self._centre + self._scale * outputs.float().flatten()

    def _losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(
            self._predicted(outputs) / self._spread, targets.float() / self._spread, reduction="none"
        )
