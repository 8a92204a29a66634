"""Finalising: the full fine-tune, killed and resumed, kept as files, tested once."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from evaluators.boundaries import hausdorff_95, summed_up
from evaluators.checkpoints import read_state
from evaluators.deploy.saving import load_network
from evaluators.evaluation import NetworkEvaluator
from evaluators.finalising import FineTune, Run, final_settings, finalise_here, result_of, searched_settings
from evaluators.settings import FinaliseSettings, ProxySettings
from evaluators.verdict import cases_of_classes, class_columns, table
from search.cli import app
from search.config import parse_config
from search.display.finalised import distance_in_words
from search.finals.finalise import finalise
from search.finals.finalised import finalised
from search.finals.points import Choice, choose
from search.finals.testing import _estimates
from search.launch import launch
from search.monitor import Monitor
from search.prepare import prepare
from search.store.archive import Store
from search.summary import campaign_summary
from spaces.errors import ConfigError, DataError, InputError, RunError
from spaces.finals import Distance
from spaces.messages import Trial
from tests.test_end_to_end import command, environment, paretoprune, wait_until

CAMPAIGN: dict[str, Any] = {
    "name": "tiny",
    "network": {"factory": "tests.tiny:cnn", "arguments": {"width": 8}},
    "data": {"source": "phantom:classification", "train_limit": 160, "val_limit": 64},
    "recipe": {"epochs": 12, "learning_rate": 0.1, "threads": 1},
    "proxy": {"epochs": 0.2, "full_epochs": 3, "device": "cpu", "distill": 0.3},
    "search": {"controller": "random"},
    "budget": {"trials": 10},
}


class Listener(Monitor):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a store, and the campaign in it."""
    folder = tmp_path_factory.mktemp("searched")
    return folder, launch(parse_config(CAMPAIGN), f"sqlite:///{folder / 'store.db'}", Monitor())


