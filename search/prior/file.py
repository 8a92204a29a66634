"""Prior files: safetensors with a JSON header. Nothing in them can run code; what was changed is refused."""

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evaluators.files import replacing
from search.controllers.structured.belief import PIECES
from search.prior.corpus import Origin
from search.prior.features import GROUP_FEATURES
from search.prior.lessons import Lesson
from search.prior.model import Choice, LayerPrior
from spaces.errors import ConfigError, InputError

FORMAT = "paretoprune-prior"
VERSION = 3
"""Raised with every change of what the features or the lessons mean."""

BUILTIN = "builtin"
"""Name of the prior that comes with the program."""

_ARRAYS = ("features", "slopes", "errors", "front", "levels", "steepness")


def save_prior(prior: LayerPrior, path: str | Path) -> LayerPrior:
    """Write a prior; returns it with the hash of its content.

    Raises:
        InputError: The file cannot be written, or is something else.
    """
    check_out(path)
    arrays = {
        f"{i}.{name}": np.ascontiguousarray(np.atleast_1d(getattr(lesson, name)), dtype=np.float64)
        for i, lesson in enumerate(prior.lessons)
        for name in _ARRAYS
    }
    about = json.dumps(
        {
            "version": VERSION,
            "group_features": GROUP_FEATURES,
            "curve": PIECES,
            "choice": asdict(prior.choice),
            "origins": [asdict(lesson.origin) for lesson in prior.lessons],
            "quality": dict(prior.quality),
        },
        sort_keys=True,
    )
    digest = _digest(about, arrays)
    content = save(arrays, {"format": FORMAT, "about": about, "sha256": digest})
    try:
        with replacing(Path(path)) as temporary:
            Path(temporary).write_bytes(content)
    except OSError as error:
        raise InputError(
            f"the prior cannot be written to {str(path)!r}: {error.strerror}; choose another --out"
        ) from None
    return replace(prior, sha256=digest)


def check_out(path: str | Path) -> None:
    """Whether a prior can be written there: to know it before one is fitted.

    Raises:
        InputError: The file cannot be written, or is something else, which would be lost.
    """
    path = Path(path)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        reason = f"there is no folder {str(path.parent)!r} to write to"
    elif path.is_dir():
        reason = "it is a folder"
    elif path.exists() and not _is_prior(path):
        reason = "it is there, and is no prior"
    else:
        return
    raise InputError(f"the prior cannot be written to {str(path)!r}: {reason}; choose another --out")


def _is_prior(path: Path) -> bool:
    try:
        with safe_open(str(path), "numpy") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_prior(path: str | Path) -> LayerPrior:
    """Read a prior; "builtin" is the one that comes with the program.

    Raises:
        ConfigError: There is no such file, it is no prior, of another version, or not as it was written.
    """
    where = f"the prior {str(path)!r}"
    if str(path) == BUILTIN:
        path = Path(__file__).with_name("builtin.safetensors")
    if Path(path).is_dir():
        raise ConfigError(f"{where} is a folder; name the file that `paretoprune prior fit` wrote")
    try:
        with safe_open(str(path), "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except FileNotFoundError:
        raise ConfigError(f"{where} is not there; `paretoprune prior fit` makes one") from None
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{where} cannot be read ({error}): it is no prior, or damaged; `paretoprune prior fit` makes one"
        ) from None
    if header.get("format") != FORMAT:
        raise ConfigError(f"{where} is a safetensors file, but no prior; `paretoprune prior fit` makes one")
    try:
        about = json.loads(header["about"])
        version = about["version"]
        if version != VERSION:
            raise ConfigError(
                f"{where} has version {version}, but this program reads version {VERSION}; fit it again "
                "from the stores that it came from"
            )
        if header["sha256"] != _digest(header["about"], arrays):
            raise ConfigError(f"{where} was changed after it was written; fit it again, or take a copy")
        if about["group_features"] != list(GROUP_FEATURES) or about["curve"] != PIECES:
            raise ConfigError(
                f"{where} is about other features of groups than this program describes; fit it again from "
                "the stores that it came from"
            )
        return LayerPrior(
            tuple(_lesson(i, origin, arrays) for i, origin in enumerate(about["origins"])),
            Choice(**about["choice"]),
            about["quality"],
            header["sha256"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{where} is damaged ({error!r}); fit it again, or take a copy") from None


def _lesson(i: int, origin: dict[str, Any], arrays: dict[str, np.ndarray]) -> Lesson:
    found: dict[str, Any] = {name: arrays[f"{i}.{name}"] for name in _ARRAYS}
    return Lesson(origin=Origin(**origin), **found | {"steepness": float(found["steepness"][0])})


def _digest(about: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
