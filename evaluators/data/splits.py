"""What every source of images turns into: three splits of images with their targets."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["classification", "multilabel", "segmentation", "regression"]


@dataclass(frozen=True, eq=False)
class Subset:
    """Images with their targets, in a fixed order.

    Attributes:
        images: (n, channels, *spatial), uint8, or float32 for values that are no bytes.
        targets: Class indices (n,) int64, labels (n, labels) uint8 of 0 and 1, masks of class indices
            (n, *spatial) uint8, or numbers to predict (n,) float32.
        groups: Anonymous index of the patient, case or photograph of each image (n,) int64; None: unknown.
    """

    images: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """sha256 hex over pixels and targets."""
        digest = hashlib.sha256()
        for array in (self.images, self.targets):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | np.ndarray) -> "Subset":
        """The cases at these indices, in that order, copied."""
        indices = np.asarray(indices, dtype=np.int64)
        groups = None if self.groups is None else self.groups[indices]
        return Subset(self.images[indices], self.targets[indices], groups)

    def limit(self, n: int, seed: int = 0) -> "Subset":
        """A stratified choice of `n` cases in their order; all of them if there are not more.

        The strata are the classes, or quarters by number of labels, foreground share or number to
        predict. Every stratum gets its share
        (largest remainder), and at least one case where `n` allows. The same for the same `seed`.
        """
        if n >= len(self):
            return self
        rng = np.random.default_rng([seed, n])
        strata = [np.flatnonzero(self._strata() == stratum) for stratum in np.unique(self._strata())]
        quotas = _quotas(np.array([len(members) for members in strata]), n)
        chosen = [rng.permutation(members)[:quota] for members, quota in zip(strata, quotas, strict=True)]
        return self.take(np.sort(np.concatenate(chosen)))

    def class_counts(self, n_classes: int) -> np.ndarray:
        """Images per class or label, or pixels per class for masks: (n_classes,) int64; none for numbers."""
        if self.targets.dtype.kind == "f":
            return np.zeros(n_classes, dtype=np.int64)
        if self.targets.ndim == 2:
            return np.count_nonzero(self.targets, axis=0)
        return np.bincount(self.targets.ravel(), minlength=n_classes)

    def _strata(self) -> np.ndarray:
        if self.targets.ndim == 1 and self.targets.dtype.kind != "f":
            return self.targets
        numbers = self.targets.ndim == 1
        share = self.targets if numbers else np.array([np.count_nonzero(target) for target in self.targets])
        rank = np.empty(len(share), dtype=np.int64)
        rank[np.argsort(share, kind="stable")] = np.arange(len(share))
        return rank * 4 // len(share)


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a campaign. Test images are read only when `open_test` is called.

    Attributes:
        name: The source, without any path.
        train: Images to train on.
        val: Images that candidates are measured on.
        open_test: Reads the test images; raises DataError where there are none.
        n_test: Number of test images; 0: the source has none.
        classes: Names of the classes by index.
        kind: What the targets are: a class per image, several labels, a mask, or a number.
        licence: Where known.
        duplicates_removed: Images taken out of train because they are in val, pixel for pixel.
    """

    name: str
    train: Subset
    val: Subset
    open_test: Callable[[], Subset]
    n_test: int
    classes: tuple[str, ...]
    kind: Kind
    licence: str | None = None
    duplicates_removed: int = 0

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size of an image: (height, width) or (depth, height, width)."""
        return self.train.images.shape[2:]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 hex over pixels and targets of train and val, and the class names; test takes no part."""
        digest = hashlib.sha256(repr((self.kind, self.classes)).encode())
        for subset in (self.train, self.val):
            digest.update(subset.fingerprint.encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What may be shown and stored of the data (JSON): no pixel, no path, no patient."""
        subsets = {"train": self.train, "val": self.val}
        counts = {name: subset.class_counts(len(self.classes)) for name, subset in subsets.items()}
        return {
            "source": self.name,
            "kind": self.kind,
            "licence": self.licence,
            "channels": self.channels,
            "spatial": list(self.spatial),
            "classes": list(self.classes),
            "sizes": {"train": len(self.train), "val": len(self.val), "test": self.n_test},
            "class_counts": {name: [int(n) for n in row] for name, row in counts.items()},
            "groups": {name: _n_groups(subset) for name, subset in subsets.items()},
            "duplicates_removed": self.duplicates_removed,
            "fingerprint": self.fingerprint,
        }


def _n_groups(subset: Subset) -> int | None:
    return None if subset.groups is None else len(np.unique(subset.groups))


def _quotas(sizes: np.ndarray, n: int) -> np.ndarray:
    """Split `n` over strata in proportion to `sizes`: largest remainder, at least one each if `n` allows."""
    exact = sizes * (n / sizes.sum())
    quotas = np.floor(exact).astype(np.int64)
    if n >= len(sizes):
        quotas = np.maximum(quotas, 1)
    while quotas.sum() < n:
        quotas[np.argmax(exact - quotas)] += 1
    while quotas.sum() > n:
        quotas[np.argmin(np.where(quotas > 1, exact - quotas, np.inf))] -= 1
    return quotas
