"""Records by network: which were measured on every case, and what each case says about them."""

from collections.abc import Iterable, Sequence

import numpy as np

from spaces.errors import InputError
from spaces.messages import Genome, Record


def complete_records(records: Iterable[Record], rung: str, metric: str) -> list[Record]:
    """Those of a rung that have a metric, by number."""
    of_rung = [r for r in records if r.trial.rung == rung and r.complete and np.isfinite(r.value(metric))]
    return sorted(of_rung, key=lambda record: record.trial.number)


def measured_networks(
    records: Iterable[Record], *, metric: str, dense: Genome, rung: str
) -> dict[Genome, list[Record]]:
    """Every network that was measured on all cases that dense was measured on, with its runs.

    Networks that were dropped after the first folds are left out.

    Raises:
        InputError: Dense has not been measured: there is nothing to compare with.
    """
    by_genome: dict[Genome, list[Record]] = {}
    for record in complete_records(records, rung, metric):
        by_genome.setdefault(record.trial.genome, []).append(record)
    if dense not in by_genome:
        raise InputError(
            f"the dense network has no measured {metric} yet, and everything is compared with it; "
            "resume the campaign until its first trial is complete"
        )
    folds = {record.trial.fold for record in by_genome[dense]}
    return {g: runs for g, runs in by_genome.items() if {record.trial.fold for record in runs} >= folds}


def pooled(runs: Sequence[Record], name: str = "metric") -> np.ndarray:
    """An array per case, averaged over replicates; out-of-fold cases one fold after the other."""
    by_fold: dict[int, list[np.ndarray]] = {}
    for record in runs:
        by_fold.setdefault(record.trial.fold, []).append(np.asarray(record.outcome.per_case[name], float))
    return np.concatenate([np.mean(by_fold[fold], axis=0) for fold in sorted(by_fold)])
