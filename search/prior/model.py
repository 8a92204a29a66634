"""The meta-prior: from the lessons of past campaigns to what to expect of a network never pruned before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from search.controllers.structured.belief import PIECES, Belief, flat
from search.prior.features import GROUP_FEATURES, fisher_shares, group_features, task_features
from search.prior.forest import forest_slopes
from search.prior.lessons import Lesson, slopes_of
from search.prior.loglinear import FISHER_POWER, log_slopes
from spaces.errors import ConfigError

META, SCAN = "meta", "scan"
"""Experts beside the flat one: past campaigns, and what the loss's gradients say about this network alone."""

Kind: TypeAlias = Literal["ridge", "near", "trees", "log", "mean"]

_LEAST_SLOPE, _MOST_SLOPE = 0.1, 6.0
_OWN_SD = 3.0**0.5  # of a group's slope in the flat prior, relative to its mean
_NEAR = 1.0  # distance of tasks, in standard deviations per feature, at which they count exp(-1/2)


@dataclass(frozen=True)
class Choice:
    """Which model, how strongly held back, and how much it doubts itself.

    Attributes:
        kind: "ridge": one regression for all tasks; "near": the same, near tasks counting more; "trees":
            extra-trees; "log": log-linear, drawn towards the gradients' scan; "mean": all groups alike, that
            is no transfer.
        strength: Prior standard deviation of a coefficient, per standard deviation of its feature.
        doubt: Standard deviation of what a group adds of its own, relative to the flat prior's.
    """

    kind: Kind = "ridge"
    strength: float = 0.1
    doubt: float = 1.0


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a prior says about one network.

    Attributes:
        experts: The beliefs to mix, the flat one last.
        outside: Per group, how many features lie outside of what the lessons have seen: (g,).
    """

    experts: tuple[Belief, ...]
    outside: np.ndarray

    def belief(self, name: str) -> Belief:
        """The expert of that name; the flat one where there is none."""
        named = {expert.name: expert for expert in self.experts}
        return named.get(name, self.experts[-1])


@dataclass(frozen=True, eq=False)
class LayerPrior:
    """Experience of past campaigns.

    Attributes:
        lessons: One a campaign.
        choice: Model and doubt, as leave-one-out chose them.
        quality: What leave-one-out found; plain JSON.
        sha256: Of the file that it was read from; empty before it was written.
    """

    lessons: tuple[Lesson, ...]
    choice: Choice = Choice()
    quality: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def without(self, keep: Callable[[Lesson], bool]) -> "LayerPrior":
        """The prior of those lessons only."""
        return replace(self, lessons=tuple(lesson for lesson in self.lessons if keep(lesson)))

    def unseen(self, source: str, data: str) -> "LayerPrior":
        """The prior without what has seen these images, or others of the same set.

        Where that is one data set, model and doubt, too, are those that the others alone had chosen.
        """
        clean = self.without(lambda lesson: not lesson.origin.shares_data(source, data))
        kept = {lesson.origin.source for lesson in clean.lessons}
        nested = self.quality.get("data_sets", {})
        gone = [nested[name] for name in nested if name not in kept]
        return replace(clean, choice=Choice(**gone[0]["choice"])) if len(gone) == 1 else clean

    def guarded(self, source: str, data: str) -> "LayerPrior":
        """The prior of `unseen`, where that has anything to say.

        Raises:
            ConfigError: Nothing is left.
        """
        clean = self.unseen(source, data)
        if not clean.lessons:
            raise ConfigError(
                f"the prior has learnt from {source} only, which is what this campaign searches on: nothing "
                "would be transferred; leave the prior out, or fit one with campaigns on other data"
            )
        return clean

    def expect(self, groups: Sequence[Mapping[str, Any]], task: Mapping[str, float]) -> Expectation:
        """What to expect of a network.

        Args:
            groups: As described in the store, with descriptors.
            task: Its descriptors.
        """
        features, n = group_features(groups), len(groups)
        slopes, spread, outside = self.slopes(features, task_features(task))
        doubt = np.sqrt(self.choice.doubt**2 + np.square(spread / _OWN_SD)) * (1 + 0.25 * outside)
        experts = [Belief(META, slopes, doubt)]
        if (shares := fisher_shares(groups)) is not None:
            experts.append(Belief(SCAN, scan_slopes(shares), np.full(n, self.choice.doubt)))
        return Expectation((*experts, flat(n)), outside)

    def slopes(self, features: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relative slopes, their spread between sets of tasks, and how many features are out of range.

        Args:
            features: (g, k).
            task: Of the target.

        Returns:
            (g, PIECES), (g,), (g,). Features out of the lessons' range are held at its ends.
        """
        seen = np.concatenate([lesson.features for lesson in self.lessons])
        low, high = seen.min(axis=0), seen.max(axis=0)
        slack = 0.1 * (high - low) + 1e-9
        outside = ((features < low - slack) | (features > high + slack)).sum(axis=1).astype(float)
        held = np.clip(features, low, high)
        scale = np.where(seen.std(axis=0) > 1e-9, seen.std(axis=0), np.inf)
        mean = self._one(self.lessons, held, scale, task)
        sources = sorted({lesson.origin.source for lesson in self.lessons})
        fixed = self.choice.kind in ("mean", "trees") or not self.choice.strength
        if len(sources) < 2 or fixed:  # no jackknife of forests: too slow
            return mean, np.zeros(len(features)), outside
        # A jackknife over data sets: what one of them more or less would change.
        members = [
            self._one([le for le in self.lessons if le.origin.source != source], held, scale, task)
            for source in sources
        ]
        spread = np.std([member.mean(axis=1) for member in members], axis=0) * np.sqrt(len(sources) - 1)
        return mean, spread, outside

    def _one(
        self, lessons: Sequence[Lesson], features: np.ndarray, scale: np.ndarray, task: np.ndarray
    ) -> np.ndarray:
        kind = self.choice.kind
        if kind == "mean" or not len(features):
            slopes = np.ones((len(features), PIECES))
        elif kind == "trees":
            slopes = np.repeat(forest_slopes(lessons, features)[:, None], PIECES, axis=1)
        elif kind == "log":
            alike = log_slopes(lessons, features, scale, self.choice.strength)
            slopes = np.repeat(alike[:, None], PIECES, axis=1)
        else:
            weights = nearness(lessons, task) if kind == "near" else np.ones(len(lessons))
            slopes = slopes_of(features, coefficients(lessons, weights, scale, self.choice.strength))
        slopes = np.clip(slopes, _LEAST_SLOPE, _MOST_SLOPE)
        return slopes / max(float(slopes.mean()), _LEAST_SLOPE)


