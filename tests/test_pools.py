"""The contract of pools, over every implementation, and the faults that Ray's workers must survive."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluators.pools
from evaluators.analytic import AnalyticWorkload
from evaluators.guard import Found, guarded
from evaluators.pools.serial import SerialPool
from evaluators.protocols import EvaluatorSpec, Pool
from spaces.errors import ConfigError, DataError, RunError
from spaces.messages import Outcome, Trial
from spaces.space import ChannelSpace
from tests.faults import Faults, FaultyWorkload
from tests.test_workload import make_workload

ROOT = Path(__file__).parents[1]
SPACE = ChannelSpace.chain((8, 16, 8))
MakePool = Callable[[EvaluatorSpec], Pool]


def some_trials(n: int, seed: int = 0) -> list[Trial]:
    rng = np.random.default_rng(seed)
    return [Trial(number, SPACE.sample(rng), replicate=number % 2) for number in range(n)]


def run_all(pool: Pool, trials: list[Trial]) -> dict[int, Outcome]:
    """Every outcome by number; fails if one comes back twice or not at all."""
    for trial in trials:
        pool.submit(trial)
    outcomes: dict[int, Outcome] = {}
    while pool.pending:
        for outcome in pool.completed():
            assert outcome.number not in outcomes
            outcomes[outcome.number] = outcome
    assert outcomes.keys() == {trial.number for trial in trials}
    return outcomes


def serial_outcomes(spec: EvaluatorSpec, trials: list[Trial]) -> dict[int, Outcome]:
    with SerialPool(spec) as pool:
        return run_all(pool, trials)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """One Ray for all tests of this file; pools find it and leave it running. Its address."""
    from evaluators.pools import cluster

    os.environ["PARETOPRUNE_KEY"] = "ab" * 32  # workers inherit it when they start
    disconnect = cluster.connect(None, cpus=2, payload_bytes=0)
    yield cluster.ray.get_runtime_context().gcs_address
    disconnect()
    del os.environ["PARETOPRUNE_KEY"]


@pytest.fixture(params=["SerialPool", pytest.param("RayPool", marks=pytest.mark.ray)])
def make_pool(request: pytest.FixtureRequest) -> MakePool:
    if request.param == "RayPool":
        request.getfixturevalue("ray_cluster")
    return getattr(evaluators.pools, request.param)


def test_every_pool_is_under_contract() -> None:
    contract = {"SerialPool", "RayPool"}
    assert set(evaluators.pools.__all__) == contract


def test_every_trial_comes_back_once_and_says_what_the_serial_pool_says(make_pool: MakePool) -> None:
    spec, trials = AnalyticWorkload(SPACE, noise=0.1), some_trials(20)
    expected = serial_outcomes(spec, trials)
    with make_pool(spec) as pool:
        outcomes = run_all(pool, trials)
        assert all(outcomes[number].agrees_with(expected[number]) for number in expected)
        assert pool.pending == 0
        assert pool.completed() == []
        assert pool.completed(timeout=0.1) == []


def test_trials_may_be_submitted_while_others_come_back(make_pool: MakePool) -> None:
    spec, trials = AnalyticWorkload(SPACE), some_trials(12)
    expected, outcomes = serial_outcomes(spec, trials), {}
    with make_pool(spec) as pool:
        todo = iter(trials)
        for trial in (next(todo), next(todo), next(todo)):
            pool.submit(trial)
        while pool.pending:
            for outcome in pool.completed():
                outcomes[outcome.number] = outcome
                if (trial := next(todo, None)) is not None:
                    pool.submit(trial)
    assert outcomes.keys() == expected.keys()
    assert all(outcomes[number].agrees_with(expected[number]) for number in expected)


def test_a_bad_candidate_is_a_failed_outcome(make_pool: MakePool, tmp_path: Path) -> None:
    faults = Faults(str(tmp_path), raises={1: 1})
    illegal = Trial(2, (8, 16, 9))
    with make_pool(FaultyWorkload(SPACE, faults=faults)) as pool:
        outcomes = run_all(pool, [*some_trials(2), illegal])
    assert outcomes[0].status == "complete"
    assert outcomes[1].error == "RunError: a fault on purpose"
    assert outcomes[2].status == "failed"
    assert "conv2" in str(outcomes[2].error)
    assert "\n" not in str(outcomes[2].error)


class Unbuildable:
    """A spec whose evaluator cannot be built."""

    fingerprint = "none"

    def build(self) -> None:
        raise DataError("these images cannot be used")


def test_an_evaluator_that_cannot_be_built_is_the_callers_error(make_pool: MakePool) -> None:
    with make_pool(Unbuildable()) as pool:
        pool.submit(some_trials(1)[0])
        with pytest.raises(DataError, match="these images cannot be used"):
            pool.completed()


def test_closing_gives_up_what_is_pending_and_may_be_repeated(make_pool: MakePool) -> None:
    pool = make_pool(AnalyticWorkload(SPACE))
    pool.submit(some_trials(1)[0])
    pool.close()
    assert pool.pending == 0
    pool.close()


def test_the_serial_pool_pins_threads_only_while_it_evaluates() -> None:
    seen = []

    class Looking:
        fingerprint = "none"

        def build(self) -> "Looking":
            return self

        def evaluate(self, trial: Trial) -> Outcome:
            seen.append(torch.get_num_threads())
            return Outcome(trial.number, "complete")

    before = torch.get_num_threads()
    with SerialPool(Looking(), threads=before + 2) as pool:
        run_all(pool, some_trials(2))
    assert seen == [before + 2, before + 2]
    assert torch.get_num_threads() == before


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_fine_tuning_on_ray_and_in_process_agrees_to_the_last_bit(kind: str, ray_cluster: str) -> None:
    workload = make_workload(kind)
    rng = np.random.default_rng(0)
    trials = [Trial(number, workload.space.sample(rng), replicate=number % 2) for number in range(5)]
    expected = serial_outcomes(workload, trials)
    with evaluators.pools.RayPool(workload) as pool:
        outcomes = run_all(pool, trials)
    assert [outcomes[number].error for number in range(5)] == [None] * 5
    assert all(outcomes[number].agrees_with(expected[number]) for number in expected)


def stored_by_ray() -> Iterator[bytes]:
    """What lies in the object stores of this machine and in Ray's folder of files."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if "raylet" in (process / "comm").read_text():
                yield from (f.read_bytes() for f in process.glob("fd/*") if "plasma" in os.readlink(f))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    from evaluators.pools.cluster import ray

    session = Path(ray.get_runtime_context().get_session_name())
    for file in (Path("/tmp/ray") / session.name).rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield file.read_bytes()


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into the object store by /proc")
def test_sealed_images_are_plain_inside_the_worker_only(ray_cluster: str) -> None:
    workload = make_workload()
    trials = [Trial(number, workload.space.dense, replicate=number) for number in range(2)]
    expected, seen = serial_outcomes(workload, trials), []
    row = workload.splits.train.images[3].tobytes()
    for sealed in (False, True):  # the plain ones show that looking finds them
        subsets = {name: getattr(workload.splits, name) for name in ("train", "val")}
        subsets = {
            name: replace(subset, images=subset.images ^ np.uint8(sealed), sealed=sealed)
            for name, subset in subsets.items()
        }
        spec = replace(workload, splits=replace(workload.splits, **subsets))
        marker = spec.splits.train.images[3].tobytes()
        assert (marker == row) != sealed
        with evaluators.pools.RayPool(spec) as pool:
            outcomes = run_all(pool, trials)
            seen.append(any(marker in content for content in stored_by_ray()))
        assert [outcomes[number].status for number in range(2)] == ["complete"] * 2
        if not sealed:
            assert all(outcomes[number].agrees_with(expected[number]) for number in expected)
    assert seen == [True, False]


