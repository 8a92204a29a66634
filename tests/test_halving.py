"""Successive halving: the best at each price go on, dense and ladder through all rungs, within the budget."""

import numpy as np
import pytest

from evaluators.disagreement import LOOKS
from evaluators.rungs.prices import joint_price, prices
from evaluators.rungs.table import RUNGS
from evaluators.settings import ProxySettings
from search.controllers.registry import make_controller
from search.halving import Halving
from search.start import common_first
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import FLOPS, Objective
from spaces.space import ChannelSpace

SPACE = ChannelSpace.chain([16, 24, 32, 32])
AUC = Objective("auc", maximize=True)
LADDER = common_first(SPACE)[1:]


def truth(genome: Genome) -> float:
    return float(0.9 - 0.1 * (1 - np.array(genome) / np.array(SPACE.dense)) @ [2, 0.2, 1, 0.2])


def play(schedule: Halving, most: int = 10_000) -> list[Trial]:
    asked: list[Trial] = []
    while len(asked) < most and (trial := schedule.ask(len(asked))) is not None:
        asked.append(trial)
        outcome = Outcome(
            trial.number, "complete", {"auc": truth(trial.genome), "loss": -truth(trial.genome)}
        )
        schedule.tell(Record(trial, outcome, SPACE.cost(trial.genome).row(0)))
    return asked


def halving(value: Objective = AUC, **options: object) -> Halving:
    controller = make_controller("random", SPACE, (FLOPS, value), 0, common_first(SPACE))
    return Halving(controller, SPACE, value, ("shared", "finetune", "full"), ladder=LADDER, **options)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("value", [AUC, Objective("loss")])
def test_about_one_in_eta_goes_on_and_it_is_the_best_of_its_price(value: Objective) -> None:
    asked = [t for t in play(halving(value), 160) if t.genome not in (SPACE.dense, *LADDER)]
    by_rung = {r: [t.genome for t in asked if t.rung == r] for r in ("shared", "finetune", "full")}
    counts = [len(by_rung[rung]) for rung in ("shared", "finetune", "full")]
    assert counts[0] / 5 < counts[1] <= counts[0] / 2.5
    assert 0 < counts[2] <= counts[1] / 2
    assert set(by_rung["finetune"]) <= set(by_rung["shared"])
    levels = np.floor(np.log2(SPACE.cost(by_rung["shared"]).flops / SPACE.cost(SPACE.dense).flops[0]))
    metric = np.array([truth(genome) for genome in by_rung["shared"]])
    gone_on = np.array([genome in by_rung["finetune"] for genome in by_rung["shared"]])
    bins = [level for level in np.unique(levels) if gone_on[levels == level].any()]
    assert len(bins) > 2, "networks of every price go on"
    for level in bins:
        here = levels == level
        assert metric[here & gone_on].mean() > metric[here & ~gone_on].mean()


def test_dense_with_replicates_and_the_ladder_go_through_every_rung() -> None:
    asked = play(halving(), 80)
    dense = [(t.rung, t.replicate) for t in asked if t.genome == SPACE.dense]
    assert dense == [(rung, r) for rung in ("shared", "finetune", "full") for r in range(3)]
    for genome in LADDER:
        assert [t.rung for t in asked if t.genome == genome] == ["shared", "finetune", "full"]
    assert len({(t.genome, t.rung, t.replicate) for t in asked}) == len(asked)


def test_the_last_rung_sees_every_fold_and_the_others_the_first() -> None:
    asked = play(halving(folds=3), 200)
    cheap = [t for t in asked if t.rung != "full"]
    assert {t.fold for t in cheap} == {0}
    full: dict[Genome, list[tuple[int, int]]] = {}
    for t in asked:
        if t.rung == "full":
            full.setdefault(t.genome, []).append((t.replicate, t.fold))
    assert full.pop(SPACE.dense) == [(r, fold) for r in range(3) for fold in range(3)]
    assert len(full) > len(LADDER)
    assert all(looks == [(0, 0), (0, 1), (0, 2)] for looks in list(full.values())[:-1])


def test_the_budget_counts_every_rung_at_its_price_and_what_was_spent_before() -> None:
    cost = {"shared": 1.0, "finetune": 10.0, "full": 60.0}
    schedule = halving(prices=cost, budget=1000, spent=200)
    asked = play(schedule)
    assert 200 + sum(cost[t.rung] for t in asked) == schedule.spent <= 1000
    assert schedule.spent > 1000 - 60 - 1


def test_failures_do_not_go_on() -> None:
    schedule = halving()
    for number in range(60):
        trial = schedule.ask(number)
        assert trial is not None
        assert trial.rung == "shared" or trial.genome in (SPACE.dense, *LADDER)
        schedule.tell(Record(trial, Outcome(number, "failed", error="lost"), {}))


def test_prices_rise_with_the_rungs() -> None:
    settings = ProxySettings(epochs=2, full_epochs=10, train_limit=200)
    found = prices(settings, n_train=500, n_val=80)
    assert found.keys() == {name for name, rung in RUNGS.items() if not rung.brief}
    looks = 500  # of training images, for the agreement
    assert found["recalibrate"] == found["shared"] == 280 + looks
    assert found["finetune"] == 3 * 2 * 200 + 80 + looks
    assert found["full"] == 3 * 10 * 500 + 80 + looks
    assert prices(settings, n_train=9000, n_val=80)["shared"] == 280 + LOOKS
    assert joint_price(settings, 500) > found["full"]
