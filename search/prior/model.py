"""The meta-prior: from the lessons of past campaigns to what to expect of a network never pruned before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from search.controllers.structured.belief import PIECES, Belief, flat
from search.prior.corpus import sets_of
from search.prior.features import fisher_shares, group_features
from search.prior.lessons import Lesson
from search.prior.loglinear import FISHER_POWER, coefficients, relative
from spaces.errors import ConfigError

META, SCAN = "meta", "scan"
"""Experts beside the flat one: past campaigns, and what the loss's gradients say about this network alone."""

Kind: TypeAlias = Literal["log", "mean"]

_LEAST_SLOPE, _MOST_SLOPE = 0.1, 6.0
_OWN_SD = 3.0**0.5  # of a group's slope in the flat prior, relative to its mean


@dataclass(frozen=True)
class Choice:
    """Which model, how strongly held back, and how much it doubts itself.

    Attributes:
        kind: "log": log-linear, drawn towards the gradients' scan; "mean": all groups alike, that is no
            transfer.
        strength: Prior standard deviation of a coefficient, per standard deviation of its feature.
        doubt: Standard deviation of what a group adds of its own, relative to the flat prior's.
    """

    kind: Kind = "log"
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

    @cached_property
    def data_sets(self) -> list[str]:
        """Which data set each lesson is from."""
        return sets_of([lesson.origin for lesson in self.lessons])

    def without(self, keep: Callable[[Lesson], bool]) -> "LayerPrior":
        """The prior of those lessons only."""
        return replace(self, lessons=tuple(lesson for lesson in self.lessons if keep(lesson)))

    def unseen(self, source: str, data: str) -> "LayerPrior":
        """The prior without what has seen these images, or others of the same set.

        Where that is one data set, model and doubt, too, are those that the others alone had chosen; where it
        is more, nobody has chosen without all of them: the default model, with the flat prior's own doubt.
        """
        clean = self.without(lambda lesson: not lesson.origin.shares_data(source, data))
        pairs = zip(self.data_sets, self.lessons, strict=True)
        gone = {name for name, lesson in pairs if lesson.origin.shares_data(source, data)}
        nested = self.quality.get("data_sets", {})
        if not gone or not nested:
            return clean
        alone = nested.get(gone.pop()) if len(gone) == 1 else None
        return replace(clean, choice=Choice(**alone["choice"]) if alone else Choice())

    def guarded(self, source: str, data: str) -> "LayerPrior":
        """The prior of `unseen`, where that has anything to say.

        Raises:
            ConfigError: Nothing is left.
        """
        clean = self.unseen(source, data)
        if not clean.lessons:
            raise ConfigError(
                f"the prior has learnt from {source} only, by name or by its images, which is what this "
                "campaign searches on: nothing would be transferred; leave the prior out, or fit one with "
                "campaigns on other data"
            )
        return clean

    def expect(self, groups: Sequence[Mapping[str, Any]]) -> Expectation:
        """What to expect of a network whose groups are these, as the store describes them."""
        features, n = group_features(groups), len(groups)
        slopes, spread, outside = self.slopes(features)
        doubt = np.sqrt(self.choice.doubt**2 + np.square(spread / _OWN_SD)) * (1 + 0.25 * outside)
        experts = [Belief(META, slopes, doubt)]
        if (shares := fisher_shares(groups)) is not None:
            experts.append(Belief(SCAN, scan_slopes(shares), np.full(n, self.choice.doubt)))
        return Expectation((*experts, flat(n)), outside)

    def slopes(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relative slopes, their spread between sets of tasks, and how many features are out of range.

        Args:
            features: (g, k).

        Returns:
            (g, PIECES), (g,), (g,). Features out of the lessons' range are held at its ends.
        """
        seen = self._seen
        low, high = seen.min(axis=0), seen.max(axis=0)
        slack = 0.1 * (high - low) + 1e-9
        outside = ((features < low - slack) | (features > high + slack)).sum(axis=1).astype(float)
        mean, *members = [self._bounded(np.clip(features, low, high), row) for row in self._coefficients]
        spread = np.std(members, axis=0) * np.sqrt(len(members) - 1) if members else np.zeros(len(features))
        return np.repeat(mean[:, None], PIECES, axis=1), spread, outside

    @cached_property
    def _seen(self) -> np.ndarray:
        """Features of every group of every lesson: (n, k)."""
        return np.concatenate([lesson.features for lesson in self.lessons])

    @cached_property
    def _coefficients(self) -> list[np.ndarray]:
        """Of all lessons; then of all but one data set each: a jackknife, what one more or less changes."""
        varied = self._seen.std(axis=0)
        scale = np.where(varied > 1e-9, varied, np.inf)
        strength = self.choice.strength if self.choice.kind == "log" else 0.0
        found = [coefficients(self.lessons, scale, strength)]
        names = sorted(set(self.data_sets))
        if len(names) > 1 and strength:
            for gone in names:
                rest = [le for name, le in zip(self.data_sets, self.lessons, strict=True) if name != gone]
                found.append(coefficients(rest, scale, strength))
        return found

    def _bounded(self, features: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Relative slopes by some coefficients, within bounds: (g,)."""
        if self.choice.kind == "mean" or not len(features):
            return np.ones(len(features))
        slopes = np.clip(relative(features @ row), _LEAST_SLOPE, _MOST_SLOPE)
        return np.asarray(slopes / max(float(slopes.mean()), _LEAST_SLOPE))


def scan_slopes(shares: np.ndarray) -> np.ndarray:
    """Slopes by Fisher's information alone: log shares (g,) -> (g, PIECES)."""
    slopes = np.clip(np.exp(FISHER_POWER * shares), _LEAST_SLOPE, _MOST_SLOPE)
    return np.tile((slopes / slopes.mean())[:, None], (1, PIECES))
