"""Controllers ranking by agreement, the default, on real evaluations: how soon, and what unseen patients say.

    python -m benchmarks.agreement [--data breastmnist ...] [--seeds 0 1 2] [--trials 60]

Every controller searches FLOPs and disagreement with dense on training images, at the rung `shared` of the
networks in `benchmarks.cases`, whose weights are trained once (dense seed 0): nothing is simulated,
each evaluation is done once and shared by all. All start from the same first trials, on a lag of 8.

- `agreement`: hypervolume in log2 FLOPs (down to 1/64) and disagreement over that of the ladder's worst
  network, after all trials; `to_50` ... `to_95`: trials after the first ones until that share of the best
  that any controller and seed found, above the ladder's, is reached; a search that never does counts as all
  of them + 1;
- `test`: of the front that disagreement chose, on the test split, each network standing for the budgets from
  its own FLOPs to the next one's, above dense's test metric - 0.10; test takes no part in any search;
- `coverage`: of `structured`, how often what was measured lay in the 90 % interval it gave when asking.

Results are added to agreement.json, a data set at a time.
"""

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.cases import CASES, LAG, Bank
from benchmarks.generalisation import deployed
from search.controllers.base import Controller, Yardstick
from search.controllers.registry import make_controller
from search.controllers.structured.controller import StructuredController
from search.describe import versions
from search.genes import octaves
from search.start import common_first
from spaces.fronts import MARGIN, OCTAVES, hypervolume, non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import DISAGREEMENT, FLOPS

RESULTS = Path(__file__).with_suffix(".json")
CONTROLLERS = ("random", "local", "nsga2", "optuna:nsgaii", "optuna:tpe", "structured")
SHARES = (50, 80, 90, 95)
_Z = 1.645


def search(bank: Bank, name: str, seed: int, n: int) -> tuple[list[Genome], list[bool]]:
    """The networks that were asked, and whether what was measured lay in the interval of a model's."""
    space = bank.space
    controller: Controller = make_controller(
        name, space, (FLOPS, DISAGREEMENT), seed, common_first(space), yardstick=Yardstick()
    )
    genomes: list[Genome] = []
    held: list[bool] = []
    for number in range(n):
        if (due := number - LAG - 1) >= 0:
            cases = bank.base(genomes[due], 0)["disagreement"]
            outcome = Outcome(due, "complete", {"disagreement": float(cases.mean())}, {"disagreement": cases})
            controller.tell(Record(Trial(due, genomes[due]), outcome, space.cost(genomes[due]).row(0)))
        genomes += controller.ask(1)
        if len(genomes) <= number:
            break
        if isinstance(controller, StructuredController) and number >= len(common_first(space)):
            foreseen = controller.believed(genomes[-1:])
            if foreseen is not None:
                held.append(_holds(bank, genomes, foreseen))
    return genomes, held


def _holds(bank: Bank, genomes: list[Genome], foreseen: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether the last network's disagreement lies in the 90 % interval, repeats' spread of 2 % included."""
    told = np.array([_disagreement(bank, genome) for genome in genomes[: max(len(genomes) - LAG - 1, 3)]])
    unit = told[0] + np.median(np.abs(told[1:] - told[0]))  # as the controller's `Ledger` has it
    damage = np.log(1 + (_disagreement(bank, genomes[-1]) - told[0]) / unit)
    mean, sd = foreseen
    return bool(abs(damage - mean[0]) <= _Z * np.hypot(sd[0], 0.02))


def curve(bank: Bank, genomes: list[Genome]) -> np.ndarray:
    """Hypervolume by disagreement after each trial: (n,)."""
    worst = max(_disagreement(bank, genome) for genome in common_first(bank.space))
    levels = np.maximum(octaves(bank.space, np.array(genomes)), -OCTAVES)
    rows = np.column_stack([levels, [_disagreement(bank, genome) / worst for genome in genomes]])
    return np.array([hypervolume(rows[:k], [0.0, 1.0]) for k in range(1, len(rows) + 1)])


def on_test(bank: Bank, genomes: list[Genome]) -> float:
    """What the front that disagreement chose is worth on test."""
    levels = octaves(bank.space, np.array(genomes))
    amounts = np.array([_disagreement(bank, genome) for genome in genomes])
    front = np.flatnonzero(non_dominated(np.column_stack([levels, amounts])))
    metric = np.array([bank.test(genomes[i]) for i in front])
    corner = max(bank.test(bank.space.dense) - MARGIN, bank.task.chance)
    return deployed(np.exp2(levels[front]), metric, corner)


def _disagreement(bank: Bank, genome: Genome) -> float:
    return float(bank.base(genome, 0)["disagreement"].mean())


def compare(name: str, seeds: list[int], n: int, artifacts: Path) -> dict[str, Any]:
    """All controllers on one data set."""
    bank = Bank(name, 0, artifacts)
    rows: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[np.ndarray]] = {}
    for controller in CONTROLLERS:
        row: dict[str, Any] = {"agreement": [], "test": []}
        held: list[bool] = []
        for seed in seeds:
            genomes, inside = search(bank, controller, seed, n)
            held += inside
            curves.setdefault(controller, []).append(curve(bank, genomes))
            row["agreement"].append(round(float(curves[controller][-1][-1]), 4))
            row["test"].append(round(on_test(bank, genomes), 4))
        if held:
            row["coverage"] = round(float(np.mean(held)), 3)
        rows[controller] = row
        print(name, controller, row, flush=True)
    begun = len(common_first(bank.space))
    start = curves["random"][0][begun - 1]
    best = max(float(found.max()) for several in curves.values() for found in several)
    for controller, several in curves.items():
        for share in SHARES:
            reached = [np.flatnonzero(found >= start + share / 100 * (best - start)) for found in several]
            counts = [int(r[0]) + 1 - begun if len(r) else n + 1 - begun for r in reached]
            rows[controller][f"to_{share}"] = counts
    ladder = common_first(bank.space)
    return {
        "data": name,
        "trials": n,
        "groups": len(bank.space.groups),
        "ladder": {"agreement": round(float(start), 4), "test": round(on_test(bank, ladder), 4)},
        "controllers": rows,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, then over data sets; what is missing for a controller is left out."""
    keys = ("agreement", "test", *(f"to_{share}" for share in SHARES))
    return {
        controller: {
            key: round(float(np.mean([np.mean(run["controllers"][controller][key]) for run in runs])), 3)
            for key in keys
        }
        for controller in CONTROLLERS
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()) / "generalisation")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    out: Path = options.out
    torch.set_num_threads(1)
    for name in options.data:
        run = compare(name, options.seeds, options.trials, options.artifacts)
        known = json.loads(out.read_text())["runs"] if out.exists() else []
        runs = sorted([run, *(old for old in known if old["data"] != name)], key=lambda run: run["data"])
        about = {"date": datetime.now(UTC).date().isoformat(), "versions": versions()}
        out.write_text(json.dumps({**about, "data_sets": summary(runs), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
