"""What makes two evaluations the same: fingerprints by content, and the seeds that follow from them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def fingerprint_of(value: Any) -> str:
    """SHA-256 hex of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 hex over names, shapes, types and content, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(repr((name, arrays[name].shape, array.dtype.str)).encode())
        digest.update(array.data)
    return digest.hexdigest()


def seed_of(fingerprint: str, replicate: int) -> int:
    """The 63-bit seed of an evaluation: the same for every genome, so that all see the same batches."""
    digest = hashlib.blake2b(f"{fingerprint}/{replicate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
