"""When a result was made, with which code and with which libraries."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search.describe import versions


def made() -> dict[str, Any]:
    """The head of a file of results; the code is a commit, "-dirty" where it was changed since."""
    return {"date": datetime.now(UTC).date().isoformat(), "code": _commit(), "versions": versions()}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
