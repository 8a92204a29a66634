"""What scouts saw: cheap looks at many candidates, and how the damage of thorough ones follows from them.

A scout is a candidate as it comes out of the knife, with its norm statistics taken anew on a handful of
images and compared with dense on these. That costs a small part of tuning it, and tells what no sum over
groups can: which prunings are worse together than apart.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.controllers.structured.belief import PIECES, Belief
from search.controllers.structured.evidence import Evidence
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Features, Scales, Terms, weights
from spaces.space import ChannelSpace

SCOUTS = "scouts"
"""The expert who takes the scouts' word."""

LINK = np.array([0.5, 0.6, 0.8, 1.0])
"""Damage per damage that scouts see, on each piece, before anything is known: tuning mends what is mild."""

_KNOTS = np.array([0.0, 0.4, 1.0, 2.0])
"""Of the damage that scouts see. Between two knots the link is a straight line; its slope is free."""

_FOLLOWS = float(LINK.mean()) ** 2


@dataclass(frozen=True, eq=False)
class Scouts:
    """Scouts of one campaign.

    Attributes:
        space: Of the genomes.
        evidence: What they saw.
    """

    space: ChannelSpace
    evidence: Evidence

    @cached_property
    def model(self) -> tuple[Terms, DamageModel]:
        """A damage model of what they saw, as for any other rung."""
        terms = Terms(self.space)
        return terms, DamageModel(terms, self.evidence, Setting())

    def damage(self, genomes: np.ndarray) -> np.ndarray:
        """What scouts should see of any genome: (n, n_groups) -> (n,)."""
        terms, model = self.model
        return model.whitened(terms.features(np.asarray(genomes)))[0]


@dataclass(frozen=True, eq=False)
class ScoutFeatures(Features):
    """Of n genomes, with what the scouts' own model needs.

    Attributes:
        ramps: (n, n_pieces) `common` of that model.
        told: (n, s) what s scouts tell of each, see `DamageModel.whitened`.
    """

    ramps: np.ndarray
    told: np.ndarray


class ScoutTerms(Terms):
    """Damage that follows what scouts see along a line of free slopes, and a rest as free as `Terms` has it.

    Where no scout went near, what it would have seen is doubted, too: the covariance of the scouts' own model
    counts, by the square of the mean slope.

    Args:
        scouts: Whose word to take.

    Source: Le Gratiet and Garnier 2014 (recursive co-kriging for computer codes of several fidelities).
    """

    def __init__(self, scouts: Scouts) -> None:
        n_groups = len(scouts.space.groups)
        belief = Belief(SCOUTS, np.ones((n_groups, PIECES)), np.ones(n_groups))
        super().__init__(scouts.space, belief)
        self._plain, self._model = scouts.model

    def features(self, genomes: np.ndarray) -> ScoutFeatures:
        """See `Terms.features`."""
        plain = super().features(genomes)
        seen, told = self._model.whitened(plain)
        pieces = np.clip(seen[:, None] - _KNOTS, 0.0, np.append(np.diff(_KNOTS), np.inf))
        pieces[:, 0] += np.minimum(seen, 0.0)
        rest = (plain.own, plain.products, plain.octaves, plain.pruned)
        return ScoutFeatures(pieces * LINK, *rest, plain.common, told)

    def parts(self, a: Features, b: Features) -> np.ndarray:
        """See `Terms.parts`; what scouts would have seen counts to what groups have in common."""
        parts = super().parts(a, b)
        parts[0] += _FOLLOWS * self._unseen(a, b)
        return parts

    def covariance(self, a: Features, b: Features, scales: Scales) -> np.ndarray:
        """See `Terms.covariance`."""
        return super().covariance(a, b, scales) + weights(scales)[0] * _FOLLOWS * self._unseen(a, b)

    def _unseen(self, a: Features, b: Features) -> np.ndarray:
        """Covariance of what scouts would see, given what they saw: (n, m)."""
        assert isinstance(a, ScoutFeatures)
        assert isinstance(b, ScoutFeatures)
        prior = self._plain.covariance(self._plainly(a), self._plainly(b), self._model.setting.scales)
        return np.asarray(prior - a.told @ b.told.T)

    def variances(self, a: Features) -> np.ndarray:
        """See `Terms.variances`."""
        assert isinstance(a, ScoutFeatures)
        variances, scales = super().variances(a), self._model.setting.scales
        unseen = self._plain.variance(self._plainly(a), scales) - np.square(a.told).sum(axis=1)
        variances[0] += _FOLLOWS * np.maximum(unseen, 0.0)
        return variances

    @staticmethod
    def _plainly(a: ScoutFeatures) -> Features:
        """The same genomes, as the scouts' model has them."""
        return Features(a.ramps, a.own, a.products, a.octaves, a.pruned)
