"""What the machinery costs: controller and store in a campaign, and Ray workers beside plain processes.

    python benchmarks/overhead.py [--trials 60] [--rounds 3]

Two ratios, each measured in one run on this machine (results in overhead.json):

- the share of a campaign's wall time (examples/breastmnist.toml, two Ray workers) that controller and store
  take;
- throughput of two Ray workers over that of two plain processes doing the same evaluations, workers warm in
  both, rounds alternating; the median over rounds.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evaluators.pools.raypool import RayPool
from evaluators.workload import Workload
from search.campaign import Budget, Campaign
from search.config import load_config
from search.controllers.registry import make_controller
from search.describe import versions
from search.monitor import TerminalMonitor
from search.prepare import prepare
from search.problem import Problem
from search.schedule import SingleRung
from search.start import common_first
from search.store.archive import Store
from search.store.entries import CampaignEntry
from spaces.messages import Record, Trial

HERE = Path(__file__).parent


class Clock:
    """Adds up the seconds spent in the functions it wraps."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def timing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.spent_s += time.perf_counter() - began

        return timed


def campaign_overhead(problem: Problem, folder: Path, monitor: TerminalMonitor) -> tuple[dict, list[Record]]:
    """Shares of a campaign's wall time, and its records."""
    config, space = problem.config, problem.space
    asking, storing = Clock(), Clock()
    controller = make_controller(
        config.search.controller, space, problem.objectives, config.search.seed, common_first(space)
    )
    schedule = SingleRung(controller, space.dense, config.proxy.rung)
    schedule.ask, schedule.tell = asking.timing(schedule.ask), asking.timing(schedule.tell)
    with (
        Store(f"sqlite:///{folder / 'overhead.db'}") as store,
        RayPool(problem.workload, workers=2, threads=config.proxy.threads) as pool,
    ):
        warm_up(pool, space.dense)
        store.append = storing.timing(store.append)
        entry = CampaignEntry(
            name=config.name,
            config=config.model_dump(mode="json"),
            fingerprint=problem.workload.fingerprint,
            fingerprints=problem.workload.fingerprints,
            description={},
        )
        campaign = Campaign(
            id=store.create(entry),
            store=store,
            space=space,
            schedule=schedule,
            metric=problem.task.metric,
            chance=problem.task.chance,
            lag=config.search.lag,
            budget=Budget(config.budget.trials),
        )
        began = time.perf_counter()
        campaign.run(pool, monitor)
        wall_s = time.perf_counter() - began
        records = store.records(campaign.id)
    return {
        "trials": len(records),
        "wall_s": wall_s,
        "ask_and_tell_s": asking.spent_s,
        "store_s": storing.spent_s,
        "share_of_wall": (asking.spent_s + storing.spent_s) / wall_s,
    }, records


def warm_up(pool: RayPool, genome: tuple[int, ...]) -> None:
    """Let both workers build their evaluator and run once."""
    for number in range(2):
        pool.submit(Trial(-1 - number, genome))
    drain(pool)


def drain(pool: RayPool) -> None:
    while pool.pending:
        pool.completed()


def ray_seconds(pool: RayPool, trials: list[Trial]) -> float:
    began = time.perf_counter()
    for trial in trials:
        pool.submit(trial)
    drain(pool)
    return time.perf_counter() - began


def plain_process(workload: Workload, threads: int, inbox: Any, outbox: Any) -> None:
    """A worker with no machinery: takes trials from a queue until there are no more."""
    import torch

    torch.set_num_threads(threads)
    evaluator = workload.build()
    while (trial := inbox.get()) is not None:
        outbox.put(evaluator.evaluate(trial).status)


def throughput(problem: Problem, trials: list[Trial], rounds: int) -> dict:
    """Seconds of two Ray workers and of two plain processes for the same trials, rounds alternating."""
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    threads = problem.config.proxy.threads
    workers = [
        context.Process(target=plain_process, args=(problem.workload, threads, inbox, outbox))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()

    def plain_seconds(these: list[Trial]) -> float:
        began = time.perf_counter()
        for trial in these:
            inbox.put(trial)
        assert {outbox.get() for _ in these} == {"complete"}
        return time.perf_counter() - began

    plain_seconds([Trial(number, problem.space.dense) for number in range(4)])
    plain, rays = [], []
    with RayPool(problem.workload, workers=2, threads=threads) as pool:
        warm_up(pool, problem.space.dense)
        for _ in range(rounds):
            plain.append(plain_seconds(trials))
            rays.append(ray_seconds(pool, trials))
    for _ in workers:
        inbox.put(None)
    for worker in workers:
        worker.join()
    ratios = [p / r for p, r in zip(plain, rays, strict=True)]
    return {
        "trials": len(trials),
        "plain_s": plain,
        "ray_s": rays,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    monitor = TerminalMonitor()
    config = load_config(HERE.parent / "examples/breastmnist.toml", [f"budget.trials={options.trials}"])
    with tempfile.TemporaryDirectory() as folder:
        problem = prepare(config, Path(folder), monitor)
        overhead, records = campaign_overhead(problem, Path(folder), monitor)
        trials = [record.trial for record in records if record.trial.replicate == 0][1:25]
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "versions": versions(),
            "cpu_count": os.cpu_count(),
            "example": config.name,
            "campaign": overhead,
            "two_ray_workers_over_two_processes": throughput(problem, trials, options.rounds),
        }
    (HERE / "overhead.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
