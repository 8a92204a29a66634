"""Progress: what is shown and logged while long work goes on, and what counts where folds are held out."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from reports.table import history_frame
from search.calibration import run_trials
from search.logs import set_up_logging
from search.monitor import Monitor, TerminalMonitor
from search.progress import Progress
from search.store import CampaignEntry, Store
from spaces.looks import Looks
from spaces.messages import Outcome, Record, Trial
from spaces.objectives import Objective
from spaces.space import ChannelSpace

SPACE = ChannelSpace.chain([4, 8, 8])
AUC = Objective("auc", maximize=True)


def record(
    number: int, ratio: float, auc: float, fold: int = 0, cases: int = 10, rung: str = "full"
) -> Record:
    genome = SPACE.uniform(ratio)
    per_case = {"metric": np.full(cases, auc, np.float32), "loss": np.zeros(cases, np.float32)}
    outcome = Outcome(number, "complete", {"auc": auc, "loss": 0.0}, per_case)
    return Record(Trial(number, genome, rung, 0, fold), outcome, SPACE.cost(genome).row(0))


def test_a_look_is_complete_with_its_last_fold_and_weighs_cases() -> None:
    looks = Looks(2)
    assert np.isnan(looks.add(record(0, 1, 0.9, fold=0, cases=30), "auc"))
    assert np.isnan(looks.add(record(1, 0.5, 0.7, fold=0), "auc"))
    assert looks.add(record(2, 1, 0.5, fold=1, cases=10), "auc") == pytest.approx(0.8)
    failed = Record(Trial(3, (1, 1)), Outcome(3, "failed", error="no"), {})
    assert np.isnan(looks.add(failed, "auc"))
    again = record(4, 1, 0.7, fold=0, cases=30)
    assert looks.add(again, "auc") == pytest.approx(0.75 * 0.8 + 0.25 * 0.5), "replicates within their fold"
    single = Looks()
    assert single.add(record(0, 1, 0.9), "auc") == 0.9
    assert single.add(record(1, 1, 0.7), "auc") == pytest.approx(0.8)


FOLDED = [
    record(0, 1, 0.9, fold=0),
    record(1, 1, 0.7, fold=1),
    record(2, 0.5, 0.95, fold=0),  # lucky in one fold
    record(3, 0.5, 0.65, fold=1),
    record(4, 0.25, 0.99, fold=0),  # dropped after one fold
]


def test_the_front_on_the_way_has_what_every_fold_has_seen() -> None:
    progress = Progress(SPACE, AUC, 0.5, 5, folds=2)
    best = []
    for each in FOLDED:
        progress.add(each, evaluated=True)
        best.append([metric for _, metric in progress.standing(1.0).best])
    assert best[:3] == [[], [pytest.approx(0.8)], [pytest.approx(0.8)]]
    assert best[3] == best[4] == [pytest.approx(0.8)], "as good as dense, and cheaper"
    assert progress.standing(1.0).best[0][0] < 0.6
    other = Progress(SPACE, AUC, 0.5, 2, rung="full")
    other.add(record(0, 1, 0.99, rung="shared"))
    assert other.standing(1.0).best == (), "another rung says something else"
    assert other.standing(1.0).done == 1


def test_the_history_has_what_every_fold_has_seen() -> None:
    frame = history_frame(FOLDED, metric="auc", dense=SPACE.dense, chance=0.5, rung="full")
    assert frame["number"].tolist() == [0, 1, 2, 3, 4]
    volumes = frame["hypervolume"].to_numpy()
    assert volumes[2] == volumes[1], "one fold of two is no look"
    assert volumes[3] > volumes[2]
    assert volumes[4] == volumes[3]


def test_lines_say_rate_time_left_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = TerminalMonitor(lines_every_s=0)
    with monitor.stage("training") as advance:
        for done in range(1, 6):
            time.sleep(0.01)
            advance(done, 5, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 1/5  loss 0.5"
    assert lines[2].startswith("training: 3/5  ")
    assert "/s · " in lines[2]
    assert "s left · loss 0.5" in lines[2]
    assert "left" not in lines[-1]


@pytest.mark.parametrize("kind", [Monitor, TerminalMonitor])
def test_the_log_file_has_progress_as_numbers(tmp_path: Path, kind: type[Monitor]) -> None:
    monitor = kind()
    monitor.lines_every_s = 0
    set_up_logging(log_file=tmp_path / "log.jsonl")
    try:
        monitor.say("hello")
        with monitor.stage("training") as advance:
            advance(3, 9, "loss 0.5")
    finally:
        set_up_logging()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["message"] for line in lines[:2]] == ["hello", "training"]
    assert lines[2]["progress"] == {"stage": "training", "done": 3, "total": 9, "note": "loss 0.5"}


def test_a_calibration_that_was_stopped_goes_on_in_the_next(tmp_path: Path) -> None:
    from evaluators.analytic import AnalyticWorkload
    from evaluators.pools.serial import SerialPool

    workload = AnalyticWorkload(SPACE)
    trials = [Trial(n, SPACE.uniform(n / 10)) for n in range(6)]
    entry = {"config": {}, "fingerprints": {}, "description": {}}
    with Store(f"sqlite:///{tmp_path / 's.db'}") as store, SerialPool(workload) as pool:
        ids = [
            store.create(CampaignEntry(name="c", fingerprint=workload.fingerprint, **entry)) for _ in range(2)
        ]
        first = run_trials(trials[:4], SPACE, pool, store, ids[0], Monitor())
        evaluated = []
        submit = pool.submit
        pool.submit = lambda trial: (evaluated.append(trial.number), submit(trial))[1]  # type: ignore[method-assign]
        again = run_trials(trials, SPACE, pool, store, ids[1], Monitor())
        assert evaluated == [4, 5]
        assert all(a.agrees_with(b) for a, b in zip(first, again, strict=False))
        assert len(store.records(ids[1], stage="calibrate")) == 6