@pytest.mark.ray
def test_a_timeout_returns_empty_handed(ray_cluster: str) -> None:
    with evaluators.pools.RayPool(AnalyticWorkload(SPACE, sleep_s=2), workers=1) as pool:
        pool.submit(some_trials(1)[0])
        start = time.monotonic()
        assert pool.completed(timeout=0.2) == []
        assert time.monotonic() - start < 1.5
        assert pool.pending == 1
        assert len(pool.completed()) == 1


@pytest.mark.ray
def test_killed_workers_are_replaced_and_change_no_outcome(ray_cluster: str, tmp_path: Path) -> None:
    """Trial 1 kills its worker once and then works; trial 4 kills every one of its three."""
    trials = some_trials(8)
    expected = serial_outcomes(AnalyticWorkload(SPACE), trials)
    faults = Faults(str(tmp_path), kills={1: 1, 4: 99})
    with evaluators.pools.RayPool(FaultyWorkload(SPACE, faults=faults)) as pool:
        outcomes = run_all(pool, trials)
        assert pool.workers == 2
    lost = outcomes.pop(4)
    assert lost.status == "lost"
    assert str(lost.error).startswith("its worker died 3 times")
    assert len(list(tmp_path.glob("kills-4-*"))) == 3
    assert all(outcome.agrees_with(expected[number]) for number, outcome in outcomes.items())


