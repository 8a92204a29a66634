"""`npz:PATH`: images in MedMNIST's layout.

The file holds `{train,val,test}_images` with `_masks` (class indices) or `_labels`: class indices (N or
N x 1), 0 or 1 for each of several labels (N x K), or numbers to predict (floats, N or N x 1). It may hold
`class_names` and, per split, who or what an image comes from: `_patient`, `_case` or `_image_id`. Test may be
missing. Pickled objects are never loaded.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO

import numpy as np

from evaluators.data import checks
from evaluators.data.patients import anonymous
from evaluators.data.places import data_dir
from evaluators.data.sealed import is_sealed, open_sealed
from evaluators.data.splits import SPLITS, Kind, Splits, Subset
from spaces.errors import DataError

GROUP_KEYS = ("patient", "case", "image_id")
NUMBER = ("number",)
"""What stands for the classes where numbers are to be predicted."""


def load(given: str) -> Splits:
    """The splits in the file `given`: relative to the current folder, or else to `$PARETOPRUNE_DATA`."""
    path = Path(given).expanduser()
    folder = data_dir()
    if not path.is_file() and folder is not None and (folder / path).is_file():
        path = folder / path
    if not path.is_file():
        also = "; $PARETOPRUNE_DATA is not set" if folder is None else ", nor under $PARETOPRUNE_DATA"
        raise DataError(f"npz:{given}: there is no such file here{also}")
    return read(path, f"npz:{path.name}", volumes=path.stem.lower().endswith("3d"))


def read(
    path: Path, name: str, *, volumes: bool, classes: tuple[str, ...] = (), licence: str | None = None
) -> Splits:
    """The splits in a file; train and val are read now, test when it is opened.

    Args:
        path: The file.
        name: What the source is called in messages and reports.
        volumes: Whether images of rank 4 are known to be volumes.
        classes: Names of the classes; without them the file's own, or else their numbers.
        licence: Where known.
    """
    archive = Archive(path, name)
    kind = _kind(archive)
    classes = NUMBER if kind == "regression" else classes or _classes(archive, kind)
    groups = _groups(archive)
    reader = _Reader(archive, kind, classes, volumes)
    train = reader.subset("train", groups.get("train"))
    return Splits(
        name=name,
        train=train,
        val=reader.subset("val", groups.get("val"), like=train.images.shape),
        open_test=partial(reader.subset, "test", groups.get("test"), like=train.images.shape),
        n_test=archive.length("test_images") if "test_images" in archive.keys else 0,
        classes=classes,
        kind=kind,
        licence=licence,
    )


@dataclass(frozen=True)
class Archive:
    """The arrays of an .npz file, read one at a time and never unpickled."""

    path: Path
    name: str

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the arrays."""
        with self._opened() as archive:
            return tuple(entry.removesuffix(".npy") for entry in archive.namelist() if entry.endswith(".npy"))

    @cached_property
    def sealed(self) -> bool:
        """Whether the file is encrypted."""
        return is_sealed(self.path)

    def read(self, key: str) -> np.ndarray:
        """One array, once its header agrees with the size of what follows."""
        with self._entry(key) as stream:
            self._check_size(key, stream)
            array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        return array

    def length(self, key: str) -> int:
        """Length of an array's first axis, from its header alone."""
        shape, _ = self.header(key)
        return shape[0] if shape else 0

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """An array's shape and number format, without reading it."""
        with self._entry(key) as stream:
            return _header(stream)

    def _check_size(self, key: str, stream: IO[bytes]) -> None:
        """Refuse a header that promises more than there is, or more than this machine's memory."""
        shape, dtype = _header(stream)
        if dtype.hasobject:
            stream.seek(0)
            return
        with self._opened() as archive:
            there = archive.getinfo(f"{key}.npy").file_size - stream.tell()
        promised = math.prod(shape) * dtype.itemsize
        if promised != there:
            raise DataError(
                f"{self.name}: {key} is damaged: {promised:,} bytes are promised, {there:,} there"
            )
        if promised > _memory():
            raise DataError(f"{self.name}: {key} does not fit into memory ({promised:,} bytes)")
        stream.seek(0)

    @contextmanager
    def _entry(self, key: str) -> Iterator[IO[bytes]]:
        if key not in self.keys:
            raise DataError(f"{self.name}: has no {key}; it holds {', '.join(self.keys) or 'no arrays'}")
        with self._opened() as archive, archive.open(f"{key}.npy") as stream:
            try:
                yield stream
            except DataError:
                raise
            except MemoryError:
                raise DataError(f"{self.name}: {key} does not fit into memory") from None
            except ValueError as error:
                if "allow_pickle" in str(error):
                    reason = (
                        "holds pickled objects, which could run code; save numbers or fixed-width strings"
                    )
                    raise DataError(f"{self.name}: {key} {reason}") from None
                raise DataError(f"{self.name}: {key} is damaged: {_first_line(error)}") from None

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with self.path.open("rb") as file:
                plain = open_sealed(file, self.name) if self.sealed else file
                with zipfile.ZipFile(plain) as archive:
                    yield archive
        # RuntimeError: an encrypted entry; NotImplementedError: an unknown compression.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, RuntimeError) as error:
            raise DataError(f"{self.name}: no readable .npz file, or torn: {_first_line(error)}") from None


