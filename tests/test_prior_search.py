"""Searching with a prior: sooner at the front where tasks share structure, little lost where it is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.controllers.base import Yardstick
from search.controllers.registry import controller_names, make_controller
from search.controllers.structured.belief import FLAT, Belief, flat
from search.controllers.structured.controller import StructuredController
from search.controllers.structured.mixture import FLOOR, guarded
from search.genes import octaves
from search.prior.advice import Advice, advise, in_words, stored_advice, verdict
from search.prior.features import group_features
from search.prior.history import expert_weights, group_damage
from search.prior.model import META, LayerPrior
from search.prior.proposals import first_networks, portfolio, proposals
from search.start import common_first
from search.store.archive import Store
from spaces.fronts import front_hypervolume
from spaces.messages import Genome
from spaces.objectives import FLOPS, Objective
from tests.analytic_family import CHANCE, DENSE, FamilyTask, family_prior

AUC = Objective("auc", maximize=True)
LAG = 3
NEW = (100, 101, 102)
TRIALS = 45


@pytest.fixture(scope="module")
def prior() -> LayerPrior:
    return family_prior()


def beliefs_of(prior: LayerPrior, task: FamilyTask) -> tuple[Belief, ...]:
    return prior.expect(task.groups).experts


def searched(
    task: FamilyTask, beliefs: Sequence[Belief] = (), first: Sequence[Genome] = (), n: int = TRIALS, **options
) -> tuple[np.ndarray, StructuredController]:
    """True hypervolume after each trial, and the controller."""
    controller = make_controller(
        options.get("name", "structured"),
        task.space,
        (FLOPS, AUC),
        0,
        common_first(task.space),
        proposals=first,
        yardstick=Yardstick(CHANCE),
        beliefs=beliefs,
    )
    genomes: list[Genome] = []
    for number in range(n):
        if number > LAG:
            due = number - LAG - 1
            controller.tell(task.record(due, genomes[due]))
        genomes += controller.ask(1)
    flops = np.exp2(octaves(task.space, np.array(genomes)))
    truth = task.metric(np.array(genomes))
    return np.array(
        [front_hypervolume(flops[: k + 1], truth[: k + 1], DENSE, CHANCE) for k in range(n)]
    ), controller


def trials_to(curve: np.ndarray, start: float, best: float, share: float) -> int:
    """Trials until that share of what there is to win above the first networks; one too many if never."""
    reached = np.flatnonzero(curve >= start + share * (best - start))
    return int(reached[0]) if len(reached) else len(curve)


def test_tasks_that_share_structure_are_searched_in_fewer_trials(prior: LayerPrior) -> None:
    with_prior, without = [], []
    for seed in NEW:
        task = FamilyTask(seed)
        beliefs = beliefs_of(prior, task)
        first = proposals(task.space, beliefs[0], known=common_first(task.space))
        fast, _ = searched(task, beliefs, first)
        slow, _ = searched(task)
        best, start = max(fast.max(), slow.max()), slow[5]
        for share in (0.8, 0.9):
            with_prior.append(trials_to(fast, start, best, share) - 5)
            without.append(trials_to(slow, start, best, share) - 5)
    assert np.mean(with_prior) < 0.8 * np.mean(without)


@pytest.mark.parametrize("spoil", ["shuffled", "inverted"])
def test_a_wrong_prior_costs_little(prior: LayerPrior, spoil: str) -> None:
    final, sound, weights = [], [], []
    for seed in NEW:
        task = FamilyTask(seed)
        meta = beliefs_of(prior, task)[0]
        order = np.random.default_rng(seed).permutation(len(meta.slopes))
        wrong = meta.slopes[order] if spoil == "shuffled" else 1 / meta.slopes
        bad = replace(meta, slopes=wrong / wrong.mean())
        first = proposals(task.space, bad, known=common_first(task.space))
        curve, controller = searched(task, (bad, flat(len(wrong))), first)
        final.append(curve[-1])
        sound.append(searched(task)[0][-1])
        weights.append(controller.weights[META])
    assert np.mean(final) > 0.97 * np.mean(sound)
    assert np.mean(weights) < 0.5


def test_a_right_prior_is_trusted_and_a_flat_one_keeps_its_floor(prior: LayerPrior) -> None:
    shares = []
    for seed in NEW:
        task = FamilyTask(seed)
        _, controller = searched(task, beliefs_of(prior, task), n=40)
        shares.append(controller.weights)
    assert np.mean([share[META] for share in shares]) > 0.5
    assert all(share[FLAT] >= FLOOR - 1e-9 for share in shares)
    assert all(sum(share.values()) == pytest.approx(1) for share in shares)


def test_the_refuted_are_dropped_only_when_enough_was_measured() -> None:
    beliefs = [Belief(META, np.ones((2, 4)), np.ones(2)), flat(2)]
    weights = np.array([0.001, 0.999])
    assert guarded(beliefs, weights, 20).tolist() == [0.0, 1.0]
    assert guarded(beliefs, weights, 5)[0] > 0
    assert guarded(beliefs, np.array([1.0, 0.0]), 20) == pytest.approx([1 - FLOOR, FLOOR])
    assert guarded([flat(2)], np.array([1.0]), 20).tolist() == [1.0]
    assert "negative transfer: meta" in str(verdict({META: 0.0, FLAT: 1.0}))
    assert verdict({FLAT: 1.0}) is None


def test_without_a_prior_nothing_changes() -> None:
    task = FamilyTask(NEW[0])
    alone, _ = searched(task, (), n=25)
    with_flat, _ = searched(task, (flat(len(task.space.groups)),), n=25)
    np.testing.assert_array_equal(alone, with_flat)


@pytest.mark.parametrize("name", controller_names())
def test_every_controller_takes_proposals(prior: LayerPrior, name: str) -> None:
    task = FamilyTask(NEW[1])
    first = common_first(task.space)
    proposed = proposals(task.space, beliefs_of(prior, task)[0], known=first)
    options = {"startup": 4} if name == "optuna:gp" else {}
    controller = make_controller(name, task.space, (FLOPS, AUC), 0, first, options, proposals=proposed)
    asked = controller.ask(len(first) + len(proposed))
    assert asked == [*first, *proposed]


def test_proposals_are_new_legal_and_spread(prior: LayerPrior) -> None:
    for seed in NEW:
        task = FamilyTask(seed)
        known = common_first(task.space)
        source = prior.lessons
        for made in (
            proposals(task.space, beliefs_of(prior, task)[0], known=known),
            portfolio(task.space, group_features(task.groups), source, known=known),
        ):
            assert len(made) == len(set(made)) == 8
            assert not set(made) & set(known)
            assert [task.space.check(genome) for genome in made] == made
            levels = octaves(task.space, np.array(made))
            assert levels.max() > -2 > -3 > levels.min()


def test_experts_of_one_mind_propose_what_one_of_them_would(prior: LayerPrior) -> None:
    task = FamilyTask(NEW[0])
    known = common_first(task.space)
    meta = beliefs_of(prior, task)[0]
    made = first_networks(task.space, (meta, replace(meta, name="scan"), flat(len(known))), known)
    assert set(made) == set(proposals(task.space, meta, known=known))


def test_proposals_beat_the_ladder_before_anything_was_measured(prior: LayerPrior) -> None:
    gains = []
    for seed in NEW:
        task = FamilyTask(seed)
        known = common_first(task.space)
        volumes = []
        for made in (proposals(task.space, beliefs_of(prior, task)[0], known=known), known):
            flops = np.exp2(octaves(task.space, np.array(made)))
            volumes.append(front_hypervolume(flops, task.metric(made), DENSE, CHANCE))
        gains.append(volumes[0] - volumes[1])
    assert np.mean(gains) > 0


def test_advice_survives_the_store(prior: LayerPrior, tmp_path: Path) -> None:
    task, url = FamilyTask(NEW[2]), f"sqlite:///{tmp_path / 'a.db'}"
    campaign_id = task.store(url, "new data", n=30)
    with Store(url) as store:
        about = dict(store.campaign(campaign_id).description)
        assert expert_weights(store, campaign_id).empty
        assert group_damage(store, campaign_id).empty
        advice = advise(prior, task.space, about, common_first(task.space), "its data")
        about["prior"] = advice.as_json()
        store.update_description(campaign_id, about)
        again = stored_advice(store.campaign(campaign_id).description)
        weights, damage = expert_weights(store, campaign_id), group_damage(store, campaign_id)
    assert again.as_json() == stored_advice({"prior": again.as_json()}).as_json() == advice.as_json()
    assert stored_advice({}).beliefs == Advice().beliefs == ()
    assert "prior of 6 campaigns" in in_words(again)
    strange = {**dict(again.about or {}), "outside": [2, 0, 1], "left_out": ["c9"]}
    assert "2 of 3 groups lie outside of its experience" in in_words(replace(again, about=strange))
    assert "1 more have seen these images" in in_words(replace(again, about=strange))
    assert set(weights["expert"]) == {META, FLAT}
    assert weights.groupby("networks")["weight"].sum().to_numpy() == pytest.approx(1)
    assert list(damage["group"]) == [group.name for group in task.space.groups]
    assert np.corrcoef(damage[META], damage["observed"])[0, 1] > 0.5
    assert (damage["sd"] > 0).all()


def test_the_same_tells_give_the_same_asks(prior: LayerPrior) -> None:
    task = FamilyTask(NEW[0])
    run: Callable[[], np.ndarray] = lambda: searched(task, beliefs_of(prior, task), n=25)[0]  # noqa: E731
    np.testing.assert_array_equal(run(), run())
