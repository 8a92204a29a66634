"""Looks: what is known of a network while its replicates and folds come in one by one."""

import numpy as np

from spaces.messages import Genome, Record


class Looks:
    """Puts replicates and folds of a network together: only all folds show every case.

    Args:
        folds: Of the data; 1: every record shows every case.
    """

    def __init__(self, folds: int = 1) -> None:
        self._folds = folds
        self._seen: dict[Genome, dict[int, tuple[float, int, int]]] = {}

    def add(self, record: Record, metric: str) -> float:
        """The network's metric by now: the mean over replicates in each fold, pooled over all cases.

        NaN where the record failed, and until every fold was seen.
        """
        if not record.complete:
            return np.nan
        trial, cases = record.trial, len(record.outcome.per_case["metric"]) if self._folds > 1 else 1
        seen = self._seen.setdefault(trial.genome, {})
        mean, n, _ = seen.get(trial.fold, (0.0, 0, 0))
        seen[trial.fold] = mean + (record.value(metric) - mean) / (n + 1), n + 1, cases
        if len(seen) < self._folds:
            return np.nan
        return float(np.average([m for m, _, _ in seen.values()], weights=[c for _, _, c in seen.values()]))
