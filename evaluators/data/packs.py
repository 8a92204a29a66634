"""Decoded images in the user's cache: read once, found by what the files are, sealed where a key is set."""

import contextlib
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from evaluators.data.assembling import assemble, stamp
from evaluators.data.listing import Listing
from evaluators.data.npz import Archive
from evaluators.data.places import cache_dir
from evaluators.data.sealed import has_key, seal
from evaluators.data.splits import SPLITS, Splits, Subset
from evaluators.settings import DataSettings
from spaces.errors import DataError

VERSION = 1
"""Raise it with every change after which the same files give other arrays."""

_SETTINGS = {"normalise", "shares", "split_seed", "patient", "size", "spacing", "patch", "patches"}


def packed(listing: Listing, settings: DataSettings) -> Splits:
    """The splits of a listing, from the cache if its files have been read before; see `assemble`."""
    asked = settings.model_dump_json(include=_SETTINGS)
    key = hashlib.sha256(f"{VERSION} {has_key()} {asked} {stamp(listing)}".encode()).hexdigest()
    path = cache_dir() / f"pack-{key[:40]}.npz"
    if path.is_file():
        try:
            splits = _unpacked(path, listing)
            with contextlib.suppress(OSError):
                path.touch()  # used now: see `clean`
            return splits
        except DataError:
            pass  # torn, or under another key: made again
    splits = assemble(listing, settings)
    try:
        parts = {"train": splits.train, "val": splits.val}
        if splits.n_test:
            parts["test"] = splits.open_test()
        _write(path, parts)
    except (DataError, OSError):  # bad test images are told of when they are opened; no room: no cache
        return splits
    return replace(splits, train=_kept(splits.train), val=_kept(splits.val))


def _kept(subset: Subset) -> Subset:
    return replace(subset, sealed=has_key())


def _unpacked(path: Path, listing: Listing) -> Splits:
    archive = Archive(path, listing.name)
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


def _write(path: Path, parts: Mapping[str, Subset]) -> None:
    """Write beside and rename, readable by the user alone: a file of that name is always whole."""
    arrays = {
        f"{split}_{part}": getattr(subset, part)
        for split, subset in parts.items()
        for part in ("images", "targets", "groups")
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
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