def coefficients(
    lessons: Sequence[Lesson], weights: np.ndarray, scale: np.ndarray, strength: float
) -> np.ndarray:
    """Posterior mean of the regression's coefficients over weighted lessons: (2k,)."""
    k = len(GROUP_FEATURES)
    prior = np.tile(np.square(scale) / strength**2, 2)
    prior[k:] *= 4.0  # that late parts of curves behave otherwise is believed less readily
    free = np.isfinite(prior)
    precision = sum(weight * lesson.precision for weight, lesson in zip(weights, lessons, strict=True))
    pull = sum(weight * lesson.pull for weight, lesson in zip(weights, lessons, strict=True))
    found = np.zeros(2 * k)
    # Solved in units of the prior, where the matrix is at least the identity.
    unit = 1 / np.sqrt(prior[free])
    scaled = np.asarray(precision)[np.ix_(free, free)] * np.outer(unit, unit) + np.eye(int(free.sum()))
    found[free] = unit * np.linalg.solve(scaled, unit * np.asarray(pull)[free])
    return found


def nearness(lessons: Sequence[Lesson], task: np.ndarray) -> np.ndarray:
    """How much each lesson counts for a task, 1 on average: (n,)."""
    table = np.array([lesson.task for lesson in lessons])
    sd = table.std(axis=0)
    usable = np.isfinite(task) & np.isfinite(sd) & (sd > 1e-9)
    if not usable.any() or len(lessons) < 3:
        return np.ones(len(lessons))
    gaps = np.square((table - task)[:, usable] / sd[usable]).mean(axis=1)
    weights = np.exp(-0.5 * (gaps - gaps.min()) / _NEAR**2)
    return weights / weights.mean()


def scan_slopes(shares: np.ndarray) -> np.ndarray:
    """Slopes by Fisher's information alone: log shares (g,) -> (g, PIECES)."""
    slopes = np.clip(np.exp(FISHER_POWER * shares), _LEAST_SLOPE, _MOST_SLOPE)
    return np.tile((slopes / slopes.mean())[:, None], (1, PIECES))
