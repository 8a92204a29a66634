"""The benchmark of transfer: its rivals keep the controllers' protocol, its figures have known answers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rivals import RgpeController, ScanController
from benchmarks.transfer_report import (
    RESULTS,
    by_arm,
    catching_up,
    faster,
    figures,
    gain,
    load,
    markdown,
    mean,
    summary,
)
from benchmarks.transfer_tasks import sources
from search.controllers.base import SequentialController
from search.start import common_first
from spaces.objectives import FLOPS, Objective
from tests.analytic_family import FamilyTask

AUC = Objective("auc", maximize=True)
PAGE = Path(__file__).parent.parent / "docs" / "prior.md"


def rows(pair: str = "breast-resnet") -> list[dict]:
    """Searches that gain evenly: the best after 20 trials, after 40, and never half of it."""
    made = []
    for arm, needed, best in (("structured", 20, 1.0), ("nsga2", 40, 1.0), ("random", 60, 0.4)):
        curve = [1 + best * min(k / needed, 1.0) for k in range(101)]
        for seed in range(2):
            made.append({"pair": pair, "arm": arm, "seed": seed, "agreement": curve, "metric": curve})
    return made


def test_trials_and_shares_of_curves_that_are_known() -> None:
    flat = {(row["arm"], row["seed"]): row for row in figures(rows())}
    quick, never = flat["structured", 0], flat["random", 1]
    assert [quick[f"agreement_to_{p}"] for p in (50, 80, 90, 95)] == [10, 16, 18, 19]
    assert quick["metric_at_10"] == pytest.approx(0.5)
    assert never["agreement_to_50"] == 61
    assert never["agreement_at_60"] == pytest.approx(0.4)


def test_comparisons_of_curves_that_are_known() -> None:
    made = [*rows("breast-resnet"), *rows("nuclei-unet")]
    arms = by_arm(figures(made))
    found = faster(arms, "structured", "nsga2", "agreement_to_90")
    assert found["ratio"] == pytest.approx(2)
    assert found["interval"] == [2.0, 2.0]
    assert found["slower"] == 0
    assert gain(arms, "structured", "random", "agreement_at_60")["difference"] == pytest.approx(0.6)
    assert catching_up(made, "structured", ["nsga2"], 100)["times_fewer"] == pytest.approx(5)
    assert mean(arms["random"], lambda row: row["agreement_at_60"]) == pytest.approx(0.4)


def test_no_prior_learns_from_its_own_data() -> None:
    pairs = ["breast-resnet", "breast-densenet", "nuclei-unet", "adrenal-resnet"]
    assert sources("breast-resnet", "LODO", pairs) == ["nuclei-unet", "adrenal-resnet"]
    assert sources("breast-resnet", "LOAO", pairs) == ["nuclei-unet"]
    assert sources("breast-resnet", "wrong", pairs) == ["nuclei-unet"]


@pytest.mark.parametrize("rival", ["scan", "ensemble"])
def test_rivals_ask_legal_networks_once(rival: str) -> None:
    task = FamilyTask(100)
    first = common_first(task.space)
    controller: SequentialController
    if rival == "scan":
        controller = ScanController(task.space, (FLOPS, AUC), 0, first)
    else:
        x = np.log2(np.array(task.genomes(20)) / np.array(task.space.dense))
        controller = RgpeController(task.space, (FLOPS, AUC), 0, first, [(x, -x.sum(axis=1))])
    asked = []
    for number in range(len(first) + len(task.space.groups) + 4):
        asked += controller.ask(1)
        controller.tell(task.record(number, asked[-1]))
    assert len(set(asked)) == len(asked)
    assert [task.space.check(genome) for genome in asked] == asked


def test_what_is_missing_or_kept_twice_counts_once(tmp_path: Path) -> None:
    made = [*rows(), {"pair": "breast-resnet", "arm": "RGPE", "seed": 0, "missing": True}, rows()[0]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    assert len(load(tmp_path)) == len(rows())


@pytest.mark.parametrize("is_live", RESULTS)
def test_the_committed_table_is_of_the_committed_searches(is_live: bool) -> None:
    path = RESULTS[is_live]
    with path.with_suffix(".csv").open() as file:
        flat = [
            {k: v if k in ("pair", "arm") else float(v) if v else None for k, v in row.items()}
            for row in csv.DictReader(file)
        ]
    kept = json.loads(path.read_text())["arms"]
    again = summary(by_arm(flat))
    for arm, row in again.items():
        for key, value in row.items():
            assert value == pytest.approx(kept[arm][key], abs=0.002), (arm, key)
    assert markdown(kept) in PAGE.read_text()
