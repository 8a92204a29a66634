"""Files that are whole or not there, and errors about them in one line."""

import os
from pathlib import Path

from evaluators.files import replacing
from spaces.errors import InputError, NetworkError


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside and rename; folders on the way are made.

    Raises:
        InputError: It cannot be written there.
    """
    try:
        with replacing(path) as temporary:
            Path(temporary).write_bytes(content)
            os.chmod(temporary, 0o666 & ~_umask())
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(folder: Path, error: OSError) -> InputError:
    """The error about a folder that cannot be written."""
    return InputError(f"cannot write into {str(folder)!r}: {error.strerror}; choose another folder")


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        NetworkError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise NetworkError(f"cannot read {str(path)!r}: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
