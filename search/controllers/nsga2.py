"""NSGA-II as a steady state, with DEAP's operators. The only file that knows DEAP."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from deap import base, tools

from search.controllers.base import SequentialController, at_least
from search.controllers.sampling import StratifiedSampler
from spaces.messages import Genome
from spaces.objectives import Objective
from spaces.space import ChannelSpace


class _Individual(list[int]):
    """What DEAP works on: a list of genes with a fitness."""

    def __init__(self, genome: Genome, losses: np.ndarray) -> None:
        super().__init__(genome)
        # DEAP's `creator` would write such a class into a global module; here it stays with its maker.
        kind = type("Fitness", (base.Fitness,), {"weights": (-1.0,) * len(losses)})
        self.fitness = kind(tuple(losses.tolist()))


class Nsga2Controller(SequentialController):
    """Steady-state NSGA-II: every told genome competes for the population at once.

    Two parents by binary tournament on rank and crowding, uniform crossover, then a lognormal step in about
    one gene. Random genomes, evenly spread along the FLOPs axis, until a quarter of a population was told.

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
        self._population: dict[Genome, _Individual] = {}

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        if len(self._population) < max(4, self._size // 4):
            return self._fresh(self._sampler.draw(rng), rng)
        with _seeded_random(int(rng.integers(2**63))):
            mother, father = tools.selTournamentDCD(list(self._population.values()), 4)[:2]
            child, _ = tools.cxUniform(list(mother), list(father), indpb=0.5)
        return self._fresh(self.genes.mutate(tuple(child), rng), rng)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        if losses is None:
            return
        self._population[genome] = _Individual(genome, losses)
        everyone = list(self._population.values())
        chosen = tools.selNSGA2(everyone, min(self._size, len(everyone)))  # also writes crowding distances
        self._population = {tuple(individual): individual for individual in chosen}


@contextmanager
def _seeded_random(seed: int) -> Iterator[None]:
    """Lend DEAP the global `random`, seeded, and give the caller's state back."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
