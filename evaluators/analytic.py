"""The fake that ships: an evaluation in microseconds whose front is known. Tests and documents use it.

Damage is additive over the groups and quadratic in the pruning ratio,
Z = sum_i w_i (1 - kept_i / units_i)^2, and the metric is chance + (dense - chance) exp(-Z).
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evaluators.guard import Found, guarded
from evaluators.identity import fingerprint_of, seed_of
from spaces.fronts import non_dominated
from spaces.messages import Genome, Outcome, Trial
from spaces.objectives import Objective
from spaces.space import ChannelSpace

CHANCE, DENSE = 0.5, 0.9
N_CASES = 64


@dataclass(frozen=True, eq=False)
class AnalyticWorkload:
    """A problem with a known answer, to be used like a `Workload`.

    Attributes:
        space: Any channel space.
        noise: Standard deviation of a case's share around the metric; a replicate's error is
            `noise / sqrt(64)`.
        sleep_s: What an evaluation takes.
    """

    space: ChannelSpace
    noise: float = 0.0
    sleep_s: float = 0.0

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
