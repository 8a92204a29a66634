"""The rung finetune: identical outcomes wherever and whenever, failures as outcomes, identity by content."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evaluators.workload
from evaluators.analytic import AnalyticWorkload
from evaluators.data import load_splits
from evaluators.dense import as_arrays
from evaluators.guard import describe_error
from evaluators.identity import fingerprint_of_arrays, seed_of
from evaluators.networks import build_network, code_of
from evaluators.pools import SerialPool
from evaluators.settings import DataSettings, NetworkSettings, ProxySettings, TaskSettings
from evaluators.workload import Workload
from spaces.errors import DataError, NetworkError
from spaces.messages import Outcome, Trial
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.tracing import trace

ROOT = Path(__file__).parents[1]


def tiny_classifier(classes: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(12, classes),
    )


def tiny_segmenter() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.PReLU(), nn.Conv2d(8, 2, 3, padding=1)
    )


def make_workload(kind: str = "classification", **proxy: Any) -> Workload:
    factory = {"classification": "tiny_classifier", "segmentation": "tiny_segmenter"}[kind]
    network_settings = NetworkSettings(factory=f"tests.test_workload:{factory}")
    splits = load_splits(DataSettings(source=f"phantom:{kind}", train_limit=48, val_limit=24))
    network, _ = build_network(network_settings)
    space = trace(network, torch.zeros(1, splits.channels, *splits.spatial), verify=False)
    return Workload(
        network_settings,
        code_of(network, network_settings),
        as_arrays(network),
        space,
        rank_channels(network, space, "l1"),
        splits,
        TaskSettings(kind=kind),  # type: ignore[arg-type]  # a test's parameter
        ProxySettings(**{"epochs": 1, "batch_size": 16, "device": "cpu"} | proxy),
    )


@pytest.fixture(scope="module")
def workload() -> Workload:
    return make_workload()


def outcomes_of(workload: Workload, trials: list[Trial]) -> list[Outcome]:
    with SerialPool(workload) as pool:
        for trial in trials:
            pool.submit(trial)
        return [outcome for _ in trials for outcome in pool.completed()]


def small(space: ChannelSpace) -> tuple[int, ...]:
    return space.uniform(0.5)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_an_outcome_holds_what_the_message_promises(kind: str) -> None:
    workload = make_workload(kind)
    outcome = outcomes_of(workload, [Trial(7, small(workload.space))])[0]
    assert outcome.error is None
    assert (outcome.number, outcome.status) == (7, "complete")
    metric = {"classification": "auc", "segmentation": "dice"}[kind]
    assert outcome.values.keys() >= {metric, "loss"}
    assert outcome.per_case["loss"].shape == outcome.per_case["metric"].shape == (24,)
    assert outcome.per_case["metric"].mean() == pytest.approx(outcome.values[metric], abs=1e-6)
    assert outcome.timings.keys() == {"prune_s", "tune_s", "measure_s", "wall_s"}
    phases = sum(seconds for name, seconds in outcome.timings.items() if name != "wall_s")
    assert 0 < phases <= outcome.timings["wall_s"]


def test_outcomes_do_not_depend_on_what_came_before(workload: Workload) -> None:
    a, b = Trial(0, workload.space.dense), Trial(1, small(workload.space), replicate=1)
    first, other, again = outcomes_of(workload, [a, b, replace(a, number=2)])
    assert replace(again, number=0).agrees_with(first)
    assert outcomes_of(workload, [b])[0].agrees_with(other)
    assert other.values != first.values


FRESH = """
import pickle, sys
from evaluators.pools import SerialPool
from spaces.messages import Trial
with open(sys.argv[1], "rb") as file:
    workload, trials = pickle.load(file)
with SerialPool(workload) as pool:
    for trial in trials:
        pool.submit(trial)
    outcomes = [pool.completed()[0] for _ in trials]
with open(sys.argv[2], "wb") as file:
    pickle.dump(outcomes, file)
