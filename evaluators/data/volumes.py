"""Whole volumes with their masks, each of its own size."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.data.carrying import Carried
from evaluators.data.dividing import chosen, quarters


@dataclass(frozen=True, eq=False)
class Volumes(Carried):
    """Images with class masks, of whatever sizes, in a fixed order.

    Attributes:
        values: Intensities of all images, one image after the other: flat, uint8, float16 or float32.
        masks: Class indices of all of them likewise: flat, uint8.
        shapes: (n, 1 + axes) int64: channels and size of each.
        groups: Anonymous index of the patient of each (n,) int64; None: unknown.
        sealed: As of a `Subset`.
    """

    values: np.ndarray
    masks: np.ndarray
    shapes: np.ndarray
    groups: np.ndarray | None = None
    sealed: bool = False

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        groups: np.ndarray | None = None,
        sealed: bool = False,
    ) -> "Volumes":
        """From pairs of an image (channels, *spatial) and its mask (*spatial)."""
        return cls(
            np.concatenate([image.ravel() for image, _ in pairs]),
            np.concatenate([mask.ravel() for _, mask in pairs]).astype(np.uint8, copy=False),
            np.array([image.shape for image, _ in pairs], dtype=np.int64),
            groups,
            sealed,
        )

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (channels, *spatial) and mask (*spatial), without a copy."""
        voxels = self.sizes.prod(axis=1)
        values = voxels * self.shapes[:, 0]
        start, begin = int(values[:index].sum()), int(voxels[:index].sum())
        image = self.values[start : start + int(values[index])].reshape(self.shapes[index])
        return image, self.masks[begin : begin + int(voxels[index])].reshape(self.sizes[index])

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    @property
    def sizes(self) -> np.ndarray:
        """Of each image (n, axes)."""
        return self.shapes[:, 1:]

    @property
    def fingerprint(self) -> str:
        """sha256 hex over everything but the patients."""
        digest = hashlib.sha256()
        for array in (self.values, self.masks, self.shapes):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def limit(self, n: int, seed: int = 0) -> "Volumes":
        """A choice of `n`, stratified by the size of the foreground; all of them if there are not more."""
        if n >= len(self):
            return self
        foreground = np.array([np.count_nonzero(mask) for _, mask in self])
        some = chosen(quarters(foreground), n, seed)
        groups = None if self.groups is None else self.groups[some]
        return Volumes.of([self[int(index)] for index in some], groups, self.sealed)

    @classmethod
    def joined(cls, parts: Sequence["Volumes"]) -> "Volumes":
        """One after the other; patients are known if they are in every part."""
        known = [part.groups for part in parts if part.groups is not None]
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.masks for part in parts]),
            np.concatenate([part.shapes for part in parts]),
            np.concatenate(known) if len(known) == len(parts) else None,
            any(part.sealed for part in parts),
        )
