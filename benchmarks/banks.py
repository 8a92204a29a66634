"""Banks of real evaluations: what controllers and priors are tuned on, and what the prior learns from.

    python -m benchmarks.banks [--pairs breast-resnet ...] [--trials 150] [--minutes 8] [--store URL]

For every pair of data set and network: dense three times, the ladder, every group alone at a half and at an
eighth, then random networks spread along the FLOPs axis, each at the rung `shared`, on val and on test in one
pass. A bank is a campaign in the store (val only: that is what a prior may learn from), and here, committed,
`banks/PAIR.csv` with both figures and `banks/PAIR.json` with what the store holds about the campaign.
Stopping and starting again goes on where it stopped; a run ends itself after `--minutes`.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.generalisation import _resnet
from evaluators.metrics import find_metric
from search.config import CampaignConfig, parse_config
from search.controllers.sampling import StratifiedSampler
from search.describe import describe_problem
from search.genes import Genes, octaves
from search.monitor import Monitor, TerminalMonitor
from search.prepare import prepare
from search.problem import Problem
from search.start import common_below, common_first
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.store.entries import CampaignEntry
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.space import ChannelSpace

FOLDER = Path(__file__).with_suffix("")
STORE = f"sqlite:///{Path(tempfile.gettempdir()) / 'banks' / 'banks.db'}"
MOST_TEST = 300
DENSE_TIMES = 3
ALONE = (0.5, 0.125)
RECIPE = {"epochs": 15, "learning_rate": 0.02, "batch_size": 32, "threads": 1}
PROXY = {"rung": "shared", "shared_epochs": 15, "learning_rate": 0.02, "device": "cpu"}


def _densenet(channels: int, classes: int) -> dict[str, Any]:
    arguments = {"spatial_dims": 2, "in_channels": channels, "out_channels": classes, "init_features": 32}
    arguments |= {"growth_rate": 16, "block_config": [2, 2, 2]}
    return {"factory": "monai.networks.nets:DenseNet", "arguments": arguments}


def _unet(dims: int, channels: int, classes: int, norm: str = "batch") -> dict[str, Any]:
    arguments = {"spatial_dims": dims, "in_channels": channels, "out_channels": classes, "norm": norm}
    arguments |= {"channels": [8, 16, 32, 64], "strides": [2, 2, 2], "num_res_units": 1}
    return {"factory": "monai.networks.nets:UNet", "arguments": arguments}


_BREAST = {"source": "medmnist:breastmnist"}
_PNEUMONIA = {"source": "medmnist:pneumoniamnist", "train_limit": 800, "val_limit": 150}
_COLON = {"source": "npz:crchisto_nuclei.npz", "size": [32, 32], "train_limit": 500}
_NUCLEI = {"source": "npz:dsb2018_nuclei.npz", "train_limit": 160, "val_limit": 40, "size": [64, 64]}
_VESSELS = {"source": "npz:retina_vessels.npz", "size": [64, 64]}
_ADRENAL = {"source": "medmnist:adrenalmnist3d", "train_limit": 800, "size": [14, 14, 14]}
_AUC, _BALANCED = {"metric": "auc"}, {"metric": "balanced_accuracy"}
_DICE = {"kind": "segmentation", "metric": "dice"}
_SLOW = {"recipe": {"epochs": 25, "learning_rate": 0.1, "batch_size": 16}}
PAIRS: dict[str, dict[str, Any]] = {
    "breast-resnet": {"network": _resnet(2, 1, 2, 16), "data": _BREAST, "task": _AUC},
    "breast-densenet": {"network": _densenet(1, 2), "data": _BREAST, "task": _AUC},
    "pneumonia-resnet": {"network": _resnet(2, 1, 2, 16), "data": _PNEUMONIA, "task": _AUC},
    "pneumonia-densenet": {"network": _densenet(1, 2), "data": _PNEUMONIA, "task": _AUC},
    "colon-resnet": {"network": _resnet(2, 3, 4, 16), "data": _COLON, "task": _BALANCED},
    "colon-densenet": {"network": _densenet(3, 4), "data": _COLON, "task": _BALANCED},
    "nuclei-unet": {"network": _unet(2, 3, 2), "data": _NUCLEI, "task": _DICE, **_SLOW},
    "vessels-unet": {"network": _unet(2, 3, 2), "data": _VESSELS, "task": _DICE, **_SLOW},
    "adrenal-resnet": {
        "network": _resnet(3, 1, 2, 8),
        "data": _ADRENAL,
        "task": _AUC,
        "recipe": {"epochs": 20, "learning_rate": 0.05},
    },
}
DATA = {pair: pair.split("-")[0] for pair in PAIRS}
FAMILY = {pair: pair.split("-")[1] for pair in PAIRS}


def config_of(pair: str, seed: int = 0) -> CampaignConfig:
    """The campaign that a bank is of."""
    case = PAIRS[pair]
    recipe = {**RECIPE, "seed": seed, **case.get("recipe", {})}
    return parse_config({"name": f"bank-{pair}", **case, "recipe": recipe, "proxy": PROXY})


class Bench:
    """Evaluates networks of one pair on val and on test at once, each once."""

    def __init__(self, pair: str, artifacts: Path, monitor: Monitor, seed: int = 0) -> None:
        self.problem: Problem = prepare(config_of(pair, seed), artifacts, monitor)
        splits, task = self.problem.splits, self.problem.task
        test = splits.open_test().limit(MOST_TEST)
        self._metric = find_metric(task.metric.name, self.problem.config.task.kind)
        self._val, self._test = replace(splits.val, groups=None), replace(test, groups=None)
        both = replace(splits, val=self._val.joined(self._test))
        self._evaluator = replace(self.problem.workload, splits=both).build()
        self.measure = lru_cache(maxsize=None)(self._measure)

    def _measure(self, genome: Genome, replicate: int = 0) -> tuple[dict[str, np.ndarray], float]:
        """Per-case arrays on val as a campaign has them, and the metric on test."""
        outcome = self._evaluator.evaluate(Trial(0, genome, "shared", replicate))
        if outcome.error:
            raise RuntimeError(outcome.error)
        n = len(self._val)
        score, loss = outcome.per_case["score"], outcome.per_case["loss"]
        shares = self._metric.shares(score[:n], self._val.targets).astype(np.float32)
        test = float(self._metric.value(score[n:], self._test.targets))
        return {"metric": shares, "loss": loss[:n]}, test

    def record(self, trial: Trial) -> tuple[Record, float]:
        """What a campaign's record of the trial would be, and the metric on test beside it."""
        cases, test = self.measure(trial.genome, trial.replicate)
        name = self.problem.task.metric.name
        values = {name: float(cases["metric"].mean()), "loss": float(cases["loss"].mean())}
        outcome = Outcome(trial.number, "complete", values, cases)
        return Record(trial, outcome, self.problem.space.cost(trial.genome).row(0)), test