"""


def test_a_fresh_process_says_the_same_to_the_last_bit(workload: Workload, tmp_path: Path) -> None:
    trials = [Trial(0, small(workload.space)), Trial(1, workload.space.dense, replicate=2)]
    (tmp_path / "in").write_bytes(pickle.dumps((workload, trials)))
    command = [sys.executable, "-c", FRESH, str(tmp_path / "in"), str(tmp_path / "out")]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120)
    fresh = pickle.loads((tmp_path / "out").read_bytes())
    here = outcomes_of(workload, list(reversed(trials)))
    assert [a.agrees_with(b) for a, b in zip(fresh, reversed(here), strict=True)] == [True, True]


def test_read_only_arrays_of_any_alignment_do_and_are_left_alone(workload: Workload) -> None:
    def shifted(array: np.ndarray) -> np.ndarray:
        """A read-only copy that starts at an odd address."""
        memory = np.zeros(array.nbytes + 1, dtype=np.uint8)
        view = memory[1:].view(array.dtype).reshape(array.shape) if array.nbytes else array.copy()
        view[...] = array
        view.setflags(write=False)
        return view

    weights = {name: shifted(array) for name, array in workload.weights.items()}
    train = replace(workload.splits.train, images=shifted(workload.splits.train.images))
    val = replace(workload.splits.val, targets=shifted(workload.splits.val.targets))
    moved = replace(workload, weights=weights, splits=replace(workload.splits, train=train, val=val))
    assert moved.fingerprint == workload.fingerprint
    trials = [Trial(0, small(workload.space))]
    assert outcomes_of(moved, trials)[0].agrees_with(outcomes_of(workload, trials)[0])
    assert fingerprint_of_arrays(weights) == fingerprint_of_arrays(workload.weights)


def test_the_dense_network_is_neither_changed_nor_rebuilt(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = workload.build()
    monkeypatch.setattr(evaluators.workload, "build_network", None)
    for genome in (workload.space.dense, workload.space.minimal):
        assert evaluator.evaluate(Trial(0, genome)).status == "complete"
    assert fingerprint_of_arrays(as_arrays(evaluator.bench.dense)) == fingerprint_of_arrays(workload.weights)


def test_the_subset_of_the_proxy_is_what_is_trained_on(workload: Workload) -> None:
    evaluator = replace(workload, proxy=workload.proxy.model_copy(update={"train_limit": 16})).build()
    assert len(evaluator.bench.subset) == 16
    assert sorted(torch.bincount(evaluator.bench.subset.targets).tolist()) == [8, 8]
    assert len(evaluator._val) == 24


def test_bad_candidates_are_failed_outcomes(workload: Workload) -> None:
    good = small(workload.space)
    bad = [Trial(0, (999, *good[1:])), Trial(1, good[:-1]), Trial(2, good, rung="shared")]
    outcomes = outcomes_of(workload, bad)
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert all(outcome.error and "\n" not in outcome.error for outcome in outcomes)
    assert workload.space.groups[0].name in str(outcomes[0].error)
    assert "no jointly trained weights" in str(outcomes[2].error)
    assert not outcomes[0].values
    assert outcomes[0].timings.keys() == {"wall_s"}


def test_a_diverging_candidate_is_a_failed_outcome() -> None:
    outcome = outcomes_of(make_workload(learning_rate=1e30, epochs=8), [Trial(0, (8, 12))])[0]
    assert str(outcome.error).startswith("RunError: the training loss is not finite")


def test_errors_are_one_line_without_paths() -> None:
    error = OSError("cannot read /data/Jane Doe/scan.nii: it's torn\nsecond line")
    assert describe_error(error).startswith("OSError: cannot read <path>")
    assert "\n" not in describe_error(error)
    assert describe_error(ValueError("ratio 1/2 of 3 / 4")) == "ValueError: ratio 1/2 of 3 / 4"
    assert describe_error(KeyError(r"C:\scans\doe.png")) == "KeyError: '<path>'"
    assert describe_error(ValueError()) == "ValueError"
    assert len(describe_error(ValueError("x" * 1000))) == 300


def test_the_fingerprint_names_what_has_changed(workload: Workload) -> None:
    def changed(**parts: Any) -> set[str]:
        other = replace(workload, **parts).fingerprints
        return {part for part, value in workload.fingerprints.items() if other[part] != value}

    weights = dict(workload.weights)
    weights["0.bias"] = weights["0.bias"] + 1
    order = tuple(units[::-1] for units in workload.ranking.order)
    val = workload.splits.val.take(range(20))
    assert changed() == set()
    assert changed(weights=weights) == {"weights"}
    assert changed(ranking=replace(workload.ranking, order=order)) == {"ranking"}
    assert changed(splits=replace(workload.splits, val=val)) == {"data"}
    assert changed(task=TaskSettings(metric="accuracy")) == {"task"}
    assert changed(proxy=workload.proxy.model_copy(update={"epochs": 3})) == {"proxy"}
    assert changed(proxy=workload.proxy.model_copy(update={"device": "cuda"})) == {"device"}
    renamed = NetworkSettings(factory="elsewhere:tiny", weights="a.pt")
    assert changed(network=renamed) == {"network"}
    assert replace(workload, weights=weights).fingerprint != workload.fingerprint


def test_seeds_are_shared_by_genomes_and_differ_by_replicate_and_task() -> None:
    seeds = {seed_of(fingerprint, replicate) for fingerprint in ("a", "b") for replicate in range(50)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("a", 0) == 7419037797499595560, "seeds are part of the identity of stored evaluations"


def test_a_workload_carries_no_test_images_and_survives_pickling(workload: Workload) -> None:
    copy = pickle.loads(pickle.dumps(workload))
    assert copy.fingerprint == workload.fingerprint
    with pytest.raises(DataError, match="no test images"):
        copy.splits.open_test()


def test_a_network_of_other_weights_or_outputs_is_the_callers_error(workload: Workload) -> None:
    three = workload.network.model_copy(update={"arguments": {"classes": 3}})
    with pytest.raises(NetworkError, match="the dense weights: not the weights of this network"):
        replace(workload, network=three).build()
    network = tiny_classifier(3)
    weights = as_arrays(network)
    with pytest.raises(NetworkError, match="2 classes"):
        replace(workload, network=three, weights=weights).build()


def test_the_analytic_problem_has_the_front_it_says() -> None:
    space = ChannelSpace.chain((4, 6, 4))
    problem = AnalyticWorkload(space)
    front = problem.true_front()
    assert front[-1] == space.dense or space.dense in front
    values = problem.true_metric(np.array(front))
    flops = space.cost(front).flops
    order = np.argsort(flops)
    assert (np.diff(values[order]) > 0).all(), "more FLOPs on the front, more metric"
    assert problem.true_metric(space.dense)[0] == pytest.approx(0.9)
    outcome = outcomes_of(problem, [Trial(0, front[0])])[0]  # type: ignore[arg-type]  # any spec will do
    assert outcome.values["auc"] == problem.true_metric(front[0])[0]


def test_analytic_noise_is_a_matter_of_genome_and_replicate() -> None:
    space = ChannelSpace.chain((4, 6, 4))
    evaluator = AnalyticWorkload(space, noise=0.2).build()
    a, b, c = (evaluator.evaluate(Trial(0, space.dense, replicate=r)).values["auc"] for r in (0, 0, 1))
    assert a == b != c
    assert abs(a - 0.9) < 0.2


def test_device_and_precision_are_part_of_an_evaluations_identity() -> None:
    cpu = make_workload()
    gpu = replace(cpu, proxy=cpu.proxy.model_copy(update={"device": "cuda", "precision": "auto"}))
    half = replace(cpu, proxy=cpu.proxy.model_copy(update={"precision": "bfloat16"}))
    other_gpu = replace(gpu, proxy=gpu.proxy.model_copy(update={"device": "cuda:1"}))
    assert len({cpu.fingerprint, gpu.fingerprint, half.fingerprint}) == 3
    assert other_gpu.fingerprint == gpu.fingerprint, "which GPU it is does not matter"
    assert (cpu.proxy.device, cpu.proxy.precision) == ("cpu", "float32"), "nothing is left to the worker"


def test_a_candidate_whose_training_diverges_is_recorded_and_the_next_goes_on() -> None:
    wild, calm = make_workload(learning_rate=1e30, epochs=4), make_workload()
    (failed,) = outcomes_of(wild, [Trial(0, small(wild.space))])
    assert failed.status == "failed"
    assert "not finite" in str(failed.error)
    assert "lower it" in str(failed.error)
    assert outcomes_of(calm, [Trial(0, small(calm.space))])[0].status == "complete"


def test_a_loss_that_is_no_number_fails_its_candidate_alone(workload: Workload) -> None:
    wild = replace(workload, proxy=workload.proxy.model_copy(update={"epochs": 8, "learning_rate": 1e30}))
    bad = outcomes_of(wild, [Trial(1, small(wild.space), "finetune")])[0]
    assert (bad.status, bad.per_case) == ("failed", {})
    assert "not finite" in str(bad.error)
    good = outcomes_of(workload, [Trial(2, small(workload.space), "finetune")])[0]
    assert good.status == "complete"
