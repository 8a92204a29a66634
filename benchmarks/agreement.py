"""Controllers ranking by agreement, the default, on real evaluations: how soon, and what unseen patients say.

    python -m benchmarks.agreement [--data breastmnist ...] [--controllers structured ...] [--seeds 0 1 2 3 4]
                                   [--minutes 8] [--again]

Every controller searches FLOPs and disagreement with dense on training images, at the rung `shared` of the
networks in `benchmarks.cases`, whose weights are trained once (dense seed 0): nothing is simulated,
each evaluation is done once and shared by all. All start from the same first trials, on a lag of 8.

- `agreement`: hypervolume in log2 FLOPs (down to 1/64) and disagreement over that of the ladder's worst
  network, after 60 trials in all; `to_50` ... `to_95`: trials after the first ones until that share of the
  best that any controller and seed found, above the ladder's, is reached; a search that never does counts as
  all of them + 1;
- `to_nsga2_100`: trials after the first ones until what NSGA-II has on average after 100 of its own;
- `test`: of the front that disagreement chose after 60, on the test split, each network standing for the
  budgets from its own FLOPs to the next one's, above dense's test metric - 0.10; test takes no part;
- `coverage`: of `structured`, how often what was measured lay in the 90 % interval it gave when asking.

Two comparisons were fixed beforehand: `structured` against the better of TPE and GP on each data set, and
against NSGA-II's value at 100. Searches are added to agreement.json one by one; those there are skipped.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.cases import CASES, LAG, Bank
from benchmarks.generalisation import deployed
from benchmarks.provenance import made
from search.controllers.base import Controller, Yardstick
from search.controllers.registry import make_controller
from search.controllers.structured.controller import StructuredController
from search.genes import octaves
from search.start import common_first
from spaces.fronts import MARGIN, OCTAVES, hypervolume, non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import DISAGREEMENT, FLOPS

RESULTS = Path(__file__).with_suffix(".json")
CONTROLLERS = ("random", "local", "nsga2", "optuna:nsgaii", "optuna:tpe", "optuna:gp", "structured")
SHARES = (50, 80, 90, 95)
TRIALS = 60
_Z = 1.645
_REFERENCE, _AFTER = "nsga2", 100


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


def row_of(bank: Bank, data: str, controller: str, seed: int) -> dict[str, Any]:
    """One search: its hypervolume after each trial, and the rest."""
    begun = len(common_first(bank.space))
    genomes, held = search(bank, controller, seed, begun + _AFTER if controller == _REFERENCE else TRIALS)
    row: dict[str, Any] = {"data": data, "controller": controller, "seed": seed, "first": begun}
    row["test"] = round(on_test(bank, genomes[:TRIALS]), 4)
    if held:
        row |= {"held": sum(held), "foreseen": len(held)}
    return row | {"curve": curve(bank, genomes).round(3).tolist()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of every data set and controller; trials to shares of the best."""
    found: dict[str, Any] = {}
    for data in sorted({row["data"] for row in rows}):
        here = [row for row in rows if row["data"] == data]
        begun = here[0]["first"]
        start = here[0]["curve"][begun - 1]
        best = max(row["curve"][min(TRIALS, len(row["curve"])) - 1] for row in here)
        reference = [row["curve"][-1] for row in here if row["controller"] == _REFERENCE]
        goals = {f"to_{share}": start + share / 100 * (best - start) for share in SHARES}
        if reference:
            goals[f"to_{_REFERENCE}_{_AFTER}"] = float(np.mean(reference))
        found[data] = {"ladder": start, "best": best}
        for controller in dict.fromkeys(row["controller"] for row in here):
            mine = [row for row in here if row["controller"] == controller]
            curves = [row["curve"][:TRIALS] for row in mine]
            ends = [values[-1] for values in curves]
            means = {
                "seeds": len(mine),
                "agreement": np.mean(ends),
                "test": np.mean([r["test"] for r in mine]),
            }
            means["sd"] = np.std(ends, ddof=1) if len(ends) > 1 else 0.0
            for name, goal in goals.items():
                means[name] = np.mean([_reached(values, goal, begun) for values in curves])
            if foreseen := sum(row.get("foreseen", 0) for row in mine):
                means["coverage"] = sum(row["held"] for row in mine) / foreseen
            found[data][controller] = {name: round(float(value), 3) for name, value in means.items()}
    return found


def _reached(values: list[float], goal: float, begun: int) -> int:
    """Trials after the first ones until the goal; one more than there were if never."""
    places = np.flatnonzero(np.array(values) >= goal)
    return max(int(places[0]) + 1 - begun, 0) if len(places) else len(values) + 1 - begun


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """All searches, one a line, and what they say."""
    rows = sorted(rows, key=lambda row: (row["data"], CONTROLLERS.index(row["controller"]), row["seed"]))
    about = made()
    head = json.dumps({**about, "data_sets": summary(rows)}, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    out.write_text(f'{head},\n "searches": [\n  {lines}\n ]\n}}\n')


def read(out: Path) -> list[dict[str, Any]]:
    """The searches that there are."""
    rows: list[dict[str, Any]] = json.loads(out.read_text())["searches"] if out.exists() else []
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--controllers", nargs="+", choices=CONTROLLERS, default=list(CONTROLLERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no search after these")
    parser.add_argument("--again", action="store_true", help="search anew what is there")
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()) / "generalisation")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.minutes
    for data in options.data:
        known = {(row["data"], row["controller"], row["seed"]) for row in read(options.out)}
        wanted = [(data, name, seed) for seed in options.seeds for name in options.controllers]
        left = [key for key in wanted if options.again or key not in known]
        if not left or time.monotonic() > until:
            continue
        bank = Bank(data, 0, options.artifacts)
        for key in left:
            if time.monotonic() > until:
                break
            row = row_of(bank, *key)
            others = [r for r in read(options.out) if (r["data"], r["controller"], r["seed"]) != key]
            write(options.out, [*others, row])
            print(*key, {name: value for name, value in row.items() if name != "curve"}, flush=True)
            bank.save()


if __name__ == "__main__":
    main()
