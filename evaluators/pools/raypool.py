"""The pool of Ray actors: evaluations spread over cores, GPUs and machines, whatever dies.

Each worker is a long-lived actor that builds the evaluator once. Evaluations are idempotent, so that a trial
whose worker died is simply given to another one.
"""

import contextlib
import logging
import os
import pickle
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from evaluators.guard import describe_error
from evaluators.pools.actor import Actor, Means
from evaluators.pools.cluster import connect, ray
from evaluators.protocols import EvaluatorSpec
from spaces.errors import ConfigError, RunError
from spaces.messages import Outcome, Trial

RETRIES = 2
"""How often a trial is given to another worker after its worker died."""
FAILED_STARTS = 3
"""So many workers in a row that die before their first trial, on machines that live: no use going on."""
PATIENCE_S = 60.0
"""When to say that no worker can be started."""

logger = logging.getLogger("paretoprune")

_REMOTE: Any = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=1)(Actor)


@dataclass
class _Job:
    """A trial under way."""

    trial: Trial
    deaths: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Worker:
    """An actor as the driver sees it: preparing (no pid yet), idle, or busy with a job."""

    actor: Any
    reference: Any  # what it is doing; None when idle
    pid: int | None = None
    job: _Job | None = None
    stops_at: float = float("inf")
    evaluated: int = 0


