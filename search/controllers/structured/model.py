"""The damage model: a Gaussian process over genomes, seen through a scale and honest noise."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from search.controllers.structured.evidence import Evidence
from search.controllers.structured.terms import Features, Scales, Terms, weights

_STEPS = 6
_STRIDE = 1.0  # most that damage moves in a step
_MOST = 160  # networks that scales are chosen on
_SWEEPS = 4
_FACTORS = (1 / 3, 3.0)
_LOOSENESS = 1.2  # prior standard deviation of the scales' natural logarithms
_CENTRE = Scales()


@dataclass(frozen=True)
class Setting:
    """What the likelihood chooses.

    Attributes:
        scales: Of the prior.
        spread: Of readings between repeats, relative to the first guess.
    """

    scales: Scales = _CENTRE
    spread: float = 1.0

    def likelier_by(self) -> float:
        """Log density of the scales before any data, up to a constant."""
        values = np.array([*vars(self.scales).values(), self.spread])
        centre = np.array([*vars(_CENTRE).values(), 1.0])
        return -0.5 * float(np.square(np.log(values / centre) / _LOOSENESS).sum())

    def neighbours(self) -> list["Setting"]:
        """One scale changed at a time."""
        near = [replace(self, spread=self.spread * factor) for factor in _FACTORS]
        for name, value in vars(self.scales).items():
            near += [
                replace(self, scales=replace(self.scales, **{name: value * factor})) for factor in _FACTORS
            ]
        return near


class DamageModel:
    """Posterior of the damage of any genome.

    The likelihood is Gaussian in the readings (see `Scale`). Amounts read damage itself; retention is
    linearised at the posterior mean, again and again (Laplace's approximation by Gauss-Newton steps). A
    metric at or below chance then says that the damage is large, and not how large: its slope in Z vanishes,
    which is what censoring at the clip means.

    Args:
        terms: The prior.
        evidence: What was measured.
        setting: Scales to start from; the likelihood improves on them.
        tune: Whether it does.
    """

    def __init__(self, terms: Terms, evidence: Evidence, setting: Setting, *, tune: bool = True) -> None:
        self._terms = terms
        self._features = terms.features(evidence.genomes)
        self._evidence = evidence
        self.setting = setting
        self._scale = evidence.scale
        self.mean = self._scale.damage(evidence.readings)
        if tune:
            self.setting = self._tuned()
        self._fit()

    def _fit(self) -> None:
        prior = self._terms.covariance(self._features, self._features, self.setting.scales)
        base = self._terms.mean(self._features, self.setting.scales)
        noise = self._noise()
        for _ in range(_STEPS):
            at = self.mean
            targets, errors = self._scale.linearised(self._evidence.readings, noise, at)
            root = np.linalg.cholesky(prior + errors)
            pull = cho_solve((root, True), targets - base)
            wanted = self._scale.held(base + prior @ pull)
            self.mean = at + np.clip(wanted - at, -_STRIDE, _STRIDE)
            if np.abs(self.mean - at).max() < 0.01:
                break
        self._root, self._pull = root, pull
        self._errors = errors
        # Laplace's, as a density of readings: damage read at a slope stretches by its inverse.
        fit = -0.5 * float((targets - base) @ pull) - float(np.log(np.diag(root)).sum())
        self.log_evidence = self.setting.likelier_by() + fit - float(np.log(self._scale.slopes(at)).sum())

    def expected(self, features: Features) -> np.ndarray:
        """Posterior mean of the damage: (n,)."""
        scales = self.setting.scales
        cross = self._terms.covariance(features, self._features, scales)
        return np.asarray(self._terms.mean(features, scales) + cross @ self._pull)

    def whitened(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean of the damage, (n,), and what the trials tell of it, (n, t).

        The posterior's covariance is the prior's less the products of the latter.
        """
        scales = self.setting.scales
        cross = self._terms.covariance(features, self._features, scales)
        mean = self._terms.mean(features, scales) + cross @ self._pull
        return mean, solve_triangular(self._root, cross.T, lower=True, check_finite=False).T

    def predict(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and standard deviation of the damage: (n,), (n,). O(n t^2) for t trials."""
        mean, told = self.whitened(features)
        variance = self._terms.variance(features, self.setting.scales) - np.square(told).sum(axis=1)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def expecting(self, pending: Features) -> "DamageModel":
        """The model when trials under way will find what it expects: the same means, less doubt near them."""
        mean, _ = self.predict(pending)
        told = len(self._features)
        ahead = object.__new__(DamageModel)
        ahead.__dict__.update(self.__dict__)
        ahead._features = self._features.joined(pending)
        scales = self.setting.scales
        cross = self._terms.covariance(pending, self._features, scales)
        own = self._terms.covariance(pending, pending, scales)
        slopes = self._scale.slopes(self._scale.held(mean))
        typical = float(np.median(np.diag(self._noise())))
        own[np.diag_indices(len(own))] += typical / slopes**2
        # Cholesky by blocks: what was told stays as it is.
        lower = solve_triangular(self._root, cross.T, lower=True, check_finite=False).T
        corner = np.linalg.cholesky(own - lower @ lower.T)
        ahead._root = np.block([[self._root, np.zeros((told, len(own)))], [lower, corner]])
        ahead._pull = np.concatenate([self._pull, np.zeros(len(own))])
        return ahead

    def _noise(self) -> np.ndarray:
        noise = self._evidence.noise(self.setting.spread * self._evidence.spread)
        noise[np.diag_indices(len(noise))] += 1e-6
        return noise

    def _tuned(self) -> Setting:
        """The likeliest scales near those from before: coordinate steps on a grid."""
        n = len(self.mean)
        some = np.unique(np.linspace(0, n - 1, min(n, _MOST)).astype(int))
        features, evidence, at = self._features.rows(some), self._evidence.rows(some), self.mean[some]
        parts = self._terms.parts(features, features)

        def likelihood(setting: Setting) -> float:
            noise = evidence.noise(setting.spread * evidence.spread)
            noise[np.diag_indices(len(noise))] += 1e-6
            targets, errors = self._scale.linearised(evidence.readings, noise, at)
            covariance = np.tensordot(weights(setting.scales), parts, axes=1) + errors
            root = np.linalg.cholesky(covariance)
            gap = targets - self._terms.mean(features, setting.scales)
            white = solve_triangular(root, gap, lower=True, check_finite=False)
            return setting.likelier_by() - 0.5 * float(white @ white) - float(np.log(np.diag(root)).sum())

        chosen, best = self.setting, likelihood(self.setting)
        for _ in range(_SWEEPS):
            tried = {setting: likelihood(setting) for setting in chosen.neighbours()}
            winner = max(tried, key=lambda setting: tried[setting])
            if tried[winner] <= best:
                break
            chosen, best = winner, tried[winner]
        return chosen
