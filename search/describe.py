"""What the store keeps about a campaign besides its records, so that reports need no data and no network."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.prior.descriptors import describe_structure
from search.problem import Problem
from spaces.messages import Genome
from spaces.space import ChannelSpace

LIBRARIES = ("torch", "monai", "numpy", "optuna", "deap", "ray")


def describe_problem(problem: Problem, ladder: Sequence[Genome], command: str) -> dict[str, Any]:
    """JSON of all that reports show: groups, dense figures, ladder, data, versions; no paths, no patients."""
    space = problem.space
    groups, task = describe_structure(problem)
    return {
        "version": 1,
        "groups": [
            {**group, "descriptors": numbers}
            for group, numbers in zip(describe_groups(space), groups, strict=True)
        ],
        "task": task,
        "frozen": [{"name": frozen.name, "reason": frozen.reason} for frozen in space.frozen],
        "dense": {"genome": list(space.dense), **space.cost(space.dense).row(0)},
        "minimal": {"genome": list(space.minimal), **space.cost(space.minimal).row(0)},
        "ladder": [list(genome) for genome in ladder],
        "metric": problem.task.metric.name,
        "chance": problem.chance_at(problem.config.judging_rung),
        "as_given": dict(problem.dense),
        "data": problem.splits.describe(),
        "patients": problem.patients_at(problem.config.judging_rung),
        "whole": _whole(problem),
        **({} if space.costs.latency is None else {"latency": space.costs.latency.as_json()}),
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": command,
    }


def _whole(problem: Problem) -> dict[str, float] | None:
    """What whole validation volumes cost, where the rung full measures them."""
    windows, dense = problem.windows, problem.space.cost(problem.space.dense).flops[0]
    if windows is None:
        return None
    mean = float(windows.mean())
    return {"volumes": len(windows), "windows": mean, "dense_flops": mean * float(dense)}


def describe_groups(space: ChannelSpace) -> list[dict[str, Any]]:
    """Every group with the share of the dense costs that it takes part in."""
    n = len(space.groups)
    without = np.tile(np.array(space.dense), (n, 1))
    without[np.arange(n), np.arange(n)] = 0
    dense, less = space.cost(space.dense), space.cost(without)
    shares = {
        "flops_share": 1 - less.flops / dense.flops,
        "params_share": 1 - less.params / dense.params,
        "activation_share": 1 - less.activation_bytes / dense.activation_bytes,
    }
    return [
        {
            "name": group.name,
            "units": group.units,
            "channels": group.channels,
            "members": list(group.members),
            "choices": list(group.choices),
            **{name: float(share[i]) for name, share in shares.items()},
        }
        for i, group in enumerate(space.groups)
    ]


def versions() -> Mapping[str, str]:
    """Versions of ourselves, Python and the libraries that results depend on."""
    ours = {"paretoprune": importlib.metadata.version("paretoprune"), "python": platform.python_version()}
    return ours | {name: importlib.metadata.version(name) for name in LIBRARIES}
