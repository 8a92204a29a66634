"""Wall time of calls, taken in turn: what disturbs a shared machine then disturbs all of them alike."""

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

WARM_UP = 3
_MOST_CALLS = 50

Key = TypeVar("Key", bound=Hashable)
Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Spread:
    """How long a call takes, in milliseconds.

    Attributes:
        median_ms: Half of the calls took less.
        low_ms: One in ten took less.
        high_ms: One in ten took more.
        least_ms: The quickest: on a shared machine the nearest to what the network itself takes.
        runs: Calls behind these figures, warm-up apart.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    least_ms: float
    runs: int

    @classmethod
    def of(cls, times_ms: np.ndarray) -> "Spread":
        """From the time of every call, (n,)."""
        low, median, high = np.quantile(times_ms, [0.1, 0.5, 0.9])
        return cls(float(median), float(low), float(high), float(times_ms.min()), len(times_ms))


def times_in_turn(
    calls: Mapping[Key, Work],
    *,
    device: torch.device,
    rounds: int = 7,
    visit_s: float = 0.05,
    now: Callable[[], float] = time.perf_counter,
) -> dict[Key, np.ndarray]:
    """Milliseconds of every call: key -> (n,).

    Round after round every work has its turn, from another one on each time: a call that does not count, to
    bring its weights back into the caches, then as many as fit into `visit_s`, at least one and at most 50.
    On a GPU, CUDA events before and after each call; the host waits once a turn.

    Args:
        calls: What to time.
        device: Where the work is done.
        rounds: Turns of each.
        visit_s: Seconds of a turn.
        now: The clock on CPUs, in seconds; `time.thread_time` does not count what other programs get.
    """
    clock = _events if device.type == "cuda" else partial(_timed, now)
    repeats = {}
    for key, work in calls.items():
        least = min(clock(work, WARM_UP))
        repeats[key] = int(np.clip(1000 * visit_s / max(least, 1e-6), 1, _MOST_CALLS))
    found: dict[Key, list[float]] = {key: [] for key in calls}
    keys = list(calls)
    with _no_collections():
        for turn in range(rounds):
            start = turn * len(keys) // max(rounds, 1)
            for key in keys[start:] + keys[:start]:
                found[key] += clock(calls[key], 1 + repeats[key])[1:]
    return {key: np.array(times) for key, times in found.items()}


def _timed(now: Callable[[], float], work: Work, n: int) -> list[float]:
    times = []
    for _ in range(n):
        began = now()
        work()
        times.append(1000 * (now() - began))
    return times


def _events(work: Work, n: int) -> list[float]:
    pairs = []
    for _ in range(n):
        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        work()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in pairs]


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without Python's garbage collector, which would stop some call for milliseconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
