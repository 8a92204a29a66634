"""Records to the columns of a row and back, exactly and without pickle."""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from spaces.messages import Genome, Outcome, Record, Trial

_LENGTH = struct.Struct("<I")
_WORTH_COMPRESSING = 0.9


def encode_record(record: Record, fingerprint: str) -> dict[str, Any]:
    """The columns of a trial's row, all but the campaign's id; equal records give equal bytes."""
    trial, outcome = record.trial, record.outcome
    return {
        "number": trial.number,
        "identity": identity(fingerprint, trial),
        "fingerprint": fingerprint,
        "genome": encode_genome(trial.genome),
        "rung": trial.rung,
        "replicate": trial.replicate,
        "fold": trial.fold,
        "status": outcome.status,
        "measured": encode_numbers(outcome.values),
        "costs": encode_numbers(record.costs),
        "timings": encode_numbers(outcome.timings),
        "error": None if outcome.error is None else _storable(outcome.error),
        "per_case": encode_arrays(outcome.per_case),
    }


def decode_record(row: Mapping[str, Any]) -> Record:
    """The record whose columns these are; without "per_case" among them, one without arrays."""
    genome = decode_genome(row["genome"])
    trial = Trial(row["number"], genome, row["rung"], row["replicate"], row["fold"])
    outcome = Outcome(
        number=row["number"],
        status=row["status"],
        values=decode_numbers(row["measured"]),
        per_case=decode_arrays(row["per_case"]) if "per_case" in row else {},
        timings=decode_numbers(row["timings"]),
        error=row["error"],
    )
    return Record(trial, outcome, decode_numbers(row["costs"]))


def identity(fingerprint: str, trial: Trial) -> str:
    """SHA-256 of what an evaluation depends on, its number apart: the key of the evaluation cache."""
    key = json.dumps([fingerprint, encode_genome(trial.genome), trial.rung, trial.replicate, trial.fold])
    return hashlib.sha256(key.encode()).hexdigest()


def encode_genome(genome: Genome) -> str:
    """A genome as JSON: [64,32]."""
    return json.dumps([int(kept) for kept in genome], separators=(",", ":"))


def decode_genome(text: str) -> Genome:
    """The genome in that JSON."""
    return tuple(json.loads(text))


def encode_numbers(numbers: Mapping[str, float]) -> str:
    """Named numbers as JSON that reads back to the last bit; what JSON lacks becomes "nan" or "inf"."""
    plain = {name: float(value) for name, value in numbers.items()}
    return json.dumps({name: v if np.isfinite(v) else str(v) for name, v in plain.items()})


def decode_numbers(text: str) -> dict[str, float]:
    """The named numbers in that JSON."""
    return {name: float(value) for name, value in json.loads(text).items()}


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays of numbers as one blob; equal arrays give equal bytes, no arrays give none.

    The blob is one byte ("0": plain, "1": the values are zlib-compressed, where that saves a tenth), the
    header's length (4 bytes, little-endian), the header (JSON: name, NumPy type and shape of each array,
    sorted by name), then the arrays' values one after the other in C order. An .npz file would take ten
    times as long to read.

    Raises:
        ValueError: An array of something else than numbers.
    """
    if not arrays:
        return b""
    plain = [(name, np.asarray(arrays[name], order="C")) for name in sorted(arrays)]
    header = json.dumps([[name, _dtype(a.dtype.str).str, list(a.shape)] for name, a in plain]).encode()
    values = b"".join(array.tobytes() for _, array in plain)
    packed = zlib.compress(values, level=1)
    pays = len(packed) < _WORTH_COMPRESSING * len(values)
    return (b"1" if pays else b"0") + _LENGTH.pack(len(header)) + header + (packed if pays else values)


def decode_arrays(blob: bytes) -> dict[str, np.ndarray]:
    """The named arrays in that blob.

    Raises:
        ValueError: It is damaged.
    """
    if not blob:
        return {}
    try:
        start = 1 + _LENGTH.size
        (length,) = _LENGTH.unpack(blob[1:start])
        header, values = json.loads(blob[start : start + length]), blob[start + length :]
        return _split(header, zlib.decompress(values) if blob[:1] == b"1" else values)
    except (struct.error, zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"damaged arrays: {error}") from None


def _split(header: Any, values: bytes) -> dict[str, np.ndarray]:
    arrays, offset = {}, 0
    for name, kind, shape in header:
        count = math.prod(shape)
        array = np.frombuffer(values, _dtype(kind), count, offset) if count else np.empty(0, _dtype(kind))
        arrays[name] = array.reshape(shape).copy()
        offset += array.nbytes
    if offset != len(values):
        raise ValueError(f"{len(values)} bytes of values where {offset} were expected")
    return arrays


def _dtype(name: str) -> np.dtype[Any]:
    """A type of numbers; never objects, which only pickle could store."""
    dtype = np.dtype(name)
    if dtype.kind not in "biufc":
        raise ValueError(f"per-case arrays hold numbers, not {dtype}")
    return dtype


def _storable(text: str) -> str:
    """The text without what databases refuse: lone surrogates (undecodable file names) and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
