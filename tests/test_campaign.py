"""The loop: the lag's promise, interruption and resumption, failures, budgets. All on the analytic fake."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.analytic import AnalyticWorkload, Faults
from evaluators.pools.serial import SerialPool
from search.campaign import Budget, Campaign
from search.controllers.registry import make_controller
from search.monitor import Monitor, Standing
from search.schedule import SingleRung
from search.start import common_first
from search.store.archive import Store
from search.store.entries import CampaignEntry
from spaces.errors import RunError, StoreError
from spaces.messages import Outcome, Record, Trial
from spaces.objectives import FLOPS
from spaces.space import ChannelSpace

SPACE = ChannelSpace.chain([16, 24, 32], round_to=2)
WORKLOAD = AnalyticWorkload(SPACE, noise=0.1)


def new_campaign(
    store: Store,
    *,
    workload: AnalyticWorkload = WORKLOAD,
    campaign_id: str | None = None,
    controller: str = "nsga2",
    trials: int = 30,
    lag: int = 4,
    seed: int = 0,
    wall_s: float | None = None,
) -> Campaign:
    """A fresh loop, over a new campaign or over one that is there."""
    entry = CampaignEntry(
        name="test",
        config={},
        fingerprint=workload.fingerprint,
        fingerprints=workload.fingerprints,
        description={},
    )
    space = workload.space
    proposer = make_controller(controller, space, (FLOPS, workload.metric), seed, common_first(space))
    return Campaign(
        id=campaign_id or store.create(entry),
        store=store,
        space=space,
        schedule=SingleRung(proposer, space.dense),
        metric=workload.metric,
        chance=workload.chance,
        lag=lag,
        budget=Budget(trials, wall_s),
    )


class Shuffled(SerialPool):
    """Workers that end in any order: evaluates what is pending at random."""

    workers = 4

    def __init__(self, workload: AnalyticWorkload, seed: int) -> None:
        super().__init__(workload)
        self._random = random.Random(seed)

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        self._random.shuffle(self._waiting)
        return [
            outcome for _ in range(self._random.randrange(3)) for outcome in super(Shuffled, self).completed()
        ]


class Stopping(SerialPool):
    """A user who presses Ctrl-C after so many outcomes."""

    def __init__(self, workload: AnalyticWorkload, after: int) -> None:
        super().__init__(workload)
        self._left = after

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return super().completed()


def agree(one: list[Record], other: list[Record]) -> bool:
    return len(one) == len(other) and all(a.agrees_with(b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        yield store


@pytest.fixture
def reference(store: Store) -> list[Record]:
    return new_campaign(store).run(SerialPool(WORKLOAD), Monitor())


def test_dense_three_times_then_the_ladder(store: Store, reference: list[Record]) -> None:
    trials = [record.trial for record in reference]
    assert [trial.number for trial in trials] == list(range(30))
    assert [(t.genome, t.replicate) for t in trials[:3]] == [(SPACE.dense, r) for r in range(3)]
    ladder = common_first(SPACE)[1:]
    assert [t.genome for t in trials[3 : 3 + len(ladder)]] == ladder
    assert len({t.genome for t in trials}) == 28
    assert store.campaigns()[0].status == "complete"


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_arrival_changes_nothing(store: Store, reference: list[Record], seed: int) -> None:
    assert agree(new_campaign(store).run(Shuffled(WORKLOAD, seed), Monitor()), reference)


@pytest.mark.parametrize("lag", [0, 1, 30])
def test_every_lag_completes(store: Store, lag: int) -> None:
    records = new_campaign(store, lag=lag, trials=12).run(SerialPool(WORKLOAD), Monitor())
    assert len(records) == 12


def test_a_trial_is_asked_after_exactly_what_the_lag_says(store: Store) -> None:
    campaign, told, seen = new_campaign(store, lag=4, trials=12), [], {}
    schedule = campaign.schedule

    class Spy:
        def ask(self, number: int) -> Trial | None:
            seen[number] = list(told)
            return schedule.ask(number)

        def tell(self, record: Record) -> None:
            told.append(record.trial.number)
            schedule.tell(record)

    campaign.schedule = Spy()
    campaign.run(Shuffled(WORKLOAD, 1), Monitor())
    assert seen == {number: list(range(max(0, number - 4))) for number in range(12)}
    assert told == list(range(12))


@pytest.mark.parametrize("after", [0, 1, 7, 29])
@pytest.mark.parametrize("controller", ["nsga2", "optuna:tpe", "random", "ladder"])
def test_resuming_equals_going_on(store: Store, after: int, controller: str) -> None:
    whole = new_campaign(store, controller=controller).run(SerialPool(WORKLOAD), Monitor())
    broken = new_campaign(store, controller=controller)
    with pytest.raises(KeyboardInterrupt):
        broken.run(Stopping(WORKLOAD, after), Monitor())
    assert store.campaign(broken.id).status == "interrupted"
    assert len(store.records(broken.id)) == after
    again = new_campaign(store, controller=controller, campaign_id=broken.id)
    assert agree(again.run(SerialPool(WORKLOAD), Monitor()), whole)


def test_a_larger_budget_goes_on_where_it_ended(store: Store, reference: list[Record]) -> None:
    short = new_campaign(store, trials=12)
    short.run(SerialPool(WORKLOAD), Monitor())
    longer = new_campaign(store, campaign_id=short.id)
    assert agree(longer.run(SerialPool(WORKLOAD), Monitor()), reference)


def test_nothing_stored_is_evaluated_again(store: Store, reference: list[Record]) -> None:
    campaign = new_campaign(store)
    campaign.run(SerialPool(WORKLOAD), Monitor())
    never = Stopping(WORKLOAD, 0)
    assert agree(new_campaign(store, campaign_id=campaign.id).run(never, Monitor()), reference)


def test_records_of_another_search_are_refused(store: Store) -> None:
    campaign = new_campaign(store)
    campaign.run(SerialPool(WORKLOAD), Monitor())
    other = new_campaign(store, campaign_id=campaign.id, controller="random", trials=40)
    with pytest.raises(StoreError, match=r"its record \d+ is of genome .* start a new campaign"):
        other.run(SerialPool(WORKLOAD), Monitor())


def test_one_failure_is_recorded_and_the_search_goes_on(store: Store, tmp_path: Path) -> None:
    workload = AnalyticWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), raises={9: 1}))
    records = new_campaign(store, workload=workload).run(SerialPool(workload), Monitor())
    assert [r.trial.number for r in records if not r.complete] == [9]
    assert len(records) == 30
    assert "on purpose" in records[9].outcome.error


def test_a_dense_network_that_fails_stops_the_campaign(store: Store, tmp_path: Path) -> None:
    workload = AnalyticWorkload(SPACE, faults=Faults(str(tmp_path), raises={0: 1}))
    campaign = new_campaign(store, workload=workload)
    with pytest.raises(RunError, match=r"the dense network cannot be evaluated: .*on purpose"):
        campaign.run(SerialPool(workload), Monitor())
    assert store.campaign(campaign.id).status == "failed"


def test_a_fault_that_stopped_a_campaign_is_forgiven(
    store: Store, tmp_path: Path, reference: list[Record]
) -> None:
    workload = AnalyticWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), raises={1: 1}))
    campaign = new_campaign(store, workload=workload)
    with pytest.raises(RunError, match="dense network"):
        campaign.run(SerialPool(workload), Monitor())
    again = new_campaign(store, workload=workload, campaign_id=campaign.id)
    assert agree(again.run(SerialPool(workload), Monitor()), reference)


def test_candidates_that_all_fail_stop_the_campaign(store: Store, tmp_path: Path) -> None:
    workload = AnalyticWorkload(SPACE, faults=Faults(str(tmp_path), raises=dict.fromkeys(range(3, 99), 1)))
    with pytest.raises(RunError, match=r"none of the first 12 candidates .*on purpose"):
        new_campaign(store, workload=workload, trials=99).run(SerialPool(workload), Monitor())


def test_a_space_that_is_exhausted_ends_the_campaign(store: Store) -> None:
    tiny = AnalyticWorkload(ChannelSpace.chain([3, 3]))
    records = new_campaign(store, workload=tiny, trials=99).run(SerialPool(tiny), Monitor())
    assert len(records) == 9 + 2  # all genomes, dense two times more
    assert store.campaigns()[-1].status == "complete"


def test_a_time_limit_ends_the_campaign(store: Store) -> None:
    slow = AnalyticWorkload(SPACE, sleep_s=0.02)
    began = time.monotonic()
    records = new_campaign(store, workload=slow, trials=10_000, wall_s=0.5).run(SerialPool(slow), Monitor())
    assert 5 <= len(records) < 100
    assert store.campaigns()[0].status == "interrupted"
    assert time.monotonic() - began < 5


def test_progress_is_told(store: Store) -> None:
    seen: list[Standing] = []

    class Watching(Monitor):
        def campaign(self, total: int):
            from contextlib import nullcontext

            return nullcontext(seen.append)

    new_campaign(store).run(SerialPool(WORKLOAD), Watching())
    assert [standing.done for standing in seen] == list(range(1, 31))
    volumes = [standing.hypervolume for standing in seen]
    assert volumes[-1] > volumes[3] >= 0
    assert all(a.best == tuple(sorted(a.best)) for a in seen)


DRIVER = """
import sys
from tests.test_campaign import AnalyticWorkload, SPACE, new_campaign
from evaluators.pools.serial import SerialPool
from search.monitor import Monitor
from search.store.archive import Store
workload = AnalyticWorkload(SPACE, noise=0.1, sleep_s=0.02)
with Store(sys.argv[1]) as store:
    new_campaign(store, workload=workload).run(SerialPool(workload), Monitor())
"""


def test_a_killed_driver_loses_nothing(store: Store, tmp_path: Path, reference: list[Record]) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, url], cwd=Path(__file__).parent.parent)
    wait_until(lambda: (tmp_path / "killed.db").exists())
    with Store(url) as killed:
        wait_until(lambda: killed.campaigns() and killed.campaigns()[0].n_trials >= 10)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        row = killed.campaigns()[0]
        assert 10 <= row.n_trials < 30
        assert row.status == "running"
        before = killed.records(row.id)
        after = new_campaign(killed, campaign_id=row.id).run(SerialPool(WORKLOAD), Monitor())
    assert agree(after, reference)
    assert agree(after[: len(before)], before)


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
