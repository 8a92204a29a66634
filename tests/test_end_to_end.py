"""The main job on real images, as a user runs it: identical whatever the pool, and whatever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.store import Store
from spaces.messages import Record

ROOT = Path(__file__).parent.parent
CAMPAIGN = """
name = "breast"
[network]
factory = "tests.tiny:cnn"
[data]
source = "medmnist:breastmnist"
[recipe]
epochs = 20
learning_rate = 0.1
[proxy]
epochs = 1
[budget]
trials = 20
"""

pytestmark = [pytest.mark.data, pytest.mark.ray]


# A background job, as a test run may be one, passes on an ignored SIGINT: take it as a terminal gives it.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from search.cli import main
main()
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", START, *arguments]


def paretoprune(folder: Path, data: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(data), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(data: Path) -> dict[str, str]:
    return os.environ | {"PARETOPRUNE_DATA": str(data), "PYTHONPATH": str(ROOT)}


def stored(folder: Path) -> tuple[str, list[Record]]:
    with Store(f"sqlite:///{folder / 'paretoprune.db'}", create=False) as store:
        (campaign,) = store.campaigns()
        return campaign.id, store.records(campaign.id)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of the campaign in one process."""
    folder = new_folder(tmp_path_factory.mktemp("serial"))
    paretoprune(folder, data_dir, "run", "breast.toml", "--quiet")
    return folder


@pytest.fixture(scope="module")
def serial(trained: Path) -> list[Record]:
    """Its records."""
    return stored(trained)[1]


def new_folder(folder: Path, trained: Path | None = None) -> Path:
    """One with the campaign's file, and perhaps with the dense weights that another one has trained."""
    (folder / "breast.toml").write_text(CAMPAIGN)
    if trained is not None:
        shutil.copytree(trained / "paretoprune-artifacts", folder / "paretoprune-artifacts")
    return folder


def assert_identical(records: list[Record], serial: list[Record]) -> None:
    assert len(records) == len(serial) == 20
    assert all(record.complete for record in records)
    assert [r.trial.number for r in records if not r.agrees_with(serial[r.trial.number])] == []


def wait_until(condition: Callable[[], object], process: subprocess.Popen, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def n_stored(folder: Path) -> int:
    try:
        return len(stored(folder)[1])
    except ValueError:  # no store, or no campaign in it yet
        return 0


def test_ray_finds_what_one_process_finds(
    tmp_path: Path, data_dir: Path, trained: Path, serial: list[Record]
) -> None:
    folder = new_folder(tmp_path, trained)
    paretoprune(folder, data_dir, "run", "breast.toml", "--quiet", "--executor", "ray", "--workers", "2")
    campaign, records = stored(folder)
    assert_identical(records, serial)
    front = json.loads(paretoprune(folder, data_dir, "front", campaign, "--format", "json"))
    assert len(front["points"]) == 18
    assert front["dense"]["flops_ratio"] == 1
    assert (
        sum(point["plausible"] for point in front["points"]) >= sum(p["front"] for p in front["points"]) > 1
    )


def test_a_killed_driver_is_resumed(
    tmp_path: Path, data_dir: Path, trained: Path, serial: list[Record]
) -> None:
    folder = new_folder(tmp_path, trained)
    driver = subprocess.Popen(
        command("run", "breast.toml", "--quiet", "--executor", "ray"), cwd=folder, env=environment(data_dir)
    )
    wait_until(lambda: n_stored(folder) >= 5, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    campaign, before = stored(folder)
    assert 5 <= len(before) < 20
    paretoprune(folder, data_dir, "resume", campaign, "--quiet")
    after = stored(folder)[1]
    assert_identical(after, serial)
    kept = {record.trial.number: record.outcome.timings for record in before}
    assert all(after[number].outcome.timings == timings for number, timings in kept.items()), "run twice"


def test_a_killed_worker_is_replaced(tmp_path: Path, data_dir: Path, serial: list[Record]) -> None:
    folder = new_folder(tmp_path)
    driver = subprocess.Popen(
        command("run", "breast.toml", "--quiet", "--executor", "ray"), cwd=folder, env=environment(data_dir)
    )
    wait_until(lambda: n_stored(folder) >= 4, driver)
    os.kill(busy_worker(driver.pid), signal.SIGKILL)
    assert driver.wait(timeout=240) == 0
    assert_identical(stored(folder)[1], serial)


@pytest.mark.parametrize(
    ("executor", "sign", "then"), [("serial", signal.SIGINT, "ray"), ("ray", signal.SIGTERM, "serial")]
)
def test_a_stopped_campaign_says_how_to_go_on(
    tmp_path: Path,
    data_dir: Path,
    trained: Path,
    serial: list[Record],
    executor: str,
    sign: signal.Signals,
    then: str,
) -> None:
    folder = new_folder(tmp_path, trained)
    settings = {"cwd": folder, "env": environment(data_dir), "stderr": subprocess.PIPE, "text": True}
    driver = subprocess.Popen(command("run", "breast.toml", "--executor", executor), **settings)
    wait_until(lambda: n_stored(folder) >= 3, driver)
    os.kill(driver.pid, sign)
    said = driver.communicate(timeout=60)[1]
    campaign, _ = stored(folder)
    assert driver.returncode == 130
    assert f"paretoprune resume {campaign}`" in said, "the store is the one that is taken unasked"
    assert "Traceback" not in said
    paretoprune(folder, data_dir, "resume", campaign, "--quiet", "--executor", then)
    assert_identical(stored(folder)[1], serial)


def busy_worker(driver: int) -> int:
    """The process of one of the driver's evaluating Ray workers."""
    parents: dict[int, int] = {}
    workers = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
            title = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        pid = int(status.parent.name)
        parents[pid] = int(text.rpartition(")")[2].split()[1])
        if title.startswith(b"ray::") and b"IDLE" not in title and b"Agent" not in title:
            workers.append(pid)

    def descends(pid: int) -> bool:
        return pid == driver or (pid in parents and descends(parents[pid]))

    return next(pid for pid in workers if descends(pid))
