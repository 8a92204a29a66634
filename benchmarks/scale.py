"""Does the driver keep 64 workers busy for 10,000 trials, at a cost per trial and a memory that stay flat?

    python benchmarks/scale.py [--trials 10000] [--speed 1] [--lags 64 128 256 512]
    python benchmarks/scale.py --ray [--trials 10000]

The workers sleep instead of training: log-normal times, mean 2 s, sigma 0.5. They are threads, or, in the
part that `--ray` adds, actors of Ray. Everything else is real: the loop, the controller, records with
per-case arrays of 2,000 cases, an SQLite file in which each record is one synchronous transaction. With
`--speed`, and in the short campaigns of several lags, time is compressed, which asks as much more of the
driver: 64 workers of 2 s leave it 31 ms a trial, 2.5 times faster ones 12.5 ms. Results in scale.json:

- busy: the sum of the sleeping times over 64 times the wall time of the whole campaign, its start and its
  end included;
- ask, tell, find and store time per trial (CPU time of the driver's thread; store: wall time, with the disk),
  means of the 100 trials up to the 100th, 1,000th and 10,000th, and the driver's resident memory then;
- how busy the workers are for lags from 64 (the slowest of 64 trials holds up the rest) to 512;
- ray: the same on actors that are there (their start apart), for 2 s a trial, and what an actor holds.
"""

import argparse
import gc
import json
import os
import queue
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from evaluators.analytic import AnalyticEvaluator, AnalyticWorkload
from evaluators.protocols import Pool
from search.campaign import Budget, Campaign
from search.controllers.registry import make_controller
from search.describe import versions
from search.monitor import Monitor
from search.schedule import SingleRung
from search.start import common_first
from search.store.archive import Store
from search.store.entries import CampaignEntry
from spaces.messages import Outcome, Trial
from spaces.objectives import FLOPS
from spaces.space import ChannelSpace

HERE = Path(__file__).parent
WORKERS, MEAN_S, SIGMA, CASES = 64, 2.0, 0.5, 2_000
LAGS_SPEED = 2.5
MARKS = (100, 1_000, 10_000)
PARTS = ("ask", "tell", "find", "store")


@dataclass(frozen=True, eq=False)
class SleepingWorkload(AnalyticWorkload):
    """Sleeps as long as a training might take, then knows the answer, with arrays of `CASES` cases."""

    speed: float = field(kw_only=True)

    def sleep_of(self, number: int) -> float:
        """Seconds that a trial takes."""
        normal = np.random.default_rng(number).standard_normal()
        return float(MEAN_S * np.exp(SIGMA * normal - SIGMA**2 / 2) / self.speed)

    def build(self) -> "SleepingEvaluator":
        return SleepingEvaluator(self)


class SleepingEvaluator(AnalyticEvaluator):
    def __init__(self, workload: SleepingWorkload) -> None:
        super().__init__(workload)
        self._sleep_of = workload.sleep_of

    def evaluate(self, trial: Trial) -> Outcome:
        sleep_s = self._sleep_of(abs(trial.number))
        time.sleep(sleep_s)
        outcome = super().evaluate(trial)
        noise = np.random.default_rng(abs(trial.number)).random((4, CASES), dtype=np.float32)
        cases = {"metric": noise[0], "loss": noise[1], "score": noise[2:].T}
        return Outcome(trial.number, outcome.status, outcome.values, cases, {"wall_s": sleep_s})


class SleepingPool:
    """64 threads for workers."""

    workers = WORKERS

    def __init__(self, workload: SleepingWorkload) -> None:
        self._evaluator = workload.build()
        self._threads = ThreadPoolExecutor(WORKERS)
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.pending = 0

    def submit(self, trial: Trial) -> None:
        self.pending += 1
        self._threads.submit(lambda: self._done.put(self._evaluator.evaluate(trial)))

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        outcomes = []
        try:
            outcomes.append(self._done.get(timeout=timeout))
            while True:
                outcomes.append(self._done.get_nowait())
        except queue.Empty:
            self.pending -= len(outcomes)
            return outcomes

    def close(self) -> None:
        self._threads.shutdown()


def ray_pool(workload: SleepingWorkload) -> tuple[Pool, dict[str, float]]:
    """64 actors, all of them ready; how long that took, and what one holds in memory."""
    from evaluators.pools.raypool import RayPool

    began = time.perf_counter()
    pool = RayPool(workload, workers=WORKERS)
    number = 0
    while len(pool.pids) < WORKERS:
        if not pool.pending:
            number -= 1
            pool.submit(Trial(number, workload.space.dense))
        pool.completed(0.5)
    while pool.pending:
        pool.completed()
    held = [resident_mb(pid) for pid in pool.pids]
    return pool, {"start_s": time.perf_counter() - began, "actor_resident_mb": float(np.median(held))}


