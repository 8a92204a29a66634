"""A class per pixel or voxel, or regions that overlap, in two or three dimensions.

Regions are unions of mask values, as nnU-Net's region labels: `whole = [1, 2, 3]`, `core = [2, 3]`. Each has
an output of its own (sigmoid), in the order of the settings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evaluators.metrics import Metric, chance_of_dice, dice_scores, region_dice_scores
from evaluators.tasks.classification import soft_cross_entropy, two_sided
from evaluators.tasks.heads import heads, loss_over_heads, main_output
from evaluators.tasks.judged import JudgedTask
from evaluators.tasks.multilabel import rarest
from spaces.errors import RunError

SMOOTHING = 1.0
"""Pixels added to both sides of a soft Dice, so that it has a gradient on an empty mask."""


class Segmentation(JudgedTask):
    """Outputs (n, classes, *spatial), one channel for two classes, or (n, regions, *spatial).

    Trained with cross-entropy plus soft Dice (per case, mean over the foreground classes or regions), on all
    supervision heads, each weighing half of the finer one; judged by the finest. Per class: Dice.

    Args:
        metric: What is maximised.
        chance: What blind answers reach.
        classes: Names by mask value.
        dims: Spatial dimensions.
        regions: Name -> mask values; empty: classes that exclude each other.
    """

    def __init__(
        self,
        metric: Metric,
        chance: float,
        classes: tuple[str, ...],
        dims: int,
        regions: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__("segmentation", metric, chance, tuple(regions) if regions else classes)
        self.flip_axes = tuple(range(-dims, 0))
        self._dims = dims
        self.regions = dict(regions or {})
        self._regions = tuple(self.regions.values())
        if self._regions:
            self.signature = f"segmentation of the regions {list(self._regions)}"

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Refuse outputs that cannot mean these classes at this size.

        Raises:
            NetworkError: Names the shape and the classes.
        """
        shape = tuple(main_output(outputs, self._dims + 2).shape)
        (n, *spatial), k = targets.shape, len(self.classes)
        two = k == 2 and not self._regions
        if shape != (n, k, *spatial) and not (shape == (n, 1, *spatial) and two):
            one = f" or {(n, 1, *spatial)}" if two else ""
            raise self._width_error(shape, f"{(n, k, *spatial)}{one}")

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean over pixels of the cross-entropy plus mean over cases of the soft Dice loss."""
        found = heads(outputs, self._dims + 2)
        return loss_over_heads(found, lambda head: self._head_loss(head.float(), targets))

    def imitation(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Cross-entropy per pixel to another network's probabilities."""
        finest = main_output(outputs, self._dims + 2)
        if self._regions:
            return F.binary_cross_entropy_with_logits(finest.float(), torch.sigmoid(told.float()))
        return soft_cross_entropy(finest, told)

    def disagreement(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """1 - soft Dice between the probabilities of both, mean over foreground classes or regions."""
        p, q = (self._foreground(found.float()) for found in (main_output(outputs, self._dims + 2), told))
        return _dice_loss(p, q, squared=True)

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Of a batch, per case: the soft Dice loss (n,) and Dice per foreground class or region (n, k)."""
        logits = main_output(outputs, self._dims + 2).float()
        if not bool(torch.isfinite(logits).all()):
            raise RunError("the network's outputs on the validation cases are not finite")
        if self._regions:
            truth = self._truth(targets)
            loss = _dice_loss(torch.sigmoid(logits), truth.float())
            score = region_dice_scores((logits > 0).cpu().numpy(), truth.cpu().numpy())
            return {"loss": loss.cpu().numpy(), "score": score}
        logits = two_sided(logits)
        loss = _dice_loss(torch.softmax(logits, dim=1)[:, 1:], self._truth(targets).float())
        predicted = logits.argmax(dim=1).to(torch.uint8)
        score = dice_scores(predicted.cpu().numpy(), targets.cpu().numpy(), len(self.classes))
        return {"loss": loss.cpu().numpy(), "score": score}

    def blind(self, masks: Sequence[np.ndarray]) -> float:
        """What blind answers reach on these masks (*spatial), each of its own size."""
        values = self._regions or [(value,) for value in range(1, len(self.classes))]
        return chance_of_dice([np.isin(mask, some) for mask in masks] for some in values)

    def strata(self, targets: torch.Tensor) -> torch.Tensor:
        """The rarest foreground class or region that is in a case."""
        present = torch.stack([self._truth(mask[None])[0].flatten(1).any(dim=1) for mask in targets])
        return rarest(present)

    @property
    def _class_names(self) -> tuple[str, ...]:
        return self.classes if self._regions else self.classes[1:]

    def _foreground(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of the foreground classes or regions: (n, k, *spatial)."""
        return torch.sigmoid(logits) if self._regions else torch.softmax(two_sided(logits), dim=1)[:, 1:]

    def _head_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if logits.shape[2:] != targets.shape[1:]:  # a coarser head sees a coarser truth
            size = tuple(logits.shape[2:])
            targets = F.interpolate(targets.unsqueeze(1).float(), size, mode="nearest-exact")[:, 0]
            targets = targets.to(torch.uint8)
        truth = self._truth(targets).to(logits.dtype)
        if self._regions:
            entropy = F.binary_cross_entropy_with_logits(logits, truth)
            return entropy + _dice_loss(torch.sigmoid(logits), truth).mean()
        log_p = F.log_softmax(two_sided(logits), dim=1)
        return F.nll_loss(log_p, targets.long()) + _dice_loss(log_p.exp()[:, 1:], truth).mean()

    def _truth(self, targets: torch.Tensor) -> torch.Tensor:
        """Per foreground class or region, where it is: (n, *spatial) -> (n, k, *spatial) bool."""
        if not self._regions:
            values = torch.arange(1, len(self.classes), device=targets.device, dtype=targets.dtype)
            return targets.unsqueeze(1) == values.view(1, -1, *[1] * self._dims)
        masks = [(targets.unsqueeze(-1) == targets.new_tensor(values)).any(-1) for values in self._regions]
        return torch.stack(masks, dim=1)


def _dice_loss(p: torch.Tensor, truth: torch.Tensor, *, squared: bool = False) -> torch.Tensor:
    """1 - soft Dice per case, mean over foreground classes: two (n, k, *spatial) -> (n,).

    With squares in the denominator (Milletari et al. 2016) it is 0 between equal probabilities, too.
    """
    axes = tuple(range(2, p.ndim))
    both = (p * truth).sum(axes)
    total = (p.square() + truth.square() if squared else p + truth).sum(axes)
    return 1 - ((2 * both + SMOOTHING) / (total + SMOOTHING)).mean(dim=1)
