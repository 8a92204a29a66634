"""NSGA-II and NSGA-III as steady states, with DEAP's operators. The only file that knows DEAP."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from math import comb
from threading import Lock

import numpy as np
from deap import base, tools

from search.controllers.base import SequentialController, at_least
from search.controllers.sampling import StratifiedSampler
from spaces.messages import Genome
from spaces.objectives import Objective
from spaces.space import ChannelSpace

_lending = Lock()  # the global generators are one for all threads


@cache
def _fitness_of(n_objectives: int) -> type[base.Fitness]:
    """DEAP's `creator` would write such a class into a global module; here it stays with its maker."""
    return type("Fitness", (base.Fitness,), {"weights": (-1.0,) * n_objectives})


class _Individual(list[int]):
    """What DEAP works on: a list of genes with a fitness."""

    def __init__(self, genome: Genome, losses: np.ndarray) -> None:
        super().__init__(genome)
        self.losses = losses
        self.fitness = _fitness_of(len(losses))(tuple(losses.tolist()))


_RESERVE = 2
"""So many times the population is kept of what was told: a mean that falls may let the next best in again."""


class Nsga2Controller(SequentialController):
    """Steady-state NSGA-II: the population is the best of what was told, and a reserve of the next best.

    Two parents by binary tournament on rank and crowding, uniform crossover, then a lognormal step in about
    one gene. Random genomes, evenly spread along the FLOPs axis, until half a population was told. An ask
    costs the same however much was told, however large the front.

    Args:
        space: Where genomes come from.
        objectives: What is optimised.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals.
        population: Size of the population.

    Source: Deb, Pratap, Agarwal and Meyarivan 2002; Durillo et al. 2009 (steady state).
    """

    def __init__(
        self,
        space: ChannelSpace,
        objectives: Sequence[Objective],
        seed: int,
        first: Sequence[Genome],
        *,
        population: int = 20,
    ) -> None:
        super().__init__(space, objectives, seed, first)
        self._size = at_least("population", population, 8)
        self._sampler = StratifiedSampler(space)
        self._contenders: dict[Genome, _Individual] = {}  # those that can still be in the population
        self._population: list[_Individual] = []

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        if len(self._contenders) < self._size // 2:
            return self._fresh(self._sampler.draw(rng), rng)
        with _seeded_random(int(rng.integers(2**63))):
            if not self._population:
                self._population = self._select()
            mother, father = self._parents()
            child, _ = tools.cxUniform(list(mother), list(father), indpb=0.5)
        return self._fresh(self.genes.mutate(tuple(child), rng), rng)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        if losses is None:
            return
        self._contenders[genome] = _Individual(genome, losses)
        self._population = []

    def _select(self) -> list[_Individual]:
        """The best of the contenders, which are thinned where the worst cannot matter any more."""
        if len(self._contenders) > (1 + _RESERVE) * self._size:
            best = self._survivors(list(self._contenders.values()), _RESERVE * self._size)
            self._contenders = {tuple(one): one for one in best}
        contenders = list(self._contenders.values())
        return self._survivors(contenders, min(self._size, len(contenders)))

    def _survivors(self, individuals: list[_Individual], size: int) -> list[_Individual]:
        """By rank, then by crowding, which is written into them."""
        return tools.selNSGA2(individuals, size, nd="log")

    def _parents(self) -> Sequence[_Individual]:
        return tools.selTournamentDCD(self._population, 4)[:2]


class Nsga3Controller(Nsga2Controller):
    """Steady-state NSGA-III, for three objectives and more, where crowding spreads a front badly.

    As `Nsga2Controller`, but of the last rank those survive that fill the emptiest of evenly spread
    directions, and parents are any two of the population.

    Source: Deb and Jain 2014.
    """

    def _survivors(self, individuals: list[_Individual], size: int) -> list[_Individual]:
        with np.errstate(all="ignore"):  # DEAP divides by the extent of a front, which may be none
            return tools.selNSGA3(individuals, size, self._directions, nd="log")

    def _parents(self) -> Sequence[_Individual]:
        return random.sample(self._population, 2)

    @cached_property
    def _directions(self) -> np.ndarray:
        """About as many as the population has members."""
        n, steps = len(self.objectives), 1
        while comb(steps + n, n - 1) <= self._size:
            steps += 1
        return np.asarray(tools.uniform_reference_points(n, steps))


@contextmanager
def _seeded_random(seed: int) -> Iterator[None]:
    """Lend DEAP the global `random` and NumPy's, seeded, and give the caller's states back."""
    with _lending:
        state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # what DEAP draws from
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)  # noqa: NPY002
