"""How well each rung ranks here: a few networks on every rung, the thorough one twice.

`full` is what a candidate is finally judged by, so a cheap rung is good where it orders networks as `full`
does; and no rung can agree with `full` better than `full` agrees with its own repeat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluators.protocols import Pool
from search.controllers.sampling import StratifiedSampler
from search.monitor import Monitor
from search.stage import carry_out
from search.store.archive import Store
from spaces.agreement import Agreement, agreement, smallest_shown
from spaces.errors import RunError
from spaces.fronts import front_hypervolume, non_dominated
from spaces.messages import Genome, Record, Trial
from spaces.objectives import Objective, ranked_by
from spaces.space import ChannelSpace

STAGE = "calibrate"
RUNGS = ("recalibrate", "shared", "finetune")
FULL = "full"
OCTAVE = 1.0
AS_GOOD = 0.1
"""A rung whose tau is at most this far below the best one's is as good: the cheapest of them is taken."""
CHANCE = 0.1
"""A rung whose upper bound of tau is below this ranks no better than chance."""


@dataclass(frozen=True)
class RungCalibration:
    """How well one rung ranks by one value.

    Attributes:
        rung: Its name.
        value: What it ranks by, as `search.value`.
        overall: Agreement with `full` over all networks.
        within: Agreement among networks whose FLOPs are within an octave: what a search needs.
        seconds: Median time of an evaluation.
        regret: Hypervolume that is lost on `full` by taking this rung's front instead of the best one.
    """

    rung: str
    value: str
    overall: Agreement
    within: Agreement
    seconds: float
    regret: float


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        networks: How many networks were measured everywhere.
        rungs: Every rung with every value, cheapest first.
        ceiling: Agreement of `full` with its repeat: the best that a rung can reach.
        ceiling_within: The same among networks of similar FLOPs.
        full_seconds: Median time of `full`.
        power: The smallest tau that so many networks show to be above 0, with a power of 80 %.
        rung: The cheapest good rung; `full` where none is.
        value: What to rank by there.
        at_chance: Every rung's upper bound says chance, overall and among networks of similar FLOPs.
    """

    networks: int
    rungs: tuple[RungCalibration, ...]
    ceiling: Agreement
    ceiling_within: Agreement
    full_seconds: float
    power: float
    rung: str
    value: str
    at_chance: bool

    def as_json(self) -> dict[str, Any]:
        """Plain data; NaN is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def calibration_trials(space: ChannelSpace, n: int, seed: int, rungs: Sequence[str] = RUNGS) -> list[Trial]:
    """Dense and n - 1 networks spread along the FLOPs axis, on every rung, twice on `full`.

    Args:
        space: Where networks come from.
        n: Networks, dense included.
        seed: Decides which.
        rungs: The cheap rungs.
    """
    sampler, rng = StratifiedSampler(space), np.random.default_rng([seed, n])
    drawn = sorted({sampler.draw(rng) for _ in range(20 * n)} - {space.dense})
    levels = np.log2(space.cost(drawn).flops / space.cost(space.dense).flops[0])
    chosen: dict[Genome, None] = {space.dense: None}
    for level in np.linspace(max(levels.min(), -6.0), 0.0, n - 1, endpoint=False)[::-1]:
        order = np.argsort(np.abs(levels - level))
        new = next((drawn[i] for i in order if drawn[i] not in chosen), None)
        if new is not None:
            chosen[new] = None
    looks = [*((rung, 0) for rung in rungs), (FULL, 0), (FULL, 1)]
    return [
        Trial(number, genome, rung, replicate)
        for number, (genome, (rung, replicate)) in enumerate(
            (genome, look) for look in looks for genome in chosen
        )
    ]


def run_trials(
    trials: Sequence[Trial], space: ChannelSpace, pool: Pool, store: Store, campaign_id: str, monitor: Monitor
) -> list[Record]:
    """Evaluate what the store does not know yet, also of other campaigns; all records, by number."""
    with monitor.stage("calibrating") as advance:

        def told(done: int, trial: Trial) -> None:
            advance(done, len(trials), f"at the rung {trial.rung}")

        return carry_out(trials, STAGE, space, pool, store, campaign_id, told)


