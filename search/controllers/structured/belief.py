"""What is believed of a network's groups before any of it was measured: one expert's word."""

from dataclasses import dataclass

import numpy as np

PIECES = 4
"""Pieces of a group's damage curve; see `terms`."""

FLAT = "flat"
"""The expert who takes all groups for alike."""


@dataclass(frozen=True, eq=False)
class Belief:
    """Slopes of the groups' damage curves, relative to those that all groups share without knowledge.

    Attributes:
        name: Of the expert.
        slopes: Expected, (n_groups, PIECES), positive; 1 is what the flat prior expects.
        doubt: How far each group may be off, (n_groups,), in units of the flat prior's own variation.
        weight: How likely the expert is before anything was measured, relative to the others.
    """

    name: str
    slopes: np.ndarray
    doubt: np.ndarray
    weight: float = 1.0


def flat(n_groups: int, weight: float = 1.0) -> Belief:
    """Knows nothing: all groups alike."""
    return Belief(FLAT, np.ones((n_groups, PIECES)), np.ones(n_groups), weight)
