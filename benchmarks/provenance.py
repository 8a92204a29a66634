"""When a result was made, with which code and with which libraries."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search.describe import versions


def made() -> dict[str, Any]:
    """The head of a file of results; the code is a commit, "-changed" where code differs from it."""
    return {"date": datetime.now(UTC).date().isoformat(), "code": _commit(), "versions": versions()}


def _commit() -> str:
    try:
        commit, changed = _git("describe", "--always"), _git("diff", "--name-only", "HEAD", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "-changed" * bool(changed)


def _git(*arguments: str) -> str:
    root = Path(__file__).parent.parent
    found = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return found.stdout.strip()
