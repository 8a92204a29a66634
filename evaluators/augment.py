"""Batches: which images, mirrored and shifted how, decided by a seed and by nothing else.

Choosing, mirroring and shifting a batch is one gather from the whole tensor, without a loop over images.
"""

from collections.abc import Iterator

import torch

from evaluators.data.tensors import PackedImages, as_packed

SHIFT_SHARE = 1 / 14
"""Largest shift as a share of the image size: two pixels of 28."""


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
    """

    def __init__(
        self,
        images: PackedImages | torch.Tensor,
        targets: torch.Tensor,
        batch_size: int,
        flip_axes: tuple[int, ...] | None,
        seed: int,
    ) -> None:
        self.batch_size = batch_size if batch_size == 1 else max(2, min(batch_size, len(images)))
        self._images, self._targets = as_packed(images), targets
        self._augment, self._flip_axes = flip_axes is not None, flip_axes or ()
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.long)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            indices = self._next_indices().to(self._images.device)
            if self._augment:
                yield self._moved(indices)
            else:
                yield self._images[indices], self._targets[indices]

    def _next_indices(self) -> torch.Tensor:
        while len(self._order) < self.batch_size:
            shuffled = torch.randperm(len(self._images), generator=self._generator)
            self._order = torch.cat([self._order, shuffled])
        indices, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return indices

    def _moved(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and targets at these indices, mirrored and shifted; the edge fills what moves in."""
        spatial = self._images.shape[2:]
        where = self._pixels(spatial)
        images = self._images.packed[indices].flatten(2)
        targets = self._targets[indices]
        channels = images.shape[1]
        moved = images.gather(2, where.unsqueeze(1).expand(-1, channels, -1)).view(-1, channels, *spatial)
        if targets.ndim == 1 + len(spatial):
            targets = targets.flatten(1).gather(1, where).view(-1, *spatial)
        return self._images.ready(moved), targets

    def _pixels(self, spatial: torch.Size) -> torch.Tensor:
        """For every image and pixel, the flat index of the pixel that goes there: (batch, pixels)."""
        where = torch.zeros((self.batch_size, *[1] * len(spatial)), dtype=torch.long)
        for axis, size in enumerate(spatial):
            reach = round(size * SHIFT_SHARE)
            shift = torch.randint(-reach, reach + 1, (self.batch_size, 1), generator=self._generator)
            source = (torch.arange(size) + shift).clamp_(0, size - 1)
            if axis - len(spatial) in self._flip_axes:
                mirror = torch.rand((self.batch_size, 1), generator=self._generator) < 0.5
                source = torch.where(mirror, size - 1 - source, source)
            shape = [self.batch_size, *[1] * len(spatial)]
            shape[axis + 1] = size
            where = where * size + source.view(shape)
        return where.flatten(1).to(self._images.device)
