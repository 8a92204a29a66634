"""Constraints: proposals meet them, repairs change little, and what nothing meets is refused."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.constraints import meets, verdict
from search.bounds import Bounds, bounds_of
from search.cli import main
from search.config import ConstraintsSettings, parse_config
from search.controllers.base import Controller
from search.controllers.bounded import Bounded
from search.controllers.registry import controller_names, make_controller
from search.genes import Genes
from search.launch import launch, resume
from search.monitor import Monitor
from search.prepare import prepare
from search.start import common_first
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.summary import campaign_summary, front_points
from spaces.errors import ConfigError, InputError
from spaces.messages import Genome, Record
from spaces.objectives import ACTIVATION_BYTES, FLOPS, PARAMS
from spaces.space import ChannelSpace
from tests.test_controllers import AUC, LAG, OPTIONS, record
from tests.test_latency import CAMPAIGN

SPACE = ChannelSpace.chain([16, 32, 32, 64, 64], round_to=8)
TINY = ChannelSpace.chain([3, 1, 4])
HALF = ConstraintsSettings(max_flops=0.4, max_params=0.5)

shares = st.floats(0.05, 1.0)
genomes = st.tuples(*(st.sampled_from(group.choices) for group in SPACE.groups))


def allowed(flops: float, params: float = 1.0) -> Bounds:
    """Bounds that some network of the space meets."""
    bounds = bounds_of(ConstraintsSettings(max_flops=flops, max_params=params), SPACE)
    least = SPACE.cost(SPACE.minimal)
    return Bounds(
        SPACE, {name: max(most, float(getattr(least, name)[0])) for name, most in bounds.most.items()}
    )


# Repair


@given(genomes, shares, shares)
def test_what_is_repaired_is_legal_smaller_and_fits(genome: Genome, flops: float, params: float) -> None:
    bounds = allowed(flops, params)
    fitted = bounds.repaired(genome)
    assert SPACE.check(fitted) == fitted
    assert bounds.met([fitted])[0]
    assert all(kept <= before for kept, before in zip(fitted, genome, strict=True))
    assert bounds.repaired(fitted) == fitted
    if bounds.met([genome])[0]:
        assert fitted == genome


@given(genomes, shares, shares)
def test_no_gene_of_a_repaired_genome_could_have_kept_more(
    genome: Genome, flops: float, params: float
) -> None:
    bounds = allowed(flops, params)
    fitted = bounds.repaired(genome)
    for gene, (kept, before) in enumerate(zip(fitted, genome, strict=True)):
        higher = [choice for choice in SPACE.groups[gene].choices if kept < choice <= before]
        if higher:
            assert not bounds.met([(*fitted[:gene], higher[0], *fitted[gene + 1 :])])[0]


def test_a_repaired_genome_keeps_its_proportions() -> None:
    space = ChannelSpace.chain([64, 64, 64], round_to=1)
    fitted = Bounds(space, {"flops": 0.25 * space.cost(space.dense).flops[0]}).repaired((64, 32, 64))
    ratios = np.array(fitted) / (64, 32, 64)
    assert np.ptp(ratios) < 0.1
    assert space.cost(fitted).flops[0] > 0.24 * space.cost(space.dense).flops[0]


def test_branches_may_fall_but_do_not_rise_again() -> None:
    base = ChannelSpace.chain([16, 16, 16], round_to=4)
    groups = tuple(
        group if i != 1 else type(group)(group.name, 16, 16, group.members, (0, 4, 8, 12, 16))
        for i, group in enumerate(base.groups)
    )
    space = ChannelSpace(groups, costs=base.costs, falls=((), (1,), ()))
    bounds = Bounds(space, {"flops": 0.02 * space.cost(space.dense).flops[0]})
    fitted = bounds.repaired(space.dense)
    assert space.check(fitted) == fitted
    assert bounds.met([fitted])[0]


# Every controller


def bounded(name: str, space: ChannelSpace = SPACE, limits: ConstraintsSettings = HALF) -> Bounded:
    bounds = bounds_of(limits, space)
    first = [space.dense, *(genome for genome in common_first(space)[1:] if bounds.met([genome])[0])]
    inner = make_controller(name, space, (FLOPS, PARAMS, AUC), 0, first, OPTIONS.get(name))
    return Bounded(inner, space, bounds, 0)


def drive(controller: Controller, n: int, space: ChannelSpace = SPACE) -> list[Genome]:
    asked: list[Genome] = []
    for number in range(n):
        if number > LAG:
            controller.tell(record(space, number - LAG - 1, asked[number - LAG - 1]))
        new = controller.ask(1)
        if not new:
            break
        asked += new
    return asked


every = pytest.mark.parametrize("name", controller_names())


def turns(name: str) -> int:
    return 7 if name == "optuna:gp" else 30


@every
def test_every_controller_stays_within_the_bounds(name: str) -> None:
    asked = drive(bounded(name), turns(name))
    assert asked[0] == SPACE.dense
    assert bounds_of(HALF, SPACE).met(asked[1:]).all()
    assert len(set(asked)) == len(asked) == turns(name)
    assert all(SPACE.check(genome) == genome for genome in asked)
    assert drive(bounded(name), turns(name)) == asked


@pytest.mark.parametrize("name", ["random", "nsga2", "nsga3", "local", "structured", "optuna:tpe"])
def test_a_small_space_is_exhausted_within_the_bounds(name: str) -> None:
    bounds = bounds_of(HALF, TINY)
    fits = {genome for genome in Genes(TINY).everything() if bounds.met([genome])[0]}
    asked = drive(bounded(name, TINY), 100, TINY)
    assert set(asked) == fits | {TINY.dense}
    assert len(asked) == len(fits) + 1


def test_a_batch_equals_single_asks() -> None:
    one, other = bounded("nsga2"), bounded("nsga2")
    assert other.ask(9) == [genome for _ in range(9) for genome in one.ask(1)]


def test_what_others_try_counts_as_asked_for() -> None:
    for name in controller_names():
        inner = make_controller(name, SPACE, (FLOPS, AUC), 0, [SPACE.dense], OPTIONS.get(name))
        usual = drive(inner, 6)
        again = make_controller(name, SPACE, (FLOPS, AUC), 0, [SPACE.dense], OPTIONS.get(name))
        again.expect(usual[3])
        assert usual[3] not in drive(again, 6)


def test_what_was_refused_is_told_as_failed() -> None:
    class Stubborn:
        def __init__(self) -> None:
            self.told: list[Record] = []
            self.expected: list[Genome] = []

        def ask(self, n: int) -> list[Genome]:
            return [SPACE.dense] if not self.told else [(16, 32, 32, 64, 56)]

        def tell(self, record: Record) -> None:
            self.told.append(record)

        def expect(self, genome: Genome) -> None:
            self.expected.append(genome)

    inner = Stubborn()
    controller = Bounded(inner, SPACE, bounds_of(HALF, SPACE), 0)
    assert controller.ask(1) == [SPACE.dense]
    controller.tell(record(SPACE, 0, SPACE.dense))
    (genome,) = controller.ask(1)
    assert bounds_of(HALF, SPACE).met([genome])[0]
    assert inner.expected == [genome]
    assert [r.outcome.status for r in inner.told] == ["complete", "failed"]
    assert inner.told[1].trial.genome == (16, 32, 32, 64, 56)
    assert "constraints" in str(inner.told[1].outcome.error)


# Campaigns


def config(**tables: Any) -> dict[str, Any]:
    return {**CAMPAIGN, **tables}


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"max_flops": 0.0001}, r"max_flops = 0.0001: no network here comes below 0\.\d+ of dense's"),
        ({"max_params": 0.0001}, "max_params"),
        ({"min_metric": 1.5}, "auc is 1 at most"),
    ],
)
def test_what_nothing_meets_is_refused_before_anything_is_trained(
    tmp_path: Path, limits: dict[str, float], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        prepare(parse_config(config(constraints=limits)), tmp_path, Monitor())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"constraints": {"max_flops": 1.5}}, "max_flops = 1.5"),
        ({"constraints": {"max_flop": 0.5}}, "did you mean 'max_flops'"),
        ({"search": {"objectives": ["params"]}}, "begins with flops"),
        ({"search": {"objectives": ["flops", "flops"]}}, "each cost once"),
        ({"search": {"objectives": ["flops", "memory"]}}, "objectives"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tables: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_config(config(**tables))


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A small campaign with three objectives within bounds: its store and its id."""
    url = f"sqlite:///{tmp_path_factory.mktemp('constraints') / 'store.db'}"
    table = config(
        search={"controller": "nsga3", "objectives": ["flops", "params"]},
        constraints={"max_flops": 0.3, "max_activations": 0.8, "min_metric": 0.6},
        budget={"trials": 16},
    )
    return url, launch(parse_config(table), url, Monitor())


