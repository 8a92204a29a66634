"""A campaign: the loop that asks, evaluates, stores and tells, and can be stopped and resumed anywhere.

Trial t is asked after exactly the records 0..t-lag-1 were told, in the order of their numbers; what arrives
early waits. So what a campaign finds does not depend on the pool, on the number of workers, or on when it
was interrupted: resuming asks and tells again from the stored records and holds every asked trial against
its record.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluators.protocols import Pool
from search.monitor import Monitor, Standing
from search.schedule import Schedule
from search.store.archive import Store
from spaces.errors import RunError, StoreError
from spaces.fronts import front_hypervolume, non_dominated
from spaces.messages import Outcome, Record, Trial
from spaces.objectives import Objective
from spaces.space import ChannelSpace

POLL_S = 0.5  # how soon a silent pool lets go of the loop, so that time limits and Ctrl-C are seen


@dataclass(frozen=True)
class Budget:
    """When to stop asking: after so many trials, or once so many seconds of this run are over."""

    trials: int
    wall_s: float | None = None


@dataclass
class Campaign:
    """One campaign in one store.

    Attributes:
        id: In the store.
        store: Where records go, one transaction each.
        space: Prices genomes.
        schedule: Who asks; fresh, nothing told yet.
        metric: What is maximised.
        chance: The metric of a network that has learnt nothing.
        lag: Records that may be missing when a trial is asked.
        budget: When to stop.
    """

    id: str
    store: Store
    space: ChannelSpace
    schedule: Schedule
    metric: Objective
    chance: float
    lag: int
    budget: Budget
    _records: dict[int, Record] = field(default_factory=dict, init=False)
    _asked: dict[int, Trial] = field(default_factory=dict, init=False)
    _told: int = field(default=0, init=False)
    _ran: int = field(default=0, init=False)
    _candidates: int = field(default=0, init=False)
    _succeeded: int = field(default=0, init=False)

    def run(self, pool: Pool, monitor: Monitor) -> list[Record]:
        """Run, or go on, until the budget is spent; all records, by number.

        Raises:
            RunError: The dense network cannot be evaluated, or no candidate can.
            StoreError: A stored record does not belong to this search, or the store cannot be written.
            KeyboardInterrupt: The campaign is marked "interrupted" and can be resumed.
        """
        self._forgive()
        self._records = {record.trial.number: record for record in self.store.records(self.id)}
        self.store.set_status(self.id, "running")
        try:
            with monitor.campaign(self.budget.trials) as show:
                ended = self._loop(pool, show)
        except KeyboardInterrupt:
            self.store.set_status(self.id, "interrupted")
            raise
        except Exception:
            self.store.set_status(self.id, "failed")
            raise
        self.store.set_status(self.id, "complete" if ended else "interrupted")
        return [self._records[number] for number in sorted(self._records)]

    def _forgive(self) -> None:
        """Evaluate the failures that stopped a campaign again: the machine may have been to blame.

        Nothing was asked after they were told, so the search goes on as if they had not happened.
        """
        if self.store.campaign(self.id).status != "failed":
            return
        records = self.store.records(self.id, per_case=False)
        pruned = [record for record in records if record.trial.genome != self.space.dense]
        all_failed = not any(record.complete for record in pruned)
        blamed = [r for r in records if not r.complete and (all_failed or r.trial.genome == self.space.dense)]
        self.store.forget_failures(self.id, [record.trial.number for record in blamed])

    def _loop(self, pool: Pool, show: Callable[[Standing], None]) -> bool:
        """Whether the budget of trials is spent, or everything was tried; False when time ran out."""
        started = time.monotonic()
        number, in_time = 0, True
        while number < self.budget.trials:
            while self._told < number - self.lag:
                self._tell_next(pool, show, started)
            if self.budget.wall_s is not None and time.monotonic() - started >= self.budget.wall_s:
                in_time = False
                break
            trial = self.schedule.ask(number)
            while trial is None and self._told < number:  # it waits for something that is under way
                self._tell_next(pool, show, started)
                trial = self.schedule.ask(number)
            if trial is None:
                break  # everything was tried
            self._begin(trial, pool)
            number += 1
        while self._told < number:
            self._tell_next(pool, show, started)
        return in_time

    def _begin(self, trial: Trial, pool: Pool) -> None:
        """Hand a trial to the pool, unless its record is there already."""
        self._asked[trial.number] = trial
        record = self._records.get(trial.number)
        if record is None:
            pool.submit(trial)
        elif record.trial != trial:
            raise StoreError(
                f"campaign {self.id} cannot go on: its record {trial.number} is of genome "
                f"{list(record.trial.genome)}, but this search asks for {list(trial.genome)}; it was "
                "begun by other code or on another kind of machine: start a new campaign"
            )

    def _tell_next(self, pool: Pool, show: Callable[[Standing], None], started: float) -> None:
        """Wait for the next record in the order of the numbers, and tell it."""
        while self._told not in self._records:
            for outcome in pool.completed(POLL_S):
                self._keep(outcome)
                self._ran += 1
                show(self._standing(time.monotonic() - started))
        record = self._records[self._told]
        self._told += 1
        self.schedule.tell(record)
        self._check_alive(record)

    def _keep(self, outcome: Outcome) -> None:
        trial = self._asked[outcome.number]
        record = Record(trial, outcome, self.space.cost(trial.genome).row(0))
        self.store.append(self.id, record)
        self._records[outcome.number] = record

    def _check_alive(self, told: Record) -> None:
        """Stop where going on makes no sense: the dense reference failed, or everything does."""
        if told.trial.genome == self.space.dense:
            if not told.complete:
                raise RunError(f"the dense network cannot be evaluated: {told.outcome.error}")
            return
        self._candidates += 1
        self._succeeded += told.complete
        if self._candidates == self.lag + 8 and not self._succeeded:
            raise RunError(
                f"none of the first {self._candidates} candidates could be evaluated: {told.outcome.error}"
            )

    def _standing(self, elapsed_s: float) -> Standing:
        records = list(self._records.values())
        rate = self._ran / elapsed_s if elapsed_s > 0 else np.nan
        ratios, metrics, dense = self._measured(records)
        best = non_dominated(np.column_stack([ratios, -metrics])) if len(ratios) else np.zeros(0, dtype=bool)
        front = sorted(zip(ratios[best].tolist(), metrics[best].tolist(), strict=True))
        return Standing(
            done=len(records),
            total=self.budget.trials,
            failed=sum(not record.complete for record in records),
            rate_per_min=60 * rate,
            left_s=(self.budget.trials - len(records)) / rate if rate else np.nan,
            hypervolume=front_hypervolume(ratios, metrics, dense, self.chance) if dense == dense else 0.0,
            best=tuple(front),
        )

    def _measured(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, float]:
        """FLOPs ratio and metric of every complete record, and the dense metric (NaN until there is one)."""
        complete = [record for record in records if record.complete]
        ratios = np.array([record.value("flops") for record in complete])
        ratios /= self.space.cost(self.space.dense).flops[0]
        metrics = np.array([record.value(self.metric.name) for record in complete])
        dense = [
            m for record, m in zip(complete, metrics, strict=True) if record.trial.genome == self.space.dense
        ]
        return ratios, metrics, float(np.mean(dense)) if dense else np.nan
