"""Latency: what is measured, how it is kept, what the command says. Times themselves are never asserted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.latency import runtimes
from evaluators.latency.advice import advice_from, advise
from evaluators.latency.archive import add_latencies, latency_file, read_latencies
from evaluators.latency.measuring import measure_latency
from evaluators.latency.memory import onnx_peak_bytes, torch_peak_bytes
from evaluators.latency.runtimes import check_runtime, onnx_bytes, runner
from evaluators.latency.timing import Spread, times_in_turn
from search.cli import main
from search.config import parse_config
from search.launch import launch
from search.monitor import Monitor
from spaces.errors import InputError, NetworkError
from tests import tiny

IMAGE = torch.zeros(1, 1, 32, 32)
CPU = torch.device("cpu")
CAMPAIGN = {
    "name": "tiny",
    "network": {"factory": "tests.tiny:cnn", "arguments": {"width": 8}},
    "data": {"source": "phantom:classification", "train_limit": 256, "val_limit": 64},
    "recipe": {"epochs": 12, "learning_rate": 0.1, "threads": 1},
    "proxy": {"rung": "recalibrate", "device": "cpu"},
    "search": {"controller": "random"},
    "budget": {"trials": 12},
}


def test_every_work_has_its_turns_and_the_same_warm_up() -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = times_in_turn(works, device=CPU, rounds=3, visit_s=1e-9)
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert calls[:9] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    turns = ["".join(calls[9 + 6 * k : 15 + 6 * k]) for k in range(3)]
    assert turns == ["aabbcc", "bbccaa", "ccaabb"]


def test_the_spread_is_of_the_calls() -> None:
    spread = Spread.of(np.arange(1.0, 102.0))
    assert (spread.low_ms, spread.median_ms, spread.high_ms, spread.least_ms) == (11.0, 51.0, 91.0, 1.0)
    assert spread.runs == 101


def test_a_network_is_measured_on_every_runtime_and_left_alone() -> None:
    network = tiny.cnn(8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = measure_latency({"a": network}, IMAGE, runtimes=("eager", "onnx"), batches=(1, 3), rounds=2)
    assert [(row.runtime, row.batch) for row in found] == [
        ("eager", 1),
        ("eager", 3),
        ("onnx", 1),
        ("onnx", 3),
    ]
    for row in found:
        assert row.note is None
        assert row.time is not None
        assert 0 < row.time.least_ms <= row.time.low_ms <= row.time.median_ms <= row.time.high_ms
        assert row.peak_bytes is not None
        assert row.threads == 1
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_onnxruntime_computes_what_torch_computes() -> None:
    network = tiny.cnn(8).eval()
    inputs = torch.randn(2, 1, 32, 32)
    theirs = runner("onnx", network, inputs, 1).call()[0]  # type: ignore[index]
    np.testing.assert_allclose(theirs, runner("eager", network, inputs, 1).call(), atol=1e-5)


def test_threads_are_what_the_caller_had_afterwards() -> None:
    before = torch.get_num_threads()
    measure_latency({"a": tiny.cnn(4)}, IMAGE, threads=before + 1, rounds=1, memory=False)
    assert torch.get_num_threads() == before


def test_peak_memory_counts_weights_input_and_activations() -> None:
    """A convolution of one channel to 64 over 64 x 64 pixels, twice: at least both results are alive."""
    network = nn.Sequential(nn.Conv2d(1, 64, 1, bias=False), nn.Conv2d(64, 64, 1, bias=False)).eval()
    inputs = torch.zeros(1, 1, 64, 64)
    activation, weights = 4 * 64 * 64 * 64, 4 * (64 + 64 * 64)
    peak = torch_peak_bytes(runner("eager", network, inputs, 1).call, network, inputs)
    assert weights + inputs.nbytes + 2 * activation <= peak < weights + inputs.nbytes + 4 * activation


def test_what_cannot_run_a_network_says_so_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtimes, "_COMPILERS", ("no-such-compiler",))
    eager, compiled = measure_latency(
        {"a": tiny.cnn(4)}, IMAGE, runtimes=("eager", "compile"), rounds=1, memory=False
    )
    assert eager.time is not None
    assert compiled.time is None
    assert compiled.note is not None
    assert "C++ compiler" in compiled.note
    assert compiled.as_json()["median_ms"] is None


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(NetworkError, match="extra `onnx`"):
        runner("onnx", tiny.cnn(4).eval(), IMAGE, 1)


@pytest.mark.full
def test_compiled_networks_stay_compiled_side_by_side() -> None:
    networks = {str(width): tiny.cnn(width) for width in range(2, 14)}
    found = measure_latency(networks, IMAGE, runtimes=("compile",), rounds=1, memory=False)
    assert all(row.time is not None for row in found)


@pytest.mark.parametrize("wrong", [{"batches": (0,)}, {"threads": 0}, {"rounds": 0}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        measure_latency({"a": tiny.cnn(4)}, IMAGE, **wrong)  # type: ignore[arg-type]


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'eager'"):
        check_runtime("eagre")


ROW = {
    "genome": [1, 2],
    "runtime": "eager",
    "batch": 1,
    "device": "cpu",
    "threads": 1,
    "machine": "m",
    "shape": [1, 8, 8],
}


def test_a_new_measurement_takes_the_old_ones_place(tmp_path: Path) -> None:
    path = latency_file(tmp_path, "some-campaign")
    assert read_latencies(path) == []
    add_latencies(path, [{**ROW, "median_ms": 1.0}, {**ROW, "batch": 8, "median_ms": 5.0}])
    add_latencies(path, [{**ROW, "median_ms": 2.0}])
    assert [(row["batch"], row["median_ms"]) for row in read_latencies(path)] == [(1, 2.0), (8, 5.0)]
    assert [file.name for file in path.parent.iterdir()] == ["latency.json"]


@pytest.mark.parametrize("text", ["{", '{"version": 99}', "[]"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "latency.json").write_text(text)
    with pytest.raises(InputError, match=r"latency\.json.*measure again"):
        read_latencies(tmp_path / "latency.json")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A small campaign: its store and its id."""
    url = f"sqlite:///{tmp_path_factory.mktemp('latency') / 'store.db'}"
    return url, launch(parse_config(CAMPAIGN), url, Monitor())


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["paretoprune", "latency", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_points_of_a_campaign_are_measured_and_kept(
    campaign: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, campaign_id = campaign
    options = ("--store", url, "--quiet", "--rounds", "1")
    assert (
        command(monkeypatch, campaign_id, *options, "--points", "4", "--batch", "1,2", "--format", "json")
        == 0
    )
    found = json.loads(capsys.readouterr().out)["measured"]
    assert [(row["point"], row["batch"]) for row in found] == [(0, 1), (0, 2), (4, 1), (4, 2)]
    path = Path(url.removeprefix("sqlite:///")).parent / "store-artifacts" / campaign_id / "latency.json"
    assert read_latencies(path) == found
    assert command(monkeypatch, campaign_id, *options) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[0] == "dense"
    assert "1 CPU thread" in table[-1]
    assert {row["name"] for row in read_latencies(path)} > {"dense", "point 4"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--points", "99"), "has no trial 99"),
        (("--points", "a"), "whole numbers"),
        (("--batch", "1,-2"), "whole numbers"),
        (("--runtime", "tensorrt"), "no runtime 'tensorrt'"),
        (("--set", "data.size=[8,8]"), "--set is for campaign files"),
    ],
)
def test_mistakes_are_one_line(
    campaign: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    assert command(monkeypatch, campaign[1], "--store", campaign[0], "--quiet", *arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert complaint in said[0]


# Advice


def test_advice_takes_the_least_multiple_that_is_about_as_quick_as_the_best() -> None:
    widths = range(32, 65)
    rate = np.array([1.0 if width % 8 == 0 else 1.5 for width in widths])
    rate[[width % 16 == 0 for width in widths]] *= 0.99  # not worth halving the choices
    advice = advice_from([widths], [rate / rate.mean()], ["a layer"])
    assert advice.round_to == 8
    assert advice.in_words().startswith("round_to = 8: multiples of 8 channels take 30 % less time per FLOP")


def test_advice_leaves_the_search_free_where_nothing_pays() -> None:
    advice = advice_from([range(1, 34)], [np.ones(33)], ["a layer"])
    assert advice.round_to == 1
    assert "no multiple pays" in advice.in_words()


def test_layers_are_timed_for_advice() -> None:
    network = nn.Sequential(nn.Conv2d(1, 40, 3), nn.Conv2d(40, 40, 3), nn.Flatten(), nn.Linear(40 * 16, 40))
    told: list[tuple[int, int, str]] = []
    advice = advise(
        network, torch.zeros(1, 1, 8, 8), device=CPU, rounds=1, progress=lambda *step: told.append(step)
    )
    assert advice.layers == ("convolution 3 x 3 of 40 channels at 6 x 6", "linear of 40 channels")
    assert advice.widths == 33
    assert told == [(0, 2, advice.layers[0]), (1, 2, advice.layers[1]), (2, 2, "")]
    assert set(advice.relative) == {1, 2, 4, 8, 16, 32}
    with pytest.raises(NetworkError, match="any width will do"):
        advise(tiny.cnn(8), IMAGE, device=CPU, rounds=1)


def test_memory_of_onnxruntime_shows_small_models() -> None:
    """What importing the runtime takes does not hide what the model takes."""
    x = torch.zeros(1, 3, 64, 64)
    found = []
    for width in (8, 128):
        network = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3)).eval()
        found.append(onnx_peak_bytes(onnx_bytes(network, x), x, 1))
    assert found[0] is not None
    assert found[1] is not None
    assert 0 < found[0] < found[1]