def shown(records: Sequence[Record]) -> list[tuple[Genome, str, int, float]]:
    return [(r.trial.genome, r.trial.rung, r.trial.replicate, r.value("auc")) for r in records]


def test_a_campaign_stays_within_its_bounds_and_says_who_meets_them(campaign: tuple[str, str]) -> None:
    with Store(campaign[0]) as store:
        row, records = store.campaign(campaign[1]), store.records(campaign[1])
        report = campaign_summary(store, campaign[1])
    dense = tuple(row.description["dense"]["genome"])
    assert len(records) == 16
    for r in records:
        if r.trial.genome != dense:
            assert r.costs["flops"] <= 0.3 * row.description["dense"]["flops"]
            assert r.costs["activation_bytes"] <= 0.8 * row.description["dense"]["activation_bytes"]
    points = front_points(report)
    assert points["constraints"] == {"max_flops": 0.3, "max_activations": 0.8, "min_metric": 0.6}
    for point in points["points"]:
        assert point["meets"] == (point["kind"] != "dense" and point["metric"] >= 0.6)


def test_a_resumed_campaign_finds_what_an_undisturbed_one_finds(
    campaign: tuple[str, str], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    shutil.copytree(artifact_dir(campaign[0]), artifact_dir(url))  # the trained dense network
    with Store(campaign[0]) as store:
        table = dict(store.campaign(campaign[1]).config)
        whole = store.records(campaign[1])
    other = launch(parse_config({**table, "budget": {"trials": 9}}), url, Monitor())
    resume(other, url, Monitor(), ["budget.trials=16"])
    with Store(url) as store:
        assert shown(store.records(other)) == shown(whole)
    with pytest.raises(ConfigError, match=r"constraints\.max_flops: 0\.3 -> 0\.4"):
        resume(other, url, Monitor(), ["constraints.max_flops=0.4"])


def test_constraints_are_no_part_of_an_evaluations_identity(campaign: tuple[str, str]) -> None:
    artifacts = artifact_dir(campaign[0])
    plain = prepare(parse_config(config()), artifacts, Monitor())
    limited = prepare(parse_config(config(constraints={"max_flops": 0.2})), artifacts, Monitor())
    assert plain.spec.fingerprint == limited.spec.fingerprint
    assert limited.first[0] == plain.first[0]
    assert set(limited.first) < set(plain.first)


def test_the_front_says_what_is_achieved(
    campaign: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["paretoprune", "front", campaign[1], "--store", campaign[0]])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("constraints")]
    assert "max_flops = 0.3" in line
    assert "AUC 0." in line
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--format", "json"])
    with pytest.raises(SystemExit):
        main()
    assert "meets" in json.loads(capsys.readouterr().out)["points"][0]


