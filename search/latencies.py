"""`paretoprune latency`: networks of a campaign, or of a campaign file, measured on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from evaluators.data.sources import load_splits
from evaluators.latency.advice import Advice, advise
from evaluators.latency.archive import add_latencies, latency_file
from evaluators.latency.measuring import measure_latency
from evaluators.latency.runtimes import Runtime
from evaluators.networks import build_network
from evaluators.precision import resolve_device
from search.config import CampaignConfig, parse_config
from search.latency_table import latency_model, write_table
from search.monitor import Monitor
from search.prepare import channel_space
from search.start import common_first
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.store.entries import CampaignRow
from search.summary import campaign_summary
from spaces.errors import ConfigError, StoreError
from spaces.latency import LatencyModel
from spaces.messages import Genome
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune

MOST_POINTS = 8
"""Networks of a campaign that are measured unasked: dense and so many advised ones, evenly chosen."""


Points: TypeAlias = dict[str, tuple[int | None, Genome]]
"""By name: the number of the trial, where it is one, and the genome."""


@dataclass(frozen=True, eq=False)
class Target:
    """Networks to measure. The values of their weights do not matter for speed: none are loaded.

    Attributes:
        network: Dense.
        space: What can be pruned in it.
        image: One, with its batch axis; its values do not matter either.
        points: What to measure, dense first.
        file: Where a campaign's measurements are kept; None: nowhere.
        title: In words.
        config: Of the campaign.
    """

    network: nn.Module
    space: ChannelSpace
    image: Tensor
    points: Points
    file: Path | None
    title: str
    config: CampaignConfig


@dataclass(frozen=True)
class Asked:
    """How to measure: see `measure_latency`."""

    runtimes: tuple[Runtime, ...] = ("eager",)
    batches: tuple[int, ...] = (1,)
    device: str = "auto"
    threads: int = 1
    rounds: int = 7


def campaign_target(campaign_id: str, url: str, numbers: Sequence[int] = ()) -> Target:
    """Networks of a stored campaign: dense and what its front advises, or the trials asked for.

    Raises:
        StoreError: No such campaign or trial.
        ConfigError: The network's code gives another network than the campaign searched.
    """
    with Store(url, create=False) as store:
        row = store.campaign(campaign_id)
        points = _asked(store, row, numbers) if numbers else _advised(store, row)
    config, data = parse_config(row.config), row.description["data"]
    network, space, image = _traced(config, int(data["channels"]), data["spatial"])
    if space.fingerprint != row.fingerprints["space"]:
        raise ConfigError(
            f"{config.network.factory} builds another network now than in campaign {row.id}; "
            "put back what was there"
        )
    if "latency" in row.description:
        space = space.timed(LatencyModel.from_json(row.description["latency"], space.fingerprint))
    file = latency_file(artifact_dir(url), row.id)
    return Target(network, space, image, points, file, row.id, config)


def file_target(config: CampaignConfig) -> Target:
    """Networks of a campaign that has not begun: dense and the uniform ones that it would begin with."""
    splits = load_splits(config.data)
    network, space, image = _traced(config, splits.channels, splits.spatial)
    first = common_first(space)
    shares = space.cost(first).flops / space.cost(space.dense).flops
    names = ["dense", *(f"uniform {100 * share:.0f} %" for share in shares[1:])]
    points: Points = {name: (None, genome) for name, genome in zip(names, first, strict=True)}
    return Target(network, space, image, points, None, config.name, config)


def measure_target(target: Target, asked: Asked, monitor: Monitor) -> list[dict[str, Any]]:
    """Measure the target's networks; one row a network, runtime and batch size, as in `latency.json`.

    Writes them there for a stored campaign.

    Raises:
        InputError: The device is not there, or the file cannot be written.
    """
    ranking = rank_channels(target.network, target.space, "l1")
    networks = {
        name: prune(target.network, target.space, genome, ranking)
        for name, (_, genome) in target.points.items()
    }
    with monitor.stage("measuring latency") as advance:
        found = measure_latency(
            networks,
            target.image,
            runtimes=asked.runtimes,
            batches=asked.batches,
            device=resolve_device(asked.device),
            threads=asked.threads,
            rounds=asked.rounds,
            progress=advance,
        )
    rows = []
    for measured in found:
        figures = measured.as_json()
        name = figures.pop("network")
        number, genome = target.points[name]
        known = {"point": number, "genome": list(genome), "name": name, "shape": list(target.image.shape[1:])}
        flops, predicted = (
            float(target.space.cost(genome).flops[0]),
            _predicted(target.space, genome, figures),
        )
        rows.append({**known, "flops": flops, **figures, "predicted_ms": predicted})
    if target.file is not None:
        add_latencies(target.file, rows)
    return rows


def fit_target(target: Target, path: Path, monitor: Monitor) -> Target:
    """Fit a latency model as [latency] of the campaign says, and write it for `latency.table`."""
    settings = target.config.latency.model_copy(update={"table": None})
    config = target.config.model_copy(update={"latency": settings})
    model = latency_model(config, target.network, target.space, target.image, monitor)
    write_table(model, path)
    return replace(target, space=target.space.timed(model))


def advise_target(target: Target, asked: Asked, monitor: Monitor) -> Advice:
    """Which multiples of channels this machine likes, from layers of the target's network."""
    device = resolve_device(asked.device)
    options = {"threads": asked.threads, "rounds": asked.rounds, "batch": asked.batches[0]}
    with monitor.stage("timing layers for advice") as advance:
        return advise(
            target.network.to(device), target.image.to(device), device=device, progress=advance, **options
        )


def _predicted(space: ChannelSpace, genome: Genome, measured: Mapping[str, Any]) -> float | None:
    """What the space's latency model says of a genome, if it is about such a measurement."""
    model = space.costs.latency
    names = ("runtime", "batch", "device", "threads", "machine")
    if model is None or any(model.setting.get(name) != measured[name] for name in names):
        return None
    return float(space.cost(genome).latency_ms[0])


def _traced(
    config: CampaignConfig, channels: int, spatial: Sequence[int]
) -> tuple[nn.Module, ChannelSpace, Tensor]:
    settings = config.network.model_copy(update={"weights": None, "weights_key": None})
    network, _ = build_network(settings, seed=config.recipe.seed)
    image = torch.zeros(1, channels, *spatial)
    return network, channel_space(config.pruning, network, image), image


def _asked(store: Store, row: CampaignRow, numbers: Sequence[int]) -> Points:
    genomes = {r.trial.number: r.trial.genome for r in store.records(row.id, per_case=False)}
    if missing := [str(number) for number in numbers if number not in genomes]:
        raise StoreError(
            f"campaign {row.id} has no trial {', '.join(missing)}; it has 0 to {max(genomes, default=0)}: "
            f"`paretoprune front {row.id} --all` lists its networks"
        )
    dense = tuple(row.description["dense"]["genome"])
    others = {f"point {n}": (n, genomes[n]) for n in dict.fromkeys(numbers) if genomes[n] != dense}
    return {"dense": (0, dense), **others}


def _advised(store: Store, row: CampaignRow) -> Points:
    report = campaign_summary(store, row.id)
    frame = report.trials[report.trials["advised"] & report.trials["kind"].ne("dense")].sort_values("flops")
    step = max(1, -(-len(frame) // MOST_POINTS))
    chosen = frame.iloc[::-1].iloc[::step].iloc[::-1]
    points: Points = {"dense": (int(report.dense["number"]), tuple(report.dense["genome"]))}
    for number, genome in zip(chosen["number"], chosen["genome"], strict=True):
        points[f"point {number}"] = (int(number), tuple(genome))
    return points
