"""Successive halving: everything on a cheap rung, the best at each price on dearer ones."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from search.controllers.base import Controller
from search.schedule import DENSE_REPLICATES
from spaces.messages import Genome, Record, Trial
from spaces.objectives import Objective
from spaces.space import ChannelSpace

BIN = 1.0
"""Octaves of FLOPs within which networks compete: elsewhere a cheap network would never be promoted."""


_Look: TypeAlias = tuple[Genome, str, int, int]
"""A genome on a rung: which replicate, in which fold."""


@dataclass
class _Class:
    """The networks of one FLOPs bin that were measured on one rung."""

    found: dict[Genome, float] = field(default_factory=dict)
    promoted: set[Genome] = field(default_factory=set)
    searched: bool = False  # and nothing was found since: an ask need not sort every class

    def add(self, genome: Genome, value: float) -> None:
        """A network was measured; larger is better."""
        self.found[genome] = value
        self.searched = False

    def next(self, eta: int) -> Genome | None:
        """The best of the top 1/eta that was not promoted yet; of equals, the one that came first."""
        if self.searched:
            return None
        best = sorted(self.found, key=lambda genome: -self.found[genome])[: len(self.found) // eta]
        genome = next((genome for genome in best if genome not in self.promoted), None)
        self.searched = genome is None
        return genome


class Halving:
    """Asynchronous successive halving within bins of FLOPs, around any controller.

    Every genome is evaluated on the first rung. Whenever a bin holds `eta` networks on a rung for each that
    went on, the best of those that did not is evaluated on the next rung. Dense (with replicates) and the
    ladder go through all rungs: every comparison is with dense on the same rung. The controller is told the
    first rung's records only: figures of different rungs have different scales. With cross-fitting, the last
    rung measures in every fold, and the others in the first.

    Args:
        controller: Who proposes.
        space: Prices genomes.
        value: What is ranked by, as the controller's objective has it.
        rungs: At least two, cheapest first.
        ladder: Genomes that go through all rungs.
        folds: Parts of the data that are held out in turn on the last rung.
        eta: One in so many goes on.
        prices: Of an evaluation on each rung, in the unit of the budget. Default: each is one.
        budget: What all evaluations together may cost; None: no limit here.
        spent: What was spent before the first of them: joint training, calibration.

    Source: Li et al. 2020 (ASHA).
    """

    def __init__(
        self,
        controller: Controller,
        space: ChannelSpace,
        value: Objective,
        rungs: Sequence[str],
        *,
        ladder: Sequence[Genome] = (),
        folds: int = 1,
        eta: int = 3,
        prices: Mapping[str, float] | None = None,
        budget: float | None = None,
        spent: float = 0.0,
    ) -> None:
        self._controller, self._space, self._value = controller, space, value
        self._rungs, self._ladder, self._eta = tuple(rungs), frozenset(ladder), eta
        self._folds = {rung: folds if rung == rungs[-1] else 1 for rung in rungs}
        self._prices = dict(prices or dict.fromkeys(rungs, 1.0))
        self._budget = np.inf if budget is None else budget
        self.spent = spent
        self._waiting: deque[_Look] = deque()
        self._classes: dict[tuple[str, int], _Class] = {}
        self._dense_flops = float(space.cost(space.dense).flops[0])

    def ask(self, number: int) -> Trial | None:
        """See `Schedule.ask`; None as well when the next evaluation would be over the budget."""
        if not self._waiting:
            self._waiting.extend(self._promoted() or self._new())
        if not self._waiting or self.spent + self._prices[self._waiting[0][1]] > self._budget:
            return None
        genome, rung, replicate, fold = self._waiting.popleft()
        self.spent += self._prices[rung]
        return Trial(number, genome, rung, replicate, fold)

    def tell(self, record: Record) -> None:
        """See `Schedule.tell`."""
        trial = record.trial
        if trial.rung == self._rungs[0]:
            self._controller.tell(record)
        value = record.value(self._value.name)
        through = trial.genome == self._space.dense or trial.genome in self._ladder
        if record.complete and np.isfinite(value) and not through:
            here = self._classes.setdefault((trial.rung, self._bin(record)), _Class())
            here.add(trial.genome, -float(self._value.loss(np.asarray(value))))

    def _looks(self, genome: Genome, rung: str, replicates: int = 1) -> list[_Look]:
        folds = self._folds[rung]
        return [(genome, rung, replicate, fold) for replicate in range(replicates) for fold in range(folds)]

    def _promoted(self) -> list[_Look]:
        """The next genome to go up, from the dearest rung down."""
        for low, high in reversed(list(zip(self._rungs, self._rungs[1:], strict=False))):
            for (rung, _), members in sorted(self._classes.items()):
                if rung == low and (genome := members.next(self._eta)) is not None:
                    members.promoted.add(genome)
                    return self._looks(genome, high)
        return []

    def _new(self) -> list[_Look]:
        """What the controller proposes, on the first rung; dense and the ladder on all of them."""
        looks = []
        for genome in self._controller.ask(1):
            dense = genome == self._space.dense
            for rung in self._rungs if dense or genome in self._ladder else self._rungs[:1]:
                looks += self._looks(genome, rung, DENSE_REPLICATES if dense else 1)
        return looks

    def _bin(self, record: Record) -> int:
        return int(np.floor(np.log2(max(record.value("flops") / self._dense_flops, 2.0**-12)) / BIN))
