"""How closely a pruned network still says what the dense one says, on images that need no labels.

A metric on eighty validation images is mostly the noise of their labels, and a search that climbs it climbs
the noise. How far outputs are from those of the network that is to be replaced has no labels in it, and
orders networks much as the metric on unseen patients does. It is taken on training images, so that the
validation images stay an honest judge of whatever a search prefers.
"""

import numpy as np
import torch
from torch import nn

from evaluators.protocols import Task
from evaluators.tasks.heads import main_output
from evaluators.tasks.judged import batch_size
from evaluators.training import Tensors
from spaces.errors import RunError

LOOKS = 512
"""Training images that are looked at, stratified."""


class Disagreement:
    """Compares networks with the dense one, as it was given or as a rung leaves it.

    Args:
        dense: On the device of the images, in eval mode.
        task: Says how far two outputs are from each other.
        images: What both are shown.
    """

    def __init__(self, dense: nn.Module, task: Task, images: Tensors) -> None:
        self._task, self._images = task, images.images
        self._size = batch_size(self._images)
        with torch.inference_mode():
            self._told = [
                _small(main_output(dense(batch), batch.ndim)) for batch in self._images.split(self._size)
            ]

    def of(self, network: nn.Module) -> np.ndarray:
        """Of a network in eval mode, per image: (n,) float32, 0 where it says the same.

        Raises:
            RunError: An output is not finite.
        """
        found = []
        with torch.inference_mode():
            for batch, told in zip(self._images.split(self._size), self._told, strict=True):
                apart = self._task.disagreement(network(batch), told.float()).float()
                found.append(apart.clamp(min=0))  # what should be 0 may round to below
        result = torch.cat(found).cpu().numpy()
        if not np.isfinite(result).all():
            raise RunError("the network's outputs on training images are not finite")
        return result


def _small(told: torch.Tensor) -> torch.Tensor:
    """In half the bytes, unless there are numbers beyond their range (predictions in large units)."""
    half = told.half()
    return half if bool(half.isfinite().all()) else told
