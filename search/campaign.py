"""A campaign: the loop that asks, evaluates, stores and tells, and can be stopped and resumed anywhere.

Trial t is asked after exactly the records 0..t-lag-1 were told, in the order of their numbers; what arrives
early waits. So what a campaign finds does not depend on the pool, on the number of workers, or on when it
was interrupted: resuming asks and tells again from the stored records and holds every asked trial against
its record. Memory holds only the records that wait to be told; the store holds them all.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from evaluators.protocols import Pool
from search.monitor import Monitor, Standing
from search.progress import Progress
from search.recovery import recover
from search.schedule import Schedule
from search.store.archive import Store
from search.store.entries import Status
from spaces.errors import RunError, StoreError
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
        retry_lost: Go back to the first trial that the machines lost, whatever was found since.
        rung: Whose records make the front that is shown on the way; None: all.
        folds: Held out in turn; a network is on that front when it was seen in all of them.
    """

    id: str
    store: Store
    space: ChannelSpace
    schedule: Schedule
    metric: Objective
    chance: float
    lag: int
    budget: Budget
    retry_lost: bool = False
    rung: str | None = None
    folds: int = 1
    _asked: dict[int, Trial] = field(default_factory=dict, init=False)  # under way
    _arrived: dict[int, Record] = field(default_factory=dict, init=False)  # not told yet
    _told: int = field(default=0, init=False)
    _candidates: int = field(default=0, init=False)
    _succeeded: int = field(default=0, init=False)
    _lost_in_a_row: int = field(default=0, init=False)
    _fingerprint: str = field(default="", init=False)
    _stored: Iterator[Record] = field(init=False)
    _next_stored: Record | None = field(default=None, init=False)
    _progress: Progress = field(init=False)

    def run(self, pool: Pool, monitor: Monitor) -> None:
        """Run, or go on, until the budget is spent; the records are in the store.

        Raises:
            RunError: The dense network cannot be evaluated, no candidate can, or the machines lose them all.
            StoreError: A stored record does not belong to this search, or the store cannot be written.
            KeyboardInterrupt: The campaign is marked "interrupted" and can be resumed.
        """
        recovery = recover(self.store, self.id, self.space.dense, self.lag, retry_lost=self.retry_lost)
        if said := recovery.in_words():
            monitor.say(said)
        self._fingerprint = self.store.campaign(self.id).fingerprint
        self._stored = self.store.stream(self.id)
        self._next_stored = next(self._stored, None)
        self._progress = Progress(
            self.space, self.metric, self.chance, self.budget.trials, self.rung, self.folds
        )
        self.store.set_status(self.id, "running")
        try:
            with monitor.campaign(self.budget.trials) as show:
                ended = self._loop(pool, show)
        except KeyboardInterrupt:
            self._note("interrupted")
            raise
        except Exception:
            self._note("failed")
            raise
        self.store.set_status(self.id, "complete" if ended else "interrupted")

    def _note(self, status: Status) -> None:
        """Say how the campaign ended, if the store can be written; else what ended it is what matters."""
        with contextlib.suppress(StoreError):
            self.store.set_status(self.id, status)

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
        """Hand a trial to the pool, unless it is stored already, or some campaign knows its outcome."""
        stored = self._next_stored
        if stored is not None and stored.trial.number == trial.number:
            if stored.trial != trial:
                raise StoreError(
                    f"campaign {self.id} cannot go on: its record {trial.number} is of genome "
                    f"{list(stored.trial.genome)}, but this search asks for {list(trial.genome)}; it was "
                    "begun by other code or on another kind of machine: start a new campaign"
                )
            self._next_stored = next(self._stored, None)
            self._arrived[trial.number] = stored
            self._progress.add(stored)
        elif (known := self.store.find(self._fingerprint, trial)) is not None:
            self._progress.add(self._keep(trial, known), reused=True)
        else:
            self._asked[trial.number] = trial
            pool.submit(trial)

    def _tell_next(self, pool: Pool, show: Callable[[Standing], None], started: float) -> None:
        """Wait for the next record in the order of the numbers, and tell it."""
        while self._told not in self._arrived:
            for outcome in pool.completed(POLL_S):
                record = self._keep(self._asked.pop(outcome.number), outcome)
                self._progress.add(record, evaluated=True)
                show(self._progress.standing(time.monotonic() - started))
        record = self._arrived.pop(self._told)
        self._told += 1
        self.schedule.tell(record)
        self._check_alive(record)

    def _keep(self, trial: Trial, outcome: Outcome) -> Record:
        """Store what was found about a trial."""
        outcome = replace(outcome, number=trial.number)
        record = Record(trial, outcome, self.space.cost(trial.genome).row(0))
        self.store.append(self.id, record)
        self._arrived[trial.number] = record
        return record

    def _check_alive(self, told: Record) -> None:
        """Stop where going on makes no sense: the dense reference failed, or everything does."""
        enough, why = self.lag + 8, told.outcome.error
        self._lost_in_a_row = self._lost_in_a_row + 1 if told.outcome.status == "lost" else 0
        if self._lost_in_a_row == enough:
            raise RunError(
                f"the last {enough} evaluations were lost, the last one because {why}; when the machines are "
                f"well, `paretoprune resume {self.id}` goes on where they failed"
            )
        if told.trial.genome == self.space.dense:
            if not told.complete:
                raise RunError(f"the dense network cannot be evaluated: {why}")
            return
        self._candidates += 1
        self._succeeded += told.complete
        if self._candidates == enough and not self._succeeded:
            raise RunError(f"none of the first {enough} candidates could be evaluated: {why}")