@pytest.mark.ray
def test_a_worker_killed_from_outside_is_replaced(ray_cluster: str) -> None:
    trials = some_trials(6)
    spec = AnalyticWorkload(SPACE, sleep_s=0.3)
    with evaluators.pools.RayPool(spec) as pool:
        first, rest = trials[:2], trials[2:]
        outcomes = run_all(pool, first)
        victim = pool.pids[0]
        for trial in rest:
            pool.submit(trial)
        os.kill(victim, signal.SIGKILL)
        while pool.pending:
            outcomes |= {outcome.number: outcome for outcome in pool.completed()}
        assert victim not in pool.pids
    expected = serial_outcomes(spec, trials)
    assert all(outcomes[number].agrees_with(expected[number]) for number in expected)


@pytest.mark.ray
def test_a_trial_past_the_deadline_has_failed_and_the_rest_goes_on(ray_cluster: str, tmp_path: Path) -> None:
    faults = Faults(str(tmp_path), hangs={0: 1})
    spec = FaultyWorkload(SPACE, faults=faults)
    with evaluators.pools.RayPool(spec, workers=1, deadline_s=1) as pool:
        outcomes = run_all(pool, some_trials(3))
    assert outcomes[0].error == "not finished within the deadline of 1 s"
    assert outcomes[0].status == "lost"
    assert [outcomes[number].status for number in (1, 2)] == ["complete"] * 2


class Hungry:
    """A spec whose evaluation takes as many megabytes as the trial's genome says."""

    fingerprint = "none"

    def __init__(self, library: str) -> None:
        self.library = library

    def build(self) -> "Hungry":
        return self

    def evaluate(self, trial: Trial) -> Outcome:
        return guarded(trial, self._evaluate)

    def _evaluate(self, trial: Trial) -> Found:
        n = trial.genome[0] * 10**6
        held = np.ones(n, np.uint8) if self.library == "numpy" else torch.ones(n, dtype=torch.uint8)
        return {"pid": os.getpid(), "bytes": float(len(held))}, {}, {}


@pytest.mark.ray
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_trial_over_its_memory_is_lost_and_its_worker_goes_on(ray_cluster: str, library: str) -> None:
    trials = [Trial(0, (50,)), Trial(1, (400,)), Trial(2, (50,)), Trial(3, (150,))]
    with evaluators.pools.RayPool(Hungry(library), workers=1, memory_gb=0.2) as pool:
        outcomes = run_all(pool, trials)
    assert [outcomes[number].status for number in range(4)] == ["complete", "lost", "complete", "complete"]
    assert "(execution.memory_gb = 0.2)" in str(outcomes[1].error)
    assert len({outcomes[number].values["pid"] for number in (0, 2, 3)}) == 1, "each has the limit for itself"


