"""Tasks: losses and measures by hand, whatever form the outputs come in, and outputs that do not fit."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from evaluators.data.splits import Kind, Splits, Subset
from evaluators.protocols import Task
from evaluators.settings import TaskSettings
from evaluators.tasks import main_output, make_task
from spaces.errors import ConfigError, DataError, NetworkError, RunError

CLASSES = ("background", "nucleus", "vessel")


def no_test() -> Subset:
    raise DataError("no test images")


def some_splits(kind: Kind, n_classes: int, spatial: tuple[int, ...] = (6, 5), n: int = 12) -> Splits:
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(n, 1, *spatial)).astype(np.uint8)
    masks = rng.integers(n_classes, size=(n, *spatial)).astype(np.uint8)
    targets = np.arange(n) % n_classes if kind == "classification" else masks
    subset = Subset(images, targets)
    return Splits("made up", subset, subset, no_test, 0, CLASSES[:n_classes], kind)


def some_task(kind: Kind, n_classes: int, metric: str | None = None, **options: tuple[int, ...]) -> Task:
    return make_task(TaskSettings(kind=kind, metric=metric), some_splits(kind, n_classes, **options))


def logits_and_targets(
    task: Task, n: int = 12, spatial: tuple[int, ...] = (6, 5)
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    k = len(task.classes)
    shape = spatial if task.kind == "segmentation" else ()
    targets = torch.randint(k, (n, *shape), generator=generator)
    targets[:k] = torch.arange(k).view(-1, *[1] * len(shape))
    logits = torch.randn((n, k, *shape), generator=generator)
    return logits, targets.to(torch.uint8) if shape else targets


TASKS = [("classification", 2), ("classification", 3), ("segmentation", 2), ("segmentation", 3)]


@pytest.mark.parametrize(("kind", "n_classes"), TASKS)
def test_the_contract_of_tasks(kind: Kind, n_classes: int) -> None:
    task = some_task(kind, n_classes)
    logits, targets = logits_and_targets(task)
    task.check_outputs(logits, targets)
    logits.requires_grad_()
    loss = task.loss(logits, targets)
    assert loss.shape == ()
    loss.backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    per_case = task.per_case(logits.detach(), targets)
    widths = {"loss": (12,), "metric": (12,), "score": (12, n_classes - (kind == "segmentation"))}
    assert {name: array.shape for name, array in per_case.items()} == widths
    assert all(array.dtype == np.float32 for array in per_case.values())
    values = task.values(per_case, targets.numpy())
    assert values[task.metric.name] == pytest.approx(per_case["metric"].mean(), abs=1e-6)
    assert values["loss"] == pytest.approx(per_case["loss"].mean(), abs=1e-6)
    assert task.metric.maximize
    assert 0 < task.chance < 1


@pytest.mark.parametrize(("kind", "n_classes"), TASKS)
def test_judging_in_batches_says_the_same(kind: Kind, n_classes: int) -> None:
    task = some_task(kind, n_classes)
    logits, targets = logits_and_targets(task)
    judged = [task.judge(logits[i : i + 5], targets[i : i + 5]) for i in (0, 5, 10)]
    joined = task.gather(judged, targets.numpy())
    for name, array in task.per_case(logits, targets).items():
        np.testing.assert_allclose(joined[name], array, rtol=1e-6)


def test_a_step_against_the_gradient_improves_the_measures() -> None:
    for kind, n_classes in TASKS:
        task = some_task(kind, n_classes)
        logits, targets = logits_and_targets(task)
        before = task.values(task.per_case(logits, targets), targets.numpy())
        for _ in range(50):
            logits = logits.detach().requires_grad_()
            task.loss(logits, targets).backward()
            logits = logits - 50 * logits.grad
        after = task.values(task.per_case(logits.detach(), targets), targets.numpy())
        assert after[task.metric.name] > before[task.metric.name]
        assert after["loss"] < before["loss"]


def test_classification_measures_log_loss_and_probabilities() -> None:
    task = some_task("classification", 3)
    logits, targets = logits_and_targets(task)
    per_case = task.per_case(logits, targets)
    p = torch.softmax(logits, 1).numpy()
    np.testing.assert_allclose(per_case["score"], p, rtol=1e-6)
    np.testing.assert_allclose(per_case["loss"], -np.log(p[np.arange(12), targets]), rtol=1e-5)
    assert set(task.values(per_case, targets.numpy())) == {"auc", "accuracy", "balanced_accuracy", "loss"}
    one_class = np.zeros(12, dtype=np.int64)
    assert set(task.values(per_case, one_class)) == {"accuracy", "loss"}, "undefined metrics are left out"


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_one_output_means_the_same_as_two(kind: Kind) -> None:
    task = some_task(kind, 2)
    two, targets = logits_and_targets(task)
    one = two[:, 1:] - two[:, :1]
    task.check_outputs(one, targets)
    assert task.loss(one, targets).item() == pytest.approx(task.loss(two, targets).item(), rel=1e-5)
    a, b = task.per_case(one, targets), task.per_case(two, targets)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6)


def test_segmentation_loss_is_cross_entropy_plus_monais_dice_loss() -> None:
    task = some_task("segmentation", 3)
    logits, targets = logits_and_targets(task)
    dice = DiceLoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        smooth_nr=1.0,
        smooth_dr=1.0,
        reduction="mean",
    )
    expected = F.cross_entropy(logits, targets.long()) + dice(logits, targets.unsqueeze(1))
    assert task.loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_segmentation_measures_dice_of_the_likeliest_class() -> None:
    task = some_task("segmentation", 3)
    _, targets = logits_and_targets(task)
    perfect = 50.0 * F.one_hot(targets.long(), 3).movedim(-1, 1)
    per_case = task.per_case(perfect, targets)
    np.testing.assert_array_equal(per_case["score"], 1.0)
    np.testing.assert_array_equal(per_case["metric"], 1.0)
    np.testing.assert_allclose(per_case["loss"], 0.0, atol=1e-6)


def test_volumes_are_segmented_by_the_same_code() -> None:
    task = some_task("segmentation", 2, spatial=(4, 3, 5))
    logits, targets = logits_and_targets(task, spatial=(4, 3, 5))
    task.check_outputs(logits, targets)
    assert task.per_case(logits, targets)["metric"].shape == (12,)
    assert task.flip_axes == (-3, -2, -1)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_the_first_of_several_outputs_counts(kind: Kind) -> None:
    task = some_task(kind, 2)
    logits, targets = logits_and_targets(task)
    heads = [logits, torch.zeros(1)]
    assert task.loss(heads, targets) == task.loss(logits, targets)
    np.testing.assert_array_equal(
        task.per_case((heads, None), targets)["metric"], task.per_case(logits, targets)["metric"]
    )
    with pytest.raises(NetworkError, match="returns dict; it must return a tensor"):
        main_output({"logits": logits})


@pytest.mark.parametrize(
    ("kind", "n_classes", "shape", "expected"),
    [
        ("classification", 3, (12, 2), r"\(12, 2\), but the 3 classes .*vessel.* need \(12, 3\)"),
        ("classification", 3, (12, 1), r"need \(12, 3\);"),
        ("classification", 2, (12, 5), r"need \(12, 2\) or \(12, 1\)"),
        ("classification", 2, (12, 2, 1, 1), r"\(12, 2, 1, 1\)"),
        ("segmentation", 3, (12, 2, 6, 5), r"need \(12, 3, 6, 5\)"),
        ("segmentation", 2, (12, 2, 3, 2), r"need \(12, 2, 6, 5\) or \(12, 1, 6, 5\)"),
    ],
)
def test_outputs_that_cannot_mean_the_classes_are_refused(
    kind: Kind, n_classes: int, shape: tuple[int, ...], expected: str
) -> None:
    task = some_task(kind, n_classes)
    targets = logits_and_targets(task)[1]
    with pytest.raises(NetworkError, match=expected):
        task.check_outputs(torch.zeros(shape), targets)


@pytest.mark.parametrize(("kind", "n_classes"), TASKS)
def test_outputs_that_are_not_finite_are_no_measurement(kind: Kind, n_classes: int) -> None:
    task = some_task(kind, n_classes)
    logits, targets = logits_and_targets(task)
    logits[3] = torch.nan
    with pytest.raises(RunError, match="not finite"):
        task.per_case(logits, targets)


def test_settings_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task.kind = 'segmentation'"):
        make_task(TaskSettings(kind="classification"), some_splits("segmentation", 2))
    with pytest.raises(ConfigError, match="'dice' does not judge classification"):
        some_task("classification", 2, metric="dice")
    splits = some_splits("classification", 2)
    splits.val.targets[:] = 0
    with pytest.raises(DataError, match=r"val has none of class 1 \('nucleus'\)"):
        make_task(TaskSettings(), splits)
