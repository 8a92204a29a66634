"""The baseline that every search must beat: uniform networks only."""

import numpy as np

from search.controllers.base import SequentialController
from search.start import uniform_networks
from spaces.fronts import OCTAVES
from spaces.messages import Genome


class LadderController(SequentialController):
    """Uniform networks, the widest gap of the ladder halved first, until there is none left.

    Each ask is the uniform network farthest in log FLOPs from every network asked before: first down to
    1/64 of dense, then below. What it is told changes nothing.
    """

    def _set_up(self) -> None:
        self._rungs, self._levels = uniform_networks(self.space)

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        del rng  # nothing here is random
        left = np.array([rung not in self._asked for rung in self._rungs])
        if not left.any():
            return None
        gaps = np.abs(self._levels[left][:, None] - self._levels[~left]).min(axis=1, initial=np.inf)
        gaps[self._levels[left] < -OCTAVES] -= 1e6
        return self._rungs[np.flatnonzero(left)[gaps.argmax()]]

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        del genome, losses