class Meter:
    """Seconds per trial by part, and memory, around the marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self.memory_mb: dict[int, float] = {}

    def timing(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        seconds = self.seconds[part]

        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.thread_time() if part != "store" else time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                now = time.thread_time() if part != "store" else time.perf_counter()
                seconds.append(now - began)
                if part == "store" and len(seconds) in MARKS:
                    self.memory_mb[len(seconds)] = resident_mb()

        return timed

    def around(self, mark: int) -> dict[str, float]:
        """Mean milliseconds of each part over the 100 trials up to the mark, and the memory then."""
        window = slice(mark - 100, mark)
        means = {f"{part}_ms": 1e3 * float(np.mean(self.seconds[part][window])) for part in PARTS}
        return means | {"resident_mb": self.memory_mb[mark]}


def resident_mb(pid: int | str = "self") -> float:
    gc.collect()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def campaign(controller: str, trials: int, lag: int, speed: float, on_ray: bool = False) -> dict[str, Any]:
    """One campaign on sleeping workers: threads, or actors of Ray."""
    space = ChannelSpace.chain([64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512])
    workload = SleepingWorkload(space, noise=0.1, speed=speed)
    meter = Meter()
    pool, started = ray_pool(workload) if on_ray else (SleepingPool(workload), {})
    proposer = make_controller(controller, space, (FLOPS, workload.metric), 0, common_first(space))
    schedule = SingleRung(proposer, space.dense)
    schedule.ask, schedule.tell = meter.timing("ask", schedule.ask), meter.timing("tell", schedule.tell)
    entry = CampaignEntry(
        name="scale",
        config={},
        fingerprint=workload.fingerprint,
        fingerprints=workload.fingerprints,
        description={},
    )
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/scale.db") as store:
        store.append = meter.timing("store", store.append)
        store.find = meter.timing("find", store.find)
        loop = Campaign(
            id=store.create(entry),
            store=store,
            space=space,
            schedule=schedule,
            metric=workload.metric,
            chance=workload.chance,
            lag=lag,
            budget=Budget(trials),
        )
        began, worked = time.perf_counter(), time.thread_time()
        loop.run(pool, Monitor())
        wall_s, driver_s = time.perf_counter() - began, time.thread_time() - worked
        assert len(store.numbers(loop.id, "complete")) == trials
        file_mb = Path(folder, "scale.db").stat().st_size / 1e6
    pool.close()
    result = {
        "controller": controller,
        "trials": trials,
        "lag": lag,
        "time_compressed": speed,
        "wall_s": wall_s,
        "busy": sum(map(workload.sleep_of, range(trials))) / (WORKERS * wall_s),
        "driver_cpu_ms_per_trial": 1e3 * driver_s / trials,
        "store_mb": file_mb,
        **started,
        "around": {str(mark): meter.around(mark) for mark in MARKS if mark <= trials},
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--speed", type=float, default=1.0)
    lags = (64, 128, 256, 512)
    parser.add_argument("--lags", nargs="*", type=int, default=lags, help="without any: keep those known")
    parser.add_argument(
        "--ray", action="store_true", help="only the part with Ray's actors, added to the rest"
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]
    path = HERE / "scale.json"
    if options.ray:
        actors = campaign("nsga2", options.trials, 256, 1.0, on_ray=True)
        known = json.loads(path.read_text())
        loads = {"date": datetime.now(UTC).date().isoformat(), "load_before": load}
        path.write_text(json.dumps(known | {"ray": loads | actors}, indent=2) + "\n")
        return
    run = campaign("nsga2", options.trials, 256, options.speed)
    shorter = min(options.trials, 2_000)
    by_lag = [campaign("nsga2", shorter, lag, LAGS_SPEED) for lag in options.lags]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "cpu_count": os.cpu_count(),
        "load_before": load,
        "workers": WORKERS,
        "mean_s": MEAN_S,
        "sigma": SIGMA,
        "cases": CASES,
        "campaign": run,
        "lags": by_lag,
    }
    known = json.loads(path.read_text()) if path.exists() else {}
    result |= {part: known[part] for part in ("ray", "lags") if part in known and not result.get(part)}
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
