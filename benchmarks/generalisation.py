"""What a search finds on unseen patients: test hypervolume beside validation hypervolume.

    python -m benchmarks.generalisation [--data breastmnist ...] [--seeds 0 1 ...] [--rung shared]

For every data set and seed (of the dense network, the joint training and the search) ladder, random,
NSGA-II, TPE and `structured` search with the same number of evaluations at one rung, once as is usual (rank
by the metric on val, take the observed front) and with each remedy alone and together:

- agreement: rank by the agreement with the dense network on training images, and take that front: no label
  of val takes part (`evaluators.disagreement`); agreed front: only take the front by it;
- advised: rank by agreement, and take the front of shrunken estimates: the program's default; advised front:
  only take that front;
- loss: rank by the mean per-case loss (log-loss, soft Dice) instead of the metric;
- shrink: take the front of estimates (`spaces.estimates`) that know nothing of the agreement;
- larger_val: a third of train + val is held out instead of the original val;
- cross_fit: train + val in three folds, out-of-fold values pooled, promising genomes go on to folds 2 and 3;
- replicates: a quarter of the evaluations repeat what may be on the front.

All are judged alike: the networks of the front, with the weights that the rung gave them on the original
train split, on the test split. `test` is the hypervolume of the front as it was chosen, each network standing
for the budgets from its own FLOPs to the next one's (what a user would get); `test_best` lets the better of
the chosen networks stand in, as hypervolumes do. Both above the dense network's test metric - 0.10.

Results are added to generalisation.json (generalisation_RUNG.json for another rung than `shared`), a data set
and seed at a time; settings that are there are skipped.
"""

import argparse
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.cases import CASES, FOLDS, LAG, Bank
from search.controllers.base import Yardstick
from search.controllers.registry import make_controller
from search.describe import versions
from search.schedule import Racing, Schedule, SingleRung
from search.start import common_first
from spaces.estimates import shrunken_estimates
from spaces.fronts import MARGIN, OCTAVES, front_hypervolume, non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import FLOPS, Objective, per_case_of, ranked_by
from spaces.space import ChannelSpace

RESULTS = Path(__file__).with_suffix(".json")
CONTROLLERS = ("ladder", "random", "nsga2", "optuna:tpe", "structured")
LOOKED_AT = ("metric", "loss", "disagreement")
SHOWN = ("naive", "shrink", "agreement", "advised")
FIRST_SEEDS = 2  # of each set: what the form of the estimates was chosen on


@dataclass(frozen=True)
class Setting:
    """How a search looks at candidates and chooses its front."""

    value: str = "metric"
    front: str = "observed"  # by `value`; by estimates: "advised", "shrunk" (blind to agreement); "agreed"
    source: str = "val"  # "val": the original split; "folds": thirds of train + val
    schedule: str = "once"  # or "cross_fit", "replicates"


SETTINGS = {
    "naive": Setting(),
    "agreement": Setting(value="agreement"),
    "agreed front": Setting(front="agreed"),
    "advised": Setting(value="agreement", front="advised"),
    "advised front": Setting(front="advised"),
    "loss": Setting(value="loss"),
    "shrink": Setting(front="shrunk"),
    "larger_val": Setting(source="folds"),
    "cross_fit": Setting(source="folds", schedule="cross_fit"),
    "replicates": Setting(schedule="replicates"),
    "loss+shrink": Setting(value="loss", front="shrunk"),
    "larger_val+loss+shrink": Setting(value="loss", front="shrunk", source="folds"),
    "cross_fit+shrink": Setting(front="shrunk", source="folds", schedule="cross_fit"),
    "together": Setting(value="loss", front="shrunk", source="folds", schedule="cross_fit"),
}


def search(bank: Bank, controller: str, setting: Setting, seed: int, trials: int) -> list[Record]:
    """The records of one search, asked and told on the usual lag."""
    space, metric = bank.space, bank.task.metric
    value = ranked_by(setting.value, metric)
    yardstick = Yardstick(bank.task.chance if setting.value == "metric" else None)
    first = common_first(space)
    proposer = make_controller(controller, space, (FLOPS, value), seed, first, yardstick=yardstick)
    schedule: Schedule
    if setting.schedule == "once":
        schedule = SingleRung(proposer, space.dense, bank.rung, dense_replicates=1)
    elif setting.schedule == "cross_fit":
        schedule = Racing(proposer, space.dense, value, bank.rung, folds=FOLDS, share=0.5, replicates=1)
    else:
        schedule = Racing(proposer, space.dense, value, bank.rung, share=0.25)
    records: list[Record] = []
    untold: deque[Record] = deque()
    for number in range(trials):
        while len(untold) > LAG:
            schedule.tell(untold.popleft())
        trial = schedule.ask(number)
        while trial is None and untold:
            schedule.tell(untold.popleft())
            trial = schedule.ask(number)
        if trial is None:
            break
        cases = bank.look(trial, setting.source)
        values = {metric.name if name == "metric" else name: float(cases[name].mean()) for name in LOOKED_AT}
        outcome = Outcome(number, "complete", values, cases)
        records.append(Record(trial, outcome, space.cost(trial.genome).row(0)))
        untold.append(records[-1])
    return records