class RayPool:
    """Evaluates on long-lived Ray actors, one trial each at a time.

    A worker that dies, alone or with its machine, is replaced as soon as the cluster has room, and its trial
    goes to another one, at most twice; then the trial is lost, with the reason. A trial that passes the
    deadline is lost at once, and its worker is replaced: with deadlines, outcomes depend on how fast the
    machine is. The pool is elastic: workers for which there is no room yet join when machines do.

    Args:
        spec: What to evaluate with; shipped once, its arrays shared by all workers of a machine.
        workers: Actors at most; they start in the background, and trials may be submitted before they are
            ready.
        address: Of a running cluster; None: the one this process is connected to, or a local one that
            `close` shuts down again.
        threads: CPU threads, and so CPUs, of a worker.
        gpus_per_worker: Share of a GPU that a worker has, of its memory too; workers without a share see no
            GPU, the others theirs only.
        deadline_s: Longest time of one evaluation.
        memory_gb: Largest amount of the CPU's memory that one evaluation may allocate.
        recycle_after: A worker is replaced by a fresh one after so many evaluations, against leaks.

    Raises:
        ConfigError: There is no cluster at the address.
    """

    def __init__(
        self,
        spec: EvaluatorSpec,
        workers: int = 2,
        address: str | None = None,
        threads: int = 1,
        gpus_per_worker: float = 0.0,
        deadline_s: float | None = None,
        memory_gb: float | None = None,
        recycle_after: int | None = None,
    ) -> None:
        self._disconnect = connect(address, workers * threads, _size(spec))
        self._means = Means(threads, gpus_per_worker, memory_gb)
        self._deadline_s = deadline_s
        self._recycle_after = float("inf") if recycle_after is None else recycle_after
        self._options = {
            "num_cpus": threads,
            "num_gpus": gpus_per_worker,
            "runtime_env": {"env_vars": self._means.environment()},
        }
        self._waiting: deque[_Job] = deque()
        self._finished: list[Outcome] = []
        self._failed_starts = 0
        self._complains_at = time.monotonic() + PATIENCE_S
        with contextlib.ExitStack() as undone:
            undone.callback(self._disconnect)
            if gpus_per_worker and not ray.cluster_resources().get("GPU"):
                raise ConfigError(
                    f"execution.gpus_per_worker = {gpus_per_worker:g}, but Ray sees no GPU there; set it to 0"
                )
            self._spec = ray.put(spec)
            self._workers = [self._start() for _ in range(workers)]
            undone.pop_all()  # `close` does it

    @property
    def workers(self) -> int:
        """How many trials are evaluated at the same time, where there is room for all workers."""
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready, for monitoring."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    @property
    def pending(self) -> int:
        """Trials submitted that have not come back yet."""
        busy = sum(worker.job is not None for worker in self._workers)
        return len(self._waiting) + busy + len(self._finished)

    def submit(self, trial: Trial) -> None:
        """Take a trial on; it begins as soon as a worker is idle."""
        self._waiting.append(_Job(trial))
        self._assign()

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        """The outcomes that have arrived; waits for the first of them up to `timeout` seconds.

        Raises:
            ParetoPruneError: The evaluator cannot be built in a worker, or workers die before they are ready.
        """
        gives_up_at = float("inf") if timeout is None else time.monotonic() + timeout
        while self.pending:
            self._look(0.0 if self._finished else gives_up_at - time.monotonic())
            if self._finished or time.monotonic() >= gives_up_at:
                break
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Stop the workers and what they are doing, and the local cluster if this pool started it."""
        workers, self._workers = self._workers, []
        self._waiting.clear()
        self._finished.clear()
        if ray.is_initialized():
            for worker in workers:
                _kill(worker)
            self._spec = None
            self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> _Worker:
        actor = _REMOTE.options(**self._options).remote()
        return _Worker(actor, actor.prepare.remote([self._spec], _search_path(), self._means))

    def _assign(self) -> None:
        """Give waiting trials to idle workers."""
        for worker in self._workers:
            if worker.reference is None and self._waiting:
                worker.job = self._waiting.popleft()
                worker.reference = worker.actor.evaluate.remote(worker.job.trial)
                if self._deadline_s is not None:
                    worker.stops_at = time.monotonic() + self._deadline_s

    def _look(self, wait_s: float) -> None:
        """Wait until something happens or the time is over, and act on all that happened."""
        now = time.monotonic()
        wait_s = max(0.0, min(wait_s, *(worker.stops_at - now for worker in self._workers), 1e6))
        busy = {worker.reference: worker for worker in self._workers if worker.reference is not None}
        if busy:
            ray.wait(list(busy), timeout=wait_s, fetch_local=False)
            ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0, fetch_local=False)
            for reference in ready:
                self._take(busy[reference])
        now = time.monotonic()
        for worker in list(self._workers):
            if now >= worker.stops_at:
                self._stop_late(worker)
        if any(worker.pid is not None for worker in self._workers):
            self._complains_at = now + PATIENCE_S
        elif now >= self._complains_at:
            self._complain()
        self._assign()

    def _take(self, worker: _Worker) -> None:
        """Receive what a worker has finished, or find it dead."""
        job = worker.job
        try:
            result = ray.get(worker.reference)
        except ray.exceptions.RayTaskError as error:
            if job is None:
                raise RunError(f"a worker cannot be prepared: {_reason(error)}") from None
            self._finished.append(Outcome(job.trial.number, "failed", error=_reason(error)))
        except ray.exceptions.RayError as error:
            self._bury(worker, error)
            return
        else:
            if job is None:
                worker.pid, problem = result
                if problem is not None:
                    raise problem
            else:
                self._failed_starts = 0
                self._finished.append(result)
                worker.evaluated += 1
        worker.job, worker.reference, worker.stops_at = None, None, float("inf")
        if worker.evaluated >= self._recycle_after:
            self._replace(worker)

    def _bury(self, worker: _Worker, error: BaseException) -> None:
        """Replace a dead worker; its trial is tried again, or is lost."""
        job, reason = worker.job, _reason(error)
        if job is None:
            self._failed_starts += not _machine_died(error)
            if self._failed_starts >= FAILED_STARTS:
                raise RunError(f"{FAILED_STARTS} workers in a row died before they were ready: {reason}")
        else:
            job.deaths.append(reason)
            if len(job.deaths) > RETRIES:
                self._lose(job, f"its worker died {len(job.deaths)} times, the last time: {reason}")
            else:
                self._waiting.appendleft(job)
        self._replace(worker)

    def _stop_late(self, worker: _Worker) -> None:
        assert worker.job is not None  # only jobs have deadlines
        self._lose(worker.job, f"not finished within the deadline of {self._deadline_s:g} s")
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        _kill(worker)
        self._workers[self._workers.index(worker)] = self._start()

    def _complain(self) -> None:
        """Say that the cluster has no room, once in a while."""
        self._complains_at = time.monotonic() + 10 * PATIENCE_S
        needs = f"{self._means.threads} CPUs" + f" and {self._means.gpus:g} GPUs" * bool(self._means.gpus)
        free = ray.available_resources()
        has = f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"
        logger.warning("no worker could be started yet: each needs %s, the cluster has %s free", needs, has)

    def _lose(self, job: _Job, reason: str) -> None:
        self._finished.append(Outcome(job.trial.number, "lost", error=reason))


def _kill(worker: _Worker) -> None:
    with contextlib.suppress(ray.exceptions.RayError):  # what is gone need not be killed
        ray.kill(worker.actor)


def _machine_died(error: BaseException) -> bool:
    """Whether an actor went down with its machine, which says nothing against the actor."""
    return isinstance(error, ray.exceptions.RayActorError) and "node has died" in str(error)


def _reason(error: BaseException) -> str:
    """One line of what Ray says at length."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        return describe_error(error.cause)
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its machine ran out of memory"
    if _machine_died(error):
        return "its machine was lost"
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process was killed or crashed"
    return describe_error(error)


def _size(spec: EvaluatorSpec) -> int:
    """Bytes that the spec takes in the object store; arrays are counted, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    body = ray.cloudpickle.dumps(spec, protocol=5, buffer_callback=buffers.append)
    return len(body) + sum(buffer.raw().nbytes for buffer in buffers)


def _search_path() -> list[str]:
    """Where this process finds modules, for the workers to look there too."""
    return [os.path.abspath(entry) for entry in sys.path]