def compare_rungs(
    records: Sequence[Record], space: ChannelSpace, metric: Objective, chance: float
) -> Calibration:
    """Compare every rung with `full`.

    Args:
        records: Of `calibration_trials`.
        space: Prices genomes.
        metric: What `full` is judged by.
        chance: The metric of a network that has learnt nothing.

    Raises:
        RunError: Too few networks could be evaluated.
    """
    table = _Table(records, space, metric)
    if len(table.genomes) < 4:
        reasons = {record.outcome.error for record in records if record.outcome.error}
        raise RunError(
            f"only {len(table.genomes)} networks could be evaluated on every rung; at least 4 are needed: "
            + "; ".join(sorted(map(str, reasons)))
        )
    first, second = table.full
    judge = (first + second) / 2
    found = []
    for rung in table.rungs:
        for value in table.values:
            ranked = table.value(rung, value)
            found.append(
                RungCalibration(
                    rung,
                    value,
                    agreement(ranked, judge),
                    agreement(ranked, judge, table.octaves, within=OCTAVE),
                    table.seconds(rung),
                    _regret(ranked, judge, table.octaves, chance),
                )
            )
    rung, value = recommended(found)
    return Calibration(
        networks=len(table.genomes),
        rungs=tuple(found),
        ceiling=agreement(first, second),
        ceiling_within=agreement(first, second, table.octaves, within=OCTAVE),
        full_seconds=table.seconds(FULL),
        power=smallest_shown(len(table.genomes)),
        rung=rung,
        value=value,
        at_chance=all(c.overall.high < CHANCE and not c.within.high >= CHANCE for c in found),
    )


def recommended(found: Sequence[RungCalibration]) -> tuple[str, str]:
    """The cheapest rung as good as the best, and its better value.

    The score of a rung is the mean of both taus; one whose agreement is not shown to be above 0 is no
    candidate. Where it was measured, agreement with dense is ranked by unless another value's tau is larger
    by more than `AS_GOOD` / 2; else the metric likewise. For metric and loss are taken on the very cases that
    judge: their taus contain the noise of those labels, which no unseen patient shares.
    """
    scores = {(c.rung, c.value): _score(c) for c in found}
    good = [c for c in found if c.overall.low > 0]
    usual = "agreement" if any(c.value == "agreement" for c in found) else "metric"
    if not good:
        return FULL, usual
    best = max(scores[c.rung, c.value] for c in good)
    fit = [c for c in good if scores[c.rung, c.value] >= best - AS_GOOD]
    cheapest = min(fit, key=lambda c: c.seconds).rung
    values = {c.value: scores[c.rung, c.value] for c in found if c.rung == cheapest}
    other = max(values, key=lambda value: values[value])
    return cheapest, other if values[other] > values[usual] + AS_GOOD / 2 else usual


def _score(found: RungCalibration) -> float:
    """Mean of the taus that are known; -1, the worst there is, where none is: nothing was ordered."""
    taus = [tau for tau in (found.overall.tau, found.within.tau) if not np.isnan(tau)]
    return float(np.mean(taus)) if taus else -1.0


class _Table:
    """The records by rung, for the networks that every rung could evaluate."""

    def __init__(self, records: Sequence[Record], space: ChannelSpace, metric: Objective) -> None:
        self._metric = metric
        self._records: dict[tuple[str, int], dict[Genome, Record]] = {}
        for record in records:
            key = (record.trial.rung, record.trial.replicate)
            self._records.setdefault(key, {})[record.trial.genome] = record
        complete = [
            {genome for genome, record in seen.items() if record.complete} for seen in self._records.values()
        ]
        together = set.intersection(*complete) if complete else set()
        self.genomes = sorted(together)
        dense = space.cost(space.dense).flops[0]
        self.octaves = np.log2(space.cost(self.genomes).flops / dense) if self.genomes else np.empty(0)
        self.rungs = [rung for rung, replicate in self._records if rung != FULL and replicate == 0]

    @property
    def values(self) -> list[str]:
        """What networks can be ranked by: the user's own evaluator knows no agreement."""
        measured = self._records[FULL, 0][self.genomes[0]].outcome.values
        return [v for v in ("metric", "loss", "agreement") if ranked_by(v, self._metric).name in measured]

    @property
    def full(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of both repeats."""
        return self.value(FULL, "metric", 0), self.value(FULL, "metric", 1)

    def value(self, rung: str, value: str, replicate: int = 0) -> np.ndarray:
        """Larger is better: (networks,)."""
        objective = ranked_by(value, self._metric)
        seen = self._records[rung, replicate]
        return -objective.loss(np.array([seen[genome].value(objective.name) for genome in self.genomes]))

    def seconds(self, rung: str) -> float:
        """Median time of an evaluation."""
        seen = self._records[rung, 0]
        return float(np.median([seen[genome].outcome.timings["wall_s"] for genome in self.genomes]))


def _regret(ranked: np.ndarray, judge: np.ndarray, octaves: np.ndarray, chance: float) -> float:
    """Hypervolume on the judge's scale that the front of a ranking loses against the best front."""
    ratios, dense = 2.0**octaves, float(judge[np.argmax(octaves)])
    front = non_dominated(np.column_stack([octaves, -ranked]))
    best = front_hypervolume(ratios, judge, dense, chance)
    return best - front_hypervolume(ratios[front], judge[front], dense, chance)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
