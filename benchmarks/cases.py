"""The small real tasks that benchmarks search on, and their evaluations, each done once."""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from evaluators.data.splits import Splits, Subset
from evaluators.evaluation import NetworkEvaluator
from evaluators.metrics import find_metric
from evaluators.networks import build_network
from evaluators.rungs.joint import shared_weights
from evaluators.tasks.factory import make_task
from evaluators.workload import Workload
from search.config import parse_config
from search.monitor import Monitor
from search.prepare import make_workload, trace_network
from spaces.messages import Genome, Outcome, Trial

STEPS = {"adrenalmnist3d": 2, "dsb2018_nuclei": 2}  # every second pixel: what an evaluation costs
FOLDS = 3
KEPT = ("score", "loss", "disagreement")
MOST_TEST = 300  # of stratified test cases: what an evaluation costs
LAG = 8


def resnet(dims: int, channels: int, classes: int, width: int) -> dict[str, Any]:
    """A small residual network of MONAI's, as `[network]` has it."""
    planes = [width, 2 * width, 4 * width, 8 * width]
    arguments = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": planes, "spatial_dims": dims}
    arguments |= {"n_input_channels": channels, "num_classes": classes, "conv1_t_size": 3}
    return {
        "factory": "monai.networks.nets:ResNet",
        "arguments": arguments | {"conv1_t_stride": 2, "no_max_pool": True},
    }


