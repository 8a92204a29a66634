"""Random genomes spread evenly along the FLOPs axis."""

import numpy as np

from search.genes import Genes, octaves
from spaces.fronts import OCTAVES
from spaces.messages import Genome
from spaces.space import ChannelSpace

_SCALES = 128


class StratifiedSampler:
    """Draws a FLOPs level first, uniform in log FLOPs, then a random genome of about that level.

    Genes drawn independently would nearly all have the same FLOPs (a quarter of dense, give or take), which
    leaves both ends of the front unseen. Here the kept ratio of gene i is `min(1, c * w_i)`: the weights w
    are lognormal around 1, with a spread drawn per genome from nothing (a uniform network) to `spread`, and
    the one number c is chosen so that the FLOPs meet the level.

    Args:
        space: Where genomes come from.
        spread: Largest standard deviation of the weights' natural logarithm.
    """

    def __init__(self, space: ChannelSpace, spread: float = 1.0) -> None:
        self._space = space
        self._genes = Genes(space)
        self._spread = spread
        minimal = np.array([space.minimal], dtype=float)
        self._lowest = max(-OCTAVES, float(octaves(space, minimal)[0]))
        self._least_ratio = float((minimal[0] / self._genes.dense).min(initial=1.0))

    def draw(self, rng: np.random.Generator) -> Genome:
        """A random legal genome. About a millisecond at 60 groups."""
        level = rng.uniform(self._lowest, 0.0)
        weights = np.exp(rng.uniform(0.0, self._spread) * rng.standard_normal(len(self._genes.dense)))
        low = max(self._least_ratio, 1e-3) / weights.max(initial=1.0)
        scales = np.geomspace(low, 1.0 / weights.min(initial=1.0), _SCALES)
        ratios = np.minimum(scales[:, None] * weights, 1.0)
        genomes = self._genes.nearest(ratios * self._genes.dense)
        nearest = np.abs(octaves(self._space, genomes) - level).argmin()
        return tuple(genomes[nearest].tolist())
