"""Does the rung `shared` rank as well as two epochs of `finetune`, and what is the joint training's part?

    python -m benchmarks.joint [--data breastmnist ...] [--folder DIR]      # goes on where it stopped
    python -m benchmarks.joint --table

Many networks of a set, spread along the FLOPs axis, on `full` twice (the mean judges), on `recalibrate`, on
`finetune` of two epochs (as it is, with norm statistics of its last epoch; with the running average, as it
was here before; with that, from statistics of the slice instead of dense's), and on `shared` after joint
trainings: as it is; with the narrowest slice in every step as well, as the sandwich rule has it (and as it
was here before); and, on the two sets that the form was chosen on (breast ultrasound and nuclei), with
slices whose share of the units is uniform instead of uniform in its logarithm. Chest X-ray and adrenal
shapes were looked at afterwards.

Kendall's tau-b with the metric of `full`, on the validation cases (as `paretoprune calibrate` has it) and on
val and test together (less of it is the noise of few labels), overall and among networks within an octave of
FLOPs, with 95 % intervals of a bootstrap over networks. Differences (to `finetune`, and of `shared` to what
it was with the narrowest slice) are paired: the same networks drawn for both. What the rungs cost is in
calibration.json. Results in joint.json; the evaluations are kept in the folder.

Nuclei are trained in batches of 8: at 32 `full` makes 20 steps, and ends with worse networks than `shared`.
Of adrenal shapes every second voxel is looked at, as in generalisation.py.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from benchmarks.cases import CASES, RECIPE, joined, thinned
from evaluators.dense import as_arrays
from evaluators.evaluation import NetworkEvaluator
from evaluators.identity import seed_of
from evaluators.metrics import find_metric
from evaluators.networks import build_network
from evaluators.protocols import Evaluator
from evaluators.rungs.joint import NARROWEST, RANDOM_WIDTHS, SPREAD, JointTraining
from evaluators.rungs.recalibration import recalibrate
from evaluators.tasks.factory import make_task
from search.calibration import OCTAVE, calibration_trials
from search.config import parse_config
from search.describe import versions
from search.monitor import Monitor
from search.prepare import make_workload, trace_network
from spaces.agreement import tau_b
from spaces.messages import Genome, Trial

RESULTS = Path(__file__).with_suffix(".json")
NETWORKS = {"breastmnist": 32, "dsb2018_nuclei": 24, "pneumoniamnist": 40, "adrenalmnist3d": 24}
BATCH = {"dsb2018_nuclei": 8}
STEP = {"adrenalmnist3d": 2}  # every second voxel: what an evaluation costs
MOST_TEST = 300
SEED = 7
DRAWS = 1000
VALUES = ("metric", "loss", "agreement")
CASES_OF = ("val", "val and test")


class Sandwich(JointTraining):
    """The narrowest slice in every step as well."""

    def _slices(self) -> list[Genome]:
        return [self._space.minimal, *super()._slices()]


class Uniform(JointTraining):
    """Slices whose share is uniform."""

    def _slices(self) -> list[Genome]:
        return [self._uniform() for _ in range(RANDOM_WIDTHS)]

    def _uniform(self) -> Genome:
        share = self._widths.uniform(NARROWEST, 1.0)
        shares = share * np.exp(SPREAD * self._widths.standard_normal(len(self._space.groups)))
        return self._space.clip(np.minimum(shares, 1.0) * np.array(self._space.dense))


TRAININGS = {"shared": JointTraining, "sandwich": Sandwich, "uniform": Uniform}
CHOSEN_ON = ("breastmnist", "dsb2018_nuclei")  # where "uniform" was looked at, too


class _Restarted(NetworkEvaluator):
    """Slices come with statistics of their own."""

    def sliced(self, network: nn.Module, genome: Genome) -> nn.Module:
        pruned = super().sliced(network, genome)
        recalibrate(pruned, self.bench.subset.images, seed_of(self.fingerprint, 0))
        return pruned


def _running_average() -> AbstractContextManager[Any]:
    """Inside, tuning keeps running averages of norm statistics."""
    return patch("evaluators.training.averaged_statistics", lambda *_, **__: nullcontext())


class Bench:
    """One data set: its networks, and what each rung finds of them, evaluated once and kept."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        recipe = {"batch_size": 32, "threads": 1, **CASES[name].get("recipe", RECIPE)}
        proxy = {"epochs": 2, "full_epochs": 8, "shared_epochs": 20, "learning_rate": 0.02, "device": "cpu"}
        proxy["batch_size"] = BATCH.get(name, 32)
        table = {"name": name, **CASES[name], "recipe": recipe, "proxy": proxy}
        config = parse_config(table)
        splits, self._task, _, self.space = trace_network(config)
        step = STEP.get(name, 1)
        splits = replace(splits, train=thinned(splits.train, step), val=thinned(splits.val, step))
        fresh, _ = build_network(config.network, seed=config.recipe.seed)
        workload, _ = make_workload(config, fresh, splits, self.space, folder, Monitor())
        self._metric = find_metric(config.task.metric, config.task.kind)
        self._n_val = len(splits.val)
        both = joined(splits.val, thinned(splits.open_test().limit(MOST_TEST), step))
        self._targets = both.targets
        self._workload = replace(workload, splits=replace(splits, val=both))
        trials = calibration_trials(self.space, NETWORKS[name], seed=1)
        self.genomes = list(dict.fromkeys(trial.genome for trial in trials))

    @property
    def octaves(self) -> np.ndarray:
        """log2(FLOPs / dense) of the networks."""
        return np.log2(self.space.cost(self.genomes).flops / self.space.cost(self.space.dense).flops[0])

    def rung(self, rung: str, replicate: int = 0) -> np.ndarray:
        """What a rung that needs no joint training finds: see `_looks`."""
        return self._looks(f"{rung}{replicate}", lambda: self._plain, rung, replicate)

    def running(self) -> np.ndarray:
        """What `finetune` finds where norm statistics are the running average, which dense's begin."""
        with _running_average():
            return self._looks("running", lambda: self._plain, "finetune", 0)

    def restarted(self) -> np.ndarray:
        """The same, where a slice's norm statistics are its own from the start."""
        with _running_average():
            return self._looks("restarted", lambda: _Restarted(self._workload), "finetune", 0)

    def shared(self, training: str) -> np.ndarray:
        """What the rung `shared` finds after a joint training."""
        return self._looks(training, lambda: self._jointly(TRAININGS[training]), "shared", 0)

    @cached_property
    def _plain(self) -> Evaluator:
        return self._workload.build()

    def _jointly(self, kind: type[JointTraining]) -> Evaluator:
        train = self._workload.splits.normalisation.apply(self._workload.splits.train)
        task = make_task(self._workload.task, self._workload.splits)
        training = kind(self._workload.dense_network(), train, self._workload, task, seed=SEED)
        training.run()
        return replace(self._workload, shared=as_arrays(training.network)).build()

    def _looks(self, key: str, make: Callable[[], Evaluator], rung: str, replicate: int) -> np.ndarray:
        """Per network: metric on val, on val and test, loss likewise, disagreement: (networks, 5)."""
        kept = self._folder / f"{self.name}-{key}.npy"
        rows = list(np.load(kept)) if kept.exists() else []
        evaluator = make() if len(rows) < len(self.genomes) else None
        for genome in self.genomes[len(rows) :]:
            assert evaluator is not None
            outcome = evaluator.evaluate(Trial(0, genome, rung, replicate))
            assert outcome.status == "complete", outcome.error
            rows.append(self._figures(outcome.per_case))
            np.save(kept, np.array(rows))
        return np.array(rows)

    def _figures(self, found: Any) -> list[float]:
        scores, loss = found["score"], found["loss"]
        parts = (slice(self._n_val), slice(None))
        metrics = [float(self._metric.value(scores[part], self._targets[part])) for part in parts]
        return [*metrics, *(float(loss[part].mean()) for part in parts), float(found["disagreement"].mean())]


