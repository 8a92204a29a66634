"""Pareto local search: small steps from the front, most of them at about constant FLOPs."""

import numpy as np

from search.controllers.base import SequentialController
from search.controllers.sampling import StratifiedSampler
from search.genes import Genes, octaves
from spaces.fronts import non_dominated
from spaces.messages import Genome
from spaces.space import ChannelSpace

_LEAST = 3  # networks measured before there is a front to start from
_RELINKED = 0.5  # share of moves that go some way towards another network on the front
_SWAPS = 2 / 3  # of the others, share that swaps FLOPs between two groups
_STEP = 0.5  # standard deviation of a step's natural logarithm
_TRIES = 8


class LocalController(SequentialController):
    """Pareto local search, steady state: every ask is a neighbour of a network on the front of the means.

    The network to leave is the one whose neighbours were tried least often; of several, the one farthest
    from the others along the front. Half of the moves take some groups from another network on the front
    (path relinking): steps in one or two groups alone are too short where groups are many. Of the others, two
    in three take channels from one group and give another as many as bring the FLOPs back; the third changes
    one group alone, so that the front also grows along its axis.

    Source: Paquete, Chiarandini and Stützle 2004 (Pareto local search); Glover, Laguna and Martí 2000 (path
    relinking).
    """

    def _set_up(self) -> None:
        self._sampler = StratifiedSampler(self.space)
        self._means: dict[Genome, np.ndarray] = {}
        self._left: dict[Genome, int] = {}  # neighbours asked of each network

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        if len(self._means) < _LEAST:
            return self._fresh(self._sampler.draw(rng), rng)
        front = self._front()
        start = self._start(front)
        self._left[start] = self._left.get(start, 0) + 1
        for _ in range(_TRIES):
            neighbour = self._neighbour(start, list(front), rng)
            if neighbour not in self._asked:
                return neighbour
        return self._fresh(neighbour, rng)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        if losses is not None:
            self._means[genome] = losses

    def _neighbour(self, start: Genome, front: list[Genome], rng: np.random.Generator) -> Genome:
        if rng.random() < _RELINKED:
            end = front[rng.integers(len(front))]
            taken = rng.random(len(start)) < rng.random()
            mixed = self.genes.nearest(np.where(taken, end, start).astype(float)[None])
            return tuple(mixed[0].tolist())
        swapped = rng.random() < _SWAPS and swap(self.space, self.genes, start, rng)
        return swapped or self.genes.mutate(start, rng, step=_STEP)

    def _front(self) -> dict[Genome, np.ndarray]:
        """Networks that nothing measured beats, with their losses."""
        genomes, losses = list(self._means), np.array(list(self._means.values()))
        return {genomes[i]: losses[i] for i in np.flatnonzero(non_dominated(losses))}

    def _start(self, front: dict[Genome, np.ndarray]) -> Genome:
        """The network on the front to leave next."""
        losses = np.array(list(front.values()))
        tries = np.array([self._left.get(genome, 0) for genome in front])
        scale = np.ptp(losses, axis=0)
        scaled = losses / np.where(scale > 0, scale, 1)
        apart = np.abs(scaled[:, None] - scaled[None]).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        best = np.lexsort((-apart.min(axis=1), tries))[0]
        return list(front)[best]


def swap(space: ChannelSpace, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genome | None:
    """A neighbour of about the same FLOPs: one group gives channels, another takes them.

    Returns:
        None where no other group can bring the FLOPs nearer to where they were.
    """
    if len(genes.free) < 2:
        return None
    first, second = rng.choice(genes.free, size=2, replace=False)
    changed = np.array(genome)
    changed[first] = genes.moved(first, changed[first], float(np.exp(_STEP * rng.standard_normal())))
    choices = space.groups[second].choices
    rows = np.repeat(changed[None], len(choices), axis=0)
    rows[:, second] = choices
    before = octaves(space, np.array([genome]))[0]
    best = space.check(rows[np.abs(octaves(space, rows) - before).argmin()].tolist())
    return best if best[second] != genome[second] and best[first] != genome[first] else None
