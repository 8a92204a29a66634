"""Schedules: at which rung and how often the genomes of a controller are evaluated."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from search.controllers.base import Controller
from spaces.intervals import paired_difference
from spaces.messages import Genome, Record, Trial
from spaces.objectives import Objective, per_case_of

DENSE_REPLICATES = 3
STILL_DENSE = 0.02
"""A network within this of dense in the metric has lost nothing yet."""


class Schedule(Protocol):
    """Turns a controller's genomes into trials. What the campaign loop asks and tells."""

    def ask(self, number: int) -> Trial | None:
        """The trial to run under this number; numbers are asked in order, each until a trial comes.

        None: nothing to try before another record is told. Asked again after that; when every trial's
        record has been told and None comes still, the search is exhausted.
        """
        ...

    def tell(self, record: Record) -> None:
        """Learn from a finished trial; records are told in the order of their numbers."""
        ...


class SingleRung:
    """Every genome once, at one rung; the dense reference several times.

    Args:
        controller: Who proposes.
        dense: The dense genome; every comparison leans on its value, so it is replicated.
        rung: Where everything is evaluated.
        dense_replicates: Trials of the dense genome, replicates 0, 1, ...
    """

    def __init__(
        self,
        controller: Controller,
        dense: Genome,
        rung: str = "finetune",
        dense_replicates: int = DENSE_REPLICATES,
    ) -> None:
        self._controller = controller
        self._dense = dense
        self._rung = rung
        self._dense_replicates = dense_replicates
        self._waiting: deque[tuple[Genome, int]] = deque()

    def ask(self, number: int) -> Trial | None:
        """See `Schedule.ask`."""
        if not self._waiting:
            for genome in self._controller.ask(1):
                times = self._dense_replicates if genome == self._dense else 1
                self._waiting.extend((genome, replicate) for replicate in range(times))
        if not self._waiting:
            return None
        genome, replicate = self._waiting.popleft()
        return Trial(number, genome, self._rung, replicate)

    def tell(self, record: Record) -> None:
        """See `Schedule.tell`."""
        self._controller.tell(record)


