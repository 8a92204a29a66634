"""Looks: what one measurement of a network is where data are held out fold by fold."""

import numpy as np

from spaces.messages import Genome, Record


class Looks:
    """Puts the folds of a network's replicate together: only all of them show every case.

    Args:
        folds: Of the data; 1: every record is a look of its own.
    """

    def __init__(self, folds: int = 1) -> None:
        self._folds = folds
        self._seen: dict[tuple[Genome, int], dict[int, tuple[float, int]]] = {}

    def add(self, record: Record, metric: str) -> float:
        """The metric of the look that this record completes, over all cases; NaN where it completes none."""
        if not record.complete:
            return np.nan
        if self._folds == 1:
            return record.value(metric)
        trial = record.trial
        seen = self._seen.setdefault((trial.genome, trial.replicate), {})
        seen[trial.fold] = record.value(metric), len(record.outcome.per_case["metric"])
        if len(seen) < self._folds:
            return np.nan
        del self._seen[trial.genome, trial.replicate]
        values, cases = zip(*seen.values(), strict=True)
        return float(np.average(values, weights=cases))
