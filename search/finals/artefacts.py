"""Where finalised networks lie as files: `<artefacts>/<campaign id>/point-N/` and `dense/`."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from evaluators.deploy.description import describe_network
from evaluators.deploy.saving import WEIGHTS as WEIGHTS
from evaluators.deploy.saving import load_network, save_network
from evaluators.files import replacing
from search.finals.finalised import plain
from search.problem import Problem
from spaces.finals import FinalNetwork

RESULTS = "final.json"


def keep_network(
    folder: Path, network: nn.Module, about: FinalNetwork, problem: Problem, campaign_id: str
) -> None:
    """Write a tuned network into its folder, from where it can be loaded and exported.

    Raises:
        NetworkError: It cannot be rebuilt from its factory and its weights.
        InputError: The folder cannot be written.
    """
    config = problem.config
    description = describe_network(
        config.network,
        config.data,
        problem.splits,
        problem.task,
        problem.space,
        about.genome,
        values=about.val,
        campaign=campaign_id,
        point=about.point,
    )
    save_network(folder, network, description)


def kept_network(folder: Path, problem: Problem) -> nn.Module:
    """The network as its files have it: what is tested is what is used.

    Raises:
        NetworkError: The files are torn, or the network's code has changed.
    """
    return load_network(folder, factory=problem.config.network.factory)


def write_results(folder: Path, networks: Sequence[FinalNetwork]) -> None:
    """What is known about finalised networks, beside each; `folder` is the campaign's."""
    for network in networks:
        with replacing(folder / network.folder / RESULTS) as temporary:
            Path(temporary).write_text(json.dumps(plain(network), indent=2))