# Words

FRAME = pd.DataFrame(
    {
        "number": [0, 3, 5],
        "kind": ["dense", "search", "search"],
        "flops_ratio": [1.0, 0.4, 0.2],
        "params_ratio": [1.0, 0.5, 0.1],
        "metric": [0.95, 0.93, 0.90],
    }
)


def test_metric_bounds_are_from_below_and_cost_bounds_from_above() -> None:
    assert meets(FRAME, {}).tolist() == [True, True, True]
    assert meets(FRAME, {"max_flops": 0.4, "min_metric": 0.91}).tolist() == [False, True, False]


def test_the_verdict_names_the_best_or_the_nearest() -> None:
    assert (
        "1 of 2 pruned networks meet them; the best is point 3 (40.0 % of the FLOPs, AUC 0.930)"
        in verdict(FRAME, {"max_flops": 0.5, "min_metric": 0.92}, "AUC")
    )
    assert "the nearest is point 5 (20.0 % of the FLOPs, AUC 0.900)" in verdict(
        FRAME, {"max_flops": 0.3, "min_metric": 0.92}, "AUC"
    )
    assert "no pruned network" in verdict(FRAME[:1], {"max_flops": 0.3}, "AUC")


def test_activation_bytes_may_be_traded_too() -> None:
    controller = make_controller("nsga3", SPACE, (FLOPS, ACTIVATION_BYTES, AUC), 0, common_first(SPACE))
    assert len(set(drive(controller, 20))) == 20
