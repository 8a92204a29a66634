"""Measured latencies on disk: `<artifacts>/<campaign>/latency.json`, what export and report read.

::

    {"version": 1,
     "measured": [{"point": 12, "genome": [8, 16], "name": "point 12", "shape": [1, 64, 64],
                   "runtime": "eager", "batch": 1, "device": "cpu", "threads": 1, "machine": "...",
                   "median_ms": 3.1, "low_ms": 3.0, "high_ms": 3.4, "least_ms": 2.9, "runs": 350,
                   "peak_bytes": 1200000, "note": null, "predicted_ms": 3.0}, ...]}

Times are of one call, that is of `batch` images; low and high are the 10 % and 90 % quantiles. What could
not be measured is null, and `note` says why.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spaces.errors import InputError

VERSION = 1
_KEY = ("genome", "runtime", "batch", "device", "threads", "machine", "shape")


def latency_file(artifacts: Path, campaign_id: str) -> Path:
    """Where a campaign's measurements are."""
    return artifacts / campaign_id / "latency.json"


def read_latencies(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of measurements; none where there is no file.

    Raises:
        InputError: It is damaged, or of another version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the latencies in {path.name!r}: {error}; delete it and measure again"
        ) from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise InputError(f"{path.name!r} is not of version {VERSION}; delete it and measure again")
    return list(found["measured"])


def add_latencies(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put rows into a file of measurements, in place of older ones of the same network and setting.

    Raises:
        InputError: The file cannot be read or written.
    """
    merged = {_key(row): dict(row) for row in [*read_latencies(path), *rows]}
    text = json.dumps({"version": VERSION, "measured": list(merged.values())}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
            file.write(text + "\n")
        os.replace(file.name, path)  # a reader never sees half of it
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in _KEY])
