"""The rungs: what each slices and does, the same everywhere; jointly trained weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.data.tensors import as_packed
from evaluators.identity import fingerprint_of_arrays
from evaluators.norms import averaged_statistics
from evaluators.pools.serial import SerialPool
from evaluators.rungs.joint import JointTraining, random_widths, shared_weights
from evaluators.rungs.prices import HANDFUL
from evaluators.rungs.recalibration import recalibrate
from evaluators.rungs.table import RUNGS, find_rung
from evaluators.tasks.factory import make_task
from evaluators.training import Normalisation
from evaluators.workload import Workload
from spaces.errors import ConfigError, RunError
from spaces.messages import Trial
from spaces.surgery import prune
from tests.test_workload import make_workload, outcomes_of


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    plain = make_workload(epochs=0.5, full_epochs=1, shared_epochs=2)
    task = make_task(plain.task, plain.splits)
    return replace(plain, shared=shared_weights(plain, task, cache_dir=tmp_path_factory.mktemp("weights")))


def test_every_rung_evaluates_dense_and_candidates_the_same_twice(workload: Workload) -> None:
    genomes = (workload.space.dense, workload.space.uniform(0.5))
    rungs = [name for name, rung in RUNGS.items() if not rung.brief]
    trials = [Trial(i, g, rung) for i, (rung, g) in enumerate((r, g) for r in rungs for g in genomes)]
    once, twice = outcomes_of(workload, trials), outcomes_of(workload, trials[::-1])[::-1]
    assert [outcome.error for outcome in once] == [None] * len(trials)
    assert all(a.agrees_with(b) for a, b in zip(once, twice, strict=True))
    assert len({outcome.per_case["loss"].tobytes() for outcome in once}) == len(trials)


def test_a_scout_sees_a_handful_of_images_and_nothing_else(workload: Workload) -> None:
    dense, half = workload.space.dense, workload.space.uniform(0.5)
    trials = [Trial(0, dense, "scout"), Trial(1, half, "scout")]
    once, again = outcomes_of(workload, trials), outcomes_of(workload, trials)
    assert all(a.agrees_with(b) for a, b in zip(once, again, strict=True))
    assert all(set(found.values) == set(found.per_case) == {"disagreement"} for found in once)
    assert all(found.per_case["disagreement"].shape == (HANDFUL,) for found in once)
    assert once[0].values["disagreement"] < 1e-6 < once[1].values["disagreement"]
    (sliced,) = outcomes_of(replace(workload, shared=None), trials[1:])  # from dense's weights, then
    assert sliced.values["disagreement"] != once[1].values["disagreement"]
    opposite = {name: -5 * array if array.ndim == 2 else array for name, array in workload.weights.items()}
    assert outcomes_of(replace(workload, shared=opposite), trials[:1])[0].values["disagreement"] < 1e-6


def test_the_rung_and_the_device_are_no_part_of_the_fingerprint_the_weights_are(workload: Workload) -> None:
    other = replace(workload, proxy=workload.proxy.model_copy(update={"rung": "shared"}))
    assert other.fingerprint == workload.fingerprint
    assert replace(workload, shared=None).fingerprint != workload.fingerprint


def test_at_shared_agreement_is_with_the_full_width_of_the_same_weights(workload: Workload) -> None:
    opposite = {name: -5 * array if array.ndim == 2 else array for name, array in workload.weights.items()}
    dense = Trial(0, workload.space.dense, "shared")
    assert outcomes_of(replace(workload, shared=opposite), [dense])[0].values["disagreement"] < 1e-6


def test_tuning_leaves_the_statistics_of_its_last_epoch(workload: Workload) -> None:
    """However few its steps, nothing of dense's is left in them: with weights held still, `recalibrate`'s."""
    still = {"epochs": 1, "learning_rate": 1e-9, "augment": False, "weight_decay": 0.0}
    evaluator = replace(workload, proxy=workload.proxy.model_copy(update=still)).build()
    means = []
    for rung in ("recalibrate", "finetune"):
        network = evaluator.sliced(evaluator.bench.dense, workload.space.uniform(0.5))
        RUNGS[rung].adapt(network, evaluator.bench, 0)
        means.append([module.running_mean for module in network.modules() if hasattr(module, "running_mean")])
    assert means[0]
    for alone, tuned in zip(*means, strict=True):
        assert torch.allclose(alone, tuned, atol=0.05 * alone.abs().max())


def test_tuning_may_start_from_the_jointly_trained_weights(workload: Workload) -> None:
    start = replace(workload, proxy=workload.proxy.model_copy(update={"start": "shared"}))
    trial = [Trial(0, workload.space.uniform(0.5))]
    assert outcomes_of(start, trial)[0].values != outcomes_of(workload, trial)[0].values
    failed = outcomes_of(replace(start, shared=None), trial)[0]
    assert "no jointly trained weights" in str(failed.error)


def test_instance_norms_keep_the_statistics_they_have() -> None:
    """Without a momentum they learn nothing: what they knew must not be forgotten for it."""
    network = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True))
    images = 3 + 2 * torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    network(images)
    before = network[0].running_mean.clone()
    recalibrate(network, images, seed=1)
    with averaged_statistics(network):
        network.train()(images)
    assert before.min() > 0.2
    assert (network[0].running_mean > before).all(), "a running average, still"


def test_a_mistyped_rung_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'finetune'"):
        find_rung("finetun")


def test_recalibration_gives_norms_the_statistics_of_the_images() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.Dropout(0.5))
    images = 3 + 2 * torch.randn(640, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    recalibrate(network, images, seed=1)
    norm = network[0]
    assert torch.allclose(norm.running_mean, torch.full((2,), 3.0), atol=0.05)
    assert torch.allclose(norm.running_var, torch.full((2,), 4.0), atol=0.1)
    assert norm.momentum == 0.1
    assert not network.training
    before = norm.running_mean.clone()
    recalibrate(network, images, seed=1)
    assert torch.equal(before, norm.running_mean)
    recalibrate(network, images, seed=2)
    assert not torch.equal(before, norm.running_mean)


def test_every_image_counts_the_same_in_recalibration() -> None:
    """65 images in batches of at most 64: the last one alone would be half of the average."""
    network = nn.Sequential(nn.BatchNorm2d(1, affine=False))
    images = torch.arange(65.0).reshape(65, 1, 1, 1).expand(65, 1, 4, 4).contiguous()
    for seed in range(3):
        recalibrate(network, as_packed(images), seed)
        assert network[0].running_mean.item() == pytest.approx(32, abs=0.5)


def test_recalibration_leaves_networks_without_statistics_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)).train()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recalibrate(network, torch.randn(4, 1, 8, 8), seed=0)
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    assert not network.training


def test_jointly_trained_weights_are_kept_and_read_again(tmp_path: Path) -> None:
    workload = make_workload(shared_epochs=0.5)
    task = make_task(workload.task, workload.splits)
    steps: list[int] = []
    first = shared_weights(workload, task, cache_dir=tmp_path, progress=lambda done, *_: steps.append(done))
    done = len(steps)
    again = shared_weights(workload, task, cache_dir=tmp_path, progress=lambda done, *_: steps.append(done))
    assert done == len(steps) > 0
    assert fingerprint_of_arrays(first) == fingerprint_of_arrays(again)
    assert fingerprint_of_arrays(first) != fingerprint_of_arrays(workload.weights)
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["shared"]


def joint_training(workload: Workload) -> JointTraining:
    data = workload.splits.normalisation.apply(workload.splits.train)
    task = make_task(workload.task, workload.splits)
    return JointTraining(workload.dense_network(), data, workload, task, seed=5)


@pytest.mark.parametrize("settings", [{"optimiser": "adamw"}, {"distill": 0.5}], ids=["adamw", "distill"])
def test_joint_training_that_was_stopped_ends_as_if_it_had_not_been(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.checkpoints.EVERY_S", 0.0)
    monkeypatch.setattr("evaluators.checkpoints._SHARE", np.inf)
    monkeypatch.setattr("evaluators.checkpoints._STEPS", 2)
    workload = make_workload(shared_epochs=4, **settings)
    task = make_task(workload.task, workload.splits)
    whole = shared_weights(workload, task, cache_dir=tmp_path / "undisturbed")
    seen: list[int] = []

    def stopping(done: int, total: int, note: str = "") -> None:
        seen.append(done)
        if done in (3, 7) and seen.count(done) == 1:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            shared_weights(workload, task, cache_dir=tmp_path / "stopped", progress=stopping)
    stopped = shared_weights(workload, task, cache_dir=tmp_path / "stopped", progress=stopping)
    assert seen == [1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12]
    assert fingerprint_of_arrays(stopped) == fingerprint_of_arrays(whole)
    assert [path.suffix for path in (tmp_path / "stopped").iterdir()] == [".safetensors"]


def test_gradients_of_slices_land_where_the_slice_was_cut() -> None:
    workload = make_workload()
    trainer = joint_training(workload)
    kept = workload.ranking.kept(workload.space, workload.space.minimal)
    small = prune(trainer.network, workload.space, workload.space.minimal, workload.ranking)
    for parameter in small.parameters():
        parameter.grad = parameter.detach().clone()  # then every touched entry must meet its own weight
    trainer._give_back(small, kept)
    for parameter in trainer.network.parameters():
        if parameter.grad is not None:
            touched = parameter.grad != 0
            assert torch.equal(parameter.grad[touched], parameter.detach()[touched])
    given = sum(int((p.grad != 0).sum()) for p in trainer.network.parameters() if p.grad is not None)
    assert given == sum(int((p != 0).sum()) for p in small.parameters())


def test_slices_get_better_by_joint_training() -> None:
    workload = make_workload(shared_epochs=12)
    task = make_task(workload.task, workload.splits)
    data = Normalisation.of(workload.splits.train).apply(workload.splits.train)
    trainer = joint_training(workload)

    def loss() -> float:
        small = prune(trainer.network, workload.space, workload.space.uniform(0.5), workload.ranking)
        recalibrate(small, data.images, 0)
        with torch.inference_mode():
            return float(task.loss(small(data.images[:]), data.targets))

    before = loss()
    trainer.run()
    assert loss() < before - 0.01


@pytest.mark.parametrize(
    "setting",
    [
        {"optimiser": "adamw", "learning_rate": 1e-3},
        {"clip_norm": 0.01},
        {"distill": 1.0},
        {"precision": "bfloat16"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_joint_training_follows_the_settings_of_the_proxy(setting: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for settings in ({}, setting):
        workload = make_workload(shared_epochs=1, **settings)
        task = make_task(workload.task, workload.splits)
        found.append(shared_weights(workload, task, cache_dir=tmp_path))
    assert fingerprint_of_arrays(found[0]) != fingerprint_of_arrays(found[1])
    assert all(np.isfinite(array).all() for array in found[1].values())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_diverging_joint_training_says_so(tmp_path: Path) -> None:
    workload = make_workload(learning_rate=1e30, shared_epochs=4)
    with pytest.raises(RunError, match="lower proxy"):
        shared_weights(workload, make_task(workload.task, workload.splits), cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_random_widths_are_legal_and_reach_both_ends() -> None:
    space = make_workload().space
    rng = np.random.default_rng(0)
    genomes = [space.check(random_widths(space, rng)) for _ in range(200)]
    assert len(set(genomes)) > 20
    shares = np.log2(space.cost(genomes).flops / space.cost(space.dense).flops[0])
    assert shares.min() < -2.5 < -0.5 < shares.max()


def test_the_pool_runs_the_rung_that_a_trial_says(workload: Workload) -> None:
    with SerialPool(workload) as pool:
        pool.submit(Trial(0, workload.space.dense, "shared"))
        shared = pool.completed()[0]
    assert 0 <= shared.values["auc"] <= 1
