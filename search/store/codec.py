"""Records to the columns of a row and back, exactly and without pickle."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from spaces.messages import Genome, Outcome, Record, Trial

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_WORTH_COMPRESSING = 0.9


def encode_record(record: Record, fingerprint: str) -> dict[str, Any]:
    """The columns of a trial's row, all but the campaign's id; equal records give equal bytes."""
    trial, outcome = record.trial, record.outcome
    return {
        "number": trial.number,
        "identity": identity(fingerprint, trial.genome, trial.rung, trial.replicate),
        "fingerprint": fingerprint,
        "genome": encode_genome(trial.genome),
        "rung": trial.rung,
        "replicate": trial.replicate,
        "status": outcome.status,
        "measured": encode_numbers(outcome.values),
        "costs": encode_numbers(record.costs),
        "timings": encode_numbers(outcome.timings),
        "error": None if outcome.error is None else _storable(outcome.error),
        "per_case": encode_arrays(outcome.per_case),
    }


def decode_record(row: Mapping[str, Any]) -> Record:
    """The record whose columns these are; without "per_case" among them, one without arrays."""
    trial = Trial(row["number"], decode_genome(row["genome"]), row["rung"], row["replicate"])
    outcome = Outcome(
        number=row["number"],
        status=row["status"],
        values=decode_numbers(row["measured"]),
        per_case=decode_arrays(row["per_case"]) if "per_case" in row else {},
        timings=decode_numbers(row["timings"]),
        error=row["error"],
    )
    return Record(trial, outcome, decode_numbers(row["costs"]))


def identity(fingerprint: str, genome: Genome, rung: str, replicate: int) -> str:
    """SHA-256 of what an evaluation depends on: the key of the evaluation cache."""
    key = json.dumps([fingerprint, encode_genome(genome), rung, int(replicate)])
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
    """Named arrays as an .npz file, deflated where that saves a tenth; no arrays give no bytes.

    The bytes depend on the arrays alone: members are sorted and carry no time.

    Raises:
        ValueError: An array of Python objects, or a name that is no plain word.
    """
    if not arrays:
        return b""
    plain = _zip(arrays, zipfile.ZIP_STORED)
    packed = _zip(arrays, zipfile.ZIP_DEFLATED)
    return packed if len(packed) < _WORTH_COMPRESSING * len(plain) else plain


def decode_arrays(blob: bytes) -> dict[str, np.ndarray]:
    """The named arrays in that .npz file; pickled objects are refused."""
    if not blob:
        return {}
    with np.load(io.BytesIO(blob), allow_pickle=False) as file:
        return dict(file.items())


def _zip(arrays: Mapping[str, np.ndarray], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name in sorted(arrays):
            if not _NAME.fullmatch(name) or name.endswith(".npy"):
                raise ValueError(f"per-case arrays need plain names; got {name!r}")
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(arrays[name]), allow_pickle=False)
            file.writestr(_member(f"{name}.npy", compression), member.getvalue())
    return buffer.getvalue()


def _member(name: str, compression: int) -> zipfile.ZipInfo:
    """A zip member without a time of its own, so that equal arrays give equal bytes."""
    info = zipfile.ZipInfo(name)
    info.compress_type = compression
    return info


def _storable(text: str) -> str:
    """The text without what databases refuse: lone surrogates (undecodable file names) and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
