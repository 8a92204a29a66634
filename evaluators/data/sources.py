"""Sources of images by URI-like name (`scheme:rest`), and what is done to all of them alike."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from evaluators.data import listing, medmnist, npz, phantoms
from evaluators.data.joining import joined, mapped, numbered
from evaluators.data.listing import Listing, find_folder
from evaluators.data.normalisation import case_normalised
from evaluators.data.packs import packed
from evaluators.data.splits import Splits, Subset, isin_images
from evaluators.data.volumes import Volumes
from evaluators.settings import DataSettings, Settings
from spaces.errors import ConfigError, DataError, did_you_mean


class NoOptions(Settings):
    """A source without options."""


@dataclass(frozen=True)
class Source:
    """A scheme: how it is written, what options it takes, and what loads it from the rest of the name."""

    usage: str
    options: Callable[[str], type[Settings]]
    load: Callable[[str, Any, DataSettings], Splits]
    files: bool = False  # one a case: follows `_OF_FILES`, and normalises every case itself where asked


def _listed(scheme: str, lister: Callable[[Path, str | None], Listing]) -> Source:
    def load(rest: str, options: Any, settings: DataSettings) -> Splits:
        return packed(lister(find_folder(rest, scheme), settings.patient), settings)

    return Source(f"{scheme}:FOLDER", lambda rest: NoOptions, load, files=True)


def _table(rest: str, options: Any, settings: DataSettings) -> Splits:
    return packed(listing.table(find_folder(rest, "dicom"), settings.patient, options), settings)


SOURCES: Mapping[str, Source] = {
    "medmnist": Source(
        "medmnist:NAME", lambda rest: medmnist.Options, lambda rest, o, s: medmnist.load(rest, o)
    ),
    "npz": Source("npz:PATH", lambda rest: NoOptions, lambda rest, o, s: npz.load(rest)),
    "folder": _listed("folder", listing.folder),
    "decathlon": _listed("decathlon", listing.decathlon),
    "nnunet": _listed("nnunet", listing.nnunet),
    "dicom": Source("dicom:FOLDER", lambda rest: listing.TableOptions, _table, files=True),
    "phantom": Source("phantom:KIND", phantoms.options, lambda rest, o, s: phantoms.load(rest, o)),
}
"""Scheme -> source; a new kind of source is one more row."""


_OF_FILES = ("size", "spacing", "patch", "patient")
"""Settings of [data] that only sources of files follow."""


def source_names() -> list[str]:
    """How sources are written: `medmnist:NAME`, `npz:PATH`, ..."""
    return [source.usage for source in SOURCES.values()]


def load_splits(settings: DataSettings) -> Splits:
    """The images that the settings name, checked, without duplicates across splits, limited.

    Raises:
        ConfigError: The source or one of its options is unknown.
        DataError: The images cannot be had or cannot be used.
    """
    whole = joined([_one(given, settings) for given in settings.sources])
    _check_followed(settings)
    splits = replace(_without_duplicates(numbered(whole)), normalise=settings.normalise)
    _check_limits(settings, splits)
    splits = replace(
        splits,
        train=splits.train.limit(settings.train_limit or len(splits.train)),
        val=splits.val.limit(settings.val_limit or len(splits.val)),
    )
    _check_classes(splits)
    if splits.open_whole is None or not settings.whole:
        return replace(splits, open_whole=None)
    return replace(splits, open_whole=partial(_limited, splits.open_whole, settings.val_limit))


def _limited(opened: Callable[[str], Volumes], limit: int | None, split: str) -> Volumes:
    volumes = opened(split)
    return volumes.limit(limit) if limit is not None and split == "val" else volumes


def _one(given: str, settings: DataSettings) -> Splits:
    """One source, as it is."""
    scheme, colon, rest = given.partition(":")
    if scheme not in SOURCES:
        hint = did_you_mean(scheme, SOURCES) if colon else f"write one of {', '.join(source_names())}"
        raise ConfigError(f"data.source = {given!r}: no such kind of source; {hint}")
    if not rest:
        raise ConfigError(f"data.source = {given!r}: write it as {SOURCES[scheme].usage}")
    source = SOURCES[scheme]
    splits = source.load(rest, _options(source.options(rest), settings.options, given), settings)
    if settings.normalise != "case" or source.files:
        return splits
    return mapped(splits, _by_case)


def _by_case(subset: Subset) -> Subset:
    return replace(subset, images=case_normalised(subset.images))


def _options(model: type[Settings], given: Mapping[str, Any], source: str) -> Settings:
    try:
        return model(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
    if key not in model.model_fields:
        if not model.model_fields:
            raise ConfigError(f"data.options.{key}: {source} has no options")
        raise ConfigError(
            f"data.options.{key}: no such option of {source}; {did_you_mean(key, model.model_fields)}"
        )
    raise ConfigError(f"data.options.{key} = {first['input']!r}: {first['msg'].lower()}")


def _without_duplicates(splits: Splits) -> Splits:
    """Take out of train whatever is in val or test, value for value: what others report stays as it is."""
    elsewhere = [splits.val]
    with contextlib.suppress(DataError):  # test images that cannot be used are told of when they are opened
        elsewhere.append(splits.open_test())
    keep = ~isin_images(splits.train.images, [subset.images for subset in elsewhere])
    for subset in elsewhere:
        if splits.train.groups is not None and subset.groups is not None:
            keep &= ~np.isin(splits.train.groups, subset.groups)
    if keep.all():
        return splits
    if not keep.any():
        raise DataError(
            f"{splits.name}: all training images are in val or test too; the splits must be different images"
        )
    return replace(
        splits, train=splits.train.take(np.flatnonzero(keep)), duplicates_removed=int((~keep).sum())
    )


def _check_followed(settings: DataSettings) -> None:
    """Refuse settings that none of the sources looks at."""
    if any(SOURCES[given.partition(":")[0]].files for given in settings.sources):
        return
    if ignored := [name for name in _OF_FILES if getattr(settings, name) is not None]:
        files = ", ".join(f"{scheme}:" for scheme, source in SOURCES.items() if source.files)
        raise ConfigError(
            f"data.{ignored[0]} is for sources of files ({files}); {', '.join(settings.sources)} has its "
            "images ready: leave it out"
        )


def check_units(splits: Splits) -> None:
    """Refuse val of a single case or patient: no difference could be told from noise.

    Raises:
        DataError: It is one.
    """
    groups = splits.val.groups
    if (len(splits.val) if groups is None else len(np.unique(groups))) < 2:
        whose = "one case" if len(splits.val) == 1 else "cases of one patient"
        raise DataError(f"{splits.name}: val holds {whose}; at least two are needed to tell any difference")


def _check_limits(settings: DataSettings, splits: Splits) -> None:
    if splits.kind != "classification":
        return
    for key in ("train_limit", "val_limit"):
        limit = getattr(settings, key)
        if limit is not None and limit < len(splits.classes):
            raise ConfigError(
                f"data.{key} = {limit}: fewer than the {len(splits.classes)} classes of {splits.name}"
            )


def _check_classes(splits: Splits) -> None:
    if splits.kind not in ("classification", "segmentation"):
        return
    for name, subset in (("train", splits.train), ("val", splits.val)):
        counts = subset.class_counts(len(splits.classes))
        if np.count_nonzero(counts) < 2:
            only = splits.classes[int(np.argmax(counts))]
            raise DataError(
                f"{splits.name}: {name} holds class {only!r} only; at least two classes are needed"
            )
