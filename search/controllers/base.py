"""The protocol of controllers, and what ours share: first trials, unique asks, averaged replicates."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from search.genes import Genes
from spaces.errors import ConfigError
from spaces.messages import Genome, Record
from spaces.objectives import Objective
from spaces.space import ChannelSpace

_ENUMERABLE = 10_000  # genomes of a space that is searched for unasked ones by going through it
_WALK = 16  # mutations tried before that


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What the measured figure of a campaign means.

    Attributes:
        chance: Its value for a network that knows nothing; None: not known.
        patients: (cases,) patient of each validation case; None: each case is a patient.
    """

    chance: float | None = None
    patients: np.ndarray | None = None


class Controller(Protocol):
    """Proposes genomes and learns from what became of them. Knows no loop, store, rung or clock."""

    def ask(self, n: int) -> list[Genome]:
        """The next n genomes to try, legal and never asked before; fewer when the space is exhausted.

        What comes depends on the seed, the earlier asks and the records told before each of them; records
        told between two asks count in the order of their numbers, however they came.
        """
        ...

    def tell(self, record: Record) -> None:
        """Learn from a finished trial, which is left as it is; failures and replicates are welcome."""
        ...

    def expect(self, genome: Genome) -> None:
        """Know that somebody else tries a genome: it counts as asked for, its record is to come."""
        ...


class SequentialController(ABC):
    """One genome after the other: `ask(2)` equals `ask(1)` twice.

    Each ask has a random generator of its own, `default_rng([seed, number of earlier asks])`. Several records
    of one genome (replicates) count as one with their mean; failed ones and those without finite objectives
    only make a genome known as failed until one succeeds.

    Costs among the objectives are learnt from as log2(cost / dense cost): halving counts the same everywhere.

    Args:
        space: Where genomes come from.
        objectives: What is optimised.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals.
    """

    def __init__(
        self, space: ChannelSpace, objectives: Sequence[Objective], seed: int, first: Sequence[Genome]
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.genes = Genes(space)
        self._seed = seed
        self._queue = deque(space.check(genome) for genome in first)
        self._dense_costs = space.cost(space.dense).row(0)
        self._n_asks = 0
        self._asked: set[Genome] = set()
        self._inbox: list[Record] = []
        self._told: set[int] = set()
        self._measured: dict[Genome, list[np.ndarray]] = {}
        self._set_up()

    def _set_up(self) -> None:
        """Whatever a controller without options of its own keeps besides; the last step of construction."""
        return

    def ask(self, n: int) -> list[Genome]:
        """See `Controller.ask`."""
        self._read_inbox()
        genomes: list[Genome] = []
        while len(genomes) < n and (genome := self._next()) is not None:
            genomes.append(genome)
        return genomes

    def tell(self, record: Record) -> None:
        """See `Controller.tell`."""
        self._inbox.append(record)

    def expect(self, genome: Genome) -> None:
        """See `Controller.expect`."""
        self._hand_out(genome)

    @abstractmethod
    def _propose(self, rng: np.random.Generator) -> Genome | None:
        """A genome that was never asked, or None when there is none."""

    @abstractmethod
    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        """Take in the mean losses (m,) of a genome, new or changed; None: it has only failed so far."""

    def _hand_out(self, genome: Genome) -> None:
        """Last step of every ask, whoever proposed the genome; or somebody else tries it."""
        self._asked.add(genome)

    def _fresh(self, genome: Genome, rng: np.random.Generator) -> Genome | None:
        """The genome itself if it was never asked, else one near it; None when the space is exhausted."""
        if len(self._asked) >= self.space.size:
            return None
        for _ in range(_WALK):
            if genome not in self._asked:
                return genome
            genome = self.genes.mutate(genome, rng)
        if self.space.size <= _ENUMERABLE:
            left = [genome for genome in self.genes.everything() if genome not in self._asked]
            return left[rng.integers(len(left))]
        while genome in self._asked:
            genome = self.space.sample(rng)
        return genome

    def _next(self) -> Genome | None:
        rng = np.random.default_rng([self._seed, self._n_asks])
        while self._queue and self._queue[0] in self._asked:
            self._queue.popleft()
        genome = self._queue.popleft() if self._queue else self._propose(rng)
        if genome is not None:
            self._n_asks += 1
            self._hand_out(genome)
        return genome

    def _read_inbox(self) -> None:
        """Take in what was told since the last ask, by number; every genome once, with its mean by then."""
        news: dict[Genome, None] = {}
        for record in sorted(self._inbox, key=lambda record: record.trial.number):
            if record.trial.number not in self._told:
                self._told.add(record.trial.number)
                self._note(record)
                news[record.trial.genome] = None
        self._inbox.clear()
        for genome in news:
            measured = self._measured[genome]
            self._learn(genome, np.mean(measured, axis=0) if measured else None)

    def _note(self, record: Record) -> None:
        genome = record.trial.genome
        self._asked.add(genome)
        measured = self._measured.setdefault(genome, [])
        losses = self._losses(record)
        if record.complete and np.isfinite(losses).all():
            measured.append(losses)

    def _losses(self, record: Record) -> np.ndarray:
        """The objectives of a record, lower is better, costs as octaves: (m,)."""
        losses = []
        for objective in self.objectives:
            value = record.value(objective.name)
            if objective.name in self._dense_costs:
                value = float(np.log2(value / self._dense_costs[objective.name])) if value > 0 else np.nan
            losses.append(float(objective.loss(np.asarray(value))))
        return np.array(losses)


def at_least(name: str, value: object, minimum: int) -> int:
    """An option that must be a whole number of at least `minimum`.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(
            f"search.options.{name} = {value!r}: it must be a whole number of at least {minimum}"
        )
    return value
