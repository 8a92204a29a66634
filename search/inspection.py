"""What a campaign can prune and how long it takes, found out before it runs: `paretoprune inspect`."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.data.splits import Splits
from evaluators.disagreement import LOOKS
from evaluators.pools.threads import pinned_threads
from evaluators.precision import resolve_device
from evaluators.protocols import Task
from evaluators.rungs.prices import JOINT_STEP, scout_price
from evaluators.rungs.recalibration import IMAGES
from evaluators.training import Tensors, measure, n_steps, tune
from evaluators.whole import n_windows
from search.config import CampaignConfig
from search.describe import describe_groups
from search.prepare import trace_network
from search.schedule import DENSE_REPLICATES
from search.scouting import n_scouts
from spaces.fronts import OCTAVES
from spaces.messages import Genome
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune

MEASURED_S = 0.5  # spent on each kind of step, after one to warm up


@dataclass(frozen=True)
class Speed:
    """Seconds of one network on this machine: a training step of the proxy, and all validation cases."""

    step_s: float
    validation_s: float


@dataclass(frozen=True)
class Expectation:
    """How long a campaign may take: an estimate from a few measured steps.

    Attributes:
        dense: The dense network's speed.
        candidate: The speed of a uniform network with the mean FLOPs of candidates.
        mean_flops: These, as a share of dense, assuming that candidates are spread evenly over the octaves
            from dense to the cheapest that the search looks at.
        cheapest_flops: The FLOPs of that one, as a share of dense.
        dense_steps: Steps that train the dense network; 0 where its weights are given.
        trial_steps: Steps of a trial.
        dense_training_s: Training the dense network, of every fold, and all widths jointly where it is asked.
        trial_s: One trial of a candidate at `proxy.rung`: adapted and measured.
        workers: Trials at the same time.
        campaign_s: Everything, ranking and start of the workers apart.
    """

    dense: Speed
    candidate: Speed
    mean_flops: float
    cheapest_flops: float
    dense_steps: int
    trial_steps: int
    dense_training_s: float
    trial_s: float
    workers: int
    campaign_s: float


@dataclass(frozen=True, eq=False)
class Inspection:
    """A campaign's network, taken apart.

    Attributes:
        space: What can be pruned.
        groups: Every gene, as `describe_groups` says it.
        frozen: What cannot be pruned: name and reason.
        modules: Paths along the network that groups run through or that are frozen.
        expected: How long the campaign takes.
    """

    space: ChannelSpace
    groups: list[dict[str, Any]]
    frozen: list[dict[str, str]]
    modules: list[str]
    expected: Expectation

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        costs = {
            name: self.space.cost(genome).row(0)
            for name, genome in (("dense", self.space.dense), ("minimal", self.space.minimal))
        }
        return {
            "groups": self.groups,
            "frozen": self.frozen,
            **costs,
            "networks": float(self.space.size),
            "expected": asdict(self.expected),
        }


def inspect_campaign(config: CampaignConfig) -> Inspection:
    """Trace the campaign's network, and measure a few steps of copies of it.

    Raises:
        InputError: Something of the campaign cannot be used.
    """
    splits, task, network, space = trace_network(config)
    frozen = [{"name": entry.name, "reason": entry.reason} for entry in space.frozen]
    with pinned_threads(config.proxy.threads):
        expected = expect(config, splits, task, network, space)
    return Inspection(space, describe_groups(space), frozen, _modules(network, space), expected)


def draw(found: Inspection, path: str | Path) -> Path:
    """Write the picture of the channel graph; see `write_channel_graph`."""
    import pandas as pd

    from reports.graph import write_channel_graph

    frozen = pd.DataFrame(found.frozen, columns=["name", "reason"])
    return write_channel_graph(pd.DataFrame(found.groups), frozen, found.modules, path)


def expect(
    config: CampaignConfig, splits: Splits, task: Task, network: nn.Module, space: ChannelSpace
) -> Expectation:
    """Measure dense and a candidate of mean size, and multiply by recipe and budget."""
    ranking = rank_channels(network, space)
    genome, mean, cheapest = typical(space)
    stopwatch = _Stopwatch(config, splits, task)
    dense, candidate = (
        stopwatch.speed(prune(network, space, chosen, ranking)) for chosen in (space.dense, genome)
    )
    n_train = len(splits.train)
    trial_steps = _steps_of_a_trial(config, n_train)
    sliced = config.proxy.rung in ("recalibrate", "shared")  # training images are only looked at
    looks = 1 + min(IMAGES, n_train) / len(splits.val) if sliced else 1
    candidate_s, dense_s = looks * candidate.validation_s, looks * dense.validation_s
    dense_steps = 0 if config.network.weights else n_steps(config.recipe, n_train)
    # A step's time goes with its images.
    dense_training_s = dense_steps * dense.step_s * config.recipe.batch_size / config.proxy.batch_size
    dense_training_s += _joint_steps(config, n_train) * dense.step_s
    dense_training_s *= config.data.folds
    trial_s = trial_steps * candidate.step_s + candidate_s
    replicates = min(DENSE_REPLICATES, config.budget.trials)
    search_s = replicates * (trial_steps * dense.step_s + dense_s)
    search_s += (config.budget.trials - replicates) * trial_s
    if scouts := n_scouts(config, n_train, len(splits.val)):
        search_s += scouts * candidate.validation_s * scout_price(config.task.kind) / stopwatch.looked_at
    workers = 1
    if config.execution.executor == "ray":
        workers = min(config.execution.workers, config.search.lag + 1, config.budget.trials)
    total_s = dense_training_s + dense.validation_s + search_s / workers
    if config.budget.wall_s is not None:
        total_s = min(total_s, dense_training_s + dense.validation_s + config.budget.wall_s)
    return Expectation(
        dense,
        candidate,
        mean,
        cheapest,
        dense_steps,
        trial_steps,
        dense_training_s,
        trial_s,
        workers,
        total_s,
    )


def _steps_of_a_trial(config: CampaignConfig, n_train: int) -> int:
    """Optimiser steps that a candidate gets at `proxy.rung`."""
    if config.proxy.rung == "finetune":
        return n_steps(config.proxy, min(config.proxy.train_limit or n_train, n_train))
    fully = config.proxy.model_copy(update={"epochs": config.proxy.full_epochs})
    return n_steps(fully, n_train) if config.proxy.rung == "full" else 0


def _joint_steps(config: CampaignConfig, n_train: int) -> float:
    """Steps of dense that the joint training is worth, where the campaign needs it."""
    if "shared" not in (config.proxy.rung, config.proxy.start, *config.search.rungs):
        return 0.0
    joint = config.proxy.model_copy(update={"epochs": config.proxy.shared_epochs})
    return n_steps(joint, n_train) * JOINT_STEP


def typical(space: ChannelSpace) -> tuple[Genome, float, float]:
    """A uniform genome of the FLOPs that candidates have on average, these, and the least; shares of dense.

    With candidates spread evenly over log FLOPs from r to 1, the mean is (1 - r) / ln(1 / r).
    """
    dense = space.cost(space.dense).flops[0]
    least = max(float(space.cost(space.minimal).flops[0] / dense), 2.0**-OCTAVES)
    mean = (1 - least) / math.log(1 / least) if least < 1 else 1.0
    genomes = list(dict.fromkeys(space.uniform(ratio) for ratio in np.linspace(0, 1, 101)))
    flops = space.cost(genomes).flops / dense
    return genomes[int(np.abs(flops - mean).argmin())], mean, least


class _Stopwatch:
    """Times networks on a few of the campaign's own images, as trials use them."""

    def __init__(self, config: CampaignConfig, splits: Splits, task: Task) -> None:
        self._proxy, self._task = config.proxy, task
        self._device = resolve_device(config.proxy.device)
        normalisation = splits.normalisation
        size = min(config.proxy.batch_size, len(splits.train))
        few = min(32, len(splits.val))
        self._train = normalisation.apply(splits.train.take(range(size)), self._device)
        self._val = normalisation.apply(splits.val.take(range(few)), self._device)
        n_val = len(splits.val)
        if config.proxy.rung == "full" and splits.open_whole is not None and task.kind == "segmentation":
            n_val = int(n_windows(splits.open_whole("val"), splits.spatial).sum())
        looks = min(LOOKS, len(splits.train)) if task.trains else 0  # for the agreement with dense
        self.looked_at = n_val + looks
        self._val_share = self.looked_at / few

    def speed(self, network: nn.Module) -> Speed:
        """Of a network that may be changed."""
        network = network.to(self._device)
        step_s = self._seconds(lambda: self._step(network))
        return Speed(step_s, self._val_share * self._seconds(lambda: self._validate(network, self._val)))

    def _step(self, network: nn.Module) -> None:
        one = self._proxy.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
        tune(network, self._train, self._task, one, seed=0)

    def _validate(self, network: nn.Module, data: Tensors) -> None:
        measure(network, data, self._task, self._train)

    def _seconds(self, work: Callable[[], None]) -> float:
        """The least of several runs: what disturbs only adds."""
        began = self._run(work)  # warms up
        times = [self._run(work) for _ in range(max(1, min(10, int(MEASURED_S / max(began, 1e-6)))))]
        return min(times)

    def _run(self, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began


def _modules(network: nn.Module, space: ChannelSpace) -> list[str]:
    """Members of groups and frozen modules, in the order in which the network defines them."""
    mentioned = {member for group in space.groups for member in group.members}
    mentioned |= {entry.name for entry in space.frozen}
    defined = [name for name, _ in network.named_modules()] + [name for name, _ in network.named_parameters()]
    return [name for name in dict.fromkeys(defined) if name in mentioned]
