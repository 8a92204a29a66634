"""The latency model of a campaign: read from a file, or fitted on this machine before the search begins."""

import json
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from evaluators.latency.fitting import fit_latency
from evaluators.precision import resolve_device
from search.config import CampaignConfig
from search.controllers.sampling import StratifiedSampler
from search.monitor import Monitor
from search.store.entries import CampaignRow
from spaces.errors import ConfigError, InputError
from spaces.latency import LatencyModel
from spaces.messages import Genome
from spaces.space import ChannelSpace

_TRIES = 20


def needs_latency(config: CampaignConfig) -> bool:
    """Whether a campaign prices its networks in milliseconds."""
    return "latency" in config.search.objectives or config.constraints.max_latency_ms is not None


def latency_model(
    config: CampaignConfig, network: nn.Module, space: ChannelSpace, image: Tensor, monitor: Monitor
) -> LatencyModel:
    """The model in `latency.table`, or one fitted here to networks of the space.

    Raises:
        InputError: The file is no table of this space, or the runtime is not to be had.
    """
    settings = config.latency
    if settings.table is not None:
        return read_table(Path(settings.table), space)
    genomes = spread_genomes(space, settings.networks)
    with monitor.stage("measuring latency") as advance:
        device = resolve_device(settings.device)
        return fit_latency(network, space, image, genomes, settings, device, advance)


def stored_latency(row: CampaignRow) -> LatencyModel | None:
    """The model that a campaign began with: another fit would be another objective."""
    found = row.description.get("latency")
    return None if found is None else LatencyModel.from_json(found, row.fingerprints["space"])


def spread_genomes(space: ChannelSpace, n: int, seed: int = 0) -> list[Genome]:
    """Dense, the minimal network and random ones, spread evenly along the FLOPs axis; at most n."""
    sampler, rng = StratifiedSampler(space), np.random.default_rng(seed)
    genomes = dict.fromkeys([space.dense, space.minimal])
    for _ in range(_TRIES * n):
        if len(genomes) >= n:
            break
        genomes[sampler.draw(rng)] = None
    if len(genomes) < 10:
        raise ConfigError(
            f"the space has hardly {len(genomes)} networks, too few to fit a latency model; leave latency "
            "out of objectives and constraints, and measure networks with `paretoprune latency ID`"
        )
    return list(genomes)


def read_table(path: Path, space: ChannelSpace) -> LatencyModel:
    """A model from a file that `write_table` wrote.

    Raises:
        InputError: It is not there, damaged, or of another space.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the latency table {str(path)!r}: {getattr(error, 'strerror', None) or error}; "
            "`paretoprune latency CAMPAIGN.toml --fit FILE` writes one"
        ) from None
    return LatencyModel.from_json(found, space.fingerprint, path.name)


def write_table(model: LatencyModel, path: Path) -> None:
    """Write a model as JSON.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(model.as_json()) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None


def in_words(model: LatencyModel) -> str:
    """What was measured, and how well the model predicts what it has not seen."""
    setting, errors = model.setting, model.errors
    where = f"{setting['machine']}, {setting['device']}, {setting['threads']} CPU threads"
    how = f"{setting['runtime']}, batch {setting['batch']}"
    median, most, flops = (100 * errors[name] for name in ("median", "p90", "flops_median"))
    return (
        f"latency ({how}; {where}) fitted to {errors['networks']:.0f} networks; those left out are predicted "
        f"within {median:.1f} % (median; nine in ten within {most:.1f} %; from FLOPs alone {flops:.1f} %)"
    )
