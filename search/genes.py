"""The genes of a channel space as arrays: rounding many relaxed genomes at once, and small changes."""

import itertools
from collections.abc import Iterator

import numpy as np

from spaces.messages import Genome
from spaces.space import ChannelSpace


class Genes:
    """Legal kept counts of every group, ready for whole arrays of genomes.

    Attributes:
        dense: Units of every group (n_groups,).
        free: Indices of the groups that leave a choice.
    """

    def __init__(self, space: ChannelSpace) -> None:
        self._space = space
        self.dense = np.array(space.dense, dtype=float)
        self._choices = [np.array(group.choices) for group in space.groups]
        self._edges = [(choices[1:] + choices[:-1]) / 2 for choices in self._choices]
        self.free = np.flatnonzero([len(choices) > 1 for choices in self._choices])

    def ratios(self) -> np.ndarray:
        """One kept ratio for every distinct uniform network, ascending, all within 0 and 1."""
        edges = [edge / units for edge, units in zip(self._edges, self.dense, strict=True)]
        # Rounded, because groups of different widths reach the same ratio through different divisions.
        borders = np.unique(np.round(np.concatenate([[0.0, 1.0], *edges]), 12))
        return (borders[1:] + borders[:-1]) / 2

    def nearest(self, kept: np.ndarray) -> np.ndarray:
        """The nearest legal genomes: (n, n_groups) float -> (n, n_groups) int; of two the larger.

        A group comes to nothing, where it may, below half of its least other choice; then its branch falls.
        """
        columns = [
            choices[np.searchsorted(edges, column, side="right")]
            for choices, edges, column in zip(self._choices, self._edges, kept.T, strict=True)
        ]
        return self._space.settled(np.column_stack(columns))

    def mutate(self, genome: Genome, rng: np.random.Generator, *, step: float = 0.5) -> Genome:
        """The genome with about one gene changed, at least one where any can be.

        A gene changes by a lognormal factor, the same in every octave of the kept count, and by one choice
        where the factor would round to nothing. What falls with a group that comes to nothing falls; a group
        that comes back brings back, with their least other choices, those without which it cannot be.

        Args:
            genome: Where to start.
            rng: Source of randomness.
            step: Standard deviation of the factor's natural logarithm.
        """
        if not len(self.free):
            return genome
        changed = self.free[rng.random(len(self.free)) < 1 / len(self.free)]
        if not len(changed):
            changed = rng.choice(self.free, size=1)
        kept = np.array(genome)
        for gene in changed:
            kept[gene] = self.moved(gene, kept[gene], float(np.exp(step * rng.standard_normal())))
            for other, falling in enumerate(self._space.falls if kept[gene] else ()):
                if gene in falling and not kept[other]:
                    kept[other] = self._choices[other][1]
        return tuple(self._space.settled(kept[None])[0].tolist())

    def everything(self) -> Iterator[Genome]:
        """Every genome, the most pruned first; for small spaces."""
        genomes = itertools.product(*(choices.tolist() for choices in self._choices))
        return (genome for genome in genomes if self._space.check(genome) == genome)

    def moved(self, gene: int, kept: int, factor: float) -> int:
        """The legal count nearest to `kept * factor`, but never `kept` itself where there is another."""
        choices = self._choices[gene]
        before = int(np.searchsorted(choices, kept))
        after = int(np.searchsorted(self._edges[gene], kept * factor, side="right"))
        if after == before:
            after += 1 if factor > 1 else -1
            if not 0 <= after < len(choices):
                after = before + (1 if before == 0 else -1)
        return int(choices[after])


def octaves(space: ChannelSpace, genomes: np.ndarray) -> np.ndarray:
    """log2(FLOPs / dense FLOPs): (n, n_groups) -> (n,), 0 for dense and negative below."""
    return np.log2(space.cost(genomes).flops / space.cost(space.dense).flops)
