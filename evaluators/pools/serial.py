"""The pool without workers: one trial at a time, in this process, when it is asked for."""

from collections import deque
from types import TracebackType
from typing import Self

from evaluators.pools.threads import pinned_threads
from evaluators.protocols import Evaluator, EvaluatorSpec
from spaces.messages import Outcome, Trial


class SerialPool:
    """Evaluates in this process. `completed` runs the trial that waits longest, however long it takes.

    Args:
        spec: What to evaluate with; built at the first trial.
        threads: CPU threads of an evaluation.
    """

    workers = 1

    def __init__(self, spec: EvaluatorSpec, threads: int = 1) -> None:
        self._spec = spec
        self._threads = threads
        self._evaluator: Evaluator | None = None
        self._waiting: deque[Trial] = deque()

    @property
    def pending(self) -> int:
        """Trials submitted that have not come back yet."""
        return len(self._waiting)

    def submit(self, trial: Trial) -> None:
        """Put a trial at the end of the line."""
        self._waiting.append(trial)

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        """The outcome of the next trial in line, evaluated now; empty when none waits.

        A trial cannot be interrupted, so there is nothing to wait for and the timeout says nothing here.
        """
        if not self._waiting:
            return []
        with pinned_threads(self._threads):
            if self._evaluator is None:
                self._evaluator = self._spec.build()
            return [self._evaluator.evaluate(self._waiting.popleft())]

    def close(self) -> None:
        """Forget what waits and the evaluator."""
        self._waiting.clear()
        self._evaluator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