@dataclass(frozen=True)
class Judge:
    """The metric of `full` on some cases, and which networks are compared."""

    full: np.ndarray
    pairs: np.ndarray
    draws: np.ndarray

    def taus(self, ranked: np.ndarray) -> np.ndarray:
        """Tau-b with all networks, then of each draw: (1 + draws,)."""
        return tau_b(ranked, self.full, self.pairs, np.vstack([np.ones(len(ranked)), self.draws]))


def compared(bench: Bench) -> dict[str, Any]:
    """All taus of a data set."""
    full = np.stack([bench.rung("full", 0), bench.rung("full", 1)])
    found = {"recalibrate": bench.rung("recalibrate"), "finetune": bench.rung("finetune")}
    found |= {"finetune, running average": bench.running(), "finetune, own start": bench.restarted()}
    trainings = TRAININGS if bench.name in CHOSEN_ON else ("shared", "sandwich")
    found |= {name: bench.shared(name) for name in trainings}
    n, octaves = len(bench.genomes), bench.octaves
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)
    apart = np.abs(octaves[:, None] - octaves[None])
    different = ~np.eye(n, dtype=bool)
    result: dict[str, Any] = {"data": bench.name, "networks": n, "taus": []}
    for part, cases in enumerate(CASES_OF):
        for within, pairs in (("all", different), ("an octave", different & (apart < OCTAVE))):
            judge = Judge(full[:, :, part].mean(axis=0), pairs, draws)
            repeat = tau_b(full[0, :, part], full[1, :, part], pairs, np.ones((1, n)))[0]
            of_flops = judge.taus(octaves)[0]
            row = {"judged_on": cases, "within": within, "full_with_its_repeat": repeat, "flops": of_flops}
            result["taus"].append(row | {"rungs": list(_rows(judge, found, part))})
    result["mean_metric"] = {name: float(rows[:, 1].mean()) for name, rows in found.items()}
    result["mean_metric"]["full"] = float(full[:, :, 1].mean())
    return result


