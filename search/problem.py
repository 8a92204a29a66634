"""What a campaign searches: its data, task, network and what of it can be pruned, with all that follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evaluators.data.splits import Splits
from evaluators.data.volumes import Volumes
from evaluators.folds import Folds
from evaluators.protocols import Task
from evaluators.tasks.segmentation import Segmentation
from evaluators.whole import n_windows
from evaluators.workload import Workload
from search.bounds import Bounds, bounds_of
from search.config import CampaignConfig
from search.controllers.base import Yardstick
from search.start import common_below, common_first
from spaces.messages import Genome
from spaces.objectives import COSTS, Objective, ranked_by
from spaces.space import ChannelSpace


@dataclass(frozen=True)
class Problem:
    """What a campaign searches.

    Attributes:
        config: The campaign's configuration.
        splits: The images; test unopened.
        task: How networks are judged.
        space: What can be pruned.
        workload: What a worker needs.
        dense: The dense network's figures on val as it was given, before any fine-tuning.
        folds: Where `data.folds` asks for cross-fitting: one workload a fold, the first is `workload`.
    """

    config: CampaignConfig
    splits: Splits
    task: Task
    space: ChannelSpace
    workload: Workload
    dense: Mapping[str, float]
    folds: tuple[Workload, ...] = ()

    @property
    def spec(self) -> Workload | Folds:
        """What a pool evaluates with."""
        return Folds(self.folds) if self.folds else self.workload

    def patients_at(self, rung: str) -> list[int] | None:
        """Of each case that candidates are measured on at a rung, fold after fold; None: unknown."""
        groups = [workload.measured_at(rung).groups for workload in self.folds or (self.workload,)]
        if any(group is None for group in groups):
            return None
        return [int(patient) for group in groups if group is not None for patient in group]

    def chance_at(self, rung: str) -> float:
        """The metric of a network that has learnt nothing, on the cases of a rung."""
        measured = self.workload.measured_at(rung)
        if isinstance(measured, Volumes) and isinstance(self.task, Segmentation):
            return self.task.blind([mask for _, mask in measured])
        return self.task.chance

    @property
    def windows(self) -> np.ndarray | None:
        """Patches that the rung full sees of each whole validation volume (n,); None: it sees val."""
        whole = self.workload.whole
        return None if whole is None else n_windows(whole, self.splits.spatial)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the search optimises: costs, then what candidates are ranked by."""
        return (*costs(self.config), self.value)

    @cached_property
    def bounds(self) -> Bounds:
        """What a candidate may cost."""
        return bounds_of(self.config.constraints, self.space)

    @cached_property
    def first(self) -> list[Genome]:
        """What is tried first: dense, and the uniform networks that the bounds allow."""
        return [self.space.dense, *self._uniform[0]]

    @property
    def below(self) -> list[Genome]:
        """Cheaper uniform networks; see `Racing`."""
        return self._uniform[1]

    @cached_property
    def _uniform(self) -> tuple[list[Genome], list[Genome]]:
        ladder, below = (
            [genome for genome in genomes if self.bounds.met([genome])[0]]
            for genomes in (common_first(self.space)[1:], common_below(self.space))
        )
        return (ladder, below) if ladder else (below[:1], below[1:])

    @property
    def yardstick(self) -> Yardstick:
        """What the measured figure that candidates are ranked by means."""
        by, rung = self.config.search.value, (*self.config.search.rungs, self.config.proxy.rung)[0]
        patients = None if by == "agreement" or self.folds else self.workload.measured_at(rung).groups
        return Yardstick(self.chance_at(rung) if by == "metric" else None, patients)

    @property
    def value(self) -> Objective:
        """What candidates are ranked by: `search.value`."""
        return ranked_by(self.config.search.value, self.task.metric)


def costs(config: CampaignConfig) -> list[Objective]:
    """What is traded against the metric; FLOPs first."""
    return [COSTS[name] for name in config.search.objectives]
