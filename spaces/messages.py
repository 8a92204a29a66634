"""The frozen messages that cross the borders between packages.

A `Trial` goes out to a worker, an `Outcome` comes back, and both together with the exact costs of the
genome are a `Record`: what the store keeps, what controllers learn from and what reports show.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

Genome: TypeAlias = tuple[int, ...]
"""Kept units per channel group, in the order of `ChannelSpace.groups`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation to do: a genome at a rung, and which repetition of it this is.

    Attributes:
        number: Of the trial in its campaign.
        genome: Which network.
        rung: How thoroughly it is evaluated.
        replicate: Which repetition; it decides the seed.
        fold: Which part of the data is held out; 0 where there is only one.
    """

    number: int
    genome: Genome
    rung: str = "finetune"
    replicate: int = 0
    fold: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a worker found out about one trial.

    Attributes:
        number: The trial's number.
        status: "complete"; "failed": the network's own fault; "lost": the machine's (its worker died, its
            deadline or its memory ran out), which says nothing about the network. Without "complete" there
            is an `error` and there are no values.
        values: Measured figures by name: the metric, further metrics, "loss", "disagreement",
            and "measure/class".
        per_case: Arrays whose first axis is the validation cases in split order, float32. Always "loss"
            (n,) and "metric" (n,), each case's share in the metric (their mean *is* the metric, and the
            standard error of a paired difference follows from their difference); "score" (n, k) holds the
            probabilities of the classes, Dice per class, or the predicted number; "classes" (n, k), where the
            scores are not it already, each case's share in each class's measure (recall, or a label's AUC).
            Cases are known by index, never by patient. Besides them "disagreement" (m,): how far the outputs
            are from the dense network's, on m training images; of a scout nothing else.
        timings: Seconds by phase; "wall_s" is the whole evaluation.
        error: One line, unless complete.
    """

    number: int
    status: Literal["complete", "failed", "lost"]
    values: Mapping[str, float] = field(default_factory=dict)
    per_case: Mapping[str, np.ndarray] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def agrees_with(self, other: "Outcome") -> bool:
        """Whether both say the same to the last bit, time apart."""
        return (
            self.number == other.number
            and self.status == other.status
            and _same_numbers(self.values, other.values)
            and _same_numbers(self.per_case, other.per_case)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A finished trial: what was asked, what was found, what the network costs exactly.

    Attributes:
        trial: What was asked.
        outcome: What was found.
        costs: "flops" per image or patch, "params", "activation_bytes".
    """

    trial: Trial
    outcome: Outcome
    costs: Mapping[str, float]

    @property
    def complete(self) -> bool:
        """Whether the evaluation succeeded."""
        return self.outcome.status == "complete"

    def value(self, name: str) -> float:
        """The cost or measured figure of that name; NaN where a failed trial has none."""
        return float(self.costs.get(name, self.outcome.values.get(name, np.nan)))

    def agrees_with(self, other: "Record") -> bool:
        """Whether both say the same to the last bit, time apart."""
        return (
            self.trial == other.trial
            and _same_numbers(self.costs, other.costs)
            and self.outcome.agrees_with(other.outcome)
        )


def _same_numbers(a: Mapping[str, float | np.ndarray], b: Mapping[str, float | np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key], equal_nan=True) for key in a)
