"""Where images are looked for, and where downloads are kept."""

import contextlib
import os
import secrets
from functools import cache
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


@cache
def salt() -> bytes:
    """32 random bytes of this installation, kept in the cache: without them no hash leads to a patient."""
    path = cache_dir() / "salt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(secrets.token_bytes(32))
        if len(found := path.read_bytes()) == 32:
            return found
    except OSError:
        pass  # nowhere to keep it: patients are then known to this process alone
    return secrets.token_bytes(32)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
