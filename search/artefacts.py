"""Where finalised networks lie as files: `<artefacts>/<campaign id>/point-N/` and `dense/`."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file, save_file
from torch import nn

from evaluators.dense import as_arrays
from evaluators.files import replacing
from evaluators.finalising import load_tuned
from search.finalised import plain
from search.prepare import Problem
from spaces.finals import FinalNetwork
from spaces.surgery import prune

WEIGHTS, RESULTS = "network.safetensors", "final.json"


def keep_network(
    folder: Path, network: nn.Module, about: FinalNetwork, problem: Problem, campaign_id: str
) -> None:
    """Write a tuned network into its folder."""
    del about, problem, campaign_id
    with replacing(folder / WEIGHTS) as temporary:
        save_file(as_arrays(network), temporary)


def kept_network(folder: Path, about: FinalNetwork, problem: Problem) -> nn.Module:
    """The network as its files have it: what is tested is what is used."""
    workload, space = problem.workload, problem.space
    sliced = prune(workload.dense_network(), space, about.genome, workload.ranking)
    return load_tuned(sliced, load_file(folder / WEIGHTS))


def write_results(folder: Path, networks: Sequence[FinalNetwork]) -> None:
    """What is known about finalised networks, beside each; `folder` is the campaign's."""
    for network in networks:
        with replacing(folder / network.folder / RESULTS) as temporary:
            Path(temporary).write_text(json.dumps(plain(network), indent=2))
