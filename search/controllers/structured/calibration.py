"""How far off the model's forecasts were, and so how much wider its intervals have to be."""

import numpy as np
from scipy.special import ndtri

from search.controllers.structured.evidence import Evidence
from spaces.messages import Genome

COVER = 0.90
"""Of the measurements, how many the intervals of this level must hold."""

_IMAGINED = 10  # forecasts beside those that were made,
_USUAL = 1.5  # which scatter by so much more than the model says, as they did on breast ultrasound
_RECENT = 40
_MOST = 4.0
_SPREAD = 0.02  # of readings, beside the model's own doubt


class Calibration:
    """Remembers what was foreseen of every network when it was asked, one step ahead, and what came of it.

    Attributes:
        factor: Of standard deviations, 1 or more: intervals so much wider would have held what they should.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._foreseen: dict[Genome, tuple[float, float, float]] = {}
        self._misses: dict[Genome, float] = {}
        levels = (np.arange(_IMAGINED) + 0.5) / _IMAGINED
        self._imagined = _USUAL * ndtri(0.5 + levels / 2)

    def expect(self, genome: Genome, mean: float, sd: float, unit: float) -> None:
        """The damage foreseen of a network, by the unit of amounts at that time."""
        self._foreseen[genome] = mean, float(np.hypot(sd, _SPREAD)), unit

    def compare(self, evidence: Evidence) -> None:
        """Take in what was measured by now."""
        amounts = evidence.unit * np.expm1(evidence.readings)
        for genome, amount in zip(map(tuple, evidence.genomes.tolist()), amounts, strict=True):
            if genome in self._foreseen and genome not in self._misses:
                mean, sd, unit = self._foreseen[genome]
                self._misses[genome] = abs(float(np.log(max(1 + amount / unit, _SPREAD))) - mean) / sd
        recent = list(self._misses.values())[-_RECENT:]
        reach = float(np.quantile(np.concatenate([recent, self._imagined]), COVER))
        self.factor = float(np.clip(reach / ndtri(0.5 + COVER / 2), 1.0, _MOST))
