"""Calibration: which rung ranks as full does, on records with a known answer and end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluators.rungs.prices import prices
from search.calibration import (
    FULL,
    RUNGS,
    RungCalibration,
    calibration_trials,
    compare_rungs,
    recommended,
)
from search.cli import app
from search.config import parse_config
from search.launch import calibrate, launch
from search.monitor import Monitor
from search.store.archive import Store
from search.summary import campaign_summary
from spaces.agreement import Agreement
from spaces.errors import ConfigError, RunError
from spaces.messages import Outcome, Record, Trial
from spaces.objectives import Objective
from spaces.space import ChannelSpace

SPACE = ChannelSpace.chain([16, 24, 32, 32])
AUC = Objective("auc", maximize=True)
SECONDS = {"recalibrate": 0.1, "shared": 0.2, "finetune": 2.0, FULL: 20.0}


def records(noise: dict[str, float], n: int = 24, seed: int = 0) -> list[Record]:
    """Every rung says the truth and noise of its own; the loss is as noisy as the metric, or half of it."""
    rng = np.random.default_rng(seed)
    found = []
    for trial in calibration_trials(SPACE, n, seed):
        kept = np.array(trial.genome) / np.array(SPACE.dense)
        truth = float(0.9 - 0.1 * (1 - kept) @ [2, 0.2, 1, 0.2])
        blur = noise[trial.rung]
        values = {"auc": truth + blur * rng.standard_normal(), "loss": -truth + blur * rng.standard_normal()}
        outcome = Outcome(trial.number, "complete", values, timings={"wall_s": SECONDS[trial.rung]})
        found.append(Record(trial, outcome, SPACE.cost(trial.genome).row(0)))
    return found


def test_networks_are_spread_along_the_flops_and_full_is_repeated() -> None:
    trials = calibration_trials(SPACE, 16, seed=0)
    genomes = list(dict.fromkeys(trial.genome for trial in trials))
    assert genomes[0] == SPACE.dense
    assert len(genomes) == 16
    levels = np.sort(np.log2(SPACE.cost(genomes).flops / SPACE.cost(SPACE.dense).flops[0]))
    assert np.diff(levels).max() < 1.5
    looks = {(trial.rung, trial.replicate) for trial in trials}
    assert looks == {*((rung, 0) for rung in RUNGS), (FULL, 0), (FULL, 1)}
    assert [trial.number for trial in trials] == list(range(5 * 16))
    assert trials == calibration_trials(SPACE, 16, seed=0)


def test_the_cheapest_good_rung_is_recommended() -> None:
    found = compare_rungs(
        records({"recalibrate": 1.0, "shared": 0.01, "finetune": 0.005, FULL: 0.005}), SPACE, AUC, 0.5
    )
    assert found.rung == "shared"
    by_rung = {(c.rung, c.value): c for c in found.rungs}
    assert by_rung["shared", "metric"].overall.low > 0.5 > by_rung["recalibrate", "metric"].overall.tau
    assert by_rung["shared", "metric"].regret < by_rung["recalibrate", "metric"].regret + 0.05
    assert found.ceiling.tau > 0.8
    assert found.ceiling_within.pairs < found.ceiling.pairs
    assert by_rung["finetune", "loss"].seconds == 2.0
    assert not found.at_chance


def test_the_loss_is_recommended_where_it_ranks_better() -> None:
    noisy = records({"recalibrate": 1.0, "shared": 0.004, "finetune": 0.05, FULL: 0.004})
    rng = np.random.default_rng(1)
    for record in noisy:
        if record.trial.rung == "shared":
            record.outcome.values["auc"] += 0.05 * rng.standard_normal()  # type: ignore[index]
    assert compare_rungs(noisy, SPACE, AUC, 0.5).value == "loss"


@pytest.mark.parametrize(
    ("taus", "value"),
    [
        ({"metric": 0.60, "loss": 0.62, "agreement": 0.58}, "agreement"),
        ({"metric": 0.60, "loss": 0.70, "agreement": 0.58}, "loss"),
        ({"metric": 0.70, "loss": 0.60, "agreement": 0.50}, "metric"),
        ({"metric": 0.60, "loss": 0.62}, "metric"),
    ],
)
def test_labels_that_judge_as_well_have_to_do_clearly_better(taus: dict[str, float], value: str) -> None:
    found = [
        RungCalibration("shared", name, sure, sure, seconds=0.1, regret=0.0)
        for name, tau in taus.items()
        for sure in [Agreement(tau, tau - 0.2, tau + 0.2, 100)]
    ]
    assert recommended(found) == ("shared", value)


def test_a_value_that_orders_nothing_has_no_say() -> None:
    nothing, sure = Agreement(np.nan, np.nan, np.nan, 0), Agreement(0.6, 0.4, 0.8, 100)
    found = [
        RungCalibration("shared", value, tau, tau, seconds=0.1, regret=0.0)
        for value, tau in (("loss", nothing), ("metric", sure))
    ]
    assert recommended(found) == ("shared", "metric")
    assert recommended(found[:1]) == (FULL, "metric")


def test_chance_is_said_only_when_the_upper_bound_says_so() -> None:
    noise = dict.fromkeys((*RUNGS, FULL), 10.0)
    few = compare_rungs(records(noise, n=8, seed=3), SPACE, AUC, 0.5)
    assert not few.at_chance, "eight networks show nothing, neither agreement nor chance"
    reversed_ = records(dict.fromkeys((*RUNGS, FULL), 0.001))
    for record in reversed_:
        if record.trial.rung != FULL:
            values = record.outcome.values
            values.update({name: -value for name, value in values.items()})  # type: ignore[attr-defined]
    found = compare_rungs(reversed_, SPACE, AUC, 0.5)
    assert found.at_chance
    assert (found.rung, found.value) == (FULL, "metric")


def test_networks_that_failed_somewhere_are_left_out_and_too_few_are_refused() -> None:
    some = records(dict.fromkeys((*RUNGS, FULL), 0.01), n=8)
    lost = some[9]
    some[9] = Record(lost.trial, Outcome(9, "failed", error="RunError: diverged"), lost.costs)
    assert compare_rungs(some, SPACE, AUC, 0.5).networks == 7
    all_lost = [Record(r.trial, Outcome(r.trial.number, "failed", error="lost"), r.costs) for r in some]
    with pytest.raises(RunError, match="at least 4 are needed: lost"):
        compare_rungs(all_lost, SPACE, AUC, 0.5)


CAMPAIGN = {
    "name": "tiny",
    "network": {"factory": "tests.tiny:cnn", "arguments": {"width": 8}},
    "data": {"source": "phantom:classification", "train_limit": 256, "val_limit": 64},
    "recipe": {"epochs": 12, "learning_rate": 0.1, "threads": 1},
    "proxy": {"epochs": 0.5, "full_epochs": 1, "shared_epochs": 1, "device": "cpu"},
    "calibrate": {"networks": 5},
    "budget": {"trials": 6},
}


def test_calibration_is_stored_beside_the_search(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    campaign_id, found = calibrate(parse_config(CAMPAIGN), url, Monitor())
    assert found.networks == 5
    assert {c.rung for c in found.rungs} == set(RUNGS)
    with Store(url) as store:
        row = store.campaign(campaign_id)
        assert (row.status, row.n_trials) == ("complete", 0)
        assert len(store.records(campaign_id, stage="calibrate")) == 5 * 5
        assert row.description["calibration"] == json.loads(json.dumps(found.as_json()))


def test_a_campaign_calibrates_at_its_start_when_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    table = {**CAMPAIGN, "calibrate": {"networks": 4, "rungs": ["recalibrate"], "at_start": True}}
    campaign_id = launch(parse_config(table), url, Monitor())
    with Store(url) as store:
        assert len(store.records(campaign_id)) == 6
        assert len(store.records(campaign_id, stage="calibrate")) == 4 * 3


def test_the_command_is_there() -> None:
    from search.commands import calibrate as command

    assert command.calibrate in [entry.callback for entry in app.registered_commands]


def test_trials_are_messages() -> None:
    assert all(isinstance(trial, Trial) for trial in calibration_trials(SPACE, 4, 0))


def test_a_campaign_halves_within_a_budget_that_counts_joint_training(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    halving = {
        **CAMPAIGN,
        "search": {"controller": "random", "rungs": ["recalibrate", "finetune"]},
        "budget": {"trials": 45, "unit": "finetune"},
    }
    campaign_id = launch(parse_config(halving), url, Monitor())
    with Store(url) as store:
        found = store.records(campaign_id)
        assert store.campaign(campaign_id).status == "complete"
        assert campaign_summary(store, campaign_id).trials["replicates"].max() == 3
    price = prices(parse_config(halving).proxy, 256, 64)
    assert sum(price[r.trial.rung] for r in found) <= 45 * price["finetune"]
    assert {r.trial.rung for r in found} == {"recalibrate", "finetune"}


def test_a_campaign_halves_with_folds_and_judges_on_every_case(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    tables = {
        "data": {**CAMPAIGN["data"], "folds": 2},
        "search": {"controller": "random", "rungs": ["recalibrate", "finetune"]},
        "budget": {"trials": 34},
    }
    campaign_id = launch(parse_config({**CAMPAIGN, **tables}), url, Monitor())
    with Store(url) as store:
        found, about = store.records(campaign_id), store.campaign(campaign_id).description
        table = campaign_summary(store, campaign_id).trials
    sizes = about["data"]["sizes"]
    by_fold = {r.trial.fold: len(r.outcome.per_case["metric"]) for r in found if r.trial.rung == "finetune"}
    assert sum(by_fold.values()) == sizes["train"] + sizes["val"]
    assert {r.trial.fold for r in found if r.trial.rung == "recalibrate"} == {0}
    assert len(table) >= 5
    assert np.isfinite(table["difference"]).all()


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"search": {"rungs": ["finetune", "shared"]}}, "cheapest first"),
        ({"search": {"rungs": ["full"]}}, "two or more rungs"),
        ({"budget": {"unit": "full"}}, "needs search.rungs"),
        ({"search": {"rungs": ["shared", "full"], "repeats": 0.2}}, "search.repeats = 0"),
    ],
)
def test_rungs_that_make_no_sense_are_refused(tables: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_config({**CAMPAIGN, **tables})
