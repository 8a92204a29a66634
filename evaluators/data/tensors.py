"""Images as tensors in the number format of their arrays; what a network sees is made batch by batch."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from evaluators.data.normalisation import Normalisation
from evaluators.data.splits import Subset


class PackedImages:
    """Images (n, channels, *spatial) in few bytes, normalised to float32 whenever some are taken out.

    Indexing and `split` give normalised tensors of their own; `packed` is never written to and may be shared
    with other processes.

    Args:
        packed: As in the arrays: uint8, float16, float32, ...
        normalisation: None: they are what the network expects.
    """

    def __init__(self, packed: torch.Tensor, normalisation: Normalisation | None = None) -> None:
        self.packed = packed
        self._constants: list[torch.Tensor | None] = [None] * 4
        if normalisation is not None:
            column = (-1, *[1] * (packed.ndim - 2))
            given = (normalisation.low, normalisation.high, normalisation.mean, normalisation.std)
            self._constants = [
                None if values is None else torch.tensor(values, device=packed.device).reshape(column)
                for values in given
            ]

    def ready(self, packed: torch.Tensor) -> torch.Tensor:
        """Some of the packed images (or a batch made of them) as the network expects them, in float32."""
        low, high, mean, std = self._constants
        images = packed.to(torch.float32)
        if low is not None:
            images = images.clamp(low, high)
        return images if mean is None or std is None else (images - mean).div_(std)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, indices: "int | slice | torch.Tensor") -> torch.Tensor:
        return self.ready(self.packed[indices])

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """Normalised batches of `size` images in order; the last may be smaller."""
        return (self.ready(part) for part in self.packed.split(size))

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.packed.device

    @property
    def ndim(self) -> int:
        """Of the whole array: 4 for 2-D images, 5 for volumes."""
        return self.packed.ndim

    @property
    def shape(self) -> torch.Size:
        """(n, channels, *spatial)."""
        return self.packed.shape


def as_packed(images: "PackedImages | torch.Tensor") -> PackedImages:
    """Images that are ready already, in the same form."""
    return images if isinstance(images, PackedImages) else PackedImages(images)


@dataclass(frozen=True, eq=False)
class Tensors:
    """Images (n, channels, *spatial) and their targets, on one device."""

    images: PackedImages
    targets: torch.Tensor

    @classmethod
    def of(
        cls, subset: Subset, normalisation: Normalisation, device: torch.device | str = "cpu"
    ) -> "Tensors":
        """On the CPU they share the memory of the arrays, which may be read-only."""
        images = as_tensor(subset.images).to(device)
        return cls(PackedImages(images, normalisation), as_tensor(subset.targets).to(device))

    def __len__(self) -> int:
        return len(self.images)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """The array's memory as a tensor, which may be read-only and must not be written to."""
    with warnings.catch_warnings():  # torch warns of read-only memory, which nobody here writes to
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.from_numpy(np.ascontiguousarray(array).reshape(-1))
    return flat.view(array.shape)  # strides by shape alone: they choose convolution kernels, and so last bits
