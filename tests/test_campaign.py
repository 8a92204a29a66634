"""The loop: the lag's promise, interruption and resumption, failures, budgets. All on the analytic fake."""

import gc
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.analytic import AnalyticWorkload
from evaluators.pools.serial import SerialPool
from evaluators.protocols import Pool
from search.campaign import Budget, Campaign
from search.controllers.registry import make_controller
from search.monitor import Monitor, Standing
from search.progress import RunningFront
from search.schedule import SingleRung
from search.start import common_first
from search.store.archive import Store
from search.store.entries import CampaignEntry
from spaces.errors import RunError, StoreError
from spaces.fronts import front_hypervolume, non_dominated
from spaces.messages import Outcome, Record, Trial
from spaces.objectives import FLOPS
from spaces.space import ChannelSpace
from tests.faults import Faults, FaultyWorkload

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
    retry_lost: bool = False,
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
        retry_lost=retry_lost,
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


def run(campaign: Campaign, pool: Pool) -> list[Record]:
    """Run it; its records."""
    campaign.run(pool, Monitor())
    return campaign.store.records(campaign.id)


class Counting(SerialPool):
    """Remembers what it evaluated."""

    def __init__(self, workload: AnalyticWorkload) -> None:
        super().__init__(workload)
        self.evaluated: list[int] = []

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        outcomes = super().completed()
        self.evaluated += [outcome.number for outcome in outcomes]
        return outcomes


class Listening(Monitor):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


class Watching(Monitor):
    """Remembers how the campaign stood."""

    def __init__(self) -> None:
        self.seen: list[Standing] = []

    @contextmanager
    def campaign(self, total: int) -> Iterator[Callable[[Standing], None]]:
        yield self.seen.append


def agree(one: list[Record], other: list[Record]) -> bool:
    return len(one) == len(other) and all(a.agrees_with(b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        yield store


def undisturbed(**settings: Any) -> list[Record]:
    """The records of the same campaign in a store of its own, where nothing is known or goes wrong."""
    with Store("sqlite://") as apart:
        return run(new_campaign(apart, **settings), SerialPool(WORKLOAD))


@pytest.fixture(scope="module")
def reference() -> list[Record]:
    return undisturbed()


def test_dense_three_times_then_the_ladder(store: Store) -> None:
    reference = run(new_campaign(store), SerialPool(WORKLOAD))
    trials = [record.trial for record in reference]
    assert [trial.number for trial in trials] == list(range(30))
    assert [(t.genome, t.replicate) for t in trials[:3]] == [(SPACE.dense, r) for r in range(3)]
    ladder = common_first(SPACE)[1:]
    assert [t.genome for t in trials[3 : 3 + len(ladder)]] == ladder
    assert len({t.genome for t in trials}) == 28
    assert store.campaigns()[0].status == "complete"


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_arrival_changes_nothing(store: Store, reference: list[Record], seed: int) -> None:
    assert agree(run(new_campaign(store), Shuffled(WORKLOAD, seed)), reference)


@pytest.mark.parametrize("lag", [0, 1, 30])
def test_every_lag_completes(store: Store, lag: int) -> None:
    records = run(new_campaign(store, lag=lag, trials=12), SerialPool(WORKLOAD))
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
    run(campaign, Shuffled(WORKLOAD, 1))
    assert seen == {number: list(range(max(0, number - 4))) for number in range(12)}
    assert told == list(range(12))


@pytest.mark.parametrize("after", [0, 1, 7, 29])
@pytest.mark.parametrize("controller", ["nsga2", "optuna:tpe", "random", "ladder"])
def test_resuming_equals_going_on(store: Store, after: int, controller: str) -> None:
    whole = undisturbed(controller=controller)
    broken = new_campaign(store, controller=controller)
    with pytest.raises(KeyboardInterrupt):
        run(broken, Stopping(WORKLOAD, after))
    assert store.campaign(broken.id).status == "interrupted"
    assert len(store.records(broken.id)) == after
    again = new_campaign(store, controller=controller, campaign_id=broken.id)
    assert agree(run(again, SerialPool(WORKLOAD)), whole)


def test_a_larger_budget_goes_on_where_it_ended(store: Store, reference: list[Record]) -> None:
    short = new_campaign(store, trials=12)
    run(short, SerialPool(WORKLOAD))
    longer = new_campaign(store, campaign_id=short.id)
    assert agree(run(longer, SerialPool(WORKLOAD)), reference)


def test_nothing_stored_is_evaluated_again(store: Store, reference: list[Record]) -> None:
    campaign = new_campaign(store)
    run(campaign, SerialPool(WORKLOAD))
    never = Stopping(WORKLOAD, 0)
    assert agree(run(new_campaign(store, campaign_id=campaign.id), never), reference)


def test_records_of_another_search_are_refused(store: Store) -> None:
    campaign = new_campaign(store)
    run(campaign, SerialPool(WORKLOAD))
    other = new_campaign(store, campaign_id=campaign.id, controller="random", trials=40)
    with pytest.raises(StoreError, match=r"its record \d+ is of genome .* start a new campaign"):
        run(other, SerialPool(WORKLOAD))


def test_one_failure_is_recorded_and_the_search_goes_on(store: Store, tmp_path: Path) -> None:
    workload = FaultyWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), raises={9: 1}))
    records = run(new_campaign(store, workload=workload), SerialPool(workload))
    assert [r.trial.number for r in records if not r.complete] == [9]
    assert len(records) == 30
    assert "on purpose" in records[9].outcome.error