class Racing:
    """Every genome once, at one rung; what may still be on the front again, until it is refuted.

    A *look* is a replicate in a fold of the data. A genome's first look is replicate 0 in fold 0; further
    looks go to genomes that no network at most as costly is ahead of by more than a standard error of the
    paired difference to dense. Dense gets its looks first, so that every look of a genome can be compared
    with dense in the same look: what makes a fold or a replicate easy for all cancels. The controller is told
    such differences, added to what dense has on average.

    Args:
        controller: Who proposes.
        dense: The dense genome.
        value: What is ranked by, as the controller's objective has it; per case under `per_case_of`.
        rung: Where everything is evaluated.
        folds: Parts of the data that are held out in turn (cross-fitting); 1: train and val as they are.
        share: Of the trials besides the references' first looks, how many may be further looks.
        replicates: In each fold, of dense and at most of a genome.
        ladder: The uniform networks that the controller starts with.
        below: Cheaper uniform networks, from the next one down: each is tried where the one above it lost no
            more than `STILL_DENSE`, so that the search looks where something is at stake.

    Source: Maron and Moore 1997 (racing), with costs as an order of who races whom.
    """

    def __init__(
        self,
        controller: Controller,
        dense: Genome,
        value: Objective,
        rung: str = "finetune",
        *,
        folds: int = 1,
        share: float = 0.25,
        replicates: int = DENSE_REPLICATES,
        ladder: Sequence[Genome] = (),
        below: Sequence[Genome] = (),
    ) -> None:
        self._ladder, self._folds = frozenset(ladder), folds
        self._lowest = ladder[-1] if ladder else dense
        self._below = deque(below)
        self._controller, self._dense, self._value, self._rung = controller, dense, value, rung
        self._looks = [(replicate, fold) for replicate in range(replicates) for fold in range(folds)]
        self._share = share
        self._waiting: deque[tuple[Genome, tuple[int, int]]] = deque()
        self._asked: dict[Genome, int] = {}
        self._n_again = self._n_trials = 0
        self._dense_cases: dict[tuple[int, int], np.ndarray] = {}
        self._dense_metric: dict[tuple[int, int], float] = {}
        self._seen: dict[Genome, _Seen] = {}

    def ask(self, number: int) -> Trial | None:
        """See `Schedule.ask`."""
        genome = None if self._waiting else self._promising()
        if genome is not None:
            self._n_again += 1
            self._n_trials += 1
            return self._trial(number, genome, self._looks[self._asked[genome]])
        if not self._waiting:
            for genome in self._controller.ask(1):
                looks = self._looks[: self._first_looks(genome)]
                self._waiting.extend((genome, look) for look in looks)
        if not self._waiting:
            return None
        genome, look = self._waiting.popleft()
        self._n_trials += genome != self._dense and genome not in self._ladder
        return self._trial(number, genome, look)

    def tell(self, record: Record) -> None:
        """See `Schedule.tell`."""
        look = (record.trial.replicate, record.trial.fold)
        if not record.complete:
            self._controller.tell(record)
            return
        cases = np.asarray(record.outcome.per_case[per_case_of(self._value)], dtype=float)
        if record.trial.genome == self._dense:
            self._dense_cases[look] = cases
            self._dense_metric[look] = float(np.mean(record.outcome.per_case["metric"]))
            self._controller.tell(record)
        elif look in self._dense_cases:
            difference, se = paired_difference(cases, self._dense_cases[look])
            seen = self._seen.setdefault(record.trial.genome, _Seen(record.value("flops")))
            seen.add(difference if self._value.maximize else -difference, se)
            self._extend(record)
            level = float(np.mean([cases.mean() for cases in self._dense_cases.values()]))
            values = {**record.outcome.values, self._value.name: level + difference}
            self._controller.tell(replace(record, outcome=replace(record.outcome, values=values)))
        else:  # dense failed in this look: there is nothing to compare with
            self._controller.tell(record)

    def _first_looks(self, genome: Genome) -> int:
        """Looks that a genome gets without having shown anything: the references are seen in every fold."""
        if genome == self._dense:
            return len(self._looks)
        return self._folds if genome in self._ladder else 1

    def _extend(self, record: Record) -> None:
        """Go on with the ladder below its lowest network while the metric has not fallen."""
        if record.trial.genome != self._lowest or not self._below:
            return
        look = (record.trial.replicate, record.trial.fold)
        lost = self._dense_metric[look] - float(np.mean(record.outcome.per_case["metric"]))
        if lost <= STILL_DENSE:
            self._lowest = self._below.popleft()
            if self._lowest not in self._asked:
                self._waiting.append((self._lowest, self._looks[0]))

    def _trial(self, number: int, genome: Genome, look: tuple[int, int]) -> Trial:
        self._asked[genome] = self._asked.get(genome, 0) + 1
        replicate, fold = look
        return Trial(number, genome, self._rung, replicate, fold)

    def _promising(self) -> Genome | None:
        """The genome to look at again: of those that may lead at their FLOPs, one with the fewest looks."""
        if self._n_again >= self._share * self._n_trials or len(self._looks) == 1:
            return None
        genomes = list(self._seen)
        flops = np.array([seen.flops for seen in self._seen.values()])
        means = np.array([seen.mean for seen in self._seen.values()])
        errors = np.array([seen.se for seen in self._seen.values()])
        ahead = means + np.nan_to_num(errors) - best_at_most(flops, means)
        looks = np.array([self._asked[genome] for genome in genomes])
        may = np.flatnonzero((ahead >= 0) & (looks < len(self._looks)))
        if not len(may):
            return None
        return genomes[may[np.lexsort((-ahead[may], looks[may]))[0]]]


@dataclass
class _Seen:
    """What the looks at one genome found.

    Attributes:
        flops: What it costs.
        mean: Paired difference to dense, larger is better.
        se: Its standard error, as if looks were independent.
    """

    flops: float
    mean: float = 0.0
    se: float = 0.0
    _looks: list[tuple[float, float]] = field(default_factory=list)

    def add(self, difference: float, se: float) -> None:
        """Another look; the means are taken here, for every ask goes through all genomes."""
        self._looks.append((difference, se))
        differences, errors = np.array(self._looks).T
        self.mean = float(differences.mean())
        self.se = float(np.sqrt(np.square(errors).sum()) / len(errors))


def best_at_most(flops: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The best value among the networks that cost at most as much, itself included: (n,), (n,) -> (n,)."""
    order = np.argsort(flops, kind="stable")
    best = np.maximum.accumulate(values[order]) if len(order) else values
    return best[np.searchsorted(flops[order], flops, side="right") - 1]