def chosen(records: list[Record], space: ChannelSpace, setting: Setting) -> dict[Genome, float]:
    """The front that a search reports: genomes with their estimated metric difference to dense."""
    by = "agreement" if setting.front == "agreed" else setting.value
    objective = ranked_by(by, Objective("metric", maximize=True))
    key = per_case_of(objective)
    sign = 1.0 if objective.maximize else -1.0
    looks: dict[tuple[int, int], dict[Genome, Mapping[str, np.ndarray]]] = {}
    for record in records:
        look = (record.trial.replicate, record.trial.fold)
        looks.setdefault(look, {})[record.trial.genome] = record.outcome.per_case
    genomes = list(looks[0, 0])
    by_fold: dict[str, list[np.ndarray]] = {key: [], "metric": []}
    for name, columns in by_fold.items():
        for fold in sorted({fold for _, fold in looks}):
            repeats = []
            for (_, of), seen in looks.items():
                if of == fold:
                    dense = seen[space.dense][name]
                    missing = np.full(len(dense), np.nan)
                    repeats.append([seen[g][name] - dense if g in seen else missing for g in genomes])
            stacked = np.array(repeats, dtype=float)
            there = ~np.isnan(stacked).all(axis=(0, 2))
            mean = np.full(stacked.shape[1:], np.nan)
            mean[there] = np.nanmean(stacked[:, there], axis=0)
            columns.append(mean)
    differences = sign * np.concatenate(by_fold[key], axis=1)
    octaves = np.log2(space.cost(genomes).flops / space.cost(space.dense).flops[0])
    kept = np.array(genomes) / np.array(space.dense)
    if setting.front == "shrunk":
        value = shrunken_estimates(differences, octaves, kept).cautious
    elif setting.front == "advised":
        measured = np.concatenate(by_fold["metric"], axis=1)
        apart = np.array([looks[0, 0][genome]["disagreement"].mean() for genome in genomes])
        value = shrunken_estimates(measured, octaves, kept, disagreement=apart).cautious
    else:
        value = np.nanmean(differences, axis=1)
    front = non_dominated(np.column_stack([octaves, -value]))
    metric = np.nanmean(np.concatenate(by_fold["metric"], axis=1), axis=1)
    return {genomes[i]: float(metric[i]) for i in np.flatnonzero(front)}


def deployed(ratios: np.ndarray, metric: np.ndarray, corner: float) -> float:
    """Area under the steps of a front as it was chosen: each network from its own FLOPs to the next one's."""
    order = np.argsort(ratios)
    octaves = np.append(np.clip(np.log2(ratios[order]), -OCTAVES, 0.0), 0.0)
    return float((np.diff(octaves) * np.maximum(metric[order] - corner, 0.0)).sum())


def judge(bank: Bank, records: list[Record], setting: Setting) -> dict[str, float]:
    """Hypervolumes of the chosen front, on the images it was chosen by and on test."""
    space, chance = bank.space, bank.task.chance
    front = chosen(records, space, setting)
    genomes = list(front)
    ratios = space.cost(genomes).flops / space.cost(space.dense).flops[0]
    seen = np.array([front[genome] for genome in genomes])
    dense = bank.test(space.dense)
    test = np.array([bank.test(genome) for genome in genomes])
    dense_val = float(bank.look(Trial(0, space.dense), setting.source)["metric"].mean())
    return {
        "val": front_hypervolume(ratios, seen + dense_val, dense_val, chance),
        "test": deployed(ratios, test, max(dense - MARGIN, chance)),
        "test_best": front_hypervolume(ratios, test, dense, chance),
        "front": len(genomes),
        "networks": len({record.trial.genome for record in records}),
    }


