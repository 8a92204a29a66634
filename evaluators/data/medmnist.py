"""`medmnist:NAME`: the MedMNIST sets, from `$PARETOPRUNE_DATA`, from the cache, or downloaded into it."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from evaluators.data import npz
from evaluators.data.medmnist_sets import ADDRESS, SETS
from evaluators.data.places import cache_dir, data_dir
from evaluators.data.splits import Splits
from evaluators.settings import Settings
from spaces.errors import ConfigError, DataError, did_you_mean


class Options(Settings):
    """Options of `medmnist:`."""

    size: Literal[28, 64, 128, 224] = 28


def load(name: str, options: Options) -> Splits:
    """The splits of a MedMNIST set at the size asked for."""
    if name not in SETS:
        raise DataError(
            f"medmnist:{name}: no such set (sizes: data.options.size); {did_you_mean(name, SETS)}"
        )
    known = SETS[name]
    if options.size not in known.md5:
        sizes = ", ".join(str(size) for size in known.md5)
        raise ConfigError(f"data.options.size = {options.size}: medmnist:{name} comes in {sizes}")
    path = find(name, options.size)
    source = f"medmnist:{name}" if options.size == 28 else f"medmnist:{name} at {options.size} pixels"
    volumes = name.endswith("3d")
    return npz.read(path, source, volumes=volumes, classes=known.classes, licence=known.licence)


def fetch(name: str, size: int = 28) -> Path:
    """The file of a set, downloaded if need be; see `find`.

    Raises:
        DataError: There is no such set or size, or it cannot be downloaded.
    """
    if name not in SETS:
        raise DataError(f"medmnist:{name}: no such set; {did_you_mean(name, SETS)}")
    if size not in SETS[name].md5:
        sizes = ", ".join(str(size) for size in SETS[name].md5)
        raise DataError(f"medmnist:{name} comes in {sizes} pixels, not {size}")
    return find(name, size)


def find(name: str, size: int = 28) -> Path:
    """The file of a set: the user's own (trusted for its content), the cached, or now downloaded one."""
    file = f"{name}.npz" if size == 28 else f"{name}_{size}.npz"
    folder = data_dir()
    if folder is not None and (folder / file).is_file():
        return folder / file
    cached = cache_dir() / file
    if not cached.is_file():
        _download(ADDRESS.format(file=file), cached, SETS[name].md5[size], name)
    return cached


def _download(address: str, to: Path, md5: str, name: str) -> None:
    """Download, check, and only then put in place: whatever interrupts it, no half file is left behind."""
    from monai.apps.utils import HashCheckError, download_url  # seconds to import, and seldom needed

    way_out = f"download {address} yourself into a folder and set PARETOPRUNE_DATA to it"
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".download-") as folder, _quiet():
            part = Path(folder) / to.name
            download_url(address, part, hash_val=md5, hash_type="md5", progress=False)
            os.replace(part, to)
    except HashCheckError:
        reason = "what was downloaded is not the official file (its MD5 differs)"
        raise DataError(f"medmnist:{name}: {reason}; try again, or {way_out}") from None
    except (OSError, RuntimeError) as error:  # URLError and the like are OSErrors
        raise DataError(f"medmnist:{name}: cannot be downloaded ({error}); {way_out}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """MONAI logs downloads to standard output, which belongs to results."""
    logger = logging.getLogger("monai.apps")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was
