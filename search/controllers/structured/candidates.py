"""Where improvement is looked for: cheapest paths through the model, and offspring of what is good."""

from collections.abc import Callable

import numpy as np

from search.genes import Genes, octaves
from spaces.space import ChannelSpace

_CHOICES = 8  # kept counts that a path tries per group
_SWEEPS = 2

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Genomes (n, n_groups) to the mean and standard deviation of their damage, (n,) each."""


class Candidates:
    """Proposes genomes for the model to judge.

    Args:
        space: Of the genomes.
        genes: Its legal counts.
    """

    def __init__(self, space: ChannelSpace, genes: Genes) -> None:
        self._space, self._genes = space, genes
        self._dense = np.array(space.dense)
        self._choices = [_spread_out(np.array(group.choices)) for group in space.groups]
        alone = [
            np.where(np.arange(len(self._dense)) == i, kept, self._dense)
            for i, choices in enumerate(self._choices)
            for kept in choices
        ]
        self._alone = space.settled(np.array(alone))
        self._ends = np.cumsum([len(choices) for choices in self._choices])[:-1]

    def paths(self, predict: Predict, n: int, rng: np.random.Generator) -> np.ndarray:
        """Networks that are optimal on an additive draw from the model: (n, n_groups).

        What each group costs alone is drawn from the posterior, once a network; then group after group takes
        the count with the least damage + price * log2(FLOPs), at prices from cheap to dear.
        """
        mean, sd = predict(self._alone)
        by_group = zip(np.split(mean, self._ends), np.split(sd, self._ends), strict=True)
        prices = np.geomspace(0.005, 1.0, n)[rng.permutation(n)]
        draws = rng.standard_normal((n, len(self._dense)))
        draws[: n // 3] = 0.0
        tables = [m + draws[:, i, None] * s for i, (m, s) in enumerate(by_group)]
        genomes = np.repeat(self._dense[None], n, axis=0)
        for _ in range(_SWEEPS):
            for i in self._genes.free:
                tried = np.repeat(genomes, len(self._choices[i]), axis=0)
                tried[:, i] = np.tile(self._choices[i], n)
                flops = octaves(self._space, tried).reshape(n, -1)
                genomes[:, i] = self._choices[i][(tables[i] + prices[:, None] * flops).argmin(axis=1)]
        return self._space.settled(genomes)

    def offspring(self, parents: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Crossovers of two parents, half of them, and lognormal steps in about one to three genes."""
        mothers, fathers = parents[rng.integers(len(parents), size=(2, n))]
        crossed = rng.random((n, 1)) < 0.5
        kept = np.where(crossed & (rng.random(mothers.shape) < 0.5), fathers, mothers).astype(float)
        rate = rng.integers(1, 4, size=(n, 1)) / max(len(self._genes.free), 1)
        steps = np.where(rng.random(kept.shape) < rate, rng.normal(0, 0.6, kept.shape), 0.0)
        return self._genes.nearest(np.minimum(kept * np.exp(steps), self._dense))


def _spread_out(choices: np.ndarray) -> np.ndarray:
    """At most a few choices, evenly, both ends among them."""
    return choices[np.unique(np.linspace(0, len(choices) - 1, min(len(choices), _CHOICES)).astype(int))]