UNET = {
    "factory": "monai.networks.nets:UNet",
    "arguments": {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": [8, 16, 32]}
    | {"strides": [2, 2], "num_res_units": 1, "norm": "batch"},
}
RECIPE = {"epochs": 15, "learning_rate": 0.02}
CASES: dict[str, dict[str, Any]] = {
    "breastmnist": {
        "network": resnet(2, 1, 2, 16),
        "data": {"source": "medmnist:breastmnist"},
        "task": {"metric": "auc"},
    },
    "pneumoniamnist": {
        "network": resnet(2, 1, 2, 16),
        "data": {"source": "medmnist:pneumoniamnist", "train_limit": 500, "val_limit": 80},
        "task": {"metric": "auc"},
    },
    "adrenalmnist3d": {
        "network": resnet(3, 1, 2, 8),
        "data": {"source": "medmnist:adrenalmnist3d", "train_limit": 800},
        "task": {"metric": "auc"},
        "recipe": {"epochs": 20, "learning_rate": 0.05},
    },
    "dsb2018_nuclei": {
        "network": UNET,
        "data": {"source": "npz:dsb2018_nuclei.npz", "train_limit": 80, "val_limit": 24},
        "task": {"kind": "segmentation", "metric": "dice"},
        "recipe": {"epochs": 20, "learning_rate": 0.1, "batch_size": 16},
    },
}


class Bank:
    """The evaluations of one data set and seed, each done once."""

    def __init__(self, name: str, seed: int, artifacts: Path, rung: str = "shared") -> None:
        self.rung = rung
        recipe = {"batch_size": 32, "seed": seed, "threads": 1, **CASES[name].get("recipe", RECIPE)}
        proxy = {"rung": rung, "shared_epochs": 15, "learning_rate": 0.02, "device": "cpu"}
        table = {"name": name, **CASES[name], "recipe": recipe, "proxy": proxy}
        self.config = parse_config(table)
        splits, self.task, _, self.space = trace_network(self.config)
        step = STEPS.get(name, 1)
        self.splits = replace(splits, train=thinned(splits.train, step), val=thinned(splits.val, step))
        self._artifacts = artifacts
        test = thinned(splits.open_test().limit(MOST_TEST), step)
        self._n_val = len(self.splits.val)
        base = self._workload(self.splits)
        both = replace(self.splits, val=joined(self.splits.val, test))
        self._base = replace(base, splits=both).build()
        self._test_targets = test.targets
        self._folds = lru_cache(maxsize=1)(self._build_folds)
        self._kept = artifacts / f"{name}-{seed}-evaluations{'' if rung == 'shared' else f'-{rung}'}.npz"
        self._seen = _loaded(self._kept)
        self._metric = find_metric(self.config.task.metric, self.config.task.kind)
        self.evaluations = 0
        self.base = lru_cache(maxsize=None)(self._evaluate_base)
        self.fold = lru_cache(maxsize=None)(self._evaluate_fold)

    def test(self, genome: Genome) -> float:
        """The metric of a network on the test split."""
        scores = self.base(genome, 0)["score"][self._n_val :]
        return float(self._metric.value(scores, self._test_targets))

    def look(self, trial: Trial, source: str) -> dict[str, np.ndarray]:
        """Per-case loss and share in the metric, in this replicate and fold."""
        if source == "folds":
            return self.fold(trial.genome, trial.replicate, trial.fold)
        found = self.base(trial.genome, trial.replicate)
        scores, loss = found["score"][: self._n_val], found["loss"][: self._n_val]
        shares = self._metric.shares(scores, self.splits.val.targets)
        return {"metric": shares, "loss": loss, "disagreement": found["disagreement"]}

    def save(self) -> None:
        """Keep what was evaluated on the original split for a later run with the same artefacts."""
        genomes, replicates = zip(*self._seen, strict=True)
        arrays = {name: np.stack([found[name] for found in self._seen.values()]) for name in KEPT}
        arrays |= {"genomes": np.array(genomes), "replicates": np.array(replicates)}
        np.savez(self._kept, allow_pickle=False, **arrays)

    def _build_folds(self) -> list[NetworkEvaluator]:
        return [
            self._workload(fold).build() for fold in folds_of(self.splits, FOLDS, self.config.recipe.seed)
        ]

    def _evaluate_base(self, genome: Genome, replicate: int) -> dict[str, np.ndarray]:
        if (genome, replicate) not in self._seen:
            found = self._checked(self._base.evaluate(Trial(0, genome, self.rung, replicate)))
            self._seen[genome, replicate] = {name: found[name] for name in KEPT}
        return self._seen[genome, replicate]

    def _evaluate_fold(self, genome: Genome, replicate: int, fold: int) -> dict[str, np.ndarray]:
        return self._checked(self._folds()[fold].evaluate(Trial(0, genome, self.rung, replicate)))

    def _checked(self, outcome: Outcome) -> dict[str, np.ndarray]:
        if outcome.error:
            raise RuntimeError(outcome.error)
        self.evaluations += 1
        return dict(outcome.per_case)

    def _workload(self, splits: Splits) -> Workload:
        network, _ = build_network(self.config.network, seed=self.config.recipe.seed)
        workload, _ = make_workload(self.config, network, splits, self.space, self._artifacts, Monitor())
        if self.rung != "shared":
            return workload
        task = make_task(self.config.task, splits)
        return replace(workload, shared=shared_weights(workload, task, cache_dir=self._artifacts))


def _loaded(path: Path) -> dict[tuple[Genome, int], dict[str, np.ndarray]]:
    """What an earlier run evaluated, by genome and replicate."""
    if not path.exists():
        return {}
    with np.load(path) as kept:
        rows = {name: kept[name] for name in kept.files}
    looks = zip(rows["genomes"].tolist(), rows["replicates"].tolist(), strict=True)
    return {(tuple(g), r): {name: rows[name][i] for name in KEPT} for i, (g, r) in enumerate(looks)}


def thinned(subset: Subset, step: int) -> Subset:
    """Every so-many-th pixel along each axis."""
    axes = (slice(None, None, step),) * (subset.images.ndim - 2)
    targets = subset.targets if subset.targets.ndim == 1 else subset.targets[(slice(None), *axes)]
    return Subset(np.ascontiguousarray(subset.images[(..., *axes)]), np.ascontiguousarray(targets))


def joined(a: Subset, b: Subset) -> Subset:
    """Two subsets as one; patients are not needed here."""
    return Subset(np.concatenate([a.images, b.images]), np.concatenate([a.targets, b.targets]))


def folds_of(splits: Splits, n: int, seed: int) -> list[Splits]:
    """Train + val cut into n parts, each held out once; stratified by class or foreground."""
    whole = joined(splits.train, splits.val)
    rng = np.random.default_rng([seed, n])
    part = np.empty(len(whole), dtype=int)
    for stratum in np.unique(whole.strata):
        members = rng.permutation(np.flatnonzero(whole.strata == stratum))
        part[members] = (np.arange(len(members)) + rng.integers(n)) % n
    return [
        replace(
            splits, train=whole.take(np.flatnonzero(part != k)), val=whole.take(np.flatnonzero(part == k))
        )
        for k in range(n)
    ]
