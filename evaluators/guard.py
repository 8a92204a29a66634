"""A bad candidate is data, not an exception: whatever goes wrong becomes a failed outcome with one line."""

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from spaces.messages import Outcome, Trial
from spaces.scrubbing import without_files

Found: TypeAlias = tuple[Mapping[str, float], Mapping[str, np.ndarray], Mapping[str, float]]
"""Values, per-case arrays, and seconds by phase."""

LONGEST_ERROR = 300


def guarded(trial: Trial, evaluate: Callable[[Trial], Found]) -> Outcome:
    """The outcome of evaluating the trial; whatever that raises but an interruption is in the outcome.

    It has "failed" then; without memory it is "lost", as elsewhere there may be enough.
    """
    start = time.perf_counter()
    try:
        values, per_case, timings = evaluate(trial)
    except Exception as error:
        return Outcome(
            trial.number,
            "lost" if _starved(error) else "failed",
            timings={"wall_s": time.perf_counter() - start},
            error=describe_error(error),
        )
    timings = {**timings, "wall_s": time.perf_counter() - start}
    return Outcome(trial.number, "complete", values, per_case, timings)


def _starved(error: Exception) -> bool:
    """Whether memory was missing, as Python, torch on a GPU and torch on a CPU say it."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(sign in str(error) for sign in ("can't allocate memory", "bad_alloc"))


def describe_error(error: BaseException) -> str:
    """One line, "type: message", without paths (a file's name may be a patient's)."""
    known = error.strerror if isinstance(error, OSError) else None  # its str() names the file
    message = (known or str(error)).strip().partition("\n")[0]
    line = f"{type(error).__name__}: {without_files(message)}".rstrip(": ")
    return line if len(line) <= LONGEST_ERROR else line[: LONGEST_ERROR - 3] + "..."
