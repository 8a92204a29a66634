"""Scouting: what scouts are, what is made of what they saw, and searches that begin with it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.analytic import AnalyticWorkload
from evaluators.pools.serial import SerialPool
from evaluators.rungs.prices import HANDFUL, OF_MASKS, scout_price
from search.config import CampaignConfig, override, parse_config
from search.controllers.base import Yardstick
from search.controllers.registry import make_controller
from search.controllers.structured.belief import FLAT, flat
from search.controllers.structured.controller import StructuredController
from search.controllers.structured.evidence import Ledger
from search.controllers.structured.mixture import Mixture, make_experts
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.scouts import SCOUTS, Scouts, ScoutTerms
from search.controllers.structured.terms import Scales, Terms
from search.genes import octaves
from search.launch import launch, resume
from search.monitor import Monitor
from search.prepare import prepare
from search.prior.advice import Advice, verdict
from search.prior.history import expert_weights, group_damage
from search.prior.proposals import N_PROPOSALS, first_networks, scouted
from search.scouting import FEWEST, MOST, ROUND, STAGE, n_scouts, own_beliefs, scouts_of, send, with_scouts
from search.stage import carry_out
from search.start import common_first
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.store.entries import CampaignEntry
from spaces.errors import ConfigError, RunError, StoreError
from spaces.fronts import hypervolume, non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import DISAGREEMENT, FLOPS
from spaces.space import ChannelSpace
from spaces.tracing import trace
from tests.test_calibration import CAMPAIGN
from tests.test_depth import _levels

SPACE = ChannelSpace.chain([16, 32, 32, 64, 64, 32], round_to=8)
RNG = np.random.default_rng(3)
WEIGHTS = np.exp(RNG.normal(0, 1.0, 6))
PAIRS = np.triu(np.abs(RNG.normal(0, 0.4, (6, 6))), 1)


def amount(genome: Sequence[int], brief: bool) -> float:
    """Disagreement of a made-up network: groups add up and some go badly together; tuning mends half."""
    pruned = -np.log2(np.array(genome) / np.array(SPACE.dense))
    damage = pruned @ WEIGHTS / 6 + pruned @ PAIRS @ pruned / 6
    return float(0.1 * np.expm1(damage if brief else 0.5 * damage))


def record(trial: Trial, value: float) -> Record:
    return Record(
        trial, Outcome(trial.number, "complete", {"disagreement": value}), SPACE.cost(trial.genome).row(0)
    )


def look(trials: Sequence[Trial]) -> list[Record]:
    return [record(trial, amount(trial.genome, brief=True)) for trial in trials]


@pytest.fixture(scope="module")
def seen() -> list[Record]:
    return send(SPACE, common_first(SPACE), 64, 0, look)


@pytest.fixture(scope="module")
def scouts(seen: list[Record]) -> Scouts:
    found = scouts_of(SPACE, seen)
    assert found is not None
    return found


def evidence_of(genomes: Sequence[Genome], brief: bool = False):
    ledger = Ledger(Yardstick())
    for genome in dict.fromkeys([SPACE.dense, *genomes]):
        ledger.add(genome, -amount(genome, brief), None)
    found = ledger.evidence(SPACE.dense)
    assert found is not None
    return found


def strangers(n: int) -> np.ndarray:
    rng = np.random.default_rng(9)
    return np.array(sorted({SPACE.sample(rng) for _ in range(2 * n)} - {SPACE.dense})[:n])


# Who is sent


def test_scouts_are_sent_in_rounds_the_known_ones_first_and_always_the_same(seen: list[Record]) -> None:
    sizes: list[int] = []

    def counted(trials: Sequence[Trial]) -> list[Record]:
        sizes.append(len(trials))
        return look(trials)

    again = send(SPACE, common_first(SPACE), 20, 0, counted)
    assert sizes == [ROUND, ROUND, 4]
    assert [r.trial for r in again] == [r.trial for r in seen[:20]]
    assert {r.trial.rung for r in seen} == {"scout"}
    assert [r.trial.genome for r in seen[: len(common_first(SPACE))]] == common_first(SPACE)
    assert len({r.trial.genome for r in seen}) == 64 == len(seen)


def test_a_small_space_is_scouted_to_the_end_and_no_further() -> None:
    tiny = ChannelSpace.chain([3, 1, 4])
    found = send(
        tiny,
        common_first(tiny),
        100,
        0,
        lambda trials: [
            Record(
                t, Outcome(t.number, "complete", {"disagreement": 0.1 * t.number}), tiny.cost(t.genome).row(0)
            )
            for t in trials
        ],
    )
    assert len(found) == tiny.size


def test_too_few_or_failed_scouts_are_no_help(seen: list[Record]) -> None:
    failed = [replace(r, outcome=Outcome(r.trial.number, "failed", error="diverged")) for r in seen]
    assert scouts_of(SPACE, failed) is None
    assert scouts_of(SPACE, seen[: ROUND - 1]) is None
    assert scouts_of(SPACE, []) is None
    assert scouts_of(SPACE, [*seen[:20], *failed[20:]]) is not None
    advice = Advice()
    assert with_scouts(advice, SPACE, [], []) is advice


def test_the_number_of_scouts_follows_what_an_evaluation_costs() -> None:
    def asked(n_train: int, *changes: str) -> int:
        changed = parse_config(override(CAMPAIGN, ["budget.trials=60", *changes]))
        return n_scouts(changed, n_train, 100)

    structured = "search.controller=structured"
    assert asked(500) == 0  # nsga2 does not learn from them throughout
    assert asked(500, "search.scouts=17") == 17
    assert asked(500, structured, "search.scouts=0") == 0
    assert asked(20, structured, "proxy.rung=recalibrate") == FEWEST
    assert asked(50_000, structured) == MOST
    assert FEWEST < asked(400, structured, "proxy.epochs=0.5") < MOST
    few = [asked(20, structured, "proxy.rung=recalibrate", f"budget.trials={n}") for n in range(1, 61)]
    assert few[0] == 0  # a quarter of the budget is too little for two rounds
    assert set(few) - {0} == set(range(2 * ROUND, FEWEST + 1))
    assert few == sorted(few)
    assert scout_price("segmentation") == 2 * OF_MASKS < scout_price("classification") == 2 * HANDFUL


def test_an_evaluator_of_ones_own_cannot_scout() -> None:
    own = ["task.evaluator=mine:judge", "search.value=metric"]
    with pytest.raises(ConfigError, match=r"search\.scouts compare outputs"):
        parse_config(override(CAMPAIGN, [*own, "search.scouts=16"]))
    with pytest.raises(ConfigError, match="send at least 16, or none"):
        parse_config(override(CAMPAIGN, ["search.scouts=9"]))
    controlled = parse_config(override(CAMPAIGN, [*own, "search.controller=structured"]))
    assert n_scouts(controlled, 500, 100) == 0


# What is made of what they saw


def test_the_covariance_is_one_and_agrees_with_the_variance(scouts: Scouts) -> None:
    terms, genomes = ScoutTerms(scouts), np.concatenate([[SPACE.dense], strangers(60)])
    features, scales = terms.features(genomes), Scales()
    covariance = terms.covariance(features, features, scales)
    assert np.allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-8
    assert np.allclose(np.diag(covariance), terms.variance(features, scales))
    assert terms.mean(features, scales)[0] == pytest.approx(0, abs=1e-3)  # dense loses nothing,
    assert covariance[0, 0] == pytest.approx(0, abs=1e-3)  # and that is known
    some = np.array([3, 1, 7])
    assert np.allclose(terms.covariance(features.rows(some), features, scales), covariance[some], atol=1e-12)
    joined = features.rows(some).joined(features)
    assert np.allclose(terms.variance(joined, scales)[3:], np.diag(covariance))


def test_where_no_scout_went_near_more_is_doubted(scouts: Scouts) -> None:
    terms, scales = ScoutTerms(scouts), Scales()
    near = scouts.evidence.genomes
    sparse = ScoutTerms(Scouts(SPACE, scouts.evidence.rows(np.arange(10))))
    ratio = sparse.variance(sparse.features(near), scales) / terms.variance(terms.features(near), scales)
    assert np.median(ratio[10:]) > 1.05
    assert np.median(ratio[10:]) > np.median(ratio[:10])


def test_scouts_foresee_what_sums_over_groups_cannot(scouts: Scouts) -> None:
    ladder, rest = common_first(SPACE)[1:], strangers(80)
    evidence, truth = evidence_of(ladder), evidence_of([*ladder, *map(tuple, rest.tolist())])
    errors = {}
    for name, terms in (("flat", Terms(SPACE)), ("scouts", ScoutTerms(scouts))):
        mean, _ = DamageModel(terms, evidence, Setting()).predict(terms.features(truth.genomes))
        told = np.log1p(evidence.unit * np.expm1(mean) / truth.unit)
        errors[name] = float(np.sqrt(np.square(told - truth.readings).mean()))
    assert errors["scouts"] < 0.6 * errors["flat"]


def test_the_experts_are_weighed_by_what_they_foresaw(scouts: Scouts) -> None:
    genomes = list(map(tuple, strangers(40).tolist()))
    evidence = evidence_of(genomes)
    good = make_experts(SPACE, (), scouts)
    assert [terms.belief.name for terms in good] == [SCOUTS, FLAT]
    assert Mixture(good, evidence, [Setting()] * 2).weights[0] > 0.8
    readings = scouts.evidence.readings
    liars = Scouts(SPACE, replace(scouts.evidence, readings=readings.max() - readings))
    bad = Mixture(make_experts(SPACE, (), liars), evidence, [Setting()] * 2)
    assert bad.weights[0] < 0.1


def test_first_networks_are_mostly_the_scouts_and_spread_along_the_flops(scouts: Scouts) -> None:
    known = common_first(SPACE)
    shares = [{"descriptors": {"fisher_log_share": float(s)}} for s in np.linspace(-3, 0, 6)]
    beliefs = own_beliefs(shares)
    assert [belief.name for belief in beliefs] == ["scan", FLAT]
    made = first_networks(SPACE, beliefs, known, scouts)
    alone = first_networks(SPACE, (flat(6),), known, scouts)
    assert len(set(made)) == len(set(alone)) == N_PROPOSALS
    assert set(made[:6]) == set(scouted(SPACE, scouts, N_PROPOSALS, known, [0, 1, 3, 4, 5, 7]))
    assert not set(made) & set(known)
    levels = octaves(SPACE, np.array(alone))
    assert (np.diff(levels) < 0).all()  # the dearest first, no two at one place
    step = (levels[0] - levels[-1]) / (N_PROPOSALS - 1)
    assert np.abs(np.diff(levels) + step).max() < 1.01 * step
    at = octaves(SPACE, np.array(uniform := [SPACE.uniform(r) for r in np.linspace(0.05, 0.95, 200)]))
    damage = np.array([amount(genome, brief=False) for genome in uniform])
    better = [
        amount(genome, brief=False) < damage[at <= level + 0.05].min(initial=np.inf)
        for genome, level in zip(alone, levels, strict=True)
    ]
    assert np.mean(better) > 0.6


def test_first_networks_keep_bounds_and_spread_within_them(scouts: Scouts) -> None:
    known = common_first(SPACE)

    def allowed(genomes: np.ndarray) -> np.ndarray:
        return octaves(SPACE, genomes) <= -2

    made = first_networks(SPACE, (flat(6),), known, scouts, allowed)
    levels = octaves(SPACE, np.array(made))
    assert len(made) == N_PROPOSALS
    assert levels.max() <= -2
    assert np.ptp(levels) > 1
    assert not first_networks(SPACE, (flat(6),), known, scouts, lambda genomes: np.zeros(len(genomes), bool))


def search(scouts: Scouts | None, seed: int, n: int = 22) -> np.ndarray:
    """Hypervolume after each trial beyond the ladder."""
    first = common_first(SPACE)
    proposed = first_networks(SPACE, (flat(6),), first, scouts)
    controller = make_controller(
        "structured", SPACE, (FLOPS, DISAGREEMENT), seed, first, proposals=proposed, scouts=scouts
    )
    assert isinstance(controller, StructuredController)
    asked: list[Genome] = []
    for number in range(len(first) + n):
        if number > 3:
            trial = Trial(number - 4, asked[number - 4])
            controller.tell(record(trial, amount(trial.genome, brief=False)))
        asked += controller.ask(1)
    assert len(set(asked)) == len(asked)
    told = np.column_stack(
        [octaves(SPACE, np.array(asked)), [amount(genome, brief=False) for genome in asked]]
    )
    worst = max(amount(genome, brief=False) for genome in first)
    volumes = []
    for k in range(len(first), len(asked) + 1):
        front = told[:k][non_dominated(told[:k])] / [1.0, worst]
        volumes.append(hypervolume(np.maximum(front, [-6.0, 0.0]), [0.0, 1.0]))
    return np.array(volumes)


def test_a_search_with_scouts_is_sooner_at_the_front(scouts: Scouts) -> None:
    with_, without = (np.mean([search(s, seed) for seed in range(3)], axis=0) for s in (scouts, None))
    start, best = without[0], max(with_.max(), without.max())
    assert with_[10] - start > 0.8 * (best - start)
    assert with_[10] > without[10]
    assert with_[-1] > without[-1] - 0.02 * (best - start)


# In a campaign


def scouting_config(*changes: str) -> CampaignConfig:
    own = ["search.controller=structured", "search.scouts=20", "budget.trials=14", "search.lag=2"]
    return parse_config(override(CAMPAIGN, [*own, *changes]))


def test_a_campaign_sends_scouts_keeps_what_they_saw_and_goes_on_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}"
    first = launch(scouting_config(), url, Monitor())
    with Store(url) as store:
        seen, found = store.records(first, stage=STAGE), store.records(first)
        assert [r.trial.number for r in seen] == list(range(20))
        assert all(set(r.outcome.values) == {"disagreement"} for r in seen)
        assert not {r.trial.rung for r in found} & {"scout"}
        assert len(found) == 14
        weights, damage = expert_weights(store, first), group_damage(store, first)
    assert {SCOUTS, FLAT} <= set(weights["expert"])
    assert {SCOUTS, "observed"} <= set(damage.columns)
    assert np.isfinite(damage.select_dtypes("number").to_numpy()).all()
    resume(first, url, Monitor(), ["budget.trials=16"])

    other = f"sqlite:///{tmp_path / 'two.db'}"
    second = launch(scouting_config("budget.trials=16"), other, Monitor())
    with Store(url) as store, Store(other) as undisturbed:
        mine, theirs = store.records(first), undisturbed.records(second)
        assert len(store.records(first, stage=STAGE)) == 20  # none was sent again
    assert all(a.agrees_with(b) for a, b in zip(mine, theirs, strict=True))


class Stopping(Monitor):
    """Ctrl-C after some scouts."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def _bar(self, title: str):
        from contextlib import contextmanager

        @contextmanager
        def bar():
            def update(done: int, total: int, note: str) -> None:
                if title == "scouting" and done == 11:
                    raise KeyboardInterrupt

            yield update

        return bar()


