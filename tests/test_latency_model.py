"""The latency model: what it is made of, what it predicts, and campaigns that search with it."""

import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evaluators.latency.fitting import fit_latency, fitted, layers_of
from evaluators.settings import LatencySettings
from search.cli import main
from search.config import load_config, parse_config
from search.controllers.base import Controller
from search.controllers.registry import controller_names, make_controller
from search.latency_table import read_table, spread_genomes, write_table
from search.launch import launch, resume
from search.monitor import Monitor
from search.prepare import prepare
from search.start import common_first
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.summary import campaign_summary, front_points
from spaces.errors import ConfigError, InputError
from spaces.latency import LatencyModel, features
from spaces.objectives import FLOPS, LATENCY
from spaces.space import ChannelSpace
from spaces.tracing import trace
from tests import tiny
from tests.test_constraints import drive
from tests.test_controllers import AUC, OPTIONS
from tests.test_latency import CAMPAIGN

CPU = torch.device("cpu")
IMAGE = torch.zeros(1, 1, 32, 32)
SETTING = {
    "runtime": "eager",
    "batch": 1,
    "device": "cpu",
    "threads": 1,
    "machine": "m",
    "shape": [1, 32, 32],
}


class Mixed(nn.Module):
    """Transposed, depthwise, grouped and linear layers, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 12, 1)
        self.twice = nn.Conv2d(12, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.pointwise(self.depthwise(torch.relu(self.first(x)))))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))


def sampled(space: ChannelSpace, n: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([space.dense, *(space.sample(rng) for _ in range(n))], dtype=float)


def model_of(network: nn.Module, space: ChannelSpace, image: Tensor = IMAGE) -> LatencyModel:
    """A model with prices that nobody measured."""
    layers = layers_of(network, space, image)
    width = features(layers, 1, np.ones((1, len(space.fine.groups)))).shape[1]
    prices = np.zeros(width)
    prices[:4] = 0.01, 0.002, 1e-7, 1e-7
    errors = {"median": 0.1, "p90": 0.2, "flops_median": 0.3, "networks": 20.0}
    return LatencyModel(layers, 8, prices, SETTING, errors, space.fingerprint)


# What it is made of


@pytest.mark.parametrize("network", [tiny.cnn(16), Mixed()], ids=["cnn", "mixed"])
def test_the_work_of_the_layers_is_the_flops_of_the_network(network: nn.Module) -> None:
    space = trace(network, IMAGE)
    counts = sampled(space)
    works = features(layers_of(network, space, IMAGE), 1, counts)[:, 2]
    np.testing.assert_allclose(2 * works, space.cost(counts).flops, rtol=1e-12)


def test_rounded_widths_work_as_much_as_the_next_multiple() -> None:
    network = tiny.cnn(16)
    space = trace(network, IMAGE, round_to=1)
    layers = layers_of(network, space, IMAGE)
    some, full = (features(layers, 8, np.array([[n, 32, 32]], dtype=float)) for n in (9, 16))
    assert some[0, 2] == full[0, 2]
    assert some[0, 3] < full[0, 3]


@given(st.data())
def test_no_network_gets_slower_by_losing_channels(data: st.DataObject) -> None:
    genome = [data.draw(st.sampled_from(group.choices)) for group in SPACE.groups]
    less = [
        data.draw(st.sampled_from([choice for choice in group.choices if choice <= kept]))
        for group, kept in zip(SPACE.groups, genome, strict=True)
    ]
    costs = TIMED.cost([genome, less])
    assert costs.latency_ms[1] <= costs.latency_ms[0]


NETWORK = tiny.cnn(16)
SPACE = trace(NETWORK, IMAGE)
TIMED = SPACE.timed(model_of(NETWORK, SPACE))


def test_a_timed_space_prices_milliseconds_and_keeps_its_identity() -> None:
    assert TIMED.fingerprint == SPACE.fingerprint
    assert set(TIMED.cost(TIMED.dense).row(0)) - set(SPACE.cost(SPACE.dense).row(0)) == {"latency_ms"}
    assert np.isnan(SPACE.cost(SPACE.dense).latency_ms).all()


def test_tied_genes_are_priced_as_what_they_stand_for() -> None:
    tied = trace(NETWORK, IMAGE, granularity="block")
    timed = tied.timed(model_of(NETWORK, tied))
    assert timed.cost(timed.dense).latency_ms == TIMED.cost(TIMED.dense).latency_ms


# Fitting


def test_a_fit_finds_a_target_that_is_as_it_assumes() -> None:
    network = tiny.cnn(64)
    space = trace(network, IMAGE, verify=False)
    truth = model_of(network, space)
    genomes = spread_genomes(space, 40)
    noise = np.random.default_rng(1).lognormal(0, 0.02, len(genomes))
    found = fitted(truth.layers, space, genomes, truth(np.array(genomes, dtype=float)) * noise, SETTING)
    assert found.errors["median"] < 0.04
    assert (found.prices >= 0).all()
    fresh = sampled(space, 30)
    assert np.median(np.abs(found(fresh) / truth(fresh) - 1)) < 0.04


def test_networks_are_measured_and_fitted_here() -> None:
    genomes = spread_genomes(SPACE, 15)
    model = fit_latency(NETWORK, SPACE, IMAGE, genomes, LatencySettings(networks=15, rounds=1), CPU)
    assert model.errors["networks"] == len(genomes)
    assert np.isfinite(model.errors["median"])
    assert model(np.array([SPACE.dense], dtype=float))[0] > 0
    assert model.setting["shape"] == [1, 32, 32]


def test_a_space_of_hardly_any_networks_is_refused() -> None:
    with pytest.raises(ConfigError, match="too few to fit"):
        spread_genomes(ChannelSpace.chain([2, 2]), 40)


# Files


def test_a_table_reads_back(tmp_path: Path) -> None:
    model = model_of(NETWORK, SPACE)
    write_table(model, tmp_path / "new" / "table.json")
    back = read_table(tmp_path / "new" / "table.json", SPACE)
    assert back.as_json() == model.as_json()
    counts = sampled(SPACE)
    np.testing.assert_array_equal(back(counts), model(counts))


def broken(change: dict[str, Any]) -> dict[str, Any]:
    return {**model_of(NETWORK, SPACE).as_json(), **change}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 9}, "version 1"),
        ({"space": "other"}, "of another network"),
        ({"prices": [1.0]}, "damaged"),
        ({"prices": [float("nan")]}, "damaged"),
        ({"layers": [{}]}, "damaged"),
        ({"layers": []}, "damaged"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(broken(change)))
    with pytest.raises(InputError, match=complaint):
        read_table(path, SPACE)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the latency table"):
        read_table(tmp_path / "no.json", SPACE)


# Searching with it


@pytest.mark.parametrize("name", controller_names())
def test_every_controller_takes_latency_as_an_objective(name: str) -> None:
    def made() -> Controller:
        return make_controller(name, TIMED, (FLOPS, LATENCY, AUC), 0, common_first(TIMED), OPTIONS.get(name))

    n = 7 if name == "optuna:gp" else 14
    asked = drive(made(), n, TIMED)
    assert len(set(asked)) == len(asked) > 5
    assert drive(made(), n, TIMED) == asked


TABLE = """
name = "tiny"
[network]
factory = "tests.tiny:cnn"
arguments = { width = 8 }
[data]
source = "phantom:classification"
train_limit = 256
val_limit = 64
[recipe]
epochs = 12
learning_rate = 0.1
threads = 1
[proxy]
rung = "recalibrate"
device = "cpu"
[latency]
networks = 15
rounds = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign file, a table fitted to its network, and a campaign that searched with it."""
    folder = tmp_path_factory.mktemp("latency")
    (folder / "tiny.toml").write_text(TABLE)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        table = str(folder / "table.json")
        options = ("--fit", table, "--rounds", "1", "--format", "json", "--quiet")
        patch.setattr(sys, "argv", ["paretoprune", "latency", str(folder / "tiny.toml"), *options])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
    return folder


def searching(folder: Path, **tables: Any) -> dict[str, Any]:
    return {
        **CAMPAIGN,
        "search": {"controller": "nsga3", "objectives": ["flops", "latency"]},
        "latency": {"table": str(folder / "table.json")},
        "budget": {"trials": 14},
        **tables,
    }


def test_a_campaign_trades_latency_within_a_bound_and_resumes(folder: Path, tmp_path: Path) -> None:
    dense = read_table(folder / "table.json", trace(tiny.cnn(8), IMAGE))
    whole = float(dense(np.array([[8, 16, 16]], dtype=float))[0])
    table = searching(folder, constraints={"max_latency_ms": 0.9 * whole})
    url, other_url = (f"sqlite:///{tmp_path / name}" for name in ("a.db", "b.db"))
    campaign = launch(parse_config(table), url, Monitor())
    shutil.copytree(artifact_dir(url), artifact_dir(other_url))
    other = launch(parse_config({**table, "budget": {"trials": 8}}), other_url, Monitor())
    moved = folder / "table.json"
    moved.rename(folder / "elsewhere.json")  # the campaign keeps the table that it began with
    try:
        resume(other, other_url, Monitor(), ["budget.trials=14"])
    finally:
        (folder / "elsewhere.json").rename(moved)
    with Store(url) as store, Store(other_url) as other_store:
        records, others = store.records(campaign), other_store.records(other)
        assert [r.trial for r in others] == [r.trial for r in records]
        assert [dict(r.costs) for r in others] == [dict(r.costs) for r in records]
        report = campaign_summary(store, campaign)
        fingerprints = store.campaign(campaign).fingerprints
    over = [
        (r.trial.genome, r.costs["latency_ms"] / whole)
        for r in records
        if r.costs["latency_ms"] > 0.9 * whole
    ]
    assert {genome for genome, _ in over} == {(8, 16, 16)}, over
    points = front_points(report)["points"]
    assert all(point["latency_ms"] > 0 for point in points)
    plain = prepare(parse_config(CAMPAIGN), artifact_dir(url), Monitor())
    assert fingerprints == plain.spec.fingerprints


def test_the_front_shows_milliseconds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    campaign = launch(parse_config(searching(folder, budget={"trials": 8})), url, Monitor())
    for arguments in (("front", campaign), ("latency", campaign, "--rounds", "1", "--quiet")):
        monkeypatch.setattr(sys, "argv", ["paretoprune", *arguments, "--store", url])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
    said = capsys.readouterr().out
    assert re.search("params +ms", said)
    assert "predicted" in said
    assert "nine in ten within" in said


def test_a_bound_that_no_network_keeps_is_refused(folder: Path, tmp_path: Path) -> None:
    table = searching(folder, constraints={"max_latency_ms": 1e-4})
    with pytest.raises(ConfigError, match=r"max_latency_ms = 0.0001: no network here comes below \d"):
        prepare(parse_config(table), tmp_path, Monitor())


def test_campaign_files_of_before_stay_what_they_were(folder: Path) -> None:
    before, now = load_config(folder / "tiny.toml"), load_config(folder / "tiny.toml", ["latency.rounds=1"])
    assert before.differences(now) == []
