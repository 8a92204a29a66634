"""`paretoprune inspect`: the arithmetic of the expected time, the picture's numbers, what is printed."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from reports.graph import channel_graph, write_channel_graph
from search import inspection
from search.config import CampaignConfig, parse_config
from search.inspection import Speed, expect, typical
from spaces.errors import InputError
from spaces.space import ChannelSpace
from spaces.tracing import trace
from tests import tiny
from tests.test_cli import Call, call

__all__ = ["call"]  # the fixture


def _config(**tables: dict) -> CampaignConfig:
    return parse_config(
        {"name": "t", "network": {"factory": "tests.tiny:cnn"}, "data": {"source": "phantom:classification"}}
        | tables
    )


class _Splits:
    """As much of the splits as the arithmetic needs."""

    train = range(64)
    val = range(32)


def _expected(monkeypatch: pytest.MonkeyPatch, config: CampaignConfig) -> inspection.Expectation:
    model = tiny.cnn()
    space = trace(model, torch.zeros(1, 1, 16, 16), verify=False)
    speeds = iter([Speed(4.0, 10.0), Speed(1.0, 2.0)])  # dense first
    monkeypatch.setattr(inspection._Stopwatch, "__init__", lambda *_: None)
    monkeypatch.setattr(inspection._Stopwatch, "speed", lambda *_: next(speeds))
    return expect(config, _Splits, None, model, space)  # type: ignore[arg-type]  # fakes


def test_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(
        recipe={"epochs": 3, "batch_size": 16},
        proxy={"epochs": 1, "batch_size": 32},
        budget={"trials": 13},
    )
    found = _expected(monkeypatch, config)
    assert (found.dense_steps, found.trial_steps, found.workers) == (12, 2, 1)
    assert found.dense_training_s == 12 * 4 / 2  # half the images a step
    assert found.trial_s == 2 * 1 + 2
    assert found.campaign_s == 24 + 10 + 3 * (2 * 4 + 10) + 10 * 4


def test_slices_train_jointly_once_and_then_only_look(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = {"rung": "shared", "shared_epochs": 10, "batch_size": 32}
    config = _config(recipe={"epochs": 3, "batch_size": 16}, proxy=proxy, budget={"trials": 13})
    found = _expected(monkeypatch, config)
    assert found.trial_steps == 0
    assert found.dense_training_s == 24 + 20 * 1.5 * 4
    assert found.trial_s == 2 * (1 + 64 / 32)


def test_workers_weights_and_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = {"executor": "ray", "workers": 4}
    proxy = {"epochs": 1, "batch_size": 32}
    given = {"factory": "tests.tiny:cnn", "weights": "w.safetensors"}
    config = _config(network=given, proxy=proxy, budget={"trials": 13}, execution=ray, search={"lag": 1})
    found = _expected(monkeypatch, config)
    assert (found.dense_steps, found.dense_training_s, found.workers) == (0, 0, 2)
    assert found.campaign_s == 10 + (54 + 40) / 2
    config = _config(network=given, proxy=proxy, budget={"trials": 10_000, "wall_s": 60})
    assert _expected(monkeypatch, config).campaign_s == 10 + 60


def test_candidates_spread_evenly_over_the_octaves() -> None:
    space = ChannelSpace.chain([64, 64], pixels=256)
    genome, mean, least = typical(space)
    assert least == 2.0**-6  # the search looks no further, though one unit everywhere is cheaper
    octaves = np.linspace(0, -6, 100_001)
    assert mean == pytest.approx(np.exp2(octaves).mean(), rel=1e-4)
    ratio = space.cost(genome).flops[0] / space.cost(space.dense).flops[0]
    assert ratio == pytest.approx(mean, abs=0.03)
    wide = ChannelSpace.chain([8], inputs=1, outputs=1, round_to=4)
    assert typical(wide)[2] == 0.5
    assert typical(wide)[1] == pytest.approx(0.5 / math.log(2))


GROUPS = pd.DataFrame(
    {
        "name": ["a", "<b>"],
        "units": [4, 8],
        "channels": [4, 16],
        "flops_share": [0.25, 0.5],
        "members": [["m0", "m2"], ["m1", "m2"]],
    }
)
FROZEN = pd.DataFrame({"name": ["m3"], "reason": ["is the network's output"]})
MODULES = ["m0", "m1", "m2", "m3"]


def test_the_picture_shows_the_groups() -> None:
    figure = channel_graph(GROUPS, FROZEN, MODULES)
    marks = [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"]
    assert [(list(trace.x), list(trace.y)) for trace in marks] == [
        ([0, 2], [0, 0]),
        ([1, 2], [1, 1]),
        ([3], [2]),
    ]
    bands = [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "lines"]
    assert [list(trace.x) for trace in bands] == [[-0.5, 2.5], [0.5, 2.5]]
    (bars,) = (trace for trace in figure.data if trace.type == "bar")
    assert list(bars.x) == [25, 50]
    assert "&lt;b&gt;" in marks[1].hovertemplate
    assert "stays whole: it is the network&#x27;s output" in marks[2].customdata[0]


def test_the_picture_is_one_file(tmp_path: Path) -> None:
    path = write_channel_graph(GROUPS, FROZEN.iloc[:0], MODULES, tmp_path / "new" / "graph.html")
    page = path.read_text()
    assert 'src="http' not in page
    assert len(page) > 1_000_000  # plotly.js is inside
    with pytest.raises(InputError, match=r"name it 'graph\.html'"):
        write_channel_graph(GROUPS, FROZEN, MODULES, tmp_path / "graph.svg")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write the picture"):
        write_channel_graph(GROUPS, FROZEN, MODULES, tmp_path / "file" / "graph.html")


def test_modules_come_in_the_network_s_order() -> None:
    model = tiny.cnn()
    space = trace(model, torch.zeros(1, 1, 16, 16), verify=False)
    assert inspection._modules(model, space) == ["0", "1", "3", "4", "6", "7", "11"]


def test_the_command(call: Call, tmp_path: Path) -> None:  # the fixture
    table = call("inspect", "tiny.toml", "--picture", "graph.html")
    assert table.status == 0, table.err
    assert "is the network's output" in table.out
    assert "expected time: " in table.out
    assert "Assumed: candidates have" in table.out
    assert (tmp_path / "graph.html").stat().st_size > 1_000_000
    tree = call("inspect", "tiny.toml", "--format", "tree").out
    assert "16 units" in tree
    assert "frozen: is the network's output" in tree
    data = json.loads(
        call("inspect", "tiny.toml", "--format", "json", "--set", "pruning.granularity=block").out
    )
    assert data["expected"]["campaign_s"] > 0
    assert data["expected"]["trial_steps"] >= 1
    assert call("inspect", "tiny.toml", "--picture", "graph.svg").status == 2


def test_measuring_leaves_the_network_alone() -> None:
    from evaluators.data.sources import load_splits
    from evaluators.tasks.factory import make_task

    config = _config(data={"source": "phantom:classification", "train_limit": 64, "val_limit": 32})
    splits = load_splits(config.data)
    model: nn.Module = tiny.cnn()
    space = trace(model, torch.zeros(1, splits.channels, *splits.spatial), verify=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    found = expect(config, splits, make_task(config.task, splits), model, space)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert found.candidate.step_s > 0
    assert found.dense.validation_s > 0