def _rows(judge: Judge, found: dict[str, np.ndarray], part: int) -> Iterator[dict[str, Any]]:
    columns = {"metric": (part, 1), "loss": (2 + part, -1), "agreement": (4, -1)}
    for value, (column, sign) in columns.items():
        taus = {name: judge.taus(sign * rows[:, column]) for name, rows in found.items()}
        for name, drawn in taus.items():
            row = {"rung": name, "value": value, "tau": drawn[0], "interval": _interval(drawn)}
            if name != "finetune":
                above = drawn - taus["finetune"]
                row |= {"above_finetune": above[0], "above_interval": _interval(above)}
            if name == "shared":
                above = drawn - taus["sandwich"]
                row |= {"above_sandwich": above[0], "above_sandwich_interval": _interval(above)}
            yield row


def _interval(drawn: np.ndarray) -> list[float]:
    return [float(q) for q in np.nanquantile(drawn[1:], [0.025, 0.975])]


def table(runs: list[dict[str, Any]]) -> str:
    """By agreement, on all pairs, judged on val and test together."""
    lines = ["| data | networks | full with its repeat | rung | tau | above finetune | within an octave |"]
    lines.append("|---|---|---|---|---|---|---|")
    for run in runs:
        everywhere, near = (
            next(t for t in run["taus"] if (t["judged_on"], t["within"]) == ("val and test", within))
            for within in ("all", "an octave")
        )
        start = f"| {run['data']} | {run['networks']} | {everywhere['full_with_its_repeat']:.2f} |"
        for row, close in zip(everywhere["rungs"], near["rungs"], strict=True):
            if row["value"] != "agreement":
                continue
            low, high = row.get("above_interval", (0, 0))
            above = (
                f"{row['above_finetune']:+.2f} ({low:+.2f} to {high:+.2f})" if "above_finetune" in row else ""
            )
            lines.append(f"{start} {row['rung']} | {row['tau']:.2f} | {above} | {close['tau']:.2f} |")
            start = "| | | |"
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "paretoprune-joint")
    parser.add_argument("--table", action="store_true", help="print what joint.json holds")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    if options.table:
        print(table(known))
        return
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.data:
        if all(run["data"] != name for run in known):
            known.append(compared(Bench(name, options.folder)))
            RESULTS.write_text(json.dumps({"versions": versions(), "runs": known}, indent=1) + "\n")
            print(table(known[-1:]), flush=True)


if __name__ == "__main__":
    main()
