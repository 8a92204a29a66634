"""Evaluations that go wrong on purpose, for the tests of pools and campaigns."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.analytic import AnalyticEvaluator, AnalyticWorkload
from evaluators.guard import Found
from spaces.errors import RunError
from spaces.messages import Trial


@dataclass(frozen=True)
class Faults:
    """What goes wrong: trial number -> how many times, before it works.

    Attributes:
        folder: Keeps count, across processes.
        raises: The evaluation raises (a failed outcome).
        kills: The process dies by SIGKILL.
        hangs: The evaluation never ends.
        starves: The evaluation finds no memory (a lost outcome).
    """

    folder: str
    raises: Mapping[int, int] = field(default_factory=dict)
    kills: Mapping[int, int] = field(default_factory=dict)
    hangs: Mapping[int, int] = field(default_factory=dict)
    starves: Mapping[int, int] = field(default_factory=dict)

    def strike(self, number: int) -> None:
        """Do to this trial what is due."""
        if self._due("kills", number, self.kills):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._due("hangs", number, self.hangs):
            time.sleep(1e6)
        if self._due("raises", number, self.raises):
            raise RunError("a fault on purpose")
        if self._due("starves", number, self.starves):
            raise MemoryError("no memory on purpose")

    def _due(self, what: str, number: int, times: Mapping[int, int]) -> bool:
        for count in range(times.get(number, 0)):
            try:
                Path(self.folder, f"{what}-{number}-{count}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


@dataclass(frozen=True, eq=False)
class FaultyWorkload(AnalyticWorkload):
    """The analytic problem with faults; outcomes that come through do not depend on them."""

    faults: Faults = field(kw_only=True)

    def build(self) -> "FaultyEvaluator":
        return FaultyEvaluator(self)


class FaultyEvaluator(AnalyticEvaluator):
    def __init__(self, workload: FaultyWorkload) -> None:
        super().__init__(workload)
        self._faults = workload.faults

    def _evaluate(self, trial: Trial) -> Found:
        self._faults.strike(trial.number)
        return super()._evaluate(trial)
