"""Evaluations beside the search: a stage of their own in the store, and never twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from evaluators.protocols import Pool
from search.store.archive import Store
from spaces.errors import RunError, StoreError
from spaces.messages import Record, Trial
from spaces.space import ChannelSpace


def carry_out(
    trials: Sequence[Trial],
    stage: str,
    space: ChannelSpace,
    pool: Pool,
    store: Store,
    campaign_id: str,
    advance: Callable[[int, Trial], None],
) -> list[Record]:
    """Evaluate what the store does not know yet, also of other campaigns.

    Args:
        trials: What to evaluate; numbers are counted within the stage.
        stage: Whose.
        space: Prices genomes.
        pool: Who evaluates; idle.
        store: Where records go, one transaction each.
        campaign_id: Whose.
        advance: Told how many records of the stage there are, and which trial made the last of them.

    Returns:
        The records, in the order of the trials.

    Raises:
        StoreError: A stored record is of another trial.
        RunError: The machines lost all of several trials, or that of dense; what was lost is not stored.
    """
    stored = store.records(campaign_id, stage=stage)
    records = {record.trial.number: record for record in stored}
    fingerprint = store.campaign(campaign_id).fingerprint
    for trial in trials:
        if trial.number in records and records[trial.number].trial != trial:
            raise StoreError(
                f"campaign {campaign_id} cannot go on: its record {trial.number} of the stage {stage!r} is "
                f"of genome {list(records[trial.number].trial.genome)}, not of {list(trial.genome)}; "
                "it was begun by other code or on another kind of machine: start a new campaign"
            )
    todo = {trial.number: trial for trial in trials if trial.number not in records}
    if records:
        advance(len(records), trials[0])
    for trial in list(todo.values()):
        if (known := store.find(fingerprint, trial)) is None:
            pool.submit(trial)
            continue
        outcome = replace(known, number=trial.number)
        records[trial.number] = Record(trial, outcome, space.cost(trial.genome).row(0))
        store.append(campaign_id, records[trial.number], stage=stage)
    lost: list[Record] = []
    while pool.pending:
        for outcome in pool.completed(0.5):
            trial = todo[outcome.number]
            record = records[trial.number] = Record(trial, outcome, space.cost(trial.genome).row(0))
            if outcome.status == "lost":
                lost.append(record)
            else:
                store.append(campaign_id, record, stage=stage)
            advance(len(records), trial)
    of_dense = any(record.trial.genome == space.dense for record in lost)
    if of_dense or len(lost) == len(trials) > 1:
        raise RunError(
            f"{len(lost)} of {len(trials)} evaluations of the stage {stage!r} were lost, dense's or all of "
            f"them, the last one because {lost[-1].outcome.error}; the others are stored: go on when the "
            "machines are well"
        )
    for record in lost:
        store.append(campaign_id, record, stage=stage)
    return [records[trial.number] for trial in trials]
