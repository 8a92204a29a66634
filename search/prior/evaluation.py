"""Leave-one-out: which model of the prior to trust, how far, and what it is worth on data it never saw.

Data sets are left out, in as many folds as there are data sets, at most `FOLDS`: fitting time does not grow
with their square. Campaigns that share images, in whatever form, are of one data set (`sets_of`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from search.controllers.structured.belief import Belief, flat
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Terms
from search.prior.corpus import PastCampaign, sets_of
from search.prior.lessons import lesson_of
from search.prior.model import META, Choice, LayerPrior

MODELS = (
    (Choice("mean"),),
    tuple(Choice("log", strength) for strength in (0.0, 0.1, 0.2)),
)
"""The models that leave-one-out chooses from, simplest first, each with how strongly it may learn."""

DOUBTS = (0.3, 0.5, 0.75, 1.0)
"""Beyond the flat prior's own doubt an expert foresees less than that one does."""
COVER = 0.90
"""Of the left-out measurements, how many the 90 % intervals must hold."""

FOLDS = 10
"""Data sets that are left out at once are few: one each up to ten of them."""

_Z = 1.6449
_LEAST_FIRST = 3
_WIDEST = 2.0  # standard deviation of damage beyond which exp(-Z) has no useful moments


@dataclass(frozen=True)
class Forecast:
    """How well the rest of a campaign is foreseen from its ladder.

    Attributes:
        density: Mean log density of the measured retentions, in nats a network.
        coverage: Share of them inside the 90 % intervals.
        networks: How many.
    """

    density: float
    coverage: float
    networks: int


def forecast(campaign: PastCampaign, belief: Belief) -> Forecast | None:
    """Tell a damage model of this belief the ladder, and ask it for everything else; None: no ladder."""
    first, rest = np.flatnonzero(campaign.first), np.flatnonzero(~campaign.first)
    if len(first) < _LEAST_FIRST or not len(rest):
        return None
    evidence, terms = campaign.evidence, Terms(campaign.space, belief)
    model = DamageModel(terms, evidence.rows(first), Setting())
    mean, sd = model.predict(terms.features(evidence.genomes[rest]))
    noise = np.diag(evidence.noise(model.setting.spread * evidence.spread))[rest]
    sd = np.minimum(sd, _WIDEST)
    expected, own = evidence.scale.moments(mean, sd)
    variance = own + noise + 1e-6
    squares = np.square(evidence.readings[rest] - expected) / variance
    density = -0.5 * (squares + np.log(2 * np.pi * variance))
    return Forecast(float(density.mean()), float((squares <= _Z**2).mean()), len(rest))


def fit_prior(campaigns: Sequence[PastCampaign]) -> LayerPrior:
    """Learn from campaigns; the model and its doubt are those that foresaw left-out data sets best.

    The figures in `quality` are of nested leaving out: each data set is foreseen by what the others alone
    would have chosen. Where nothing can be left out, with campaigns on fewer than two data sets or without a
    ladder, the default model is taken, with the flat prior's own doubt, and its quality says so.
    """
    trial = _LeaveOneOut(campaigns)
    if unknown := trial.untestable:
        return LayerPrior(trial.lessons, Choice(), {"unknown": unknown})
    choice = trial.calibrated(trial.best(trial.every), trial.every)
    return LayerPrior(trial.lessons, choice, trial.quality(choice))


def assess(prior: LayerPrior, campaigns: Iterable[PastCampaign]) -> list[dict[str, Any]]:
    """What a prior foresees of campaigns, each without the lessons on its own data, beside other experts."""
    rows = []
    for campaign in campaigns:
        origin = campaign.origin
        clean = prior.unseen(origin.source, origin.data)
        row: dict[str, Any] = {"campaign": origin.id, "source": origin.source, "lessons": len(clean.lessons)}
        if clean.lessons:
            expected = clean.expect(campaign.groups)
            row["outside"] = int((expected.outside > 0).sum())
            for expert in expected.experts:
                seen = forecast(campaign, expert)
                row[expert.name] = None if seen is None else seen.density
                if expert.name == META and seen is not None:
                    row["coverage"], row["networks"] = seen.coverage, seen.networks
        rows.append(row)
    return rows


