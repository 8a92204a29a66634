"""What one past campaign says about how group features bend damage: the part of it that a prior keeps."""

from dataclasses import dataclass

import numpy as np

from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Terms
from search.prior.corpus import Origin, PastCampaign
from search.prior.features import group_features
from spaces.fronts import non_dominated

_PROBED = 0.25  # kept share at which each group's own damage is read from the model
_STEEPEST = 8.0


@dataclass(frozen=True, eq=False)
class Lesson:
    """Of one campaign with g groups, k group features.

    Attributes:
        origin: Where it comes from.
        features: (g, k) features of its groups.
        slopes: (g,) how steep each group is, relative to all alike.
        errors: (g,) standard deviations of these.
        front: (m, g) kept shares of the networks that nothing cheaper was believed to beat, dense apart.
        levels: (m,) log2(FLOPs / dense) of these.
        steepness: Of damage as a whole, relative to the flat prior.
    """

    origin: Origin
    features: np.ndarray
    slopes: np.ndarray
    errors: np.ndarray
    front: np.ndarray
    levels: np.ndarray
    steepness: float


def lesson_of(campaign: PastCampaign) -> Lesson:
    """Fit the damage model to a campaign and keep what it says beyond "all groups alike".

    Costs about what an ask of the controller `structured` costs.
    """
    features = group_features(campaign.groups)
    terms = Terms(campaign.space)
    evidence = campaign.evidence
    model = DamageModel(terms, evidence, Setting())
    dense = np.array(campaign.space.dense, dtype=float)
    n = len(dense)
    everywhere = (dense * _PROBED)[None]
    expected = float(terms.ramps(everywhere).sum())
    steepness = float(np.clip(model.predict(terms.features(everywhere))[0][0] / expected, 0.05, _STEEPEST))
    alone = np.tile(dense, (n, 1))
    alone[np.arange(n), np.arange(n)] *= _PROBED
    mean, sd = model.predict(terms.features(alone))
    unit = steepness * terms.ramps(alone).sum(axis=(1, 2))
    on_front = non_dominated(np.column_stack([campaign.octaves, model.mean]))
    return Lesson(
        origin=campaign.origin,
        features=features,
        slopes=np.clip(mean / unit, -_STEEPEST, _STEEPEST),
        errors=sd / unit,
        front=evidence.genomes[on_front] / dense,
        levels=campaign.octaves[on_front],
        steepness=steepness,
    )
