"""Evaluations beside the search: a stage of their own in the store, and never twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from evaluators.protocols import Pool
from search.store.archive import Store
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
    """
    stored = store.records(campaign_id, stage=stage)
    records = {record.trial.number: record for record in stored}
    fingerprint = store.campaign(campaign_id).fingerprint
    todo = {trial.number: trial for trial in trials if trial.number not in records}
    for trial in list(todo.values()):
        if (known := store.find(fingerprint, trial)) is None:
            pool.submit(trial)
            continue
        outcome = replace(known, number=trial.number)
        records[trial.number] = Record(trial, outcome, space.cost(trial.genome).row(0))
        store.append(campaign_id, records[trial.number], stage=stage)
    while pool.pending:
        for outcome in pool.completed(0.5):
            trial = todo[outcome.number]
            records[trial.number] = Record(trial, outcome, space.cost(trial.genome).row(0))
            store.append(campaign_id, records[trial.number], stage=stage)
            advance(len(records), trial)
    return [records[trial.number] for trial in trials]