@pytest.mark.ray
def test_workers_are_recycled_after_so_many_evaluations(ray_cluster: str) -> None:
    trials = [Trial(number, (1,)) for number in range(7)]
    with evaluators.pools.RayPool(Hungry("numpy"), workers=1, recycle_after=3) as pool:
        outcomes = run_all(pool, trials)
    pids = [outcomes[number].values["pid"] for number in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


class Dying(Unbuildable):
    """A spec that takes its worker with it."""

    def build(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.ray
def test_workers_that_always_die_at_the_start_end_the_run(ray_cluster: str) -> None:
    with evaluators.pools.RayPool(Dying(), workers=1) as pool:
        pool.submit(some_trials(1)[0])
        with pytest.raises(RunError, match="3 workers in a row died before they were ready"):
            pool.completed()


WORKER_SPEC = """
import os, torch
from spaces.messages import Outcome

class Spec:
    fingerprint = "none"
    def build(self): return self
    def evaluate(self, trial):
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        return Outcome(trial.number, "complete", {"threads": torch.get_num_threads(), "hidden": gpus == ""})
"""


@pytest.mark.ray
def test_workers_import_what_lies_on_the_drivers_path(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_users_module.py").write_text(WORKER_SPEC)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.import_module("a_users_module").Spec()
    with evaluators.pools.RayPool(spec, workers=1) as pool:
        outcome = run_all(pool, some_trials(1))[0]
    assert outcome.values == {"threads": 1, "hidden": True}, "one thread, and no GPU without a share"


@pytest.mark.ray
def test_a_running_cluster_is_joined_and_left_running(ray_cluster: str) -> None:
    from evaluators.pools.cluster import ray

    with evaluators.pools.RayPool(AnalyticWorkload(SPACE), workers=1, address=ray_cluster) as pool:
        run_all(pool, some_trials(2))
    assert ray.is_initialized()
    with pytest.raises(ConfigError, match="connected to Ray at"):
        evaluators.pools.RayPool(AnalyticWorkload(SPACE), address="203.0.113.1:6379")


@pytest.mark.ray
def test_a_pool_that_cannot_start_leaves_no_cluster_behind(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluators.pools import raypool

    def full(_: object) -> None:
        raise RunError("the object store is full")

    shut_down: list[bool] = []
    monkeypatch.setattr(raypool, "connect", lambda *_: lambda: shut_down.append(True))
    monkeypatch.setattr(raypool.ray, "put", full)
    with pytest.raises(RunError, match="full"):
        evaluators.pools.RayPool(AnalyticWorkload(SPACE), workers=1)
    assert shut_down == [True]


@pytest.mark.ray
def test_a_share_of_a_gpu_that_is_not_there_is_refused(ray_cluster: str) -> None:
    from evaluators.pools.cluster import ray

    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="Ray sees no GPU there"):
        evaluators.pools.RayPool(AnalyticWorkload(SPACE), gpus_per_worker=0.5)


ADDRESSES = """
import socket, threading, time
from evaluators.pools.cluster import connect
from spaces.errors import ConfigError

def answer_as_a_web_server(server):
    connection, _ = server.accept()
    connection.sendall(b"HTTP/1.1 400 Bad Request\\r\\n\\r\\n")
    connection.close()

with socket.create_server(("127.0.0.1", 0)) as server:
    threading.Thread(target=answer_as_a_web_server, args=[server]).start()
    start = time.monotonic()
    for address in ("nonsense", "127.0.0.1:1", f"127.0.0.1:{server.getsockname()[1]}"):
        try:
            connect(address, 1, 0)
        except ConfigError as error:
            print(error)
    assert time.monotonic() - start < 10
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Code in a fresh process at the root of the repository, warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)


@pytest.mark.ray
def test_an_address_without_a_cluster_is_one_clear_line_at_once() -> None:
    done = run_python(ADDRESSES)
    assert done.returncode == 0, done.stderr
    malformed, closed, other = done.stdout.splitlines()
    assert "'nonsense': write it as host:port" in malformed
    assert "nothing answers there" in closed
    assert "what answers there is no Ray cluster" in other


JOIN = """
import sys
from evaluators.analytic import AnalyticWorkload
from evaluators.pools import RayPool
from spaces.messages import Trial
from spaces.space import ChannelSpace

space = ChannelSpace.chain((8, 8))
with RayPool(AnalyticWorkload(space), workers=1, address=sys.argv[1]) as pool:
    pool.submit(Trial(0, space.dense))
    print(pool.completed()[0].status)
"""


@pytest.mark.ray
def test_another_process_joins_a_running_cluster_by_its_address(ray_cluster: str) -> None:
    done = run_python(JOIN, ray_cluster)
    assert (done.stdout, done.stderr) == ("complete\n", "")


DRIVER = """
import sys, time
from evaluators.pools import RayPool
from tests.faults import Faults, FaultyWorkload
from spaces.messages import Trial
from spaces.space import ChannelSpace

space = ChannelSpace.chain((8, 8))
pool = RayPool(FaultyWorkload(space, faults=Faults(sys.argv[1], kills={0: 1})), workers=1)
pool.submit(Trial(0, space.dense))
pool.completed()
print(*pool.pids, flush=True)
time.sleep(600)
"""


@pytest.mark.ray
def test_workers_end_with_a_killed_driver_and_nothing_is_printed(tmp_path: Path) -> None:
    """A driver with a cluster of its own loses a worker, and is then killed itself."""
    command = [sys.executable, "-W", "error", "-c", DRIVER, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.kill()
        rest = process.stdout.read() + process.stderr.read()
    assert rest == "", "Ray writes to the user's terminal"
    (pid,) = map(int, line.split())
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline, "a worker outlives its driver"
        time.sleep(0.2)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