def one(name: str, seed: int, labels: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """These settings on one data set with one seed."""
    began, trials = time.perf_counter(), options.trials
    bank = Bank(name, seed, options.artifacts, options.rung)
    prepared_s = time.perf_counter() - began
    rows: dict[str, dict[str, Any]] = {}
    for label in labels:
        setting, rows[label] = SETTINGS[label], {}
        for controller in options.controllers:
            records = search(bank, controller, setting, seed, trials)
            rows[label][controller] = judge(bank, records, setting)
            bank.save()
    sizes = {"train": len(bank.splits.train), "val": bank._n_val, "test": len(bank._test_targets)}
    return {
        "data": name,
        "seed": seed,
        "rung": options.rung,
        "trials": trials,
        "cases": sizes,
        "mflops": float(bank.space.cost(bank.space.dense).flops[0] / 1e6),
        "dense_test": bank.test(bank.space.dense),
        "prepared_s": round(prepared_s, 1),
        "evaluations": bank.evaluations,
        "wall_s": round(time.perf_counter() - began, 1),
        "hypervolumes": rows,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Test hypervolume above that of the naive ladder, by setting and controller.

    The mean over seeds per data set; over data sets the mean and its standard error: they are the unit.
    """
    result: dict[str, Any] = {}
    for label in SETTINGS:
        for controller in CONTROLLERS:
            by_data: dict[str, list[float]] = {}
            for run in runs:
                volumes = run["hypervolumes"]
                if controller not in volumes.get(label, {}):
                    continue
                gain = volumes[label][controller]["test"] - volumes["naive"]["ladder"]["test"]
                by_data.setdefault(run["data"], []).append(gain)
            if not by_data:
                continue
            means = {name: float(np.mean(gains)) for name, gains in by_data.items()}
            values = np.array(list(means.values()))
            result.setdefault(label, {})[controller] = {
                "mean": round(float(values.mean()), 4),
                "se": round(float(values.std(ddof=1) / np.sqrt(len(values))), 4) if len(values) > 1 else None,
                "worst_seed": round(min(min(gains) for gains in by_data.values()), 4),
                "seeds": {name: len(gains) for name, gains in by_data.items()},
                "by_data": {name: round(value, 4) for name, value in means.items()},
            }
    return result


def table(runs: list[dict[str, Any]]) -> str:
    """The gains of docs/measurements.md as Markdown: means and standard errors over seeds, who lost."""
    names = [name for name in CASES if any(run["data"] == name for run in runs)]
    labels = [label for label in SHOWN if any(label in run["hypervolumes"] for run in runs)]
    controllers = [c for c in CONTROLLERS if any(c in run["hypervolumes"]["naive"] for run in runs)]
    lines = [
        f"| data | ranked by, front | {' | '.join(controllers)} |",
        "|" + "---|" * (2 + len(controllers)),
    ]
    gains: dict[tuple[str, str, str], np.ndarray] = {}
    for name in names:
        of_data = [run["hypervolumes"] for run in runs if run["data"] == name]
        for label in labels:
            cells = []
            for controller in controllers:
                found = [
                    volumes[label][controller]["test"] - volumes["naive"]["ladder"]["test"]
                    for volumes in of_data
                    if controller in volumes.get(label, {})
                ]
                gains[name, label, controller] = gain = np.array(found)
                error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
                cells.append(f"{gain.mean():+.3f} ± {error:.3f}" if len(gain) else "")
            lines.append(f"| {name}, {len(of_data)} seeds | {label} | {' | '.join(cells)} |")
    searches = [c for c in controllers if c != "ladder"]
    for label in labels:
        means = [np.mean([gains[n, label, c].mean() for n in names]) for c in controllers]
        lines.append(f"| mean | {label} | {' | '.join(f'{mean:+.3f}' for mean in means)} |")
    for label in labels:
        every = np.concatenate([gains[n, label, c] for n in names for c in searches])
        later = np.concatenate([gains[n, label, c][FIRST_SEEDS:] for n in names for c in searches])
        lines.append(
            f"{label}: {(every < 0).sum()} of {len(every)} searches below the ladder, worst "
            f"{every.min():+.3f}; without the first {FIRST_SEEDS} seeds {later.mean():+.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--controllers", nargs="+", choices=CONTROLLERS, default=list(CONTROLLERS))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()) / "generalisation")
    parser.add_argument("--rung", choices=("shared", "finetune"), default="shared")
    parser.add_argument("--out", type=Path, help="default generalisation.json, or generalisation_RUNG.json")
    parser.add_argument("--table", action="store_true", help="only print what --out holds, as Markdown")
    options = parser.parse_args()
    other = RESULTS if options.rung == "shared" else RESULTS.with_stem(f"{RESULTS.stem}_{options.rung}")
    out: Path = options.out or other
    if options.table:
        print(table(json.loads(out.read_text())["runs"]))
        return
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.data:
            known = json.loads(out.read_text())["runs"] if out.exists() else []
            done = [
                set(r["hypervolumes"]) - {"naive"} for r in known if (r["data"], r["seed"]) == (name, seed)
            ]
            labels = [s for s in options.settings if s not in set().union(*done)]
            if not set(labels) - {"naive"}:
                continue
            labels = ["naive", *(label for label in labels if label != "naive")]
            run = one(name, seed, labels, options)
            runs = sorted([*known, run], key=lambda run: (run["data"], run["seed"]))
            result = {
                "date": datetime.now(UTC).date().isoformat(),
                "versions": versions(),
                "above_the_naive_ladder_on_test": summary(runs),
                "runs": runs,
            }
            out.write_text(json.dumps(result, indent=1) + "\n")
            print(name, seed, f"{run['wall_s']:.0f} s, {run['evaluations']} evaluations", flush=True)


if __name__ == "__main__":
    main()
