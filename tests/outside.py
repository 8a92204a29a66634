"""A fresh Python that cannot import this project: what users of an export have."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_OURS = ("spaces", "evaluators", "search", "reports", "paretoprune", "tests")
_HIDE = f"""
import sys
sys.path = [place for place in sys.path if place not in ("", {str(ROOT)!r})]
sys.modules.update(dict.fromkeys({_OURS!r}))
"""


def run_outside(code: str, cwd: Path) -> str:
    """What the code prints; its working directory is importable, as for `python -m`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _HIDE + "sys.path.insert(0, '')\n" + code],
        capture_output=True, text=True, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
