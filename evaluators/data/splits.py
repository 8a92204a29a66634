"""What every source of images turns into: three splits of images with their targets."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from evaluators.data.carrying import Carried
from evaluators.data.dividing import chosen, divide, quarters
from evaluators.data.normalisation import Mode, Normalisation
from evaluators.data.volumes import Volumes
from spaces.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")

Kind: TypeAlias = Literal["classification", "multilabel", "segmentation", "regression"]


@dataclass(frozen=True, eq=False)
class Subset(Carried):
    """Images with their targets, in a fixed order.

    Attributes:
        images: (n, channels, *spatial), uint8, or float32 for values that are no bytes.
        targets: By kind. classification: class indices (n,) int64. multilabel: 0 or 1 per class (n, k) uint8.
            segmentation: class indices (n, *spatial) uint8. regression: (n,) float32.
        groups: Anonymous index of the patient, case or photograph of each image (n,) int64; None: unknown.
        sealed: They were encrypted at rest: outside this process they are only ever encrypted, as on the way
            to a worker, which needs the key too.
    """

    images: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None
    sealed: bool = False

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
        return Subset(self.images[indices], self.targets[indices], groups, self.sealed)

    def limit(self, n: int, seed: int = 0) -> "Subset":
        """A stratified choice of `n` cases in their order; all of them if there are not more.

        The strata are the classes, or quarters by number of labels, foreground share or number to
        predict. Every stratum gets its share (largest remainder), and at least one case where `n` allows.
        The same for the same `seed`.
        """
        if n >= len(self):
            return self
        return self.take(chosen(self.strata, n, seed))

    def class_counts(self, n_classes: int) -> np.ndarray:
        """Images per class, or pixels per class for masks: (n_classes,) int64; all zero for regression."""
        if self.targets.dtype.kind == "f":
            return np.zeros(n_classes, dtype=np.int64)
        if self.targets.ndim == 2:
            return self.targets.sum(axis=0, dtype=np.int64)
        return np.bincount(self.targets.ravel(), minlength=n_classes)

    @cached_property
    def strata(self) -> np.ndarray:
        """What a fair choice keeps in proportion (n,): class, rarest label, quarter by size or value."""
        if self.targets.dtype.kind == "f":
            return quarters(self.targets)
        if self.targets.ndim == 1:
            return self.targets
        if self.targets.ndim == 2:
            common = self.targets.sum(axis=0)
            rarest = np.where(self.targets > 0, common, common.max(initial=0) + 1).argmin(axis=1)
            return np.where(self.targets.any(axis=1), rarest, -1)
        return quarters(np.array([np.count_nonzero(mask) for mask in self.targets]))

    def joined(self, other: "Subset") -> "Subset":
        """These cases, then those of the other; patients with the same index are the same."""
        images = np.concatenate([self.images, other.images])
        targets = np.concatenate([self.targets, other.targets])
        if self.groups is None or other.groups is None:
            return Subset(images, targets, sealed=self.sealed or other.sealed)
        groups = np.concatenate([self.groups, other.groups])
        return Subset(images, targets, groups, self.sealed or other.sealed)


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
        kind: What the targets are; see `Subset`.
        licence: Where known.
        duplicates_removed: Images taken out of train because they, or their patient, are in val or test.
        normalise: How intensities become what the network expects; see `Normalisation`.
        regions: For overlapping regions of masks: name -> the class indices that make it up.
        open_whole: Reads the whole volumes of "val" or "test" where these hold patches; None: they do not.
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
    normalise: Mode = "zscore"
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    open_whole: Callable[[str], Volumes] | None = None

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size of an image: (height, width) or (depth, height, width)."""
        return self.train.images.shape[2:]

    @cached_property
    def normalisation(self) -> Normalisation:
        """The preprocessing, resolved on train; `describe` of it is what a deployed network needs."""
        return Normalisation.of(self.train, self.normalise)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 hex over all that decides a measurement: train, val, patients, classes; not test."""
        parts = (self.kind, self.classes, self.normalise, sorted(self.regions.items()))
        digest = hashlib.sha256(repr(parts).encode())
        for subset in (self.train, self.val):
            digest.update(subset.fingerprint.encode())
            if subset.groups is not None:
                digest.update(subset.groups.tobytes())
        return digest.hexdigest()

    def fold(self, k: int, n_folds: int, seed: int = 0) -> "Splits":
        """Fold `k` (from 0) of train and val together as val, the others as train.

        Folds are stratified, and no patient is in two of them; every case is in val exactly once over all
        folds. Training images that are in the fold's val, pixel for pixel, are left out. Test stays as it is;
        what was patches stays patches.

        Raises:
            ConfigError: There are fewer patients than folds, or no such fold.
        """
        both = self.train.joined(self.val)
        n = len(both) if both.groups is None else len(np.unique(both.groups))
        if not 2 <= n_folds <= n or not 0 <= k < n_folds:
            raise ConfigError(f"fold {k} of {n_folds}: {self.name} has {n} patients; use 2 to {n} folds")
        part = divide(both.strata, both.groups, [1 / n_folds] * n_folds, seed)
        val = both.take(np.flatnonzero(part == k))
        train = both.take(np.flatnonzero(part != k))
        keep = ~isin_images(train.images, [val.images])
        if not keep.any():
            raise DataError(f"{self.name}: all images of fold {k} are in the others too")
        train = train if keep.all() else train.take(np.flatnonzero(keep))
        return replace(self, train=train, val=val, open_whole=None)

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
            "normalisation": self.normalisation.describe(),
            "regions": {name: list(indices) for name, indices in self.regions.items()},
            "fingerprint": self.fingerprint,
        }


def _n_groups(subset: Subset) -> int | None:
    return None if subset.groups is None else len(np.unique(subset.groups))


def isin_images(images: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Which images are among the others, value for value whatever their number formats: (n,) bool."""
    known = {_content(image) for array in others for image in array}
    return np.array([_content(image) in known for image in images], dtype=bool)


def _content(image: np.ndarray) -> bytes:
    values = np.ascontiguousarray(image, dtype=np.float32) + np.float32(0)  # -0 is 0
    return hashlib.blake2b(values.data, digest_size=16).digest()
