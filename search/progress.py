"""Progress: how a campaign stands, at a cost that does not grow with the number of its trials."""

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from search.monitor import Standing
from spaces.fronts import front_hypervolume
from spaces.looks import Looks
from spaces.messages import Genome, Record
from spaces.objectives import Objective
from spaces.space import ChannelSpace


class RunningFront:
    """The networks that none found so far dominates, updated network by network.

    Attributes:
        points: (FLOPs ratio, metric), both ascending.
    """

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []

    def add(self, ratio: float, metric: float) -> bool:
        """Take a network in; whether the front has changed. O(log n) beside the points it displaces."""
        if not (ratio == ratio and metric == metric):
            return False
        at = bisect_right(self.points, (ratio, np.inf))
        if at and self.points[at - 1][1] >= metric:
            return False
        start = at - 1 if at and self.points[at - 1][0] == ratio else at
        end = at
        while end < len(self.points) and self.points[end][1] <= metric:
            end += 1
        self.points[start:end] = [(ratio, metric)]
        return True


@dataclass
class Progress:
    """Counts, front and hypervolume of a campaign's records, taken in one by one.

    Attributes:
        space: Prices genomes.
        metric: What is maximised.
        chance: The metric of a network that has learnt nothing.
        total: Trials in the budget.
        rung: Whose records make the front; None: all.
        folds: Held out in turn; a network counts when it was seen in all of them.
    """

    space: ChannelSpace
    metric: Objective
    chance: float
    total: int
    rung: str | None = None
    folds: int = 1
    _looks: Looks = field(init=False)
    _front: RunningFront = field(default_factory=RunningFront, init=False)
    _known: dict[Genome, tuple[float, float]] = field(default_factory=dict, init=False)
    _dense: Genome = field(init=False)
    _dense_flops: float = field(init=False)
    _dense_metric: float = field(default=np.nan, init=False)
    _volume: float | None = field(default=0.0, init=False)  # None: to be computed anew
    _done: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _evaluated: int = field(default=0, init=False)
    _reused: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._dense = self.space.dense
        self._looks = Looks(self.folds)
        self._dense_flops = float(self.space.cost(self._dense).flops[0])

    def add(self, record: Record, *, evaluated: bool = False, reused: bool = False) -> None:
        """Take in a record: just evaluated, found in another campaign, or of an earlier run."""
        self._done += 1
        self._evaluated += evaluated
        self._reused += reused
        self._failed += not record.complete
        if self.rung not in (None, record.trial.rung):
            return
        metric = self._looks.add(record, self.metric.name)
        if metric != metric:
            return
        if record.trial.genome == self._dense:
            self._dense_metric = metric
            self._volume = None
        before = self._known.get(record.trial.genome)
        point = self._known[record.trial.genome] = record.value("flops") / self._dense_flops, metric
        if before is not None and before > point and before in self._front.points:
            self._front, self._volume = RunningFront(), None  # its mean fell: it hides others no more
            for known in self._known.values():
                self._front.add(*known)
        elif self._front.add(*point):
            self._volume = None

    def standing(self, elapsed_s: float) -> Standing:
        """How the campaign stands now; `elapsed_s`: seconds of this run."""
        rate = self._evaluated / elapsed_s if elapsed_s > 0 else np.nan
        return Standing(
            done=self._done,
            total=self.total,
            failed=self._failed,
            reused=self._reused,
            rate_per_min=60 * rate,
            left_s=(self.total - self._done) / rate if rate else np.nan,
            hypervolume=self._hypervolume(),
            best=tuple(self._front.points),
        )

    def _hypervolume(self) -> float:
        if self._volume is None:
            points = np.array(self._front.points).reshape(-1, 2)
            dense = self._dense_metric
            known = dense == dense
            self._volume = front_hypervolume(points[:, 0], points[:, 1], dense, self.chance) if known else 0.0
        return self._volume
