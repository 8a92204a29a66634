"""The command line as people meet it: what works, what is refused in one line, what is never written."""

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from search.cli import main
from search.store.archive import Store
from tests import tiny

CAMPAIGN = """
name = "tiny"
[network]
factory = "tests.tiny:cnn"
[data]
source = "npz:data.npz"
[recipe]
epochs = 8
[proxy]
epochs = 0.5
[search]
controller = "random"
[budget]
trials = 14
"""


@dataclass
class Said:
    status: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `paretoprune ARGUMENTS` in a folder that holds tiny.toml and data.npz only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARETOPRUNE_STORE", raising=False)
    (tmp_path / "tiny.toml").write_text(CAMPAIGN)
    npz()

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["paretoprune", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return Said(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def finished(call: Call) -> str:
    """The id of a campaign that was run in the current folder."""
    said = call("run", "tiny.toml", "--quiet")
    assert said.status == 0, said.err
    return json.loads(call("list", "--format", "json").out)[0]["id"]


def test_run_list_show_front_report(call: Call, finished: str, tmp_path: Path) -> None:
    assert finished in call("list").out
    shown = call("show", finished[:5]).out
    assert f"{finished} (complete, 14 of 14 trials)" in shown
    front = json.loads(call("front", finished, "--format", "json").out)
    assert {"number", "genome", "flops", "params", "metric", "se", "plausible"} <= front["points"][0].keys()
    assert front["dense"]["replicates"] == 3
    assert len(front["points"]) == 12
    assert len(front["ladder"]) >= 3
    rows = list(csv.DictReader(io.StringIO(call("front", finished, "--format", "csv").out)))
    assert [row["number"] for row in rows] == [str(point["number"]) for point in front["points"]]
    shown = call("front", finished).out
    assert front["finalised"] == []
    assert " dense" in shown
    assert "* advised, by the shrunken difference" in shown
    again = call("report", finished, finished, "--out", str(tmp_path / "again.html"), "--with-images")
    assert again.status == 2
    assert "has no finalised networks" in again.err
    assert (tmp_path / "again.html").read_text().count("<article") == 1, "the same campaign once"
    said = call("report", finished, "--out", "page/report.html")
    assert said.out.strip() == "page/report.html"
    assert finished in (tmp_path / "page/report.html").read_text()


def test_the_front_and_the_page_show_what_was_finalised(call: Call, finished: str) -> None:
    from search.finals.finalised import keep_finalised
    from search.store.archive import Store
    from tests.test_finalised import network

    with Store("sqlite:///paretoprune.db") as store:
        keep_finalised(store, finished, [network(0, 100.0, dense=True), network(3, 20.0, tested=False)])
    shown = call("front", finished).out
    assert f"{finished}: AUC on 156 test cases" in shown
    assert "not opened" in shown
    found = json.loads(call("front", finished, "--format", "json").out)["finalised"]
    assert [each["folder"] for each in found] == ["dense", "point-3"]
    call("report", finished, "--out", "report.html")
    assert "not opened" in Path("report.html").read_text()


def test_costs_are_those_of_the_rebuilt_networks(call: Call, finished: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from spaces import prune, rank_channels, trace

    network = tiny.cnn()
    image = torch.zeros(1, 1, 32, 32)
    space = trace(network, image)
    ranking = rank_channels(network, space, "l1")
    for point in json.loads(call("front", finished, "--format", "json").out)["points"]:
        pruned = prune(network, space, tuple(point["genome"]), ranking).to("meta")
        with FlopCounterMode(display=False) as counter:
            pruned(image.to("meta"))
        assert point["flops"] == counter.get_total_flops()
        assert point["params"] == sum(p.numel() for p in pruned.parameters())


def test_resume_gives_more_budget(call: Call, finished: str) -> None:
    said = call("resume", finished, "--set", "budget.trials=16", "--quiet")
    assert said.status == 0, said.err
    assert "(complete, 16 of 16 trials)" in call("show", finished).out


def starved_once(model: nn.Module, rung: str, seed: int) -> np.ndarray:
    """An evaluator that finds no memory the ninth time, and never again."""
    calls = Path("calls")
    with calls.open("a") as file:
        file.write("x")
    if calls.stat().st_size == 9:
        raise MemoryError("no memory on purpose")
    return np.linspace(0.5, 0.9, 64) + 1e-4 * sum(p.numel() for p in model.parameters()) % 0.05


def test_resume_retries_what_the_machine_lost_when_told_to(call: Call) -> None:
    own = ["--quiet", "--set", "task.evaluator=tests.test_cli:starved_once", "--set", "budget.trials=30"]
    assert call("run", "tiny.toml", *own).status == 0
    campaign_id = json.loads(call("list", "--format", "json").out)[0]["id"]

    def lost() -> list[int]:
        with Store("sqlite:///paretoprune.db", create=False) as store:
            return store.numbers(campaign_id, "lost")

    assert len(lost()) == 1
    assert call("resume", campaign_id, "--quiet").status == 0
    assert len(lost()) == 1, "amid others it stays"
    said = call("resume", campaign_id, "--retry-lost")
    assert said.status == 0, said.err
    assert "where evaluations were lost" in said.err
    assert lost() == []


def test_resume_refuses_what_would_change_findings(call: Call, finished: str) -> None:
    said = call("resume", finished, "--set", "search.seed=3", "--set", "proxy.epochs=1", "--quiet")
    assert said.status == 2
    assert "proxy.epochs: 0.5 -> 1" in said.err
    assert "search.seed: 0 -> 3" in said.err
    assert "start a new campaign" in said.err
    assert len(said.err.splitlines()) == 1


def test_resume_notices_changed_weights(call: Call, tmp_path: Path) -> None:
    call("run", "tiny.toml", "--quiet", "--set", "budget.trials=4")
    cached = next((tmp_path / "paretoprune-artifacts").glob("*.safetensors"))
    weights = Path("mine.safetensors")
    weights.write_bytes(cached.read_bytes())
    call(
        "run", "tiny.toml", "--quiet", "--set", "budget.trials=4", "--set", "network.weights=mine.safetensors"
    )
    campaign = json.loads(call("list", "--format", "json").out)[1]["id"]
    from safetensors.torch import load_file

    save_file({name: tensor * 1.01 for name, tensor in load_file(cached).items()}, weights)
    said = call("resume", campaign, "--quiet", "--set", "budget.trials=6")
    assert said.status == 2
    assert "weights: " in said.err
    assert "put back what was there" in said.err


def test_demo_ends_with_a_report(call: Call, tmp_path: Path) -> None:
    said = call("demo", "--out", "here", "--trials", "8")
    assert said.status == 0, said.err
    assert said.out.splitlines()[-1] == "report: here/report.html"
    assert "training the dense network" in said.err
    assert (tmp_path / "here/report.html").stat().st_size > 10_000
    again = ["here/demo.toml", "--store", "sqlite:///here/paretoprune.db", "--set", "budget.trials=4"]
    assert call("run", *again, "--quiet").status == 0, "a file to start from"


def test_demo_leaves_an_edited_campaign_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text("mine")
    said = call("demo", "--out", ".")
    assert said.status == 2
    assert "was changed" in said.err
    assert (tmp_path / "demo.toml").read_text() == "mine"


def test_the_recorded_command_holds_no_password(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.commands.options import command_line

    for store in (
        ["--store", "postgresql://ann:secret@host/db"],
        ["--store=postgresql://h/d?password=secret"],
    ):
        monkeypatch.setattr(sys, "argv", ["x", "run", "/home/ann/c.toml", *store, "--quiet"])
        assert command_line() == "paretoprune run c.toml --quiet"


def test_inspect_writes_nothing(call: Call, tmp_path: Path) -> None:
    said = call("inspect", "tiny.toml")
    assert said.status == 0
    assert "3 channel groups" in said.out
    data = json.loads(call("inspect", "tiny.toml", "--format", "json").out)
    assert [group["units"] for group in data["groups"]] == [16, 32, 32]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "tiny.toml"]


def test_a_log_file_is_json_lines(call: Call) -> None:
    call("inspect", "tiny.toml", "--log-file", "log.jsonl", "--set", "search.controller=nope")
    lines = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert {"time", "level", "message"} <= lines[0].keys()


def test_help_teaches(call: Call) -> None:
    text = call("--help").out
    for command in ("demo", "run", "resume", "list", "show", "inspect", "front", "report"):
        assert command in text
        assert call(command, "--help").status == 0


def npz(**changes: np.ndarray | None) -> None:
    """A small easy data set in data.npz (a faint patch or none), arrays replaced or (None) left out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray | None] = {}
    for split, n in (("train", 128), ("val", 64), ("test", 10)):
        labels = np.arange(n) % 2
        images = rng.integers(0, 200, (n, 32, 32))
        images[:, 8:16, 8:16] += 55 * labels[:, None, None]
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images.astype(np.uint8), labels[:, None]
    arrays |= changes
    np.savez("data.npz", **{key: array for key, array in arrays.items() if array is not None})


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("owned"),)


def weights_of_another() -> None:
    save_file(tiny.cnn(24).state_dict(), "other.safetensors")


def pickled_weights() -> None:
    torch.save({"state_dict": tiny.cnn().state_dict(), "hook": Evil()}, "evil.pt")


def images(n: int, value: float) -> np.ndarray:
    return np.full((n, 32, 32), value, dtype=np.float32)


NSGA2 = "search.controller=nsga2"
PHANTOM = "data.source=phantom:classification"
BAD_INPUTS: dict[str, tuple[Callable[[], None] | None, tuple[str, ...], str]] = {
    "unknown key": (None, ("search.controler=nsga2",), "did you mean 'controller'"),
    "wrong type": (None, ("budget.trials=many",), "budget.trials"),
    "budget 0": (None, ("budget.trials=0",), "greater than or equal to 1"),
    "controller": (None, ("search.controller=nsg2",), "did you mean 'nsga2'"),
    "single-objective sampler": (None, ("search.controller=optuna:cmaes",), "one objective"),
    "metric": (None, ("task.metric=acc",), "did you mean"),
    "metric of another kind": (None, ("task.metric=dice",), "dice"),
    "criterion": (None, ("pruning.criterion=tailor",), "did you mean 'taylor'"),
    "source": (None, ("data.source=medmist:breast",), "did you mean"),
    "data name": (None, ("data.source=medmnist:brestmnist",), "did you mean 'breastmnist'"),
    "data option": (None, (PHANTOM, "data.options.sise=3"), "did you mean 'size'"),
    "factory module": (None, ("network.factory=no_such.module:f",), "no module 'no_such'"),
    "factory name": (None, ("network.factory=tests.tiny:cmn",), "did you mean 'cnn'"),
    "factory form": (None, ("network.factory=cnn",), "module:callable"),
    "factory raises": (None, ("network.factory=tests.tiny:broken",), "the factory's own words"),
    "factory argument": (None, ("network.arguments.widht=3",), "widht"),
    "classes": (None, ("network.arguments.classes=3",), "output has shape (2, 3)"),
    "missing weights": (None, ("network.weights=none.pt",), "no such file"),
    "other weights": (weights_of_another, ("network.weights=other.safetensors",), "not the weights"),
    "pickled weights": (pickled_weights, ("network.weights=evil.pt",), "pickled code"),
    "missing npz": (None, ("data.source=npz:none.npz",), "no such file"),
    "pickled npz": (lambda: npz(train_labels=np.array([Evil()] * 128, dtype=object)), (), "pickled"),
    "npz keys": (lambda: npz(val_labels=None), (), "val_labels"),
    "labels": (lambda: npz(val_labels=np.full((64, 1), -1)), (), "label"),
    "nan": (lambda: npz(train_images=images(128, np.nan)), (), "NaN"),
    "empty split": (lambda: npz(val_images=images(0, 0), val_labels=np.zeros((0, 1), int)), (), "val"),
    "image size": (None, ("network.factory=tests.tiny:fixed_size",), "not take images of shape (1, 32, 32)"),
    "nothing to prune": (None, ("network.factory=tests.tiny:bare",), "nothing to prune"),
    "controller option": (None, (NSGA2, "search.options.populaton=3"), "did you mean"),
    "controller option's value": (None, (NSGA2, "search.options.population=3"), "population"),
    "deadline without ray": (None, ("execution.deadline_s=3",), "only Ray workers keep a deadline"),
    "memory without ray": (None, ("execution.memory_gb=3",), "only Ray workers keep a memory_gb"),
    "a GPU by number": (
        None,
        ("execution.executor=ray", "proxy.device=cuda:1"),
        "proxy.device = 'cuda:1', but Ray gives each worker its GPU: write 'cuda'",
    ),
    "a GPU without a share": (
        None,
        ("execution.executor=ray", "proxy.device=cuda"),
        "proxy.device = 'cuda' needs GPUs: set execution.gpus_per_worker",
    ),
    "a wasted GPU": (
        None,
        ("execution.executor=ray", "proxy.device=cpu", "execution.gpus_per_worker=0.5"),
        "execution.gpus_per_worker = 0.5 is wasted on proxy.device = 'cpu'",
    ),
    "infinite epochs": (None, ("recipe.epochs=inf",), "recipe.epochs"),
    "device": (None, ("proxy.device=gpu",), "proxy.device"),
    "module pattern": (None, ('pruning.ignore=["layerX.*"]',), "layerX"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_and_nothing_written(case: str, call: Call, tmp_path: Path) -> None:
    prepare, overrides, expected = BAD_INPUTS[case]
    if prepare:
        prepare()
    before = sorted(tmp_path.rglob("*"))
    said = call("run", "tiny.toml", "--quiet", *(word for item in overrides for word in ("--set", item)))
    assert said.status == 2, said.err
    assert expected in said.err
    assert len(said.err.splitlines()) == 1, said.err
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dense_network_at_chance_is_refused(call: Call, tmp_path: Path) -> None:
    save_file(tiny.constant().state_dict(), "chance.safetensors")
    before = sorted(tmp_path.rglob("*"))
    said = call("run", "tiny.toml", "--quiet", "--set", "network.arguments.width=8",
                "--set", "network.weights=chance.safetensors")  # fmt: skip
    assert said.status == 2
    assert "four standard errors above chance (0.500)" in said.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "none.toml"], "there is no campaign file 'none.toml'"),
        (["run", "torn.toml"], "torn.toml is not valid TOML"),
        (["run", "tiny.toml", "--store", "mysql://x/y"], "unknown kind 'mysql'"),
        (["run", "tiny.toml", "--store", "sqlite://"], "is gone when the program ends"),
        (["run", "tiny.toml", "--store", "nonsense"], "is no database URL"),
        (["run", "tiny.toml", "--store", "sqlite:///none/here.db"], "there is no folder"),
        (["run", "tiny.toml", "--store", "sqlite:///torn.toml"], "no SQLite database"),
        (["run", "tiny.toml", "--log-file", "none/log.jsonl"], "cannot be written"),
        (["run", "tiny.toml", "--set", "budget.trials"], "--set takes table.key=value"),
        (["list"], "there is no store"),
        (["show", "tiny-abcd"], "there is no store"),
        (["run"], "error: Missing argument 'CAMPAIGN.toml'; `paretoprune run --help` explains it"),
        (
            ["export", "x", "--point", "1", "--out", "d", "--format", "foo"],
            "'foo' is not one of 'pt2', 'onnx'",
        ),
        (
            ["export", "x", "--point", "1", "--out", "d", "--opset", "new"],
            "'--opset': should be a valid integer",
        ),
        (["exprt"], "No such command 'exprt'. Did you mean 'export', 'report'?"),
        (["run", "tiny.toml", "--executor", "slurm"], "slurm"),
        (["demo", "--out", "torn.toml"], "choose another --out"),
    ],
)
def test_bad_arguments(call: Call, tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "torn.toml").write_text("[network\n")
    before = sorted(tmp_path.rglob("*"))
    said = call(*arguments)
    assert said.status == 2
    assert expected in " ".join(said.err.split())
    assert len(said.err.splitlines()) == 1, said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_campaigns_are_refused(call: Call, finished: str) -> None:
    for command in ("show", "front", "resume", "report"):
        said = call(command, "tinny-0000")
        assert said.status == 2
        assert "there is no campaign 'tinny-0000'" in said.err
        assert finished in said.err


@pytest.mark.ray
def test_an_address_without_a_cluster(call: Call, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = call("run", "tiny.toml", "--quiet", "--address", "127.0.0.1:1")
    assert said.status == 2
    assert "127.0.0.1:1" in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