def test_a_dense_network_that_fails_stops_the_campaign(store: Store, tmp_path: Path) -> None:
    workload = FaultyWorkload(SPACE, faults=Faults(str(tmp_path), raises={0: 1}))
    campaign = new_campaign(store, workload=workload)
    with pytest.raises(RunError, match=r"the dense network cannot be evaluated: .*on purpose"):
        run(campaign, SerialPool(workload))
    assert store.campaign(campaign.id).status == "failed"


def test_a_fault_that_stopped_a_campaign_is_forgiven(
    store: Store, tmp_path: Path, reference: list[Record]
) -> None:
    workload = FaultyWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), raises={1: 1}))
    campaign = new_campaign(store, workload=workload)
    with pytest.raises(RunError, match="dense network"):
        run(campaign, SerialPool(workload))
    again = new_campaign(store, workload=workload, campaign_id=campaign.id)
    assert agree(run(again, SerialPool(workload)), reference)


def test_candidates_that_all_fail_stop_the_campaign(store: Store, tmp_path: Path) -> None:
    workload = FaultyWorkload(SPACE, faults=Faults(str(tmp_path), raises=dict.fromkeys(range(3, 99), 1)))
    with pytest.raises(RunError, match=r"none of the first 12 candidates .*on purpose"):
        run(new_campaign(store, workload=workload, trials=99), SerialPool(workload))


def test_a_lost_trial_is_no_failure_of_the_network(store: Store, tmp_path: Path) -> None:
    workload = FaultyWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), starves={9: 1}))
    records = run(new_campaign(store, workload=workload), SerialPool(workload))
    assert [(r.trial.number, r.outcome.status) for r in records if not r.complete] == [(9, "lost")]
    assert records[9].outcome.error == "MemoryError: no memory on purpose"


def test_a_loss_amid_others_stays_until_it_is_to_be_retried(
    store: Store, tmp_path: Path, reference: list[Record]
) -> None:
    """Going back keeps what was found since, so that only what the search asks anew is evaluated."""
    workload = FaultyWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), starves={9: 1}))
    campaign = new_campaign(store, workload=workload)
    before = run(campaign, SerialPool(workload))
    assert agree(run(new_campaign(store, campaign_id=campaign.id), Stopping(WORKLOAD, 0)), before)

    found = {record.trial.genome for record in before if record.complete}
    pool, said = Counting(WORKLOAD), Listening()
    again = new_campaign(store, campaign_id=campaign.id, retry_lost=True)
    again.run(pool, said)
    records = store.records(campaign.id)
    assert agree(records, reference)
    assert pool.evaluated == [r.trial.number for r in records if r.trial.genome not in found]
    assert pool.evaluated[0] == 9
    assert said.heard[0].startswith("evaluating again from trial 9 on, where evaluations were lost; 20 found")


@pytest.mark.parametrize("last", [29, 25])
def test_an_outage_at_the_end_is_forgiven_unasked(
    store: Store, tmp_path: Path, reference: list[Record], last: int
) -> None:
    lost = dict.fromkeys(range(22, last + 1), 1)
    workload = FaultyWorkload(SPACE, noise=0.1, faults=Faults(str(tmp_path), starves=lost))
    campaign = new_campaign(store, workload=workload)
    run(campaign, SerialPool(workload))
    assert store.numbers(campaign.id, "lost") == sorted(lost)
    assert agree(run(new_campaign(store, campaign_id=campaign.id), SerialPool(WORKLOAD)), reference)


