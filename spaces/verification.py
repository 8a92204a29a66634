"""Proves a channel space: a pruned network must equal the dense one whose removed units are silenced.

See `Prover` for what is compared. This module says which groups are to blame where something differs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from spaces.inputs import Example
from spaces.prover import Prover
from spaces.space import ChannelSpace

Check = Callable[[np.ndarray], str | None]
"""Mask of kept units -> what is wrong with the network that keeps them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A choice of kept units for which the pruned network is wrong, and how it shows."""

    kept: np.ndarray
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        checked: Number of pruned networks compared.
        worst: Largest difference seen, relative to the largest output; infinite after an exception.
        failures: The comparisons that failed.
    """

    checked: int
    worst: float
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """Whether every pruned network was right."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Guilt:
    """A group that cannot be pruned as traced, how it shows, and whether nothing was kept of it then."""

    group: int
    reason: str
    empty: bool = False


def verify(
    model: nn.Module, example_input: Example, space: ChannelSpace, *, genomes: int = 3, seed: int = 0
) -> Verification:
    """Check the minimal genome and others (see `contrasting`), each with units kept at random.

    Args:
        model: The dense network; never changed.
        example_input: As for `trace`; values are replaced by random ones.
        space: Its channel space.
        genomes: Least number of genomes besides the minimal one.
        seed: Of weights, input and genomes.
    """
    found = list(Prover(model, example_input, space.fine, seed).comparisons(genomes))
    failures = tuple(Failure(one.kept, one.reason) for one in found if one.reason)
    return Verification(len(found), max(one.difference for one in found), failures)


def find_guilty(
    model: nn.Module, example_input: Example, space: ChannelSpace, *, seed: int = 0
) -> list[Guilt]:
    """The groups to blame for failures; none when the space verifies.

    Halves of what fails are tried apart, down to single groups; where both pass, the first group that makes
    growing prefixes fail is named.
    """
    prover = Prover(model, example_input, space, seed)
    for found in prover.comparisons(genomes=3):
        if found.reason:
            kept = found.kept
            check = prover.fails if prover.fails(kept) else prover.compare
            guilty = _guilty_among(prover, kept, range(len(space.groups)), found.reason, check)
            return [Guilt(group, why, not kept[prover.span(group)].any()) for group, why in guilty]
    return []


def _guilty_among(
    prover: Prover, kept: np.ndarray, groups: range, reason: str, check: Check
) -> list[tuple[int, str]]:
    """Which groups are to blame, given that all fail together for this reason.

    Where shapes clash, only those to blame for that: what else is wrong shows once they are frozen.
    """
    if len(groups) == 1:
        return [(groups[0], reason)]
    middle = len(groups) // 2
    found = []
    for part in (groups[:middle], groups[middle:]):
        failure = check(prover.only(kept, part))
        if failure:
            found += _guilty_among(prover, kept, part, failure, check)
    return found or [_guilty_in_company(prover, kept, groups, reason, check)]


def _guilty_in_company(
    prover: Prover, kept: np.ndarray, groups: range, reason: str, check: Check
) -> tuple[int, str]:
    """By bisection: the first group whose pruning makes those up to it fail together."""
    passes, fails = 0, len(groups)
    while fails - passes > 1:
        middle = (passes + fails) // 2
        found = check(prover.only(kept, groups[:middle]))
        if found:
            fails, reason = middle, found
        else:
            passes = middle
    return groups[fails - 1], reason
