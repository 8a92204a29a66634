"""A workload: everything that one evaluation needs, as plain settings and arrays.

It travels to workers as it is (the arrays without a copy on one machine), and its fingerprint is the identity
of the evaluations: two workloads with the same fingerprint find the same about the same trial.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from evaluators.data.splits import Splits, Subset
from evaluators.data.volumes import Volumes
from evaluators.identity import fingerprint_of, fingerprint_of_arrays
from evaluators.networks import build_network, load_weights
from evaluators.precision import pinned
from evaluators.rungs.table import find_rung
from evaluators.settings import NetworkSettings, ProxySettings, TaskSettings
from evaluators.whole import OVERLAP
from spaces.errors import DataError
from spaces.ranking import Ranking
from spaces.space import ChannelSpace

if TYPE_CHECKING:
    from evaluators.evaluation import NetworkEvaluator

PROCEDURE = 6
"""Raise it with every change after which the same workload gives other numbers."""


@dataclass(frozen=True, eq=False)
class Workload:
    """What a worker needs to evaluate candidates.

    Attributes:
        network: Where the network comes from; its weights are in `weights`.
        code: What computes its outputs besides them (`code_of`).
        weights: The dense network's state dict.
        space: What can be pruned.
        ranking: Which channels go first.
        splits: Train and val; the test images stay behind.
        task: What the network is for.
        proxy: How a candidate is evaluated; kept with device and precision pinned, see `pinned`.
        shared: Jointly trained weights, for the rungs that slice them; None: not trained.
        whole: Validation volumes that the rung `full` measures instead of val's patches; None: it does not.
    """

    network: NetworkSettings
    code: Mapping[str, str]
    weights: Mapping[str, np.ndarray]
    space: ChannelSpace
    ranking: Ranking
    splits: Splits
    task: TaskSettings
    proxy: ProxySettings
    shared: Mapping[str, np.ndarray] | None = None
    whole: Volumes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", replace(self.splits, open_test=_no_test_images, open_whole=None))
        object.__setattr__(self, "proxy", pinned(self.proxy))

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """By part, so that a difference can be named; the rung and the device's number are no part of it."""
        whole = {"whole": fingerprint_of([self.whole.fingerprint, OVERLAP])} if self.whole else {}
        return whole | {
            "network": fingerprint_of([self.network.factory, self.network.arguments, dict(self.code)]),
            "weights": fingerprint_of_arrays(self.weights),
            "space": self.space.fingerprint,
            "ranking": _fingerprint_of_ranking(self.ranking),
            "data": self.splits.fingerprint,
            "task": fingerprint_of(self.task.model_dump(mode="json")),
            "proxy": fingerprint_of(self.proxy.model_dump(mode="json", exclude={"device", "rung"})),
            "device": torch.device(self.proxy.device).type,
            "shared": fingerprint_of_arrays(self.shared or {}),
            "code": fingerprint_of({"procedure": PROCEDURE, "torch": torch.__version__.partition("+")[0]}),
        }

    @cached_property
    def fingerprint(self) -> str:
        """The task fingerprint: hash of all parts."""
        return fingerprint_of(dict(self.fingerprints))

    def measured_at(self, rung: str) -> Subset | Volumes:
        """The validation cases at a rung: val, or the whole volumes."""
        return self.whole if self.whole is not None and find_rung(rung).whole else self.splits.val

    def dense_network(self) -> torch.nn.Module:
        """The dense network, in eval mode on the CPU, its weights copied: arrays may be shared, read-only.

        Raises:
            NetworkError: The weights are not of this network.
        """
        return self._network(self.weights, "the dense weights")

    def shared_network(self) -> torch.nn.Module:
        """The network of the jointly trained weights; see `dense_network`."""
        return self._network(self.shared or {}, "the jointly trained weights")

    def _network(self, weights: Mapping[str, np.ndarray], what: str) -> torch.nn.Module:
        network, _ = build_network(self.network.model_copy(update={"weights": None, "weights_key": None}))
        load_weights(network, {name: torch.tensor(array) for name, array in weights.items()}, what)
        return network.eval()

    def build(self) -> "NetworkEvaluator":
        """The evaluator, in this process.

        Raises:
            InputError: The network or the images cannot be used.
        """
        from evaluators.evaluation import NetworkEvaluator

        return NetworkEvaluator(self)


def _fingerprint_of_ranking(ranking: Ranking) -> str:
    order = fingerprint_of_arrays({str(group): units for group, units in enumerate(ranking.order)})
    return fingerprint_of([ranking.criterion, ranking.space, order])


def _no_test_images() -> Subset:
    raise DataError("a workload carries no test images; they are opened by finalise only")