class _LeaveOneOut:
    """Forecasts of campaigns by what lessons on other data say; each is made once.

    Attributes:
        lessons: One a campaign.
        every: The folds, each a few data sets.
    """

    def __init__(self, campaigns: Sequence[PastCampaign]) -> None:
        self._campaigns = list(campaigns)
        self.lessons = tuple(lesson_of(campaign) for campaign in campaigns)
        self._sets = sets_of([campaign.origin for campaign in campaigns])
        place = {name: k % FOLDS for k, name in enumerate(sorted(set(self._sets)))}
        self._fold = [place[name] for name in self._sets]
        self.every = frozenset(self._fold)
        self._priors: dict[tuple[Choice, frozenset[int]], LayerPrior] = {}
        self._expected: dict[tuple[Choice, frozenset[int], int], Belief] = {}
        self._known: dict[tuple[Choice, frozenset[int], int], Forecast | None] = {}

    @property
    def untestable(self) -> str | None:
        """Why nothing can be left out; None where it can."""
        if len(self.every) < 2:
            return f"all campaigns are on {self._sets[0]}: what carries over to other data cannot be known"
        if all(self._flat(i) is None for i in range(len(self._campaigns))):
            return f"no campaign has tried a ladder of {_LEAST_FIRST} networks and others, to foresee from it"
        return None

    def forecasts(
        self, choice: Choice, folds: frozenset[int], campaigns: Sequence[int] | None = None
    ) -> list[Forecast]:
        """Of some campaigns, by default all of the folds, from the lessons of these folds but their own."""
        if campaigns is None:
            campaigns = [i for i, fold in enumerate(self._fold) if fold in folds]
        found = [self._forecast(choice, folds - {self._fold[i]}, i) for i in campaigns]
        return [seen for seen in found if seen is not None]

    def _forecast(self, choice: Choice, allowed: frozenset[int], index: int) -> Forecast | None:
        key = (choice, allowed, index)
        if key not in self._known:
            belief = self._belief(*key) if allowed else None
            self._known[key] = None if belief is None else forecast(self._campaigns[index], belief)
        return self._known[key]

    def best(self, folds: frozenset[int]) -> Choice:
        """The simplest model that transfers, at its best, that none beats by over a standard error.

        No transfer ("mean") is chosen where it is the best of all: a campaign has safeguards of its own.
        """
        doubtful = [self._sharpest(models, folds) for models in MODELS]
        scores = [self._densities(choice, folds) for choice in doubtful]
        if not len(scores[0]):
            return Choice()
        place = int(np.argmax([score.mean() for score in scores]))
        winner = scores[place]
        for choice, score in list(zip(doubtful, scores, strict=True))[min(place, 1) :]:
            gaps = winner - score
            if gaps.mean() <= (gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else 0.0):
                return choice
        raise AssertionError("the winner beats itself")

    def calibrated(self, choice: Choice, folds: frozenset[int]) -> Choice:
        """The choice with so much more doubt that its intervals hold what they should, or the most."""
        for doubt in [doubt for doubt in DOUBTS if doubt >= choice.doubt]:
            choice = replace(choice, doubt=doubt)
            if (held := _coverage(self.forecasts(choice, folds))) is None or held >= COVER:
                break
        return choice

    def _sharpest(self, models: Sequence[Choice], folds: frozenset[int]) -> Choice:
        """Of one model, the strength and doubt of the highest density."""
        choices = [replace(model, doubt=doubt) for model in models for doubt in DOUBTS]
        means = [_mean(self._densities(choice, folds)) for choice in choices]
        return choices[int(np.argmax([-np.inf if mean is None else mean for mean in means]))]

    def _belief(self, choice: Choice, allowed: frozenset[int], index: int) -> Belief:
        """As the prior of the allowed lessons has it; what it expects does not depend on the doubt."""
        kind = replace(choice, doubt=0.0)
        if (kind, allowed) not in self._priors:
            pairs = zip(self.lessons, self._fold, strict=True)
            lessons = tuple(lesson for lesson, fold in pairs if fold in allowed)
            self._priors[kind, allowed] = LayerPrior(lessons, kind)
        if (key := (kind, allowed, index)) not in self._expected:
            groups = self._campaigns[index].groups
            self._expected[key] = self._priors[kind, allowed].expect(groups).belief(META)
        own = self._expected[key]
        return replace(own, doubt=np.hypot(own.doubt, choice.doubt))

    def quality(self, choice: Choice) -> dict[str, Any]:
        """Nested figures by data set, and in all."""
        by_set: dict[str, Any] = {}
        every: list[Forecast] = []
        picked = {fold: self._picked_without(fold) for fold in sorted(self.every)}
        for name in sorted(set(self._sets)):
            mine = [i for i, other in enumerate(self._sets) if other == name]
            fold = self._fold[mine[0]]
            seen = self.forecasts(picked[fold], self.every - {fold}, mine)
            every += seen
            flat_ones = [one.density for i in mine if (one := self._flat(i)) is not None]
            by_set[name] = {
                "choice": asdict(picked[fold]),
                "density": _mean([forecast.density for forecast in seen]),
                "flat_density": _mean(flat_ones),
                "coverage": _coverage(seen),
                "campaigns": len(seen),
            }
        gains = [
            row["density"] - row["flat_density"] for row in by_set.values() if row["density"] is not None
        ]
        return {
            "data_sets": by_set,
            "gain_nats": _mean(gains),
            "gain_error": float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None,
            "coverage": _coverage(every),
            "coverage_when_chosen": _coverage(self.forecasts(choice, self.every)),
        }

    def _picked_without(self, fold: int) -> Choice:
        """What would have been chosen without a fold."""
        others = self.every - {fold}
        return self.calibrated(self.best(others), others) if len(others) > 1 else Choice()

    def _densities(self, choice: Choice, folds: frozenset[int]) -> np.ndarray:
        return np.array([seen.density for seen in self.forecasts(choice, folds)])

    def _flat(self, index: int) -> Forecast | None:
        campaign = self._campaigns[index]
        return forecast(campaign, flat(len(campaign.groups)))


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _coverage(seen: Sequence[Forecast]) -> float | None:
    """Over campaigns, each counting once; None without any."""
    return _mean([forecast.coverage for forecast in seen])
