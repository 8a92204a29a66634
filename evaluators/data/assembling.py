"""Listed files as `Splits`: read, oriented, resampled, cut into patches, divided by patient."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from evaluators.data import checks
from evaluators.data.dividing import divide, quarters
from evaluators.data.listing import Case, Listing
from evaluators.data.patients import anonymous
from evaluators.data.preparing import Volume, fitted, patches, prepared
from evaluators.data.reading import patient_of, read_scan
from evaluators.data.splits import SPLITS, Splits, Subset
from evaluators.data.volumes import Volumes
from evaluators.settings import DataSettings
from spaces.errors import DataError


def assemble(listing: Listing, settings: DataSettings) -> Splits:
    """The splits of a listing; train and val are read now, test when it is opened.

    Raises:
        DataError: A file cannot be read, images differ in size and no size is set, or a split stays empty.
    """
    if not listing.cases:
        raise DataError(f"{listing.name}: has no images with targets")
    if listing.kind == "segmentation" and settings.patch is None and settings.size is None:
        raise DataError(f"{listing.name}: volumes need data.patch, as patch = [32, 32, 32]")
    parts = _divided(listing, settings)
    for split in ("train", "val"):
        if not parts[split]:
            n = len(listing.cases)
            raise DataError(
                f"{listing.name}: {split} is empty; {n} images are too few, or change data.shares"
            )
    train = _subset(listing, parts["train"], settings, "train")
    return Splits(
        name=listing.name,
        train=train,
        val=_subset(listing, parts["val"], settings, "val"),
        open_test=partial(_subset, listing, parts["test"], settings, "test"),
        n_test=len(parts["test"]) * (settings.patches if _in_patches(listing, settings) else 1),
        classes=listing.classes,
        kind=listing.kind,
        licence=listing.licence,
        regions=listing.regions,
        open_whole=partial(whole, listing, settings) if _in_patches(listing, settings) else None,
    )


def whole(listing: Listing, settings: DataSettings, split: str) -> Volumes:
    """The volumes of a split as they are before patches are cut from them; see `assemble`."""
    cases = _divided(listing, settings)[split]
    read = list(_read(listing, cases, settings, split))
    groups = _hashes(cases, [owner for _, owner in read])
    volumes = Volumes.of(
        [(volume.image, volume.mask) for volume, _ in read if volume.mask is not None], groups
    )
    if settings.normalise == "case":
        return volumes
    return replace(volumes, values=checks.as_pixels(volumes.values, f"{listing.name}: {split}"))


def stamp(listing: Listing) -> str:
    """Hash of what the files are now: names, sizes and times of change."""
    digest = hashlib.sha256(repr((listing.classes, listing.kind, sorted(listing.regions.items()))).encode())
    for case in listing.cases:
        masks = (case.target,) if isinstance(case.target, Path) else ()
        digest.update(repr((case.target, case.patient, case.split)).encode())
        for path in (*case.images, *masks):
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                found = file.stat() if file.exists() else None
                digest.update(repr((str(file), found and (found.st_size, found.st_mtime_ns))).encode())
    return digest.hexdigest()


def _in_patches(listing: Listing, settings: DataSettings) -> bool:
    return listing.kind == "segmentation" and settings.patch is not None


def _divided(listing: Listing, settings: DataSettings) -> dict[str, list[Case]]:
    """Cases by split: as the source says, else by patient; a source with test only gives train and val."""
    parts: dict[str, list[Case]] = {split: [] for split in SPLITS}
    free = [_owned(case) for case in listing.cases if case.split is None]
    for case in listing.cases:
        if case.split is not None:
            parts[case.split].append(case)
    if free:
        shares = np.array(settings.shares)
        if parts["test"]:
            shares[2] = 0
        wanted = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0]
        share = [float(value / shares.sum()) for value in shares if value > 0]
        strata = (
            quarters(np.array([case.target for case in free], dtype=np.float64))
            if listing.kind == "regression"
            else np.array([0 if isinstance(case.target, Path) else int(case.target) for case in free])
        )
        place = divide(strata, _by_appearance(free), share, settings.split_seed)
        for case, index in zip(free, place, strict=True):
            parts[wanted[index]].append(case)
    owners = {
        split: {case.patient for case in cases if case.patient is not None} for split, cases in parts.items()
    }
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := owners[one] & owners[other]:
            rule = "every patient belongs in one split only"
            raise DataError(f"{listing.name}: {one} and {other} share {len(shared)} patients; {rule}")
    return parts


def _owned(case: Case) -> Case:
    """The case with the patient that its DICOM file names, where nobody else does."""
    return case if case.patient is not None else replace(case, patient=patient_of(case.images[0]))


def _by_appearance(cases: Sequence[Case]) -> np.ndarray:
    """Patients numbered as they come (n,), so that splits are the same whatever the installation's salt."""
    numbers: dict[str, int] = {}
    whose = [f"p{case.patient}" if case.patient else f"c{index}" for index, case in enumerate(cases)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in whose], dtype=np.int64)