def test_scouting_that_is_stopped_goes_on(tmp_path: Path) -> None:
    url, monitor = f"sqlite:///{tmp_path / 's.db'}", Stopping()
    with pytest.raises(KeyboardInterrupt):
        launch(scouting_config(), url, monitor)
    with Store(url) as store:
        (row,) = store.campaigns()
        assert row.status == "interrupted"
        assert len(store.records(row.id, stage=STAGE)) == 11
    assert f"paretoprune resume {row.id}" in monitor.said[-1]
    resume(row.id, url, Monitor())
    whole = f"sqlite:///{tmp_path / 'w.db'}"
    other = launch(scouting_config(), whole, Monitor())
    with Store(url) as store, Store(whole) as undisturbed:
        pairs = zip(store.records(row.id), undisturbed.records(other), strict=True)
        assert all(a.agrees_with(b) for a, b in pairs)


def test_other_controllers_try_what_scouts_propose(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    bounded = ["search.controller=nsga2", "constraints.max_flops=0.5", "budget.trials=18"]
    config = scouting_config(*bounded)
    campaign = launch(config, url, Monitor())
    problem = prepare(config, artifact_dir(url), Monitor())
    with Store(url) as store:
        about = store.campaign(campaign).description
        seen, found = store.records(campaign, stage=STAGE), store.records(campaign)
    advice = with_scouts(Advice(), problem.space, about["groups"], seen)
    proposed = first_networks(problem.space, advice.beliefs, problem.first, advice.scouts, problem.bounds.met)
    assert proposed
    assert problem.bounds.met(proposed).all()
    asked = list(dict.fromkeys(r.trial.genome for r in found))
    begun = len(problem.first)
    assert asked[begun : begun + len(proposed)] == proposed


def test_scouts_of_a_metric_help_a_search_by_the_metric(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    campaign = launch(scouting_config("search.value=metric"), url, Monitor())
    with Store(url) as store:
        weights = expert_weights(store, campaign)
    assert set(weights["expert"]) >= {SCOUTS, FLAT}


class Losing(SerialPool):
    """Machines that lose some evaluations."""

    lost: Callable[[Trial], bool]

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        trials = {trial.number: trial for trial in self._waiting}
        return [
            Outcome(found.number, "lost", error="the worker died")
            if self.lost(trials[found.number])
            else found
            for found in super().completed(timeout)
        ]


def carried_out(store: Store, pool: SerialPool, genomes: Sequence[Genome]) -> list[Record]:
    (row,) = store.campaigns()
    trials = [Trial(n, genome, "scout") for n, genome in enumerate(genomes)]
    return carry_out(trials, STAGE, SPACE, pool, store, row.id, lambda done, trial: None)


def test_lost_scouts_stop_scouting_only_where_nothing_else_is_known(tmp_path: Path) -> None:
    workload = AnalyticWorkload(SPACE)
    entry = CampaignEntry(
        name="c", fingerprint=workload.fingerprint, config={}, fingerprints={}, description={}
    )
    genomes = [SPACE.dense, *map(tuple, strangers(5).tolist())]
    with Store(f"sqlite:///{tmp_path / 's.db'}") as store, Losing(workload) as pool:
        campaign_id = store.create(entry)
        pool.lost = lambda trial: trial.genome == SPACE.dense
        with pytest.raises(RunError, match="the worker died; the others are stored"):
            carried_out(store, pool, genomes)
        assert [r.trial.number for r in store.records(campaign_id, stage=STAGE)] == [1, 2, 3, 4, 5]
        pool.lost = lambda trial: False  # the machines are well again: only what was lost is sent
        assert all(r.complete for r in carried_out(store, pool, genomes))
        more = [*genomes, *map(tuple, strangers(8).tolist()[5:])]
        pool.lost = lambda trial: trial.number == 7
        assert [r.outcome.status for r in carried_out(store, pool, more)].count("lost") == 1
        assert len(store.records(campaign_id, stage=STAGE)) == len(more)
        pool.lost = lambda trial: True
        last = [Trial(len(more), SPACE.sample(RNG), "scout")]  # alone in its round: no sign of ill machines
        (found,) = carry_out(last, STAGE, SPACE, pool, store, campaign_id, lambda done, trial: None)
        assert found.outcome.status == "lost"
        with pytest.raises(StoreError, match="cannot go on: its record 0"):
            carried_out(store, pool, genomes[::-1])


def test_where_branches_may_fall_scouts_are_legal_genomes() -> None:
    model, image = _levels(), torch.randn(2, 1, 8, 8)
    space = trace(model, image, verify=False, depth=True, round_to=1)
    assert any(space.falls)

    def seen(trial: Trial) -> Record:
        lost = float(1 - np.mean(np.array(trial.genome) / np.array(space.dense)))
        outcome = Outcome(trial.number, "complete", {"disagreement": lost})
        return Record(trial, outcome, space.cost(trial.genome).row(0))

    found = send(space, common_first(space), 40, 0, lambda trials: [seen(trial) for trial in trials])
    genomes = [r.trial.genome for r in found]
    assert len(set(genomes)) == len(genomes) == min(40, space.size)
    assert all(space.check(genome) == genome for genome in genomes)
    scouts = scouts_of(space, found)
    assert all(space.check(genome) == genome for genome in first_networks(space, (), [space.dense], scouts))


def test_a_campaign_without_scouts_says_so_and_sends_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    campaign = launch(scouting_config("search.scouts=0", "budget.trials=6"), url, Monitor())
    with Store(url) as store:
        assert store.campaign(campaign).config["search"]["scouts"] == 0
        assert not store.records(campaign, stage=STAGE)
        assert expert_weights(store, campaign).empty


def test_what_became_of_scouts_in_words() -> None:
    assert verdict({SCOUTS: 0.7, "scan": 0.2, FLAT: 0.1}) == (
        "experts by what they foresaw: scouts 70%, scan 20%, flat 10%"
    )
    assert verdict({SCOUTS: 0.0, FLAT: 1.0}) == (
        "scouts refuted by the measurements and dropped (scouts 0%, flat 100%)"
    )
    assert verdict({"meta": 0.0, FLAT: 1.0}).startswith("negative transfer: meta")
