"""Random search."""

from collections.abc import Sequence

import numpy as np

from search.controllers.base import SequentialController
from search.controllers.sampling import StratifiedSampler
from spaces.messages import Genome
from spaces.objectives import Objective
from spaces.space import ChannelSpace


class RandomController(SequentialController):
    """Random genomes, evenly spread along the FLOPs axis (see `StratifiedSampler`); learns nothing."""

    def __init__(
        self, space: ChannelSpace, objectives: Sequence[Objective], seed: int, first: Sequence[Genome]
    ) -> None:
        super().__init__(space, objectives, seed, first)
        self._sampler = StratifiedSampler(space)

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        return self._fresh(self._sampler.draw(rng), rng)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        del genome, losses
