"""Random search."""

import numpy as np

from search.controllers.base import SequentialController
from search.controllers.sampling import StratifiedSampler
from spaces.messages import Genome


class RandomController(SequentialController):
    """Random genomes, evenly spread along the FLOPs axis (see `StratifiedSampler`); learns nothing."""

    def _set_up(self) -> None:
        self._sampler = StratifiedSampler(self.space)

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        return self._fresh(self._sampler.draw(rng), rng)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        del genome, losses
