"""Controllers compared: on a problem whose answer is known, on real images with unseen patients, by speed.

    python -m benchmarks.controllers [--parts analytic asks images] [--data breastmnist ...] [--seeds 0 1 2]
        [--controllers structured ...]

- analytic: 20 groups of very different sensitivity, with the noise of 80 validation images and without;
  hypervolume of the networks asked, by their true metric, after 20, 40, 60 and 100 trials on a lag of 8.
- asks: seconds of processor time an ask of `structured` takes with 500 trials told, 60 groups, 500 cases.
- images: 60 evaluations each at the rung `shared` (see `benchmarks.cases`, whose data and banks
  these are); the front chosen by what was observed, and by what the damage model believes, both on val. The
  test split judges: `test` as chosen, each network standing for the budgets from its own FLOPs to the next
  one's; `test_best` lets the better ones stand in. Nothing is tuned on test.

Results are added to controllers.json; images that are there are skipped.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.cases import CASES, LAG, Bank
from benchmarks.generalisation import deployed
from benchmarks.provenance import made
from search.controllers.base import Yardstick
from search.controllers.registry import make_controller
from search.controllers.sampling import StratifiedSampler
from search.controllers.structured.belief import PIECES, Belief
from search.controllers.structured.controller import StructuredController
from search.controllers.structured.evidence import Ledger
from search.controllers.structured.scouts import Scouts
from search.genes import octaves
from search.schedule import SingleRung
from search.start import common_first
from spaces.fronts import MARGIN, front_hypervolume, non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import FLOPS, Objective
from spaces.space import ChannelSpace

RESULTS = Path(__file__).with_suffix(".json")
CONTROLLERS = ("ladder", "random", "local", "nsga2", "optuna:tpe", "optuna:gp", "structured")
TRIALS = 60
STOPS = (20, 40, 60, 100)
AUC = Objective("auc", maximize=True)


def analytic(seeds: list[int], names: list[str], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Mean true hypervolume at each stop, by noise and controller, as they are done; beside what is there."""
    for noise, name in itertools.product((0.0, 0.02), names):
        stops = STOPS if name != "optuna:gp" else STOPS[:3]
        began = time.perf_counter()
        curves = np.array([_known(name, seed, stops[-1], noise, stops) for seed in seeds])
        found.setdefault(f"noise {noise}", {})[name] = {
            "trials": list(stops),
            "hypervolume": curves.mean(axis=0).round(4).tolist(),
            "sd": curves.std(axis=0, ddof=1).round(4).tolist(),
        }
        spent = f"{time.perf_counter() - began:.0f} s"
        print("analytic", noise, name, curves.mean(axis=0).round(3), spent, flush=True)
        yield found


def _known(name: str, seed: int, n: int, noise: float, stops: tuple[int, ...]) -> list[float]:
    space = ChannelSpace.chain([32] * 4 + [64] * 6 + [128] * 5 + [256] * 5, round_to=8)
    sensitivity = np.exp(np.random.default_rng(7).normal(0, 1.2, len(space.groups)))
    sensitivity /= sensitivity.sum()
    rng = np.random.default_rng([seed, 1])
    proposer = make_controller(name, space, (FLOPS, AUC), seed, common_first(space), yardstick=Yardstick(0.5))
    genomes: list[Genome] = []
    truth: list[float] = []
    for number in range(n):
        genomes += proposer.ask(1)
        if len(genomes) <= number:  # the ladder ends
            break
        ratio = np.array(genomes[-1]) / np.array(space.dense)
        truth.append(0.5 + 0.4 * float(np.exp(-0.12 * sensitivity @ (ratio**-0.8 - 1))))
        if (due := number - LAG) >= 0:
            seen = truth[due] + noise * rng.standard_normal() * (due > 0)
            outcome = Outcome(due, "complete", {"auc": seen})
            told = Record(Trial(due, genomes[due]), outcome, space.cost(genomes[due]).row(0))
            proposer.tell(told)
    flops = np.exp2(octaves(space, np.array(genomes)))
    return [front_hypervolume(flops[:k], np.array(truth[:k]), 0.9, 0.5) for k in stops]


def asks() -> dict[str, dict[str, float]]:
    """Seconds of processor time an ask, told something new each time, by what the controller goes by."""
    space = ChannelSpace.chain([64] * 20 + [128] * 20 + [256] * 20, round_to=8)
    first, rng, n = common_first(space), np.random.default_rng(0), len(space.groups)
    sampler, dense = StratifiedSampler(space), space.cost(space.dense).flops[0]
    genomes = [*first, *(sampler.draw(rng) for _ in range(494))]
    steep = rng.lognormal(0.0, 0.5, (2, n, 1))
    experts = [Belief(name, np.tile(steep[i], PIECES), np.full(n, 0.5)) for i, name in enumerate("ab")]
    looks = Ledger(Yardstick())
    for genome in genomes[:128]:
        looks.add(genome, float(np.log2(space.cost(genome).flops[0] / dense)), None)
    seen = looks.evidence(space.dense)
    assert seen is not None
    kinds: dict[str, dict[str, Any]] = {"alone": {}, "with a prior": {"beliefs": experts}}
    kinds["with a prior and scouts"] = {"beliefs": experts, "scouts": Scouts(space, seen)}
    return {kind: _asks(space, genomes, options) for kind, options in kinds.items()}