@dataclass(frozen=True)
class _Reader:
    archive: Archive
    kind: Kind
    classes: tuple[str, ...]
    volumes: bool

    def subset(self, split: str, groups: np.ndarray | None, like: tuple[int, ...] | None = None) -> Subset:
        """One split, checked; `like` is the shape of another split's images."""
        name, suffix = self.archive.name, _suffix(self.kind)
        where, where_targets = f"{name}: {split}_images", f"{name}: {split}_{suffix}"
        images = self.archive.read(f"{split}_images")
        raw = self.archive.read(f"{split}_{suffix}")
        if images.ndim == 0 or raw.ndim == 0 or len(images) != len(raw):
            raise DataError(
                f"{where} is {checks.shape(images)} and {split}_{suffix} {checks.shape(raw)}: unequal"
            )
        masked = self.kind == "segmentation"
        images = checks.as_pixels(images, where)
        images = checks.channels_first(
            images, where, mask_rank=raw.ndim if masked else None, volumes=self.volumes
        )
        targets = _CHECKS[self.kind](raw, len(self.classes), where_targets)
        if masked and targets.shape[1:] != images.shape[2:]:
            raise DataError(
                f"{where_targets} is {checks.shape(targets)}, images are {checks.shape(images[0, 0])}"
            )
        if like is not None and images.shape[1:] != like[1:]:
            size, other = checks.shape(images[0]), " x ".join(map(str, like[1:]))
            raise DataError(f"{where} are {size}, train_images {other} (channels first); all must be equal")
        if groups is not None and len(groups) != len(images):
            raise DataError(
                f"{where} has {len(images)} images, but {len(groups)} patients or cases are listed"
            )
        return Subset(images, targets, groups, self.archive.sealed)


_CHECKS: Mapping[Kind, Callable[[np.ndarray, int, str], np.ndarray]] = {
    "classification": checks.as_labels,
    "multilabel": checks.as_label_sets,
    "segmentation": checks.as_masks,
    "regression": lambda numbers, _, where: checks.as_numbers(numbers, where),
}


def _suffix(kind: Kind) -> str:
    return "masks" if kind == "segmentation" else "labels"


def _kind(archive: Archive) -> Kind:
    """What the targets are, by name, shape and number format."""
    found = [suffix for suffix in ("labels", "masks") if f"train_{suffix}" in archive.keys]
    if len(found) != 1:
        problem = (
            "both train_labels and train_masks; keep one" if found else "neither train_labels nor train_masks"
        )
        raise DataError(f"{archive.name}: has {problem} (it holds {', '.join(archive.keys) or 'no arrays'})")
    if found == ["masks"]:
        return "segmentation"
    shape, dtype = archive.header("train_labels")
    if dtype.kind == "f":
        return "regression"
    return "multilabel" if len(shape) == 2 and shape[1] > 1 else "classification"


def _classes(archive: Archive, kind: Kind) -> tuple[str, ...]:
    """Names of the classes: the file's own, or else their numbers."""
    if "class_names" in archive.keys:
        return checks.class_names(archive.read("class_names"), f"{archive.name}: class_names")
    suffix = _suffix(kind)
    if kind == "multilabel":
        return tuple(str(label) for label in range(archive.header(f"train_{suffix}")[0][1]))
    targets = [archive.read(f"{split}_{suffix}") for split in ("train", "val")]
    return checks.numbered_classes(targets, f"{archive.name}: train_{suffix} and val_{suffix}")


def _groups(archive: Archive) -> dict[str, np.ndarray]:
    """Anonymous indices of patients (or cases, or photographs) per split; empty where they are unknown."""
    keys = archive.keys
    splits = [split for split in SPLITS if f"{split}_images" in keys]
    suffix = next(
        (suffix for suffix in GROUP_KEYS if any(f"{split}_{suffix}" in keys for split in splits)), None
    )
    if suffix is None:
        return {}
    names = [archive.read(f"{split}_{suffix}").ravel() for split in splits]
    # Names are the same person's in every source; bare numbers mean something in their own source only.
    own = "p" if all(part.dtype.kind in "US" for part in names) else f"{archive.name} "
    numbers = anonymous([f"{own}{value}" for part in names for value in part.astype(str)])
    parts = dict(zip(splits, np.split(numbers, np.cumsum([len(part) for part in names])[:-1]), strict=True))
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            shared = len(np.intersect1d(parts[one], parts[other]))
            if shared:
                rule = f"every {suffix} belongs in one split only"
                raise DataError(f"{archive.name}: {one} and {other} share {shared} of {suffix}; {rule}")
    return parts


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array of version {version[0]}.{version[1]}")
    return shape, dtype


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