def _hashes(cases: Sequence[Case], patients: Sequence[str | None] | None = None) -> np.ndarray:
    """Salted 63-bit hashes of whose the cases are (n,) int64; a case of nobody is by itself."""
    named = [case.patient for case in cases] if patients is None else patients
    whose = [f"p{name}" if name else f"c{case.images[0]}" for name, case in zip(named, cases, strict=True)]
    return anonymous(whose)


def _read(
    listing: Listing, cases: Sequence[Case], settings: DataSettings, split: str
) -> Iterator[tuple[Volume, str | None]]:
    """Every case, prepared, with whose it is."""
    if not cases:
        raise DataError(f"{listing.name}: has no {split} images")
    for number, case in enumerate(cases, 1):
        volume, patient = _volume(listing, case, settings, f"{listing.name}: image {number} of {split}")
        yield volume, case.patient or patient


def _subset(listing: Listing, cases: Sequence[Case], settings: DataSettings, split: str) -> Subset:
    in_patches = _in_patches(listing, settings)
    images: list[np.ndarray] = []
    targets: list[np.ndarray | int | float] = []
    owners: list[str | None] = []
    for case, (volume, owner) in zip(cases, _read(listing, cases, settings, split), strict=True):
        if in_patches:
            assert settings.patch is not None
            cut = patches(volume, settings.patch, settings.patches, settings.split_seed)
            images += [image for image, _ in cut]
            targets += [mask for _, mask in cut]
        else:
            images.append(volume.image)
            targets.append(volume.mask if volume.mask is not None else case.target)  # type: ignore[arg-type]
        owners += [owner] * (settings.patches if in_patches else 1)
        shapes = {image.shape for image in images[:1] + images[-1:]}
        if len(shapes) > 1:
            shown = " and ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
            raise DataError(
                f"{listing.name}: {split} holds images of {shown}; set data.size, as size = [64, 64]"
            )
    each = settings.patches if in_patches else 1
    repeated = [case for case in cases for _ in range(each)]
    groups = _hashes(repeated, owners)
    stacked = np.stack(images)
    if settings.normalise != "case":
        stacked = checks.as_pixels(stacked, f"{listing.name}: {split}")
    dtype = {"segmentation": np.uint8, "regression": np.float32}.get(listing.kind, np.int64)
    return Subset(stacked, np.asarray(targets, dtype=dtype), groups)


def _volume(listing: Listing, case: Case, settings: DataSettings, where: str) -> tuple[Volume, str | None]:
    """A case with its mask, oriented, resampled, and of the size asked for."""
    scans = [read_scan(path, where) for path in case.images]
    if len({scan.values.shape for scan in scans}) > 1:
        raise DataError(f"{where}: its channels differ in size")
    masks = read_scan(case.target, f"{where}, its mask") if isinstance(case.target, Path) else None
    volume = prepared(scans, masks, settings, where)
    if volume.mask is not None and int(volume.mask.max()) >= len(listing.classes):
        highest, n = int(volume.mask.max()), len(listing.classes)
        raise DataError(f"{where}: its mask holds {highest}; with {n} classes, indices go from 0 to {n - 1}")
    return fitted(volume, settings, where), scans[0].patient
