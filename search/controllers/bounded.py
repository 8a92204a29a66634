"""Any controller within bounds: what costs too much is made to fit, or never leaves."""

import numpy as np

from search.bounds import Bounds
from search.controllers.base import Controller
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.space import ChannelSpace

_TRIES = 64


class Bounded:
    """A controller whose proposals meet bounds, and that learns from what became of them.

    A proposal that costs too much is repaired (see `Bounds.repaired`). The controller is told that what it
    proposed failed, and to expect the repaired one in its place. The dense network passes: everything is
    compared with it.

    Args:
        controller: Who proposes.
        space: Of the genomes.
        bounds: What they may cost.
        seed: Of the random genomes that are tried when repaired proposals are all known.
    """

    def __init__(self, controller: Controller, space: ChannelSpace, bounds: Bounds, seed: int) -> None:
        self._controller, self._space, self._bounds, self._seed = controller, space, bounds, seed
        self._asked: set[Genome] = set()
        self._refused = 0

    def ask(self, n: int) -> list[Genome]:
        """See `Controller.ask`."""
        genomes: list[Genome] = []
        while len(genomes) < n and (genome := self._next()) is not None:
            self._asked.add(genome)
            genomes.append(genome)
        return genomes

    def expect(self, genome: Genome) -> None:
        """See `Controller.expect`."""
        self._asked.add(genome)
        self._controller.expect(genome)

    def tell(self, record: Record) -> None:
        """See `Controller.tell`."""
        self._asked.add(record.trial.genome)
        self._controller.tell(record)

    def _next(self) -> Genome | None:
        for _ in range(_TRIES):
            proposed = self._controller.ask(1)
            if not proposed:
                break
            genome = proposed[0]
            if genome != self._space.dense:
                genome = self._bounds.repaired(genome)
            is_new = genome not in self._asked
            if genome != proposed[0]:
                self._refuse(proposed[0])
                if is_new:
                    self._controller.expect(genome)
            if is_new:
                return genome
        return self._stranger()

    def _refuse(self, genome: Genome) -> None:
        """Tell the controller not to wait for it; the numbers of such records are nobody else's."""
        self._refused += 1
        outcome = Outcome(-self._refused, "failed", error="costs more than the constraints allow")
        trial = Trial(-self._refused, genome)
        self._controller.tell(Record(trial, outcome, self._space.cost(genome).row(0)))

    def _stranger(self) -> Genome | None:
        """A random genome that fits and was never asked; None where hardly any can be left."""
        rng = np.random.default_rng([self._seed, len(self._asked)])
        for _ in range(4 * _TRIES):
            genome = self._bounds.repaired(self._space.sample(rng))
            if genome not in self._asked:
                self._controller.expect(genome)
                return genome
        return None
