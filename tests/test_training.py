"""Training: what the seed decides and nothing else does, batches, normalisation, measuring, the cache."""

import copy
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evaluators.augment import BatchStream
from evaluators.checkpoints import read_state, write_state
from evaluators.data.splits import Kind, Splits, Subset
from evaluators.dense import as_arrays, dense_weights, train_dense
from evaluators.precision import Precision, pinned, resolve_device, resolve_precision
from evaluators.settings import NetworkSettings, ProxySettings, RecipeSettings, TaskSettings
from evaluators.tasks.factory import make_task
from evaluators.teacher import Teacher
from evaluators.training import (
    Normalisation,
    Tensors,
    Tuning,
    batches,
    check_network,
    measure,
    n_steps,
    tune,
)
from spaces.errors import ConfigError, DataError, NetworkError, RunError

CPU = torch.device("cpu")


def no_test() -> Subset:
    raise DataError("no test images")


def some_splits(kind: Kind = "classification", n: int = 48, size: int = 8) -> Splits:
    """Class 1 is brighter; masks are the bright half."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = rng.normal(100, 30, (n, 1, size, size))
    masks = np.zeros((n, size, size), dtype=np.uint8)
    for image, mask, label in zip(images, masks, labels, strict=True):
        half = slice(0, size // 2) if label else slice(size // 2, size)
        image[:, half] += 60
        mask[half] = 1
        image += 40 * label
    images = images.clip(0, 255).astype(np.uint8)
    subset = Subset(images, labels if kind == "classification" else masks)
    val = subset.take(range(0, n, 2 if kind == "segmentation" else 1))
    return Splits("made up", subset, val, no_test, 0, ("a", "b"), kind)


def some_network(kind: Kind = "classification", dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout)]
        if kind == "segmentation":
            return nn.Sequential(*body, nn.Conv2d(6, 2, 1))
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))


def tensors(splits: Splits) -> Tensors:
    return Normalisation.of(splits.train).apply(splits.train)


def weights_after(
    splits: Splits, network: nn.Module, seed: int = 0, epochs: float = 1
) -> dict[str, np.ndarray]:
    task = make_task(TaskSettings(kind=splits.kind), splits)
    tune(network, tensors(splits), task, ProxySettings(epochs=epochs, batch_size=8), seed=seed)
    return as_arrays(network)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_training_learns(kind: Kind) -> None:
    splits = some_splits(kind)
    task = make_task(TaskSettings(kind=kind), splits)
    recipe = RecipeSettings(epochs=12, batch_size=8, augment=kind == "segmentation")
    seen: list[tuple[int, int]] = []
    trained = train_dense(
        some_network(kind),
        splits,
        task,
        recipe,
        seed=0,
        device="cpu",
        progress=lambda *at: seen.append(at[:2]),
    )
    val = Normalisation.of(splits.train).apply(splits.val)
    before, _ = measure(some_network(kind), val, task)
    after, per_case = measure(trained, val, task)
    assert after["loss"] < before["loss"]
    assert after[task.metric.name] > 0.8
    assert len(per_case["loss"]) == len(splits.val)
    assert seen == [(step + 1, 72) for step in range(72)]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_seed_decides_and_nothing_else(dropout: float) -> None:
    splits = some_splits()
    first = weights_after(splits, some_network(dropout=dropout))
    torch.manual_seed(123)
    torch.rand(7)
    state = torch.get_rng_state()
    assert same(weights_after(splits, some_network(dropout=dropout)), first)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left as it was"
    assert not same(weights_after(splits, some_network(dropout=dropout), seed=1), first)


def test_batches_and_augmentation_are_the_same_for_every_network() -> None:
    splits, seen = some_splits(), {}

    class Spy(nn.Module):
        def __init__(self, inner: nn.Module, name: str) -> None:
            super().__init__()
            self.inner, self.name = inner, name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.setdefault(self.name, []).append(x.clone())
            return self.inner(x)

    weights_after(splits, Spy(some_network(dropout=0.3), "with dropout"))
    weights_after(splits, Spy(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "linear"))
    assert len(seen["linear"]) == 6
    assert all(torch.equal(*pair) for pair in zip(*seen.values(), strict=True))


@given(n=st.integers(1, 40), size=st.integers(1, 16), seed=st.integers(0, 2**63 - 1))
def test_every_image_comes_equally_often_in_batches_of_equal_size(n: int, size: int, seed: int) -> None:
    images = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1)
    stream = BatchStream(images, torch.arange(n), size, None, seed)
    assert stream.batch_size == (1 if size == 1 else max(2, min(size, n)))
    counts, taken = np.zeros(n, dtype=int), 0
    for batch, targets in stream:
        assert batch.shape == (stream.batch_size, 1, 1, 1)
        assert torch.equal(batch.flatten().long(), targets)
        counts += np.bincount(targets, minlength=n)
        taken += len(targets)
        if taken >= 3 * n:
            break
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("spatial", [(28, 28), (16, 20, 12)])
def test_masks_move_with_their_images(spatial: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(3, (10, *spatial), generator=generator, dtype=torch.uint8)
    images = torch.stack([masks, 10 * masks], dim=1).float()
    axes = tuple(range(-len(spatial), 0))
    moved, moved_masks = next(iter(BatchStream(images, masks, 10, axes, seed=1)))
    assert torch.equal(moved[:, 0], moved_masks.float())
    assert torch.equal(moved[:, 1], 10 * moved_masks.float())
    assert not any(torch.equal(a, b) for a in moved_masks for b in masks), "something has moved"


def test_augmentation_mirrors_and_shifts_along_the_right_axes() -> None:
    """A ramp along the columns: rising or falling (mirrored), moved by at most two of 28, edges repeated."""
    ramp = torch.arange(28.0).expand(1, 1, 28, 28)
    stream = BatchStream(ramp, torch.zeros(1, dtype=torch.long), 2, (-1,), seed=0)
    signs, shifts = set(), set()
    for _, (images, _) in zip(range(50), stream, strict=False):
        for image in images[:, 0]:
            assert torch.equal(image, image[:1].expand(28, 28)), "rows have not been mixed"
            signs.add(int(torch.sign(image[0, 14] - image[0, 13])))
            rising = image[0] if image[0, 14] > image[0, 13] else image[0].flip(0)
            shifts.add(int(rising[14] - 14))
    assert signs == {-1, 1}
    assert shifts == {-2, -1, 0, 1, 2}


def test_normalised_training_images_have_mean_zero_and_deviation_one_per_channel() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 3, 5, 4)).astype(np.uint8)
    images[:, 2] = 7
    images.setflags(write=False)
    subset = Subset(images, np.zeros(600, dtype=np.int64))
    data = Normalisation.of(subset).apply(subset)
    seen = data.images[:]
    assert seen.dtype == torch.float32
    mean, std = seen.mean((0, 2, 3)), seen.std((0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    seen.add_(1)  # its own memory: the array stays
    assert images[0, 2, 0, 0] == 7


def test_steps_are_passes_over_the_images() -> None:
    assert n_steps(ProxySettings(epochs=2, batch_size=32), 546) == 34
    assert n_steps(ProxySettings(epochs=0.25, batch_size=32), 546) == 4
    assert n_steps(ProxySettings(epochs=0.1, batch_size=32), 10) == 1
    assert n_steps(ProxySettings(epochs=20, batch_size=32), 10) == 20, "a batch is all there is"
    assert n_steps(ProxySettings(epochs=0), 546) == 0


def test_no_epochs_leave_the_network_as_it_was() -> None:
    network = some_network()
    before = as_arrays(network)
    assert same(weights_after(some_splits(), network, epochs=0), before)


def test_one_training_image_is_enough_for_batch_norms() -> None:
    splits = some_splits()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    task = make_task(TaskSettings(), splits)
    data = Normalisation.of(splits.train).apply(splits.train.take([3]))
    tune(network, data, task, ProxySettings(epochs=2), seed=0)
    assert all(np.isfinite(array).all() for array in as_arrays(network).values())


def test_frozen_parameters_stay() -> None:
    network = some_network()
    next(network.parameters()).requires_grad_(False)
    before = as_arrays(network)["0.weight"]
    after = weights_after(some_splits(), network)
    assert np.array_equal(before, after["0.weight"])
    assert not np.array_equal(before, after["6.weight"])


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    splits = some_splits()
    task = make_task(TaskSettings(), splits)
    settings = ProxySettings(epochs=20, batch_size=8, learning_rate=1e30)
    with pytest.raises(
        RunError, match=r"not finite by step 20 of 120 at learning rate 1e\+30; lower it, or set clip_norm"
    ):
        tune(some_network(), tensors(splits), task, settings, seed=0)


def test_measuring_uses_eval_mode_and_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = some_splits()
    task, data, network = (
        make_task(TaskSettings(), splits),
        tensors(splits),
        some_network(dropout=0.5).train(),
    )
    before = as_arrays(network)
    values, per_case = measure(network, data, task)
    assert same(as_arrays(network), before), "no batch statistics were updated"
    monkeypatch.setattr("evaluators.tasks.judged.LARGEST_BATCH", 7)
    again, per_case_again = measure(network, data, task)
    assert again == pytest.approx(values, rel=1e-5)
    np.testing.assert_allclose(per_case_again["score"], per_case["score"], rtol=1e-5)


def test_batches_for_a_ranking_are_a_seeded_few() -> None:
    splits = some_splits()
    task, settings = make_task(TaskSettings(), splits), ProxySettings(batch_size=16)
    first = list(batches(tensors(splits), task, settings, 3, seed=5))
    again = list(batches(tensors(splits), task, settings, 3, seed=5))
    assert [images.shape for images, _ in first] == [(16, 1, 8, 8)] * 3
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))


def test_a_network_that_does_not_take_the_images_is_refused() -> None:
    splits = some_splits()
    task, data = make_task(TaskSettings(), splits), tensors(splits)
    with pytest.raises(NetworkError, match=r"does not take images of shape \(1, 8, 8\): .*"):
        check_network(nn.Conv2d(3, 4, 3), data, task)
    with pytest.raises(NetworkError, match="2 classes"):
        check_network(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), data, task)


def test_devices_are_resolved_by_name() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match=r"CUDA GPUs here; set proxy\.device = 'cpu'"):
        resolve_device("cuda:63")


def cached(tmp_path: Path, splits: Splits, network: nn.Module, **changes: object) -> tuple[dict, bool]:
    """The dense weights, and whether they were trained for it."""
    calls: list[int] = []
    options = {"seed": 0, "recipe": RecipeSettings(epochs=1, batch_size=8)} | changes
    task = make_task(TaskSettings(kind=splits.kind), splits)
    weights = dense_weights(
        NetworkSettings(factory="tests.test_training:some_network"),
        network,
        splits,
        task,
        cache_dir=tmp_path / "cache",
        device="cpu",
        progress=lambda done, *_: calls.append(done),
        **options,  # type: ignore[arg-type]  # a test's shorthand
    )
    return weights, bool(calls)


def test_dense_weights_are_trained_once_for_the_same_content(tmp_path: Path) -> None:
    splits, network = some_splits(), some_network()
    before = as_arrays(network)
    weights, trained = cached(tmp_path, splits, network)
    assert trained
    assert same(as_arrays(network), before), "the given network is not changed"
    again, trained = cached(tmp_path, splits, some_network())
    assert not trained
    assert same(again, weights)
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    for changes in ({"seed": 1}, {"recipe": RecipeSettings(epochs=2, batch_size=8)}):
        assert cached(tmp_path, splits, some_network(), **changes)[1], changes
    assert cached(tmp_path, some_splits(n=40), some_network())[1], "other images"
    assert cached(tmp_path, splits, network)[1], "other initial weights"
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_torn_cache_file_is_replaced(tmp_path: Path) -> None:
    weights, _ = cached(tmp_path, some_splits(), some_network())
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    again, trained = cached(tmp_path, some_splits(), some_network())
    assert trained
    assert same(again, weights)
    assert not cached(tmp_path, some_splits(), some_network())[1]


@pytest.mark.parametrize("kill", [KeyboardInterrupt, MemoryError])
def test_dense_training_that_was_stopped_ends_as_if_it_had_not_been(
    kill: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.checkpoints.EVERY_S", 0.0)
    monkeypatch.setattr("evaluators.checkpoints._SHARE", np.inf)
    monkeypatch.setattr("evaluators.checkpoints._STEPS", 4)
    recipe, splits = RecipeSettings(epochs=3, batch_size=8), some_splits()
    task = make_task(TaskSettings(kind=splits.kind), splits)
    whole, _ = cached(tmp_path / "undisturbed", splits, some_network(dropout=0.3), recipe=recipe)
    seen: list[int] = []

    def stopping(done: int, total: int, note: str = "") -> None:
        seen.append(done)
        if seen.count(10) == 1 and done == 10:
            raise kill

    def train() -> dict[str, np.ndarray]:
        settings = NetworkSettings(factory="tests.test_training:some_network")
        options: dict[str, Any] = {"seed": 0, "cache_dir": tmp_path / "cache", "device": "cpu"}
        network = some_network(dropout=0.3)
        return dense_weights(settings, network, splits, task, recipe, progress=stopping, **options)

    with pytest.raises(kill):
        train()
    assert same(train(), whole)
    assert seen[8:14] == [9, 10, 9, 10, 11, 12]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_a_torn_checkpoint_is_none(tmp_path: Path) -> None:
    state = {"step": 3, "nested": {0: [torch.arange(3), True, None, "text", 2**127]}, "rate": 0.1}
    write_state(tmp_path / "state", state)
    again = read_state(tmp_path / "state")
    assert torch.equal(again["nested"][0].pop(0), state["nested"][0].pop(0))  # type: ignore[index]
    assert again == state
    whole = (tmp_path / "state").read_bytes()
    for size in (0, 5, 50, len(whole) - 1):
        (tmp_path / "state").write_bytes(whole[:size])
        assert read_state(tmp_path / "state") is None


def test_weights_that_are_not_finite_after_the_last_step_are_refused() -> None:
    """A loss that is finite to the end says nothing about what its last gradient did."""

    class Explosive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 2)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += torch.inf
            return self.linear(x.flatten(1))

    splits = some_splits()
    with pytest.raises(RunError, match="seen is not finite after training at learning rate"):
        tune(Explosive(), tensors(splits), make_task(TaskSettings(), splits), ProxySettings(epochs=1), seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "adamw", "learning_rate": 0.01},
        {"precision": "bfloat16"},
        {"clip_norm": 1.0},
        {"balanced": True},
        {"augmentation": {"rotate": 5, "scale": 0.1, "contrast": 0.1, "noise": 0.05}},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_every_way_of_training_learns_and_repeats(kind: Kind, options: dict) -> None:
    splits = some_splits(kind)
    task, data = make_task(TaskSettings(kind=kind), splits), tensors(splits)
    settings = ProxySettings(**{"epochs": 4, "batch_size": 8, "learning_rate": 0.05} | options)
    start, once, twice = (some_network(kind) for _ in range(3))
    tune(once, data, task, settings, seed=1)
    tune(twice, data, task, settings, seed=1)
    assert same(as_arrays(once), as_arrays(twice))
    assert measure(once, data, task)[0]["loss"] < measure(start, data, task)[0]["loss"]
    assert all(p.dtype == torch.float32 for p in once.parameters())


def test_clipping_keeps_steps_small() -> None:
    splits = some_splits()
    task, data = make_task(TaskSettings(), splits), tensors(splits)
    options = {"epochs": 0.1, "momentum": 0, "weight_decay": 0, "learning_rate": 1.0, "augment": False}
    moved = []
    for clip_norm in (None, 1e-3):
        network = some_network()
        tune(network, data, task, ProxySettings(clip_norm=clip_norm, **options), seed=0)
        steps = zip(network.parameters(), some_network().parameters(), strict=True)
        moved.append(math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in steps)))
    assert moved[1] == pytest.approx(1e-3, rel=1e-2)
    assert moved[0] > 10 * moved[1]


class _Counting(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.network(x)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_student_becomes_like_its_teacher_who_is_asked_once(kind: Kind) -> None:
    splits = some_splits(kind)
    task, data = make_task(TaskSettings(kind=kind), splits), tensors(splits)
    dense = train_dense(some_network(kind), splits, task, RecipeSettings(epochs=8, batch_size=8), seed=0)
    asked = _Counting(dense)
    teacher = Teacher(asked)
    settings = ProxySettings(epochs=4, batch_size=8, learning_rate=0.1, distill=1.0)

    def distance(network: nn.Module) -> float:
        with torch.no_grad():
            return float(task.imitation(network.eval()(data.images[:]), dense(data.images[:])))

    students = [some_network(kind) for _ in range(2)]
    for student in students:
        tune(student, data, task, settings, seed=5, teacher=teacher)
    assert same(as_arrays(students[0]), as_arrays(students[1]))
    assert asked.calls == n_steps(settings, len(data)), "the second student saw the same batches"
    assert distance(students[0]) < distance(some_network(kind))
    alone = some_network(kind)
    tune(alone, data, task, settings.model_copy(update={"distill": 0.0}), seed=5, teacher=teacher)
    assert not same(as_arrays(alone), as_arrays(students[0]))


def test_a_teacher_without_room_answers_all_the_same() -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = _Counting(some_network().eval())
    room = 2 * 4 * 2 * 4  # bytes: two answers of four images and two classes
    teacher = Teacher(asked, largest=room)
    answers = [teacher.tell("a", step, images) for step in (0, 1, 2, 0, 1, 2)]
    assert asked.calls == 4, "the third never found room"
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    teacher.tell("b", 0, images)
    teacher.tell("b", 0, images)
    assert asked.calls == 5, "the old stream made room for the new one"


def test_what_trains_where_and_in_which_format_is_pinned() -> None:
    assert resolve_precision("auto", CPU) == "float32"
    assert resolve_precision("auto", torch.device("cuda")) in ("bfloat16", "float16")
    here = pinned(ProxySettings())
    assert here.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pinned(ProxySettings(), "cuda").device == "cuda"
    assert pinned(ProxySettings(device="cpu", precision="bfloat16")).precision == "bfloat16"
    with pytest.raises(ConfigError, match="'float16' is for GPUs"):
        pinned(ProxySettings(device="cpu", precision="float16"))


@pytest.mark.parametrize(("optimiser", "stops"), [("sgd", (5,)), ("adamw", (1, 7, 8))])
def test_a_training_that_is_stored_goes_on_to_the_last_bit(
    tmp_path: Path, optimiser: Literal["sgd", "adamw"], stops: tuple[int, ...]
) -> None:
    """Dropout, augmentation, momentum and a teacher: nothing of it may notice the interruption."""
    splits = some_splits()
    task, data = make_task(TaskSettings(), splits), tensors(splits)
    settings = ProxySettings(epochs=2, batch_size=8, optimiser=optimiser, distill=0.5)
    whole = some_network(dropout=0.3)
    tune(whole, data, task, settings, seed=3, teacher=Teacher(some_network()))
    for stop in (*stops, None):
        torch.manual_seed(99 + (stop or 0))  # as another process would
        network = some_network(dropout=0.3)
        tuning = Tuning(network, data, task, settings, seed=3, teacher=Teacher(some_network()))
        state = read_state(tmp_path / "state")
        assert (state is None) == (stop == stops[0])
        if state is not None:
            tuning.load(state)
        tuning.run(stop)
        write_state(tmp_path / "state", tuning.state())
    assert tuning.step == tuning.steps == 12
    assert same(as_arrays(whole), as_arrays(network))


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 4, 4), (1, 1, 1), (4, 4, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_small_volumes_in_bfloat16(size: tuple[int, ...], transposed: bool) -> None:
    """As in float32: torch alone gives values of 1e30 where a volume is smaller than the kernel."""
    torch.manual_seed(0)
    kind = nn.ConvTranspose3d if transposed else nn.Conv3d
    images, exact = torch.randn(4, 32, *size), kind(32, 32, 3, padding=1, bias=False)
    half, settings = copy.deepcopy(exact), ProxySettings(precision="bfloat16")
    (exact(images) ** 2).sum().backward()
    with Precision(settings, CPU, images.ndim).autocast():
        loss = (half(images).float() ** 2).sum()
    loss.backward()
    assert exact.weight.grad is not None
    assert half.weight.grad is not None
    error = (half.weight.grad - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
    assert error < 0.05
