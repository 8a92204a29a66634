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
from evaluators.identity import fingerprint_of, fingerprint_of_arrays
from evaluators.settings import NetworkSettings, ProxySettings, TaskSettings
from spaces.errors import DataError
from spaces.ranking import Ranking
from spaces.space import ChannelSpace

if TYPE_CHECKING:
    from evaluators.finetune import FinetuneEvaluator

PROCEDURE = 1
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
        proxy: How a candidate is evaluated.
    """

    network: NetworkSettings
    code: Mapping[str, str]
    weights: Mapping[str, np.ndarray]
    space: ChannelSpace
    ranking: Ranking
    splits: Splits
    task: TaskSettings
    proxy: ProxySettings

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", replace(self.splits, open_test=_no_test_images))

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """By part, so that a difference can be named. The device is no part of it."""
        return {
            "network": fingerprint_of([self.network.factory, self.network.arguments, dict(self.code)]),
            "weights": fingerprint_of_arrays(self.weights),
            "space": self.space.fingerprint,
            "ranking": _fingerprint_of_ranking(self.ranking),
            "data": self.splits.fingerprint,
            "task": fingerprint_of(self.task.model_dump(mode="json")),
            "proxy": fingerprint_of(self.proxy.model_dump(mode="json", exclude={"device"})),
            "code": fingerprint_of({"procedure": PROCEDURE, "torch": torch.__version__.partition("+")[0]}),
        }

    @cached_property
    def fingerprint(self) -> str:
        """The task fingerprint: hash of all parts."""
        return fingerprint_of(dict(self.fingerprints))

    def build(self) -> "FinetuneEvaluator":
        """The evaluator, in this process.

        Raises:
            InputError: The network or the images cannot be used.
        """
        from evaluators.finetune import FinetuneEvaluator

        return FinetuneEvaluator(self)


def _fingerprint_of_ranking(ranking: Ranking) -> str:
    order = fingerprint_of_arrays({str(group): units for group, units in enumerate(ranking.order)})
    return fingerprint_of([ranking.criterion, ranking.space, order])


def _no_test_images() -> Subset:
    raise DataError("a workload carries no test images; they are opened by finalise only")
