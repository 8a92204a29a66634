"""Objectives: a name, a unit and a direction. Signs flip here and nowhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spaces.messages import Record


@dataclass(frozen=True, slots=True)
class Objective:
    """One axis of a front: the name of a cost or of a measured figure, its unit and its direction."""

    name: str
    unit: str = ""
    maximize: bool = False

    def loss(self, values: np.ndarray) -> np.ndarray:
        """The values as something to minimise; NaN stays NaN."""
        values = np.asarray(values, dtype=float)
        return -values if self.maximize else values


FLOPS = Objective("flops", unit="FLOPs")
PARAMS = Objective("params", unit="parameters")
ACTIVATION_BYTES = Objective("activation_bytes", unit="bytes")
LATENCY = Objective("latency_ms", unit="ms")
COSTS = {"flops": FLOPS, "params": PARAMS, "activation_bytes": ACTIVATION_BYTES, "latency": LATENCY}
"""Objectives by the names that `search.objectives` takes."""


LOSS = Objective("loss")
DISAGREEMENT = Objective("disagreement")


def in_words(metric: str) -> str:
    """A metric's name as people write it."""
    return {"auc": "AUC", "dice": "Dice", "r2": "R²"}.get(metric, metric.replace("_", " "))


def ranked_by(value: str, metric: Objective) -> Objective:
    """The objective that `search.value` names: "metric", "loss" or "agreement".

    The first is of the validation images, the second, too, with less noise; the third has no labels in it.
    """
    return {"metric": metric, "loss": LOSS, "agreement": DISAGREEMENT}[value]


def per_case_of(objective: Objective) -> str:
    """Under which name `Outcome.per_case` has what this measured figure is the mean of."""
    return objective.name if objective in (LOSS, DISAGREEMENT) else "metric"


def losses(records: Iterable[Record], objectives: Sequence[Objective]) -> np.ndarray:
    """One row a record, one column an objective, lower is better: (n, m); failed trials hold NaN."""
    rows = [[record.value(objective.name) for objective in objectives] for record in records]
    values = np.array(rows, dtype=float).reshape(-1, len(objectives))
    return np.column_stack([o.loss(values[:, i]) for i, o in enumerate(objectives)])