def test_a_long_outage_stops_the_campaign(store: Store, tmp_path: Path, reference: list[Record]) -> None:
    workload = FaultyWorkload(
        SPACE, noise=0.1, faults=Faults(str(tmp_path), starves=dict.fromkeys(range(11, 99), 1))
    )
    campaign = new_campaign(store, workload=workload)
    with pytest.raises(RunError, match=r"the last 12 evaluations were lost.*MemoryError.*paretoprune resume"):
        run(campaign, SerialPool(workload))
    assert agree(run(new_campaign(store, campaign_id=campaign.id), SerialPool(WORKLOAD)), reference)


def test_another_campaign_reuses_what_is_known(store: Store) -> None:
    """Another controller, another seed: the dense network and the ladder need no evaluation."""
    first = run(new_campaign(store), SerialPool(WORKLOAD))
    pool, watching = Counting(WORKLOAD), Watching()
    other = new_campaign(store, controller="random", seed=5)
    other.run(pool, watching)
    records = store.records(other.id)
    n_common = 3 + len(common_first(SPACE)) - 1
    assert agree(records[:n_common], first[:n_common])
    assert len(records) == 30
    known = {(r.trial.genome, r.trial.replicate) for r in first}
    new = [r.trial.number for r in records if (r.trial.genome, r.trial.replicate) not in known]
    assert pool.evaluated == new
    assert watching.seen[-1].reused == 30 - len(new)
    assert agree(records, undisturbed(controller="random", seed=5))


def test_memory_holds_only_what_waits_to_be_told(store: Store) -> None:
    campaign, held = new_campaign(store, trials=80), []
    ask = campaign.schedule.ask

    class Spy:
        tell = staticmethod(campaign.schedule.tell)

        def ask(self, number: int) -> Trial | None:
            if number % 16 == 15:
                gc.collect()
                held.append(sum(type(thing) is Record for thing in gc.get_objects()))
            return ask(number)

    campaign.schedule = Spy()
    campaign.run(Shuffled(WORKLOAD, 0), Monitor())
    assert len(held) == 5
    assert max(held) <= held[0] + campaign.lag


def test_a_space_that_is_exhausted_ends_the_campaign(store: Store) -> None:
    tiny = AnalyticWorkload(ChannelSpace.chain([3, 3]))
    records = run(new_campaign(store, workload=tiny, trials=99), SerialPool(tiny))
    assert len(records) == 9 + 2  # all genomes, dense two times more
    assert store.campaigns()[-1].status == "complete"


def test_a_time_limit_ends_the_campaign(store: Store) -> None:
    slow = AnalyticWorkload(SPACE, sleep_s=0.02)
    began = time.monotonic()
    records = run(new_campaign(store, workload=slow, trials=10_000, wall_s=0.5), SerialPool(slow))
    assert 5 <= len(records) < 100
    assert store.campaigns()[0].status == "interrupted"
    assert time.monotonic() - began < 5


def test_progress_is_told(store: Store) -> None:
    watching = Watching()
    new_campaign(store).run(SerialPool(WORKLOAD), watching)
    assert [standing.done for standing in watching.seen] == list(range(1, 31))
    for done, standing in enumerate(watching.seen, start=1):
        records = store.records(new := store.campaigns()[0].id)[:done]
        ratios = np.array([r.value("flops") for r in records]) / SPACE.cost(SPACE.dense).flops[0]
        metrics = np.array([r.value("auc") for r in records])
        dense = metrics[[r.trial.genome == SPACE.dense for r in records]].mean()
        assert standing.hypervolume == front_hypervolume(ratios, metrics, dense, WORKLOAD.chance), new
        metrics[ratios == 1.0] = dense  # a network that was measured again stands with its mean
        points = np.unique(np.column_stack([ratios, metrics]), axis=0)
        best = points[non_dominated(points * [1, -1])]
        assert np.array(standing.best) == pytest.approx(best)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5) | st.just(math.nan))))
def test_a_running_front_is_the_front(points: list[tuple[float, float]]) -> None:
    front = RunningFront()
    for ratio, metric in points:
        before = list(front.points)
        assert front.add(ratio, metric) == (front.points != before)
    losses = np.array(points, dtype=float).reshape(-1, 2) * [1, -1]
    expected = np.unique(losses[non_dominated(losses)], axis=0) * [1, -1]
    np.testing.assert_array_equal(np.array(front.points).reshape(-1, 2), expected)


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
        after = run(new_campaign(killed, campaign_id=row.id), SerialPool(WORKLOAD))
    assert agree(after, reference)
    assert agree(after[: len(before)], before)


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