def _asks(space: ChannelSpace, genomes: list[Genome], options: dict[str, Any]) -> dict[str, float]:
    first, rng = common_first(space), np.random.default_rng(1)
    proposer = make_controller(
        "structured", space, (FLOPS, AUC), 0, first, yardstick=Yardstick(0.5), **options
    )

    def tell(number: int, genome: Genome) -> None:
        cost = space.cost(genome).row(0)
        value = 0.9 + 0.05 * float(np.log2(cost["flops"] / space.cost(space.dense).flops[0]))
        cases = (value + 0.2 * rng.standard_normal(500)).astype(np.float32)
        outcome = Outcome(number, "complete", {"auc": float(cases.mean())}, {"metric": cases})
        proposer.tell(Record(Trial(number, genome), outcome, cost))

    for number, genome in enumerate(genomes):
        tell(number, genome)
    waiting = proposer.ask(LAG + len(first))
    seconds = []
    for number in range(500, 520):
        tell(number, waiting.pop(0))
        began = time.process_time()
        waiting += proposer.ask(1)
        seconds.append(time.process_time() - began)
    return {"median_s": round(float(np.median(seconds)), 3), "slowest_s": round(max(seconds), 3)}


def search(bank: Bank, controller: str, seed: int) -> list[Record]:
    """The records of one search, asked and told on the usual lag, dense three times."""
    space, metric = bank.space, bank.task.metric
    proposer = make_controller(
        controller, space, (FLOPS, metric), seed, common_first(space), yardstick=_yardstick(bank)
    )
    schedule = SingleRung(proposer, space.dense, "shared")
    records: list[Record] = []
    for number in range(TRIALS):
        if number > LAG:
            schedule.tell(records[number - LAG - 1])
        trial = schedule.ask(number)
        if trial is None:
            break
        cases = bank.look(trial, "val")
        values = {metric.name: float(cases["metric"].mean()), "loss": float(cases["loss"].mean())}
        outcome = Outcome(number, "complete", values, cases)
        records.append(Record(trial, outcome, space.cost(trial.genome).row(0)))
    return records


def judge(bank: Bank, records: list[Record]) -> dict[str, float]:
    """Hypervolumes of the observed and of the believed front, on val and on test."""
    space, chance, name = bank.space, bank.task.chance, bank.task.metric.name
    values: dict[Genome, list[float]] = {}
    for record in records:
        values.setdefault(record.trial.genome, []).append(record.value(name))
    genomes = list(values)
    observed = np.array([np.mean(values[genome]) for genome in genomes])
    dense = observed[genomes.index(space.dense)]
    model = make_controller("structured", space, (FLOPS, bank.task.metric), 0, [], yardstick=_yardstick(bank))
    if not isinstance(model, StructuredController):
        raise TypeError(model)
    for record in records:
        model.tell(record)
    belief = model.believed(genomes)
    believed = observed if belief is None else chance + (dense - chance) * np.exp(-belief[0])
    levels = octaves(space, np.array(genomes))
    result = {"val": front_hypervolume(np.exp2(levels), observed, dense, chance)}
    corner = max(bank.test(space.dense) - MARGIN, chance)
    for label, worth in (("observed", observed), ("believed", believed)):
        front = np.flatnonzero(non_dominated(np.column_stack([levels, -worth])))
        test = np.array([bank.test(genomes[i]) for i in front])
        flops = np.exp2(levels[front])
        result[f"{label}_test"] = deployed(flops, test, corner)
        result[f"{label}_test_best"] = front_hypervolume(flops, test, bank.test(space.dense), chance)
    return result


def _yardstick(bank: Bank) -> Yardstick:
    return Yardstick(bank.task.chance, bank.splits.val.groups)


def images(name: str, seed: int, artifacts: Path) -> dict[str, Any]:
    """All controllers on one data set with one seed of network, joint training and search."""
    began = time.perf_counter()
    bank = Bank(name, seed, artifacts)
    rows, seconds = {}, {}
    for controller in CONTROLLERS:
        started = time.perf_counter()
        rows[controller] = judge(bank, search(bank, controller, seed))
        seconds[controller] = round(time.perf_counter() - started, 1)
    return {
        "data": name,
        "seed": seed,
        "trials": TRIALS,
        "val_cases": len(bank.splits.val),
        "groups": len(bank.space.groups),
        "dense_test": bank.test(bank.space.dense),
        "wall_s": round(time.perf_counter() - began, 1),
        "search_s": seconds,
        "hypervolumes": rows,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of every hypervolume, by data set and controller."""
    means: dict[str, Any] = {}
    for name in sorted({run["data"] for run in runs}):
        here = [run["hypervolumes"] for run in runs if run["data"] == name]
        means[name] = {
            controller: {
                key: round(float(np.mean([volumes[controller][key] for volumes in here])), 4)
                for key in here[0][controller]
            }
            for controller in here[0]
        }
    return means


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("analytic", "asks", "images")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--controllers", nargs="+", choices=CONTROLLERS, default=list(CONTROLLERS), help="analytic"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()) / "generalisation")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    out: Path = options.out
    torch.set_num_threads(1)
    result = json.loads(out.read_text()) if out.exists() else {"runs": []}

    def save() -> None:
        about = made()
        out.write_text(json.dumps({**result, **about}, indent=1) + "\n")

    if "analytic" in options.parts:
        for found in analytic(options.seeds, options.controllers, result.get("analytic", {})):
            result["analytic"] = found
            save()
    if "asks" in options.parts:
        result["asks"] = asks()
        save()
    for seed in options.seeds if "images" in options.parts else ():
        for name in options.data:
            if any((run["data"], run["seed"]) == (name, seed) for run in result["runs"]):
                continue
            run = images(name, seed, options.artifacts)
            result["runs"] = sorted([*result["runs"], run], key=lambda run: (run["data"], run["seed"]))
            result["images"] = summary(result["runs"])
            save()
            print(name, seed, f"{run['wall_s']:.0f} s", flush=True)
            for controller, row in run["hypervolumes"].items():
                print(f"  {controller:12}", {key: round(value, 3) for key, value in row.items()}, flush=True)


if __name__ == "__main__":
    main()