def design(space: ChannelSpace, n: int) -> Iterator[Trial]:
    """The trials of a bank, in their order."""
    genes, sampler, rng = Genes(space), StratifiedSampler(space), np.random.default_rng(0)
    alone = []
    for gene in genes.free:
        for share in ALONE:
            kept = np.array(space.dense, dtype=float)
            kept[gene] *= share
            alone.append(tuple(genes.nearest(kept[None])[0].tolist()))
    uniform = [*common_first(space)[1:], *common_below(space)]
    seen = {space.dense}
    number = 0
    for replicate in range(DENSE_TIMES):
        yield Trial(number, space.dense, "shared", replicate)
        number += 1
    waiting = [*uniform, *alone]
    while number < n:
        genome = waiting.pop(0) if waiting else sampler.draw(rng)
        if genome not in seen:
            seen.add(genome)
            yield Trial(number, genome, "shared")
            number += 1


def fill(pair: str, url: str, n: int, until: float) -> bool:
    """Go on with a bank; whether it is full."""
    monitor = TerminalMonitor(lines_every_s=60)
    bench = Bench(pair, artifact_dir(url), monitor)
    problem, space = bench.problem, bench.problem.space
    table = FOLDER / f"{pair}.csv"
    rows = list(csv.reader(table.open())) if table.exists() else []
    with Store(url) as store:
        known = [row for row in store.campaigns() if row.name == problem.config.name]
        if known:
            campaign_id = known[0].id
        else:
            rows = []
            about = describe_problem(problem, [*common_first(space)[1:], *common_below(space)], "banks")
            entry = CampaignEntry(
                name=problem.config.name,
                config=problem.config.model_dump(mode="json"),
                fingerprint=problem.spec.fingerprint,
                fingerprints=problem.spec.fingerprints,
                description=about,
            )
            campaign_id = store.create(entry)
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"{pair}.json").write_text(json.dumps(compact(about, problem.spec.fingerprints)) + "\n")
        rows = rows or [["number", "replicate", "genome", "octaves", "val", "se", "loss", "test"]]
        done = {int(row[0]) for row in rows[1:]} & {r.trial.number for r in store.records(campaign_id)}
        for trial in design(space, n):
            if trial.number in done:
                continue
            if time.monotonic() > until:
                break
            record, test = bench.record(trial)
            store.append(campaign_id, record)
            rows.append(row_of(record, test, space, problem.task.metric.name))
        store.set_status(campaign_id, "complete" if len(rows) > n else "interrupted")
        correlation = pair_up(rows, store.records(campaign_id))
    described = FOLDER / f"{pair}.json"
    about = json.loads(described.read_text()) | {"noise_correlation": correlation}
    described.write_text(json.dumps(about) + "\n")
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return len(rows) > n


def row_of(record: Record, test: float, space: ChannelSpace, metric: str) -> list[str]:
    """One line of a bank."""
    genome = record.trial.genome
    return [
        str(record.trial.number),
        str(record.trial.replicate),
        " ".join(map(str, genome)),
        f"{octaves(space, np.array([genome]))[0]:.4f}",
        f"{record.value(metric):.5f}",
        "",  # of the difference to dense; filled in by `pair_up`
        f"{record.value('loss'):.5f}",
        f"{test:.5f}",
    ]


def pair_up(rows: list[list[str]], records: list[Record]) -> float:
    """Write the standard error of each paired difference to dense; the mean correlation of these errors."""
    cases = {r.trial.number: r.outcome.per_case["metric"].astype(float) for r in records}
    differences = []
    for row in rows[1:]:
        difference = cases[int(row[0])] - cases[0]
        row[5] = f"{difference.std(ddof=1) / np.sqrt(len(difference)):.5f}"
        if int(row[0]) >= DENSE_TIMES:
            differences.append(difference)
    n = len(differences)
    return round(float((np.corrcoef(differences).sum() - n) / (n * (n - 1))), 3) if n > 1 else 0.0


def compact(about: dict[str, Any], fingerprints: Any) -> dict[str, Any]:
    """What a prior needs of a description, in few digits."""
    kept = {key: about[key] for key in ("groups", "task", "dense", "ladder", "metric", "chance")}
    kept |= {"source": about["data"]["source"], "fingerprints": dict(fingerprints)}
    return json.loads(json.dumps(kept), parse_float=lambda text: float(f"{float(text):.4g}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--store", default=STORE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.minutes
    Path(options.store.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    for pair in options.pairs:
        if time.monotonic() < until:
            began = time.monotonic()
            full = fill(pair, options.store, options.trials, until)
            print(pair, "full" if full else "goes on", f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
