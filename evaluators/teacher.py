"""The dense network as a teacher: what it says about training batches, computed once for all candidates.

All candidates of a replicate see the same batches (common random numbers), augmentation included. So what the
dense network says about step t of a seed is kept and told again to the next candidate.
"""

from collections.abc import Hashable

import torch
from torch import nn

from evaluators.tasks.heads import main_output

LARGEST = 2**28
"""Bytes that are kept at most; beyond them the dense network runs along."""


class Teacher:
    """Tells what a network says.

    Args:
        network: The dense network, on the device of the images; in eval mode.
        largest: Bytes that are kept at most.
    """

    def __init__(self, network: nn.Module, largest: int = LARGEST) -> None:
        self._network = network
        self._largest, self._bytes = largest, 0
        self._kept: dict[Hashable, dict[int, torch.Tensor]] = {}

    def tell(self, stream: Hashable, step: int, images: torch.Tensor) -> torch.Tensor:
        """The network's main output on a batch.

        Args:
            stream: What decides the batches: two calls with equal stream and step have equal images.
            step: Number of the batch in its stream.
            images: The batch.
        """
        known = self._kept.setdefault(stream, {})
        if step not in known:
            with torch.no_grad():
                told = main_output(self._network(images), images.ndim).detach()
            self._make_room(stream, told.nbytes)
            if self._bytes + told.nbytes > self._largest:
                return told
            known[step] = told
            self._bytes += told.nbytes
        return known[step]

    def _make_room(self, stream: Hashable, needed: int) -> None:
        """Forget the oldest other streams."""
        for other in [key for key in self._kept if key != stream]:
            if self._bytes + needed <= self._largest:
                return
            self._bytes -= sum(told.nbytes for told in self._kept.pop(other).values())
