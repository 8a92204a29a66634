"""Batches: which images, changed how, decided by a seed and by nothing else.

Mirroring and shifting a batch is one gather, rotating and scaling it besides is one resampling (`warp`), both
without a loop over images.
"""

from collections.abc import Iterator, Mapping

import torch

from evaluators.data.tensors import PackedImages, as_packed
from evaluators.settings import AugmentationSettings
from evaluators.warp import Motion, shade, warp


class BatchStream:
    """Endless batches of equal size: shuffled passes, one after the other, cut without regard to their ends.

    A batch is never smaller than two (batch norms cannot train on one image) unless the setting is one; where
    there are fewer images than that, images repeat.

    Args:
        images: (n, channels, *spatial); batches are normalised after they were moved.
        targets: (n,) or (n, *spatial); masks move with their images.
        batch_size: Images a batch; at most n.
        flip_axes: Spatial axes to mirror along at random; None: no augmentation at all.
        seed: Decides everything; torch's global generator is neither used nor moved.
        how: How far images are changed.
        strata: (n,) class of each image, where a pass shall show all classes equally often.
    """

    def __init__(
        self,
        images: PackedImages | torch.Tensor,
        targets: torch.Tensor,
        batch_size: int,
        flip_axes: tuple[int, ...] | None,
        seed: int,
        how: AugmentationSettings = AugmentationSettings(),  # noqa: B008  # frozen
        strata: torch.Tensor | None = None,
    ) -> None:
        self.batch_size = batch_size if batch_size == 1 else max(2, min(batch_size, len(images)))
        self._images, self._targets = as_packed(images), targets
        self._augment, self._how = flip_axes is not None, how
        self._flip_axes = flip_axes if flip_axes and how.mirror else ()
        self._strata = None if strata is None else strata.cpu()
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.long)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            indices = self._next_indices().to(self._images.device)
            if self._augment:
                yield self._moved(indices)
            else:
                yield self._images[indices], self._targets[indices]

    def state(self) -> dict[str, torch.Tensor]:
        """What decides the batches from here on."""
        return {"generator": self._generator.get_state(), "order": self._order.clone()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where a stream of the same images and settings had that state."""
        self._generator.set_state(state["generator"])
        self._order = state["order"].clone()

    def _next_indices(self) -> torch.Tensor:
        while len(self._order) < self.batch_size:
            self._order = torch.cat([self._order, self._one_pass()])
        indices, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return indices

    def _one_pass(self) -> torch.Tensor:
        """Indices of all images once, or of as many such that all strata have the same share, shuffled."""
        n = len(self._images)
        if self._strata is None:
            return torch.randperm(n, generator=self._generator)
        strata = [torch.nonzero(self._strata == stratum)[:, 0] for stratum in self._strata.unique()]
        share = -(-n // len(strata))
        drawn = []
        for members in strata:
            rounds = [
                torch.randperm(len(members), generator=self._generator)
                for _ in range(-(-share // len(members)))
            ]
            drawn.append(members[torch.cat(rounds)[:share]])
        together = torch.cat(drawn)
        return together[torch.randperm(len(together), generator=self._generator)]

    def _moved(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and targets at these indices, moved and shaded; the edge fills what moves in."""
        packed, targets = self._images.packed[indices], self._targets[indices]
        masks = targets if targets.ndim == packed.ndim - 1 and packed.ndim > 3 else None
        motion = self._motion(packed.shape[2:])
        if self._how.rotate or self._how.scale:
            images, masks = warp(self._images.ready(packed), masks, motion, self._how, self._generator)
        else:
            packed, masks = _gathered(packed, masks, motion)
            images = self._images.ready(packed)
        return shade(images, self._how, self._generator), targets if masks is None else masks

    def _motion(self, spatial: torch.Size) -> Motion:
        shifts, mirrors = [], []
        for axis, size in enumerate(spatial):
            reach = round(size * self._how.shift)
            shift = torch.randint(-reach, reach + 1, (self.batch_size, 1), generator=self._generator)
            mirror = torch.zeros((self.batch_size, 1), dtype=torch.bool)
            if axis - len(spatial) in self._flip_axes:
                mirror = torch.rand((self.batch_size, 1), generator=self._generator) < 0.5
            shifts.append(shift)
            mirrors.append(mirror)
        return Motion(torch.cat(shifts, dim=1), torch.cat(mirrors, dim=1))


def _gathered(
    images: torch.Tensor, masks: torch.Tensor | None, motion: Motion
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images and masks mirrored and shifted by whole pixels."""
    n, channels, *spatial = images.shape
    where = torch.zeros((n, *[1] * len(spatial)), dtype=torch.long)
    for axis, size in enumerate(spatial):
        source = (torch.arange(size) + motion.shift[:, axis, None]).clamp_(0, size - 1)
        source = torch.where(motion.mirror[:, axis, None], size - 1 - source, source)
        shape = [n, *[1] * len(spatial)]
        shape[axis + 1] = size
        where = where * size + source.view(shape)
    where = where.flatten(1).to(images.device)
    moved = images.flatten(2).gather(2, where.unsqueeze(1).expand(-1, channels, -1)).view_as(images)
    if masks is None:
        return moved, None
    return moved, masks.flatten(1).gather(1, where).view_as(masks)
