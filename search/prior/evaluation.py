"""Leave-one-out: which model of the prior to trust, how far, and what it is worth on data it never saw."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from search.controllers.structured.belief import Belief, flat
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Terms
from search.prior.corpus import PastCampaign
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
    """Learn from campaigns; the model and its doubt are those that foresee left-out data sets best.

    The figures in `quality` are of nested leaving out: each data set is foreseen by what the others alone
    would have chosen. With campaigns on fewer than two data sets nothing can be left out: the
    default model is taken, with the flat prior's own doubt, and its quality says so.
    """
    trial = _LeaveOneOut(campaigns)
    if len(trial.sources) < 2:
        unknown = f"all campaigns are on {trial.sources[0]}: what carries over to other data cannot be known"
        return LayerPrior(trial.lessons, Choice(), {"unknown": unknown})
    choice = trial.calibrated(trial.best(trial.sources), trial.sources)
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
    """Forecasts of campaigns by what lessons on other data say; each is made once."""

    def __init__(self, campaigns: Sequence[PastCampaign]) -> None:
        self._campaigns = list(campaigns)
        self.lessons = tuple(lesson_of(campaign) for campaign in campaigns)
        self.sources = sorted({campaign.origin.source for campaign in campaigns})
        self._expected: dict[tuple[Choice, frozenset[str], int], Belief] = {}
        self._known: dict[tuple[Choice, frozenset[str], int], Forecast | None] = {}

    def forecasts(self, choice: Choice, sources: Sequence[str], targets: Sequence[str]) -> list[Forecast]:
        """Of every campaign on the targets' data, from the lessons on the sources other than its own."""
        found = []
        for i, campaign in enumerate(self._campaigns):
            allowed = frozenset(sources) - {campaign.origin.source}
            if campaign.origin.source not in targets or not allowed:
                continue
            key = (choice, allowed, i)
            if key not in self._known:
                self._known[key] = forecast(campaign, self._belief(choice, allowed, i))
            if (seen := self._known[key]) is not None:
                found.append(seen)
        return found

    def best(self, sources: Sequence[str]) -> Choice:
        """The simplest model that transfers, at its best, that none beats by over a standard error.

        No transfer ("mean") is chosen where it is the best of all: a campaign has safeguards of its own.
        """
        doubtful = [self._sharpest(models, sources) for models in MODELS]
        scores = [self._densities(choice, sources) for choice in doubtful]
        if not len(scores[0]):
            return Choice()
        place = int(np.argmax([score.mean() for score in scores]))
        winner = scores[place]
        for choice, score in list(zip(doubtful, scores, strict=True))[min(place, 1) :]:
            gaps = winner - score
            if gaps.mean() <= (gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else 0.0):
                return choice
        raise AssertionError("the winner beats itself")

    def calibrated(self, choice: Choice, sources: Sequence[str]) -> Choice:
        """The choice with so much more doubt that its intervals hold what they should, or the most."""
        for doubt in [doubt for doubt in DOUBTS if doubt >= choice.doubt]:
            choice = replace(choice, doubt=doubt)
            if (held := _coverage(self.forecasts(choice, sources, sources))) is None or held >= COVER:
                break
        return choice

    def _sharpest(self, models: Sequence[Choice], sources: Sequence[str]) -> Choice:
        """Of one model, the strength and doubt of the highest density."""
        choices = [replace(model, doubt=doubt) for model in models for doubt in DOUBTS]
        means = [self._densities(choice, sources).mean() for choice in choices]
        return choices[int(np.argmax(means))]

    def _belief(self, choice: Choice, allowed: frozenset[str], index: int) -> Belief:
        """As the prior of the allowed lessons has it; what it expects does not depend on the doubt."""
        key = (replace(choice, doubt=0.0), allowed, index)
        if key not in self._expected:
            lessons = tuple(lesson for lesson in self.lessons if lesson.origin.source in allowed)
            campaign = self._campaigns[index]
            self._expected[key] = LayerPrior(lessons, key[0]).expect(campaign.groups).belief(META)
        own = self._expected[key]
        return replace(own, doubt=np.hypot(own.doubt, choice.doubt))

    def quality(self, choice: Choice) -> dict[str, Any]:
        """Nested figures by data set, and in all."""
        by_source: dict[str, Any] = {}
        every: list[Forecast] = []
        for source in self.sources:
            others = [other for other in self.sources if other != source]
            picked = self.calibrated(self.best(others), others) if len(others) > 1 else Choice()
            seen = self.forecasts(picked, others, [source])
            every += seen
            flat_ones = [self._flat(i) for i, c in enumerate(self._campaigns) if c.origin.source == source]
            by_source[source] = {
                "choice": asdict(picked),
                "density": _mean([forecast.density for forecast in seen]),
                "flat_density": _mean([one.density for one in flat_ones if one is not None]),
                "coverage": _coverage(seen),
                "campaigns": len(seen),
            }
        gains = [
            row["density"] - row["flat_density"] for row in by_source.values() if row["density"] is not None
        ]
        return {
            "data_sets": by_source,
            "gain_nats": _mean(gains),
            "gain_error": float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None,
            "coverage": _coverage(every),
            "coverage_when_chosen": _coverage(self.forecasts(choice, self.sources, self.sources)),
        }

    def _densities(self, choice: Choice, sources: Sequence[str]) -> np.ndarray:
        return np.array([seen.density for seen in self.forecasts(choice, sources, sources)])

    def _flat(self, index: int) -> Forecast | None:
        campaign = self._campaigns[index]
        return forecast(campaign, flat(len(campaign.groups)))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _coverage(seen: Sequence[Forecast]) -> float | None:
    """Over campaigns, each counting once; None without any."""
    return _mean([forecast.coverage for forecast in seen])
