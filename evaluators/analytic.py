"""The fake that ships: an evaluation in microseconds whose front is known. Tests and documents use it.

Damage is additive over the groups and quadratic in the pruning ratio,
Z = sum_i w_i (1 - kept_i / units_i)^2, and the metric is chance + (dense - chance) exp(-Z).
"""

import itertools
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from evaluators.guard import Found, guarded
from evaluators.identity import fingerprint_of, seed_of
from spaces.errors import RunError
from spaces.fronts import non_dominated
from spaces.messages import Genome, Outcome, Trial
from spaces.objectives import Objective
from spaces.space import ChannelSpace

CHANCE, DENSE = 0.5, 0.9
N_CASES = 64


@dataclass(frozen=True)
class Faults:
    """What goes wrong on purpose: trial number -> how many times, before it works.

    Attributes:
        folder: Keeps count, across processes.
        raises: The evaluation raises (a failed outcome).
        kills: The process dies by SIGKILL.
        hangs: The evaluation never ends.
    """

    folder: str
    raises: Mapping[int, int] = field(default_factory=dict)
    kills: Mapping[int, int] = field(default_factory=dict)
    hangs: Mapping[int, int] = field(default_factory=dict)

    def strike(self, number: int) -> None:
        """Do to this trial what is due."""
        if self._due("kills", number, self.kills):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._due("hangs", number, self.hangs):
            time.sleep(1e6)
        if self._due("raises", number, self.raises):
            raise RunError("a fault on purpose")

    def _due(self, what: str, number: int, times: Mapping[int, int]) -> bool:
        for count in range(times.get(number, 0)):
            try:
                Path(self.folder, f"{what}-{number}-{count}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


@dataclass(frozen=True, eq=False)
class AnalyticWorkload:
    """A problem with a known answer, to be used like a `Workload`.

    Attributes:
        space: Any channel space.
        noise: Standard deviation of a case's share around the metric; a replicate's error is
            `noise / sqrt(64)`.
        sleep_s: What an evaluation takes.
        faults: What goes wrong; outcomes that come through do not depend on it.
    """

    space: ChannelSpace
    noise: float = 0.0
    sleep_s: float = 0.0
    faults: Faults | None = None

    metric = Objective("auc", maximize=True)
    chance = CHANCE

    @property
    def weights(self) -> np.ndarray:
        """Damage of losing a whole group: (n_groups,), 3 in all, the first groups more sensitive."""
        n = len(self.space.groups)
        weights = np.linspace(2.0, 1.0, n)
        return 3 * weights / weights.sum()

    def true_metric(self, genomes: Genome | np.ndarray) -> np.ndarray:
        """The metric without noise: (n, n_groups) -> (n,)."""
        kept = np.atleast_2d(np.asarray(genomes, dtype=float)) / np.array(self.space.dense)
        damage = np.square(1 - kept) @ self.weights
        return CHANCE + (DENSE - CHANCE) * np.exp(-damage)

    def true_front(self) -> list[Genome]:
        """All genomes that are optimal, by enumeration: for spaces of up to some 100,000 genomes."""
        genomes = list(itertools.product(*(group.choices for group in self.space.groups)))
        losses = np.column_stack([self.space.cost(genomes).flops, -self.true_metric(np.array(genomes))])
        return [genome for genome, optimal in zip(genomes, non_dominated(losses), strict=True) if optimal]

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """By part, as a workload's."""
        return {"space": self.space.fingerprint, "task": fingerprint_of({"analytic": 1, "noise": self.noise})}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all parts."""
        return fingerprint_of(dict(self.fingerprints))

    def build(self) -> "AnalyticEvaluator":
        """The evaluator."""
        return AnalyticEvaluator(self)


class AnalyticEvaluator:
    """Evaluates by formula."""

    def __init__(self, workload: AnalyticWorkload) -> None:
        self.fingerprint = workload.fingerprint
        self._workload = workload

    def evaluate(self, trial: Trial) -> Outcome:
        """The metric of the genome, with the noise of this replicate."""
        return guarded(trial, self._evaluate)

    def _evaluate(self, trial: Trial) -> Found:
        workload = self._workload
        if workload.faults is not None:
            workload.faults.strike(trial.number)
        time.sleep(workload.sleep_s)
        genome = workload.space.check(trial.genome)
        rng = np.random.default_rng([seed_of(self.fingerprint, trial.replicate), *genome])
        value = float(workload.true_metric(genome)[0])
        shares = value + workload.noise * rng.standard_normal(N_CASES)
        per_case = {
            "metric": shares.astype(np.float32),
            "loss": (1 - shares).astype(np.float32),
            "score": shares.astype(np.float32)[:, None],
        }
        metric = float(shares.mean()) if workload.noise else value
        return {workload.metric.name: metric, "loss": 1 - metric}, per_case, {}
