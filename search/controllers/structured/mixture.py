"""Several experts on one campaign: each a damage model, weighted by how well it foresaw what was measured."""

from collections.abc import Sequence

import numpy as np

from search.controllers.structured.belief import FLAT, Belief, flat
from search.controllers.structured.evidence import Evidence
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.scouts import Scouts, ScoutTerms
from search.controllers.structured.terms import Terms
from spaces.space import ChannelSpace

FLOOR = 0.1
"""Weight that the flat expert keeps whatever the others foresaw."""

REFUTED = 0.02
"""Posterior weight below which an expert is dropped."""

LEAST = 8
"""Measured networks before an expert can be dropped."""


class Mixture:
    """The experts' models of one body of evidence, and what each counts.

    Attributes:
        beliefs: The experts, the flat one last.
        models: One each.
        weights: Of those that are asked, 0 for the dropped; they add up to 1: (n_experts,).
        posterior: The same before floor and dropping.
    """

    def __init__(
        self,
        experts: Sequence[Terms],
        evidence: Evidence,
        settings: Sequence[Setting],
        *,
        tune: bool = True,
    ) -> None:
        self._experts = experts
        self.beliefs = [terms.belief for terms in experts]
        self.models = [
            DamageModel(terms, evidence, setting, tune=tune)
            for terms, setting in zip(experts, settings, strict=True)
        ]
        self.posterior = posterior(self.beliefs, [model.log_evidence for model in self.models])
        self.weights = guarded(self.beliefs, self.posterior, len(evidence.genomes))

    @property
    def settings(self) -> list[Setting]:
        """What each model's likelihood chose."""
        return [model.setting for model in self.models]

    def expecting(self, genomes: np.ndarray) -> "Mixture":
        """The mixture when trials under way will find what each expert expects."""
        ahead = object.__new__(Mixture)
        ahead.__dict__.update(self.__dict__)
        ahead.models = [
            model.expecting(terms.features(genomes)) if weight else model
            for terms, model, weight in zip(self._experts, self.models, self.weights, strict=True)
        ]
        return ahead

    def each(self, genomes: np.ndarray) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Weight, mean and standard deviation of the damage, by every expert that counts."""
        return [
            (float(weight), *model.predict(terms.features(genomes)))
            for terms, model, weight in zip(self._experts, self.models, self.weights, strict=True)
            if weight
        ]

    def mean(self, genomes: np.ndarray) -> np.ndarray:
        """The mean of `predict` alone, which costs less: (n,)."""
        said = [
            weight * model.expected(terms.features(genomes))
            for terms, model, weight in zip(self._experts, self.models, self.weights, strict=True)
            if weight
        ]
        return np.asarray(np.sum(said, axis=0))

    def predict(self, genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the damage over all experts: (n,), (n,)."""
        said = self.each(genomes)
        mean = np.sum([weight * m for weight, m, _ in said], axis=0)
        square = np.sum([weight * (sd**2 + m**2) for weight, m, sd in said], axis=0)
        return mean, np.sqrt(np.maximum(square - mean**2, 1e-12))


def make_experts(space: ChannelSpace, beliefs: Sequence[Belief], scouts: Scouts | None = None) -> list[Terms]:
    """The terms of the scouts, if there were any, and of every belief; a flat one is added if missing."""
    if not any(belief.name == FLAT for belief in beliefs):
        beliefs = [*beliefs, flat(len(space.groups))]
    scouted = [ScoutTerms(scouts)] if scouts is not None else []
    return [*scouted, *(Terms(space, belief) for belief in beliefs)]


def posterior(beliefs: Sequence[Belief], log_evidence: Sequence[float]) -> np.ndarray:
    """Weights by Bayes: (n_experts,).

    A model's evidence is the product of its densities for each measurement given the earlier ones (the chain
    rule). But for the scales, which all of them chose, that is weighting by one-step-ahead prediction.
    """
    logs = np.array(log_evidence) + np.log([belief.weight for belief in beliefs])
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def guarded(beliefs: Sequence[Belief], weights: np.ndarray, n_measured: int) -> np.ndarray:
    """The weights with the refuted experts dropped and the flat one held up: (n_experts,)."""
    is_flat = np.array([belief.name == FLAT for belief in beliefs])
    kept = np.where((weights < REFUTED) & ~is_flat & (n_measured >= LEAST), 0.0, weights)
    kept = np.where(is_flat, np.maximum(kept, FLOOR * (~is_flat).any()), kept)
    others = kept[~is_flat].sum()
    flat_weight = kept[is_flat].sum()
    if others > 0:
        kept[~is_flat] *= (1 - min(flat_weight, 1.0)) / others
    else:
        kept[is_flat] = 1.0 / is_flat.sum()
    return kept / kept.sum()
