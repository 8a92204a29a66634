"""Which files make up a set, and their targets: class folders, Decathlon, nnU-Net, DICOM with a CSV."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.data.places import data_dir
from evaluators.data.reading import is_image
from evaluators.data.splits import SPLITS, Kind
from evaluators.settings import Settings
from spaces.errors import DataError, did_you_mean


@dataclass(frozen=True, repr=False)  # names of files and patients show nowhere
class Case:
    """One image (a file or series a modality) with its target: a class, a number, or a mask's file."""

    images: tuple[Path, ...]
    target: int | float | Path
    patient: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """A set of files. Cases of no split are divided by us."""

    name: str
    cases: tuple[Case, ...]
    classes: tuple[str, ...]
    kind: Kind
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    licence: str | None = None


class TableOptions(Settings):
    """Options of `dicom:`: the CSV in the folder, and what its columns are called."""

    labels: str = "labels.csv"
    file: str = "file"
    label: str = "label"
    patient: str = "patient"
    split: str = "split"
    numbers: bool = False


def find_folder(given: str, scheme: str) -> Path:
    """The folder: relative to the current one, or else to `$PARETOPRUNE_DATA`."""
    path, home = Path(given).expanduser(), data_dir()
    if not path.exists() and home is not None:
        path = home / path
    if path.name == "dataset.json":
        path = path.parent
    if not path.is_dir():
        raise DataError(
            f"{scheme}:{Path(given).name}: there is no such folder here, nor under $PARETOPRUNE_DATA"
        )
    return path


def folder(root: Path, pattern: str | None) -> Listing:
    """A folder a class, at the top or inside train, val and test."""
    name = f"folder:{root.name}"
    inside = [split for split in SPLITS if (root / split).is_dir()]
    if inside and not {"train", "val"} <= set(inside):
        raise DataError(f"{name}: has {' and '.join(inside)} only; train and val are needed, or neither")
    places: list[tuple[str | None, Path]] = [(split, root / split) for split in inside] or [(None, root)]
    classes = sorted({entry.name for _, place in places for entry in place.iterdir() if _visible(entry)})
    if len(classes) < 2:
        raise DataError(f"{name}: {len(classes)} class folders; at least two are needed")
    cases = []
    for split, place in places:
        for index, label in enumerate(classes):
            files = sorted(file for file in (place / label).glob("*") if is_image(file) or _visible(file))
            cases += [Case((file,), index, _patient(file, pattern), split) for file in files]
    return Listing(name, tuple(cases), tuple(classes), "classification")


def decathlon(root: Path, pattern: str | None) -> Listing:
    """What a Decathlon's dataset.json lists: training, validation and test, where it has masks."""
    name = f"decathlon:{root.name}"
    table = _described(root, name)
    classes, regions = _labels(table, name)
    cases = []
    has_val = bool(table.get("validation"))
    for key, split in (("training", "train" if has_val else None), ("validation", "val"), ("test", "test")):
        for row in table.get(key, ()):
            if isinstance(row, dict) and "label" in row:
                image, mask = _within(root, row["image"], name), _within(root, row["label"], name)
                cases.append(Case((image,), mask, _patient(image, pattern), split))
    licence = str(table["licence"]) if "licence" in table else None
    return Listing(name, tuple(cases), classes, "segmentation", regions, licence)


def nnunet(root: Path, pattern: str | None) -> Listing:
    """A raw folder of nnU-Net: imagesTr and labelsTr, one file a channel; imagesTs where it has labelsTs."""
    name = f"nnunet:{root.name}"
    table = _described(root, name)
    classes, regions = _labels(table, name)
    channels = table.get("channel_names") or table.get("modality")
    if not isinstance(channels, dict) or not channels:
        raise DataError(f"{name}: its dataset.json has no channel_names")
    ending = str(table.get("file_ending", ".nii.gz"))
    cases = []
    for part, split in (("Tr", None), ("Ts", "test")):
        for mask in sorted((root / f"labels{part}").glob(f"*{ending}")):
            stem = mask.name.removesuffix(ending)
            images = tuple(root / f"images{part}" / f"{stem}_{int(index):04d}{ending}" for index in channels)
            cases.append(Case(images, mask, _patient(mask, pattern), split))
    return Listing(name, tuple(cases), classes, "segmentation", regions)


def table(root: Path, pattern: str | None, options: TableOptions) -> Listing:
    """DICOM files, or folders of series, that a CSV gives labels to."""
    name = f"dicom:{root.name}"
    try:
        with (root / options.labels).open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError(f"{name}: has no readable {options.labels} (data.options.labels)") from None
    columns = [column for column in (rows[0] if rows else {}) if column]
    for needed in ("file", "label"):
        column = getattr(options, needed)
        if column not in columns:
            hint = did_you_mean(column, columns) if columns else "the file has no rows"
            raise DataError(
                f"{name}: {options.labels} has no column {column!r} (data.options.{needed}); {hint}"
            )
    classes = tuple(sorted({str(row[options.label]) for row in rows}))
    cases = []
    for number, row in enumerate(rows, 2):
        label, split = str(row[options.label]), row.get(options.split) or None
        if split not in (None, *SPLITS):
            raise DataError(f"{name}: line {number} of {options.labels}: split is train, val or test")
        try:
            target = float(label) if options.numbers else classes.index(label)
        except ValueError:
            raise DataError(f"{name}: line {number} of {options.labels}: the label is no number") from None
        image = _within(root, row[options.file] or "", name)
        cases.append(Case((image,), target, row.get(options.patient) or _patient(image, pattern), split))
    if options.numbers:
        return Listing(name, tuple(cases), (options.label,), "regression")
    return Listing(name, tuple(cases), classes, "classification")


def _patient(path: Path, pattern: str | None) -> str | None:
    found = re.search(pattern, path.name) if pattern else None
    return found.group(1) if found else None


def _visible(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _within(root: Path, given: str, name: str) -> Path:
    """A path that a file names, refused where it leads out of the folder."""
    path = (root / given).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise DataError(f"{name}: lists a file outside its folder; only files inside are read")
    return path


def _described(root: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{name}: has no readable dataset.json") from None
    if not isinstance(found, dict) or not isinstance(found.get("labels"), dict):
        raise DataError(f"{name}: its dataset.json has no table of labels")
    return found


def _labels(described: Mapping[str, Any], name: str) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Names of the mask values, and the regions: {"0": "background"} or {"background": 0, "core": [2, 3]}."""
    given: dict[str, Any] = described["labels"]
    values: dict[str, tuple[int, ...]]
    try:
        if all(str(key).isdigit() for key in given):
            values = {str(label): (int(key),) for key, label in given.items()}
        else:
            values = {
                str(key): tuple(int(v) for v in (value if isinstance(value, list) else [value]))
                for key, value in given.items()
                if key != "ignore"
            }
    except (TypeError, ValueError):
        raise DataError(f"{name}: labels in its dataset.json must be whole numbers") from None
    highest = max((max(value, default=0) for value in values.values()), default=0)
    if not 1 <= highest <= 255 or min(min(value, default=0) for value in values.values()) < 0:
        raise DataError(f"{name}: labels in its dataset.json go up to {highest}; 1 to 255 are needed")
    alone = {value[0]: label for label, value in values.items() if len(value) == 1}
    classes = tuple(alone.get(index, f"label {index}") for index in range(highest + 1))
    if all(len(value) == 1 for value in values.values()):
        return classes, {}
    return classes, {label: value for label, value in values.items() if value != (0,)}
