"""Images at rest: AES-256-GCM in chunks, read at any place without decrypting the rest.

Layout: magic, 32 random bytes, key id, chunk size, length; then the chunks, each with its tag. Every file has
a key of its own (HKDF of the user's key and the random bytes). The nonce of a chunk is its number and whether
it is the last (the STREAM construction, Hoang, Reyhanitabar, Rogaway and Vizar 2015), and the header is
authenticated with every chunk: reordering, truncation and a changed header are found out.

The key comes from `$PARETOPRUNE_KEY` (64 hex digits) or from the file that `$PARETOPRUNE_KEY_FILE` names, and
from nowhere else.
"""

import io
import os
import secrets
import struct
from pathlib import Path
from typing import Any, BinaryIO

from spaces.errors import ConfigError, DataError

MAGIC = b"PPSEAL1\n"
CHUNK = 2**20
_HEADER = struct.Struct(">8s32s8sIQ")
_TAG = 16
_WAY_OUT = (
    "set PARETOPRUNE_KEY to 64 hex digits (openssl rand -hex 32), or PARETOPRUNE_KEY_FILE to their file"
)


def has_key() -> bool:
    """Whether the user has given a key."""
    return bool(os.environ.get("PARETOPRUNE_KEY") or os.environ.get("PARETOPRUNE_KEY_FILE"))


def is_sealed(path: Path) -> bool:
    """Whether the file begins like a sealed one; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def seal(content: bytes, chunk: int = CHUNK) -> bytes:
    """The content encrypted under the user's key.

    Raises:
        ConfigError: There is no key, or it is none.
    """
    key, salt = _user_key(), secrets.token_bytes(32)
    header = _HEADER.pack(MAGIC, salt, _derived(key, salt, b"key id", 8), chunk, len(content))
    cipher = _cipher(key, salt)
    n = _n_chunks(len(content), chunk)
    parts = [
        cipher.encrypt(_nonce(index, n), content[index * chunk : (index + 1) * chunk], header)
        for index in range(n)
    ]
    return b"".join([header, *parts])


def unseal(content: bytes, name: str) -> bytes:
    """What was sealed; `name` begins the error messages.

    Raises:
        ConfigError: There is no key, or it is none.
        DataError: The key is another one, or the content was damaged, cut or tampered with.
    """
    return open_sealed(io.BytesIO(content), name).read()


def open_sealed(file: BinaryIO, name: str) -> io.BufferedReader:
    """A sealed file as if it were plain: seekable, decrypted chunk by chunk; see `unseal`."""
    return io.BufferedReader(_SealedReader(file, name), CHUNK)


class _SealedReader(io.RawIOBase):
    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name, self._place = file, name, 0
        self._header = file.read(_HEADER.size)
        if len(self._header) < _HEADER.size:
            raise DataError(f"{name}: the encrypted file is cut")
        magic, salt, key_id, self._chunk, self._length = _HEADER.unpack(self._header)
        if magic != MAGIC or not 0 < self._chunk <= 2**30:
            raise DataError(f"{name}: is no encrypted file of ours")
        key = _user_key()
        if not secrets.compare_digest(key_id, _derived(key, salt, b"key id", 8)):
            raise DataError(f"{name}: was encrypted with another key than the one that is set")
        self._n = _n_chunks(self._length, self._chunk)
        if file.seek(0, 2) != _HEADER.size + self._length + self._n * _TAG:
            raise DataError(f"{name}: the encrypted file is cut, or something was added")
        self._cipher = _cipher(key, salt)
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, self._length)[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._place >= self._length and self._length:
            return 0
        index, start = divmod(self._place, self._chunk)
        part = self._plain(index)[start : start + len(view)]
        view[: len(part)] = part
        self._place += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _plain(self, index: int) -> bytes:
        from cryptography.exceptions import InvalidTag

        if self._held[0] != index:
            self._file.seek(_HEADER.size + index * (self._chunk + _TAG))
            try:
                sealed = self._file.read(self._chunk + _TAG)
                self._held = index, self._cipher.decrypt(_nonce(index, self._n), sealed, self._header)
            except InvalidTag:
                raise DataError(f"{self._name}: the encrypted file is damaged or was tampered with") from None
        return self._held[1]


def _n_chunks(length: int, chunk: int) -> int:
    return max(1, -(-length // chunk))


def _nonce(index: int, n: int) -> bytes:
    return index.to_bytes(11, "big") + bytes([index + 1 == n])


def _cipher(key: bytes, salt: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derived(key, salt, b"images", 32))


def _derived(key: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt, b"paretoprune sealed " + purpose).derive(key)


def _user_key() -> bytes:
    text, file = os.environ.get("PARETOPRUNE_KEY"), os.environ.get("PARETOPRUNE_KEY_FILE")
    if not text and file:
        try:
            text = Path(file).expanduser().read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"the key file cannot be read; {_WAY_OUT}") from None
    if not text:
        raise ConfigError(f"these images are encrypted and no key is set; {_WAY_OUT}")
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"the key that is set is no key; {_WAY_OUT}")
    return key
