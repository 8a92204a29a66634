"""From a configuration to a problem that can be searched: data, dense network, channel space, workload."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from evaluators.data.sources import check_units, load_splits
from evaluators.data.splits import Splits
from evaluators.data.volumes import Volumes
from evaluators.dense import as_arrays, dense_weights
from evaluators.metrics import Margin, margin_over_chance
from evaluators.networks import build_network, code_of
from evaluators.pools.threads import pinned_threads
from evaluators.precision import pinned, resolve_device
from evaluators.protocols import Task
from evaluators.rungs.joint import shared_weights
from evaluators.rungs.table import find_rung
from evaluators.tasks.factory import make_task
from evaluators.training import batches, check_network, measure
from evaluators.workload import Workload
from search.bounds import bounds_of
from search.config import CampaignConfig, PruningSettings
from search.controllers.registry import check_controller, make_controller
from search.latency_table import in_words, latency_model, needs_latency
from search.monitor import Monitor
from search.problem import Problem, costs
from spaces.criteria import CRITERIA
from spaces.errors import ConfigError, DataError, did_you_mean
from spaces.latency import LatencyModel
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.tracing import trace

RANKING_IMAGES = 256  # for criteria that look at data


def check_names(config: CampaignConfig) -> None:
    """Refuse a mistyped controller or criterion before anything expensive starts."""
    check_controller(config.search.controller, config.search.options)
    if config.pruning.criterion not in CRITERIA:
        hint = did_you_mean(config.pruning.criterion, CRITERIA)
        raise ConfigError(f"there is no criterion {config.pruning.criterion!r}; {hint}")


def trace_network(config: CampaignConfig) -> tuple[Splits, Task, torch.nn.Module, ChannelSpace]:
    """The data, the task, the network (its weights loaded, if there are any) and what can be pruned in it.

    Raises:
        InputError: Something of it cannot be used.
    """
    check_names(config)
    splits = load_splits(config.data)
    task = make_task(config.task, splits)
    network, _ = build_network(config.network, seed=config.recipe.seed)
    check_network(network, splits.normalisation.apply(splits.val.take(range(min(2, len(splits.val))))), task)
    space = channel_space(config.pruning, network, torch.zeros(1, splits.channels, *splits.spatial))
    return splits, task, network, space


def channel_space(pruning: PruningSettings, network: torch.nn.Module, image: torch.Tensor) -> ChannelSpace:
    """What can be pruned in a network for images like this one, (1, channels, *spatial)."""
    return trace(
        network,
        image,
        round_to=pruning.round_to,
        ignore=pruning.ignore,
        only=pruning.only,
        drop=pruning.drop,
        granularity=pruning.granularity,
        depth=pruning.depth,
        heads=pruning.heads,
    )


def prepare(
    config: CampaignConfig, artifacts: Path, monitor: Monitor, latency: LatencyModel | None = None
) -> Problem:
    """Load, trace, train the dense network if it came without weights, measure it, rank its channels.

    Args:
        config: The campaign.
        artifacts: Where a trained dense network is kept, by content.
        monitor: Shows the long parts.
        latency: The campaign's model of latency, where it has begun with one; else it is fitted if needed.

    Raises:
        InputError: Something cannot be used, or the dense network is no better than chance.
    """
    if config.data.folds > 1 and config.network.weights is not None:
        raise ConfigError(
            f"data.folds = {config.data.folds} needs a dense network for every fold, but network.weights "
            "gives one that has seen them all; leave network.weights out, or set data.folds = 1"
        )
    splits, task, network, space = trace_network(config)
    check_units(splits)
    monitor.say(
        f"{splits.name}: {len(splits.train)} training and {len(splits.val)} validation cases; "
        f"{len(space.groups)} channel groups, {space.cost(space.dense).flops[0] / 1e6:,.1f} MFLOPs"
    )
    make_controller(
        config.search.controller, space, (*costs(config), task.metric), 0, (), config.search.options
    )  # refuses its options before anything is trained
    if needs_latency(config):
        image = torch.zeros(1, splits.channels, *splits.spatial)
        latency = latency or latency_model(config, network, space, image, monitor)
        if latency.space != space.fingerprint:
            raise ConfigError(
                "latency was fitted to another network than network.factory gives now; put back what was "
                "there, or start a new campaign"
            )
        monitor.say(in_words(latency))
        space = space.timed(latency)
    bounds_of(config.constraints, space).check()
    _check_reachable(config, task)
    n_folds = config.data.folds
    whole = _whole(config, splits, task)
    parts = [splits] if n_folds == 1 else [splits.fold(k, n_folds) for k in range(n_folds)]
    workloads, figures = [], []
    for part in parts:
        fresh, _ = build_network(config.network, seed=config.recipe.seed)
        workload, dense = make_workload(config, fresh, part, space, artifacts, monitor)
        value = dense[task.metric.name]
        monitor.say(f"dense network: {task.metric.name} {value:.3f} (chance {task.chance:.3f})")
        calibrated = config.calibrate.rungs if config.calibrate.at_start else ()
        if "shared" in (config.proxy.rung, config.proxy.start, *config.search.rungs, *calibrated):
            workload = with_shared(workload, make_task(config.task, part), artifacts, monitor)
        workloads.append(replace(workload, whole=whole))
        figures.append(dense)
    means = {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}
    folds = tuple(workloads) if n_folds > 1 else ()
    return Problem(config, splits, task, space, workloads[0], means, folds)


def _whole(config: CampaignConfig, splits: Splits, task: Task) -> Volumes | None:
    """The whole validation volumes, where a rung of the campaign measures them."""
    rungs = {config.proxy.rung, *config.search.rungs} | ({"full"} if config.calibrate.at_start else set())
    if splits.open_whole is None or task.kind != "segmentation" or not any(map(_is_whole, rungs)):
        return None
    if config.data.folds > 1:
        raise ConfigError(
            f"data.folds = {config.data.folds} holds out patches, but the rung 'full' measures whole "
            "volumes: set data.whole = false, or data.folds = 1"
        )
    return splits.open_whole("val")


def _is_whole(rung: str) -> bool:
    return find_rung(rung).whole


def make_workload(
    config: CampaignConfig,
    network: torch.nn.Module,
    splits: Splits,
    space: ChannelSpace,
    artifacts: Path,
    monitor: Monitor,
) -> tuple[Workload, dict[str, float]]:
    """Train the dense network on these images if it came without weights, measure it, rank its channels.

    Args:
        config: The campaign.
        network: With its given or its initial weights; the dense weights are loaded into it.
        splits: The images: the campaign's own, or a fold of them.
        space: What can be pruned.
        artifacts: Where a trained dense network is kept, by content.
        monitor: Shows the training.

    Returns:
        What a worker needs, and the dense network's figures on val.

    Raises:
        DataError: The dense network is no better than chance.
    """
    task = make_task(config.task, splits)
    weights = _weights(config, network, splits, task, artifacts, monitor)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    device = resolve_device(config.proxy.device)
    normalisation = splits.normalisation
    val = normalisation.apply(splits.val, device)
    train = normalisation.apply(splits.train, device) if task.kind == "embedding" else None
    with pinned_threads(config.proxy.threads):
        dense, per_case = measure(network.to(device), val, task, train)
    _refuse_chance(margin_over_chance(per_case["metric"], task.chance, splits.val.groups), task)
    sample = normalisation.apply(splits.train.limit(RANKING_IMAGES), device)
    unaugmented = config.proxy.model_copy(update={"augment": False})
    looks = batches(sample, task, unaugmented, -(-len(sample) // unaugmented.batch_size), seed=0)
    with pinned_threads(config.proxy.threads):
        ranking = rank_channels(network, space, config.pruning.criterion, batches=looks, loss=task.loss)
    code = code_of(network, config.network, config.task.evaluator)
    proxy = pinned(config.proxy, _worker_device(config))
    return Workload(config.network, code, weights, space, ranking, splits, config.task, proxy), dense


def _worker_device(config: CampaignConfig) -> str | None:
    """What "auto" means for the workers: Ray shows them no GPU unasked."""
    if config.execution.executor != "ray":
        return None
    return "cuda" if config.execution.gpus_per_worker else "cpu"


def with_shared(workload: Workload, task: Task, artifacts: Path, monitor: Monitor) -> Workload:
    """The workload with jointly trained weights, so that candidates can be evaluated at the rung shared."""
    with monitor.stage("training all widths jointly") as advance:
        shared = shared_weights(workload, task, cache_dir=artifacts, progress=advance)
    return replace(workload, shared=shared)


def _weights(
    config: CampaignConfig,
    network: torch.nn.Module,
    splits: Splits,
    task: Task,
    artifacts: Path,
    monitor: Monitor,
) -> dict[str, np.ndarray]:
    """The dense network's weights: those that were given, or what the recipe makes of the initial ones."""
    if config.network.weights is not None:
        return as_arrays(network)
    with monitor.stage("training the dense network") as advance:
        return dense_weights(
            config.network,
            network,
            splits,
            task,
            config.recipe,
            seed=config.recipe.seed,
            cache_dir=artifacts,
            device=config.proxy.device,
            progress=advance,
        )


def _check_reachable(config: CampaignConfig, task: Task) -> None:
    least = config.constraints.min_metric
    if least is not None and least > 1 and config.task.evaluator is None:
        raise ConfigError(
            f"constraints.min_metric = {least:g}: {task.metric.name} is 1 at most; ask for less"
        )


def _refuse_chance(margin: Margin, task: Task) -> None:
    if margin.at_chance:
        found = f"{task.metric.name} on val is {margin.value:.3f} ± {margin.se:.3f}"
        raise DataError(
            f"the dense network's {found}, less than four standard errors above chance "
            f"({margin.chance:.3f}): "
            "there is nothing to keep by pruning; train it longer (recipe.epochs), check network.weights and "
            "what images they expect, or add val cases"
        )
