"""Where images are looked for, and where downloads are kept."""

import os
from pathlib import Path

from spaces.errors import DataError


def data_dir() -> Path | None:
    """The folder of the user's own images, `$PARETOPRUNE_DATA`; None: not set."""
    named = os.environ.get("PARETOPRUNE_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"$PARETOPRUNE_DATA is {named!r}, which is no folder; correct it or unset it")
    return folder


def cache_dir() -> Path:
    """The folder of downloads: `$PARETOPRUNE_CACHE`, or `paretoprune` in the user's cache; may not exist."""
    if named := os.environ.get("PARETOPRUNE_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "paretoprune"
