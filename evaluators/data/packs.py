"""Decoded images in the user's cache: read once, found by what the files are, sealed where a key is set."""

import contextlib
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from evaluators.data.assembling import assemble, stamp, whole
from evaluators.data.listing import Listing
from evaluators.data.npz import Archive
from evaluators.data.places import cache_dir
from evaluators.data.sealed import has_key, seal
from evaluators.data.splits import SPLITS, Splits, Subset
from evaluators.data.volumes import Volumes
from evaluators.settings import DataSettings
from spaces.errors import DataError

VERSION = 3
"""Raise it with every change after which the same files give other arrays."""

T = TypeVar("T")

_OF_VOLUMES = ("values", "masks", "shapes", "groups")
_SETTINGS = {"normalise", "shares", "split_seed", "patient", "size", "spacing", "patch", "patches"}


def packed(listing: Listing, settings: DataSettings) -> Splits:
    """The splits of a listing, from the cache if its files have been read before; see `assemble`."""
    path = _place(listing, settings, "")
    splits = _cached(path, listing.name, partial(_unpacked, listing))
    if splits is None:
        splits = assemble(listing, settings)
        splits = replace(splits, train=_kept(splits.train), val=_kept(splits.val))
        with contextlib.suppress(
            DataError, OSError
        ):  # bad test images: told of when opened; no room: no cache
            parts = {"train": splits.train, "val": splits.val}
            if splits.n_test:
                parts["test"] = splits.open_test()
            _write(path, _arrays(parts))
    in_patches = listing.kind == "segmentation" and settings.patch is not None
    return replace(splits, open_whole=partial(_whole, listing, settings) if in_patches else None)


def _whole(listing: Listing, settings: DataSettings, split: str) -> Volumes:
    """Whole volumes, from the cache if they have been read before."""
    path = _place(listing, settings, f"-whole-{split}")
    volumes = _cached(path, listing.name, _volumes)
    if volumes is None:
        volumes = replace(whole(listing, settings, split), sealed=has_key())
        with contextlib.suppress(OSError):
            _write(path, {name: getattr(volumes, name) for name in _OF_VOLUMES})
    return volumes


def _place(listing: Listing, settings: DataSettings, what: str) -> Path:
    asked = settings.model_dump_json(include=_SETTINGS)
    key = hashlib.sha256(f"{VERSION} {has_key()} {asked} {stamp(listing)}".encode()).hexdigest()
    return cache_dir() / f"pack-{key[:40]}{what}.npz"


def _cached(path: Path, name: str, read: Callable[[Archive], T]) -> T | None:
    """What is in the pack; None where there is none, or it is torn or under another key."""
    if not path.is_file():
        return None
    try:
        found = read(Archive(path, name))
    except DataError:
        return None
    with contextlib.suppress(OSError):
        path.touch()  # used now: see `clean`
    return found


def _kept(subset: Subset) -> Subset:
    return replace(subset, sealed=has_key())


def _volumes(archive: Archive) -> Volumes:
    values, masks, shapes, groups = (archive.read(name) for name in _OF_VOLUMES)
    return Volumes(values, masks, shapes, groups, archive.sealed)


def _unpacked(listing: Listing, archive: Archive) -> Splits:
    held = [split for split in SPLITS if f"{split}_images" in archive.keys]
    if not {"train", "val"} <= set(held):
        raise DataError(f"{listing.name}: its cache is incomplete")
    return Splits(
        name=listing.name,
        train=_read(archive, "train"),
        val=_read(archive, "val"),
        open_test=partial(_read, archive, "test"),
        n_test=archive.length("test_images") if "test" in held else 0,
        classes=listing.classes,
        kind=listing.kind,
        licence=listing.licence,
        regions=listing.regions,
    )


def _read(archive: Archive, split: str) -> Subset:
    if split == "test" and "test_images" not in archive.keys:
        raise DataError(f"{archive.name}: has no test images")
    images, targets, groups = (archive.read(f"{split}_{part}") for part in ("images", "targets", "groups"))
    return Subset(images, targets, groups, archive.sealed)


def _arrays(parts: Mapping[str, Subset]) -> dict[str, np.ndarray]:
    return {
        f"{split}_{part}": getattr(subset, part)
        for split, subset in parts.items()
        for part in ("images", "targets", "groups")
    }


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write beside and rename, readable by the user alone: a file of that name is always whole."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stubs take them for a flag
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(seal(buffer.getvalue()) if has_key() else buffer.getbuffer())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clean(days: int) -> tuple[list[int], list[int]]:
    """Remove packs that were not used for so many days, and what interrupted writing left behind.

    Returns:
        Bytes of each that was removed, and of each that was kept.
    """
    removed, kept = [], []
    before = time.time() - days * 86_400
    for path in [*cache_dir().glob("pack-*.npz"), *cache_dir().glob("*.part")]:
        found = path.stat()
        if found.st_mtime > before:
            kept.append(found.st_size)
            continue
        path.unlink(missing_ok=True)
        removed.append(found.st_size)
    return removed, kept


def as_npz(splits: Splits) -> bytes:
    """The splits, test included, in the layout that `npz:` reads.

    Raises:
        DataError: The layout has no place for these targets.
    """
    if splits.regions:
        raise DataError(f"{splits.name}: regions have no place in an npz file; name them in task.regions")
    suffix = "masks" if splits.kind == "segmentation" else "labels"
    parts = {"train": splits.train, "val": splits.val}
    if splits.n_test:
        parts["test"] = splits.open_test()
    named = splits.kind != "regression"
    arrays: dict[str, np.ndarray] = {"class_names": np.array(splits.classes)} if named else {}
    for split, subset in parts.items():
        arrays[f"{split}_images"] = np.moveaxis(subset.images, 1, -1)
        arrays[f"{split}_{suffix}"] = subset.targets
        if subset.groups is not None:
            arrays[f"{split}_patient"] = subset.groups
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stubs take them for a flag
    return buffer.getvalue()