@pytest.fixture
def campaign(searched: tuple[Path, str], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A copy of it for one test: URL of the store, and the campaign's id."""
    shutil.copytree(searched[0], tmp_path / "copy")
    return (f"sqlite:///{tmp_path / 'copy' / 'store.db'}", searched[1])


def folder_of(url: str, campaign_id: str) -> Path:
    with Store(url) as store:
        return store.artifacts / campaign_id


def test_finalise_is_the_full_rung_kept_as_files_and_tested_once(campaign: tuple[str, str]) -> None:
    url, campaign_id = campaign
    monitor = Listener()
    full_id, networks = finalise(campaign_id[:6], url, monitor, Choice(points=(8, 6)))
    assert full_id == campaign_id
    assert [network.dense for network in networks] == [True, False, False]
    assert {network.point for network in networks} == {0, 6, 8}
    problem = prepare(parse_config(CAMPAIGN), folder_of(url, campaign_id).parent, Monitor())
    evaluator = NetworkEvaluator(problem.workload)
    test = problem.splits.normalisation.apply(problem.splits.open_test())
    for network in networks:
        outcome = evaluator.evaluate(Trial(0, network.genome, "full"))
        assert network.val.items() <= outcome.values.items(), "as the rung full, to the last bit"
        folder = folder_of(url, campaign_id) / network.folder
        loaded = load_network(folder, factory="tests.tiny:cnn")
        assert network.test is not None
        values, _ = evaluator.measured(loaded, "test", 0, test)
        assert network.test.values == values
        assert network.test.metric.value == pytest.approx(values["auc"])
        assert network.test.metric.low < network.test.metric.value < network.test.metric.high <= 1
        confusion = np.array(network.test.table_values)
        assert confusion.sum() == network.cases == problem.splits.n_test
        assert np.trace(confusion) / confusion.sum() == pytest.approx(values["accuracy"])
        reliability = network.test.reliability
        assert reliability is not None
        assert sum(reliability.share) == pytest.approx(1)
        assert np.dot(reliability.share, reliability.accuracy) == pytest.approx(values["accuracy"])
        assert json.loads((folder / "final.json").read_text())["point"] == network.point
        classes = [(result.name, result.cases) for result in network.test.classes]
        assert [cases for _, cases in classes] == sorted(cases for _, cases in classes), "the rarest first"
    assert networks[0].test is not None
    assert networks[0].test.difference is None
    assert not (folder_of(url, campaign_id) / "runs").exists()
    assert any("1 opening" in line for line in monitor.said)


def test_every_opening_of_the_test_split_is_counted_and_none_is_needed_twice(
    campaign: tuple[str, str],
) -> None:
    url, campaign_id = campaign
    _, networks = finalise(campaign_id, url, Monitor(), Choice(points=(6,)), test=False)
    assert all(network.test is None for network in networks)
    with Store(url) as store:
        assert finalised(store, campaign_id) == networks
    fingerprint = (
        prepare(parse_config(CAMPAIGN), folder_of(url, campaign_id).parent, Monitor())
        .splits.open_test()
        .fingerprint
    )

    def openings() -> list[tuple[int, ...]]:
        with Store(url) as store:
            return [opening.points for opening in store.openings(fingerprint)]

    assert openings() == []
    _, first = finalise(campaign_id, url, Monitor(), Choice(points=(6,)))
    assert openings() == [(0, 6)]
    monitor = Listener()
    _, again = finalise(campaign_id, url, monitor, Choice(points=(6,)))
    assert again == first
    assert openings() == [(0, 6)]
    assert any("stays closed" in line for line in monitor.said)
    _, more = finalise(campaign_id, url, Monitor(), Choice(points=(8,)))
    assert openings() == [(0, 6), (8,)]
    assert "test split" in CliRunner().invoke(app, ["show", campaign_id, "--store", url]).output
    tests = {network.point: network.test for network in more}
    before = {network.point: network.test for network in first}
    assert [network.tested_together for network in more] == [3, 3, 3]
    assert tests[6] is not None
    assert before[6] is not None
    assert tests[6].values == before[6].values, "not measured again"
    assert tests[6].table_values == before[6].table_values
    assert tests[6].metric.high - tests[6].metric.low >= before[6].metric.high - before[6].metric.low - 1e-9
    _, other = finalise(campaign_id, url, Monitor(), Choice(points=(6,)), ["finalise.epochs=1"])
    assert openings() == [(0, 6), (8,), (0, 6)], "other settings are other networks"
    assert {network.recipe["epochs"] for network in other} == {1.0}
    assert other[0].openings == 3
    folder = folder_of(url, campaign_id)
    assert (folder / "before" / more[0].group / "point-8" / "final.json").is_file()
    shown = CliRunner().invoke(app, ["show", campaign_id, "--store", url]).output
    assert "point-8 (with other settings)" in shown
    assert "opened 3 times" in shown
    _, back = finalise(campaign_id, url, Monitor(), Choice(points=(6,)))
    assert back == more, "nothing was lost"
    assert len(openings()) == 3
    assert (folder / "point-8" / "network.json").is_file()
    assert (
        json.loads((folder / "before" / other[0].group / "dense" / "final.json").read_text())["openings"] == 3
    )


def test_a_fine_tune_that_is_interrupted_goes_on_to_the_last_bit(
    campaign: tuple[str, str], tmp_path: Path
) -> None:
    url, campaign_id = campaign
    problem = prepare(parse_config(CAMPAIGN), folder_of(url, campaign_id).parent, Monitor())
    evaluator = NetworkEvaluator(problem.workload)
    settings = final_settings(problem.workload.proxy, FinaliseSettings())
    run = Run("a", "a", problem.space.uniform(0.5), settings)
    whole = FineTune(evaluator, run, tmp_path / "whole")
    while not whole.finished:
        whole.advance()
    expected = whole.finish()
    steps: list[int] = []

    class Watcher:
        def progressed(self, run: Run, done: int, total: int, note: str = "") -> None:
            steps.append(done)
            if len(steps) == 8:  # in the second of three epochs of five steps
                raise KeyboardInterrupt

        def ended(self, run: Run, error: str | None) -> None:
            assert error is None

    with pytest.raises(KeyboardInterrupt):
        finalise_here(problem.workload, [run], tmp_path, Watcher())
    assert result_of(tmp_path / "a") is None
    torch.manual_seed(12345)
    finalise_here(problem.workload, [run], tmp_path, Watcher())
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, *range(6, 16)], "from the end of the first epoch on"
    found = result_of(tmp_path / "a")
    assert found is not None
    assert found.values == expected.values
    assert all(np.array_equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    (tmp_path / "a" / "result.safetensors").write_bytes(b"torn")
    assert result_of(tmp_path / "a") is None


def test_a_network_that_cannot_be_tuned_does_not_take_the_others_along(campaign: tuple[str, str]) -> None:
    url, campaign_id = campaign
    with pytest.raises(RunError, match=r"dense could not be tuned: RunError: .* lower it, or set clip_norm"):
        finalise(campaign_id, url, Monitor(), Choice(points=(6,)), ["finalise.learning_rate=1e30"])


@pytest.mark.ray
def test_ray_tune_finds_what_one_process_finds_and_asha_gives_up_runs(campaign: tuple[str, str]) -> None:
    url, campaign_id = campaign
    _, here = finalise(campaign_id, url, Monitor(), Choice(points=(6, 8)), test=False)
    shutil.rmtree(folder_of(url, campaign_id))
    from evaluators.pools.cluster import connect

    disconnect = connect(None, 2, 0)
    try:
        ray = ["execution.executor=ray"]
        _, there = finalise(campaign_id, url, Monitor(), Choice(points=(6, 8)), ray, test=False)
        assert [n.weights for n in there] == [n.weights for n in here]
        assert [n.val for n in there] == [n.val for n in here]
        search = [*ray, "finalise.search=true", "finalise.runs=4", "finalise.epochs=4"]
        _, found = finalise(campaign_id, url, Monitor(), Choice(points=(6,)), search)
    finally:
        disconnect()
    assert [n.point for n in found] == [0, 6]
    for network in found:
        assert len(network.tried) == 4
        assert network.tried[0]["distill"] == 0.3, "the settings as they are come first"
        done = [row for row in network.tried if row["finished"]]
        assert network.val["auc"] == max(row["metric"] for row in done)
        assert all(row["epoch"] == 4 for row in done)
        assert any(not row["finished"] and row["epoch"] < 4 for row in network.tried), "some are given up"
        assert network.test is not None
    rates = [[row["learning_rate"] for row in network.tried] for network in found]
    assert rates[0] == rates[1], "dense has the same chances"


def test_settings_are_searched_around_what_is_given() -> None:
    given = ProxySettings(learning_rate=0.01, weight_decay=1e-3)
    around = searched_settings(given, 40)
    assert around[0] == given
    assert around == searched_settings(given, 40)
    rates = np.array([settings.learning_rate for settings in around[1:]])
    assert 0.002 <= rates.min() < 0.003
    assert 0.03 < rates.max() <= 0.05
    assert abs(np.mean(np.log(rates)) - np.log(0.01)) < 0.05
    assert all(0 <= settings.distill <= 0.9 for settings in around)


def test_networks_are_chosen_by_number_bound_or_spread(campaign: tuple[str, str]) -> None:
    url, campaign_id = campaign
    with Store(url) as store:
        report, records = campaign_summary(store, campaign_id), store.records(campaign_id, per_case=False)
    frame = report.trials.set_index("number")

    def chosen(**choice: Any) -> list[int]:
        return [point.number for point in choose(report, records, Choice(**choice))]

    dense_repeat = next(r.trial.number for r in records if r.trial.replicate == 1)
    assert chosen(points=(8, 6, 8, dense_repeat)) == sorted((8, 6), key=lambda n: frame.loc[n, "flops"])
    best = chosen(max_flops=0.5)
    assert len(best) == 1
    assert frame.loc[best[0], "flops_ratio"] <= 0.5
    within = frame[(frame["flops_ratio"] <= 0.5) & frame["advised"]]
    assert frame.loc[best[0], "estimate"] == within["estimate"].max()
    advised = frame[frame["advised"] & frame["kind"].ne("dense")]
    some = chosen(top=2)
    assert set(some) <= set(advised.index)
    assert len(some) == min(2, len(advised))
    assert frame.loc[some[0], "flops"] == advised["flops"].min()
    assert 1 <= len(chosen()) <= 2
    cheapest = frame[frame["kind"].ne("dense")]["flops_ratio"].idxmin()
    with pytest.raises(
        InputError, match=rf"at most 0\.1 % .* nearest is point {cheapest}, within --max-flops"
    ):
        chosen(max_flops=0.001)
    with pytest.raises(InputError, match="no trial 99, only 0 to 9"):
        chosen(points=(99,))
    only_dense = [record for record in records if record.trial.genome == report.trials["genome"].iloc[0]]
    alone = replace(report, trials=report.trials.head(1))
    with pytest.raises(InputError, match=r"dense only: .* --set budget.trials=40` goes on"):
        choose(alone, only_dense, Choice())
    with pytest.raises(
        InputError, match=rf"`paretoprune resume {campaign_id}` goes on"
    ):  # its budget is left
        choose(replace(alone, status="interrupted"), only_dense, Choice())


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"points": (1,), "top": 2}, "leave --max-flops and --top out"),
        ({"max_flops": 50}, "share of the dense network's FLOPs, as 0.5"),
        ({"top": 0}, "at least one"),
    ],
)
def test_choices_that_make_no_sense(choice: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Choice(**choice)


def test_what_cannot_be_finalised_is_said_in_one_line(campaign: tuple[str, str]) -> None:
    url, campaign_id = campaign
    with pytest.raises(ConfigError, match=r"takes the campaign as it is \(proxy.epochs: 0.2 -> 2.0\)"):
        finalise(campaign_id, url, Monitor(), Choice(), ["proxy.epochs=2"])
    with pytest.raises(ConfigError, match="add --executor ray"):
        finalise(campaign_id, url, Monitor(), Choice(), ["finalise.search=true"])
    with Store(url) as store:
        about = store.campaign(campaign_id).description
        data = {**about["data"], "sizes": {**about["data"]["sizes"], "test": 0}}
        store.update_description(campaign_id, {**about, "data": data})
    with pytest.raises(DataError, match="has no test images"):
        finalise(campaign_id, url, Monitor())
    folder = folder_of(url, campaign_id)
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("in the way")
    with pytest.raises(InputError, match="cannot be kept in"):
        finalise(campaign_id, url, Monitor(), test=False)
    run = CliRunner().invoke(app, ["finalise", campaign_id, "--store", url, "--points", "six"])
    assert "write trial numbers with commas between" in str(run.exception)


@pytest.mark.data
def test_a_killed_finalise_goes_on_where_it_was(tmp_path: Path, data_dir: Path) -> None:
    """Real images, real processes: kill -9 in the middle, the same command again."""
    campaign = """
    name = "breast"
    [network]
    factory = "tests.tiny:cnn"
    [data]
    source = "medmnist:breastmnist"
    [recipe]
    epochs = 10
    learning_rate = 0.1
    [proxy]
    epochs = 0.5
    [search]
    controller = "ladder"
    [budget]
    trials = 7
    [finalise]
    epochs = 12
    """
    (tmp_path / "breast.toml").write_text(campaign)
    paretoprune(tmp_path, data_dir, "run", "breast.toml", "--quiet")
    arguments = ("finalise", "breast", "--top", "1", "--format", "json")
    process = subprocess.Popen(
        command(*arguments, "--quiet"),
        cwd=tmp_path,
        env=environment(data_dir),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: list(tmp_path.glob("*/breast-*/runs/*/dense/checkpoint.safetensors")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (checkpoint,) = tmp_path.glob("*/breast-*/runs/*/dense/checkpoint.safetensors")
    reached = read_state(checkpoint)["tuning"]["step"]
    assert 17 <= reached < 12 * 17
    found = json.loads(paretoprune(tmp_path, data_dir, *arguments, "--quiet"))
    assert [network["dense"] for network in found["networks"]] == [True, False]
    assert all(network["test"] and network["openings"] == 1 for network in found["networks"])
    assert found["networks"][0]["cases"] == 156
    assert not list(tmp_path.glob("*/breast-*/runs"))
    for network in found["networks"]:
        assert (tmp_path / "paretoprune-artifacts" / found["campaign"] / network["folder"]).is_dir()


def test_masks_are_finalised_too(tmp_path: Path) -> None:
    """Dice by class, its spread, and how far pixels' probabilities can be believed."""
    settings = {
        "name": "masks",
        "network": {
            "factory": "monai.networks.nets:BasicUNet",
            "arguments": {"spatial_dims": 2, "out_channels": 3, "features": [8, 8, 16, 16, 16, 8]},
        },
        "data": {
            "source": "phantom:segmentation",
            "options": {"size": 32, "n_train": 48, "n_val": 12, "n_test": 10, "classes": 3},
        },
        "task": {"kind": "segmentation"},
        "recipe": {"epochs": 12, "learning_rate": 0.1, "batch_size": 8, "threads": 1},
        "proxy": {"epochs": 0.5, "full_epochs": 1, "batch_size": 8, "device": "cpu"},
        "search": {"controller": "ladder"},
        "budget": {"trials": 4},
    }
    url = f"sqlite:///{tmp_path / 'store.db'}"
    campaign_id = launch(parse_config(settings), url, Monitor())
    _, networks = finalise(campaign_id, url, Monitor(), Choice(top=1))
    for network in networks:
        test = network.test
        assert test is not None
        assert test.table == "dice"
        assert test.table_columns[0] == "mean"
        assert [row[0] for row in test.table_values] == pytest.approx(
            [test.values[f"dice/{name}"] for name in test.table_rows], abs=1e-5
        )
        assert {result.name for result in test.classes} == set(test.table_rows)
        assert all(1 <= result.cases <= 10 for result in test.classes)
        assert test.reliability is not None
        assert 0 < test.reliability.error < 0.5
        assert sum(test.reliability.share) == pytest.approx(1)
        assert [found.name for found in test.distances] == list(test.table_rows)
        assert {found.unit for found in test.distances} == {"pixels"}
        assert all(found.cases + found.missed <= 10 for found in test.distances)


def test_no_share_is_below_nothing() -> None:
    none, cases = np.zeros((1, 20)), np.array([20])
    (found,) = _estimates(none, None, cases, least=0.0)
    assert found.low == 0
    assert 0 < found.high < 0.2, "20 cases of which none is right do not say never"
    (change,) = _estimates(none, None, cases, centred=True)
    assert change.low == -change.high, "differences go both ways"


def test_borders_are_measured_where_there_are_two() -> None:
    """Four cases: three pixels aside; missed; invented; neither."""
    said, truth = torch.zeros(4, 1, 16, 16, dtype=torch.bool), torch.zeros(4, 1, 16, 16, dtype=torch.bool)
    truth[0, 0, 4, 4] = truth[1, 0, 4, 4] = said[0, 0, 4, 7] = said[2, 0, 4, 4] = True
    found = hausdorff_95(said, truth)
    np.testing.assert_array_equal(found[:, 0], [3, -np.inf, np.inf, np.nan])
    assert hausdorff_95(said[:1], truth[:1], (1.0, 0.5))[0, 0] == 1.5, "in millimetres"
    assert summed_up(["a"], found, "pixels") == (Distance("a", "pixels", 3.0, 3.0, 1, 1, 1),)
    nowhere = summed_up(["a"], found[3:], "pixels")[0]
    assert (nowhere.mean, nowhere.cases) == (None, 0)
    assert distance_in_words(nowhere) == "none"


def test_labels_are_counted_and_numbers_have_no_classes() -> None:
    class Labels:
        kind, classes = "multilabel", ("a", "b")

    score = np.array([[0.9, 0.2], [0.6, 0.7], [0.1, 0.8]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8)
    found = table(Labels(), {"score": score}, targets)  # type: ignore[arg-type]
    assert found.columns == ("true +", "false +", "false -", "true -")
    assert found.values == ((1, 1, 1, 0), (2, 0, 0, 1))
    assert cases_of_classes(Labels(), ("a", "b"), targets) == (2, 2)  # type: ignore[arg-type]

    class Number:
        kind, classes = "regression", ()

    assert table(Number(), {"score": score[:, :1]}, targets[:, 0]).kind == "none"  # type: ignore[arg-type]
    assert class_columns(Number(), {"score": score[:, :1]}, {"r2": 0.5}) is None  # type: ignore[arg-type]
