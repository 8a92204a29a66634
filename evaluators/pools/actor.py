"""The worker's side of the Ray pool: an actor that builds the evaluator once, then evaluates."""

import contextlib
import os
import pickle
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluators.pools.cluster import ray
from evaluators.protocols import Evaluator
from spaces.errors import RunError
from spaces.messages import Outcome, Trial


@dataclass(frozen=True)
class Means:
    """What a worker may use.

    Attributes:
        threads: CPU threads of an evaluation.
        gpus: GPUs, or a share of one; 0: none is visible.
        memory_gb: What an evaluation may allocate beside what the worker holds already, in 1e9 bytes of the
            CPU's memory; None: all there is.
    """

    threads: int = 1
    gpus: float = 0.0
    memory_gb: float | None = None

    def environment(self) -> dict[str, str]:
        """Environment of a worker: threads pinned before torch loads, this package found, no GPU unasked."""
        libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        pinned = dict.fromkeys(libraries, str(self.threads))
        house = Path(__file__).parents[2]
        places = [] if "site-packages" in house.parts else [str(house)]
        places += filter(None, [os.environ.get("PYTHONPATH")])
        hidden = {} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        return pinned | {"PYTHONPATH": os.pathsep.join(places)} | hidden


class Actor:
    """A worker process."""

    _evaluator: Evaluator

    def prepare(self, spec: list[Any], path: list[str], means: Means) -> tuple[int, BaseException | None]:
        """Make ready; returns the process id and what went wrong.

        Args:
            spec: The reference to the spec, wrapped so that Ray does not open it before the path is set.
            path: Where the driver finds modules; factories of the user may lie there.
            means: What an evaluation may use.
        """
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._means = means
        if means.gpus:  # the GPUs that Ray counts as ours, and no other, are devices 0, 1, ... from now on
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
        try:
            self._evaluator = ray.get(spec[0]).build()
        except Exception as error:
            with contextlib.suppress(Exception):
                pickle.loads(pickle.dumps(error))
                return os.getpid(), error
            return os.getpid(), RunError(f"{type(error).__name__}: {error}")
        if "torch" in sys.modules:
            _pin(sys.modules["torch"], means)
        return os.getpid(), None

    def evaluate(self, trial: Trial) -> Outcome:
        """The outcome of a trial, within the limits of memory."""
        limit = self._means.memory_gb
        with limited_memory(limit):
            outcome = self._evaluator.evaluate(trial)
        if outcome.status == "lost" and limit is not None:
            return replace(outcome, error=f"{outcome.error} (execution.memory_gb = {limit:g})")
        return outcome


def _pin(torch: Any, means: Means) -> None:
    """Threads, which the environment has told torch before it was loaded, for certain; memory of the GPU."""
    torch.set_num_threads(means.threads)
    if 0 < means.gpus < 1 and torch.cuda.is_available():  # to Ray the share is bookkeeping
        torch.cuda.set_per_process_memory_fraction(means.gpus)


@contextlib.contextmanager
def limited_memory(gigabytes: float | None) -> Iterator[None]:
    """Whatever allocates more than that inside gets MemoryError, or what torch and NumPy make of it.

    Counts private memory that this process could write to, as Linux does for RLIMIT_DATA; what was allocated
    before does not count, memory of GPUs neither.
    """
    if gigabytes is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + int(gigabytes * 1e9)
    hard = before[1]
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
