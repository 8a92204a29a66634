"""Tasks: losses and measures by hand, whatever form the outputs come in, and outputs that do not fit."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from evaluators.data.splits import Kind, Splits, Subset
from evaluators.protocols import Task
from evaluators.settings import TaskSettings
from evaluators.tasks.factory import make_task
from evaluators.tasks.heads import main_output
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
    if kind == "classification":
        widths["classes"] = (12, n_classes)
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
    recalls = {f"recall/{name}" for name in CLASSES}
    assert (
        set(task.values(per_case, targets.numpy()))
        == {"auc", "accuracy", "balanced_accuracy", "loss"} | recalls
    )
    one_class = np.zeros(12, dtype=np.int64)
    left = {"accuracy", "loss", "recall/background"}
    assert set(task.values(per_case, one_class)) == left, "what is not defined is left out"


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
    with pytest.raises(
        DataError, match=r"needs 2 cases of every class, but val has none of class 1 \('nucleus'\)"
    ):
        make_task(TaskSettings(), splits)


# -- kinds beyond classes and masks


def task_of(kind: str, targets: np.ndarray, classes: tuple[str, ...] = CLASSES, **settings: object) -> Task:
    data_kind: Kind = "classification" if kind == "embedding" else kind  # type: ignore[assignment]
    images = np.random.default_rng(0).integers(256, size=(len(targets), 1, 6, 5)).astype(np.uint8)
    subset = Subset(images, targets)
    splits = Splits("made up", subset, subset, no_test, 0, classes, data_kind)
    return make_task(TaskSettings(kind=kind, **settings), splits)  # type: ignore[arg-type]


LABELS = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1]] * 2, dtype=np.uint8)
NUMBERS = np.linspace(20, 90, 12, dtype=np.float32)


def test_labels_that_may_come_together() -> None:
    task = task_of("multilabel", LABELS)
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(LABELS)
    task.check_outputs(logits, targets)
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    assert task.loss(logits, targets).item() == pytest.approx(expected.item())
    perfect = task.per_case(20 * targets.float() - 10, targets)
    values = task.values(perfect, LABELS)
    assert values["auc"] == values["accuracy"] == 1
    assert [values[f"auc/{name}"] for name in CLASSES] == [1, 1, 1]
    assert perfect["classes"].shape == (12, 3)
    assert task.strata(targets)[:6].tolist() == [1, 0, 0, 2, 2, 1]
    with pytest.raises(NetworkError, match=r"need \(12, 3\)"):
        task.check_outputs(logits[:, :2], targets)


@pytest.mark.parametrize("standardise", [True, False])
def test_numbers_are_predicted_in_their_own_units(standardise: bool) -> None:
    task = task_of("regression", NUMBERS, (), standardise=standardise)
    targets = torch.from_numpy(NUMBERS)
    right = (targets - targets.mean()) / targets.std(correction=0) if standardise else targets
    task.check_outputs(right[:, None], targets)
    assert task.loss(right, targets).item() == pytest.approx(0, abs=1e-6)
    off = right + (1 if standardise else float(targets.std(correction=0)))
    assert task.loss(off, targets).item() == pytest.approx(1, rel=1e-4), (
        "in variances of the training targets"
    )
    per_case = task.per_case(off[:, None], targets)
    np.testing.assert_allclose(per_case["error"], NUMBERS.std(), rtol=1e-4)
    values = task.values(per_case, NUMBERS)
    assert values["mae"] == pytest.approx(values["rmse"], rel=1e-4) == pytest.approx(values["bias"], rel=1e-4)
    assert values["r2"] == pytest.approx(0, abs=1e-4)
    assert values["concordance"] == 1
    assert task.metric.name == "r2"
    with pytest.raises(NetworkError, match=r"one number per image needs \(12, 1\)"):
        task.check_outputs(torch.zeros(12, 2), targets)
    with pytest.raises(DataError, match="all numbers to predict in val are 7"):
        task_of("regression", np.full(12, 7, dtype=np.float32), ())


MASKS = np.random.default_rng(0).integers(3, size=(12, 6, 5)).astype(np.uint8)
REGIONS = {"whole": (1, 2), "core": (2,)}


def test_regions_overlap_and_have_outputs_of_their_own() -> None:
    task = task_of("segmentation", MASKS, regions=REGIONS)
    targets = torch.from_numpy(MASKS)
    truth = torch.stack([targets > 0, targets == 2], dim=1)
    perfect = 40 * truth.float() - 20
    task.check_outputs(perfect, targets)
    assert task.loss(perfect, targets).item() == pytest.approx(0, abs=1e-5)
    values = task.values(task.per_case(perfect, targets), MASKS)
    assert values["dice"] == values["dice/whole"] == values["dice/core"] == 1
    everywhere = task.per_case(torch.full_like(perfect, 9.0), targets)
    assert task.chance == pytest.approx(everywhere["metric"].mean(), abs=1e-6)
    core_only = perfect.clone()
    core_only[:, 0] = perfect[:, 1]
    per_class = task.per_case(core_only, targets)["score"].mean(0)
    assert per_class[0] < 1 == per_class[1]
    with pytest.raises(ConfigError, match=r"task.regions.core: there is no mask value 3; .* 1 to 2"):
        task_of("segmentation", MASKS, regions={"core": (3,)})
    with pytest.raises(ValueError, match="regions are for kind = 'segmentation'"):
        TaskSettings(regions=REGIONS)


@pytest.mark.parametrize("regions", [{}, REGIONS])
def test_all_supervision_heads_are_trained_and_the_finest_predicts(regions: dict) -> None:
    task = task_of("segmentation", MASKS, regions=regions)
    targets = torch.from_numpy(MASKS)
    generator = torch.Generator().manual_seed(0)
    channels = len(task.classes)
    fine, coarse = (torch.randn(12, channels, *size, generator=generator) for size in ((6, 5), (3, 2)))
    alike = torch.randn(12, channels, 6, 5, generator=generator)

    def alone(head: torch.Tensor) -> float:
        return task.loss(head, targets).item()

    two = task.loss([fine, coarse], targets).item()
    assert two == pytest.approx((alone(fine) + 0.5 * alone(coarse)) / 1.5, rel=1e-5)
    assert task.loss([coarse, fine], targets).item() == pytest.approx(two), "found by their size"
    stacked = torch.stack([fine, alike], dim=1)
    expected = (alone(fine) + 0.5 * alone(alike)) / 1.5
    assert task.loss(stacked, targets).item() == pytest.approx(expected, rel=1e-5)
    for outputs in ([coarse, fine], stacked, (fine, torch.zeros(1))):
        task.check_outputs(outputs, targets)
        judged = task.per_case(outputs, targets)
        np.testing.assert_array_equal(judged["score"], task.per_case(fine, targets)["score"])


@pytest.mark.parametrize("kind", ["classification", "multilabel", "segmentation", "regression", "embedding"])
def test_imitation_and_disagreement_are_least_when_the_same_is_said(kind: str) -> None:
    known = {"multilabel": LABELS, "regression": NUMBERS, "segmentation": MASKS}
    task = task_of(kind, known.get(kind, np.arange(12) % 3), () if kind == "regression" else CLASSES)
    shape = {"segmentation": (12, 3, 6, 5), "regression": (12, 1)}.get(kind, (12, 3))
    told, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert task.imitation(told, told) < task.imitation(told + 0.5 * noise, told)
    apart = [task.disagreement(told + size * noise, told) for size in (0.0, 0.3, 1.0)]
    assert all(each.shape == (12,) for each in apart)
    assert apart[0].numpy() == pytest.approx(0, abs=1e-5)
    assert 0 < apart[1].mean() < apart[2].mean()


class _Data:
    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)


def test_an_embedding_is_judged_by_a_probe_fitted_on_training_images() -> None:
    task = task_of("embedding", np.arange(12) % 3)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 8, generator=generator)

    def images(n: int, spread: float) -> _Data:
        labels = torch.arange(n) % 3
        return _Data(centres[labels] + spread * torch.randn(n, 8, generator=generator), labels)

    train, val = images(60, 0.3), images(30, 0.3)
    told = torch.nn.Linear(8, 4)
    task.check_outputs(told(val.images), val.targets)
    per_case = task.examine(told.eval(), val, train)
    values = task.values(per_case, val.targets.numpy())
    assert values["auc"] > 0.95
    assert set(per_case) == {"loss", "score", "metric", "classes"}
    nothing = task.examine(torch.nn.Linear(8, 4).eval(), images(30, 100.0), images(60, 100.0))
    assert nothing["metric"].mean() < 0.8
    with pytest.raises(RunError, match="needs the training images"):
        task.examine(told, val)
    with pytest.raises(NetworkError, match="an embedding needs"):
        task.check_outputs(torch.zeros(12), torch.zeros(12))


def test_the_contrastive_loss_sees_past_what_all_embeddings_share() -> None:
    task = task_of("embedding", np.arange(12) % 3)
    targets = torch.arange(32) % 2
    noise = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    found = noise + 2 * targets[:, None] * torch.eye(8)[0]
    shared = 50 + 3 * torch.arange(8.0)  # far more than what tells classes apart: all cosines above 0.99
    assert task.loss(found + shared, targets).item() == pytest.approx(
        task.loss(found, targets).item(), abs=1e-4
    )
    assert task.loss(found + shared, targets) < task.loss(noise + shared, targets) - 0.03
    for few in (found[:1], torch.ones(4, 8)):  # one image; all alike
        few.requires_grad_()
        task.loss(few, targets[: len(few)]).backward()
        assert few.grad is not None
        assert few.grad.isfinite().all()


def test_the_contrastive_loss_draws_a_class_together() -> None:
    task = task_of("embedding", np.arange(12) % 3)
    targets = torch.tensor([0, 0, 1, 1])
    together = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], requires_grad=True)
    apart = together.detach()[[0, 2, 1, 3]]
    assert task.loss(together, targets) < task.loss(apart, targets)
    alone = task.loss(together, torch.arange(4))
    alone.backward()
    assert alone == 0, "nothing to draw together"


def half_right(model: torch.nn.Module, rung: str, seed: int) -> np.ndarray:
    """Of twelve cases, one value each; better at the rung `full`."""
    assert isinstance(model, torch.nn.Module)
    return np.full(12, 0.5 + 0.25 * (rung == "full") + 0.001 * seed)


def by_name(model: torch.nn.Module, rung: str, seed: int) -> dict[str, object]:
    return {"metric": torch.linspace(0, 1, 12), "loss": np.ones(12), "dose": np.arange(12.0)}


def wrong(model: torch.nn.Module, rung: str, seed: int) -> object:
    return {
        "short": np.zeros(5),
        "nan": np.full(12, np.nan),
        "text": "good",
        "unnamed": {"loss": np.zeros(12)},
        "wide": np.zeros((12, 2)),
    }[rung]


def custom(name: str, **settings: object) -> Task:
    return make_task(
        TaskSettings(evaluator=f"tests.test_tasks:{name}", **settings),  # type: ignore[arg-type]
        some_splits("segmentation", 2),
    )


def test_an_evaluator_of_ones_own_is_asked_for_every_case() -> None:
    task, data = (
        custom("half_right", metric="quality", chance=0.25),
        _Data(torch.zeros(12, 1), torch.zeros(12)),
    )
    per_case = task.examine(torch.nn.Identity(), data, rung="full", seed=10)
    values = task.values(per_case, np.zeros(12))
    assert values == pytest.approx({"quality": 0.76, "loss": 0.24})
    assert (task.metric.name, task.chance, task.trains) == ("quality", 0.25, False)
    named = custom("by_name")
    per_case = named.examine(torch.nn.Identity(), data)
    assert named.values(per_case, np.zeros(12)) == pytest.approx({"score": 0.5, "loss": 1, "dose": 5.5})
    with pytest.raises(ConfigError, match="defines no loss: take a criterion"):
        task.loss(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("rung", "message"),
    [
        ("short", r"'metric' has shape \(5,\); 12 validation cases need 12 rows"),
        ("nan", "'metric' holds values that are NaN"),
        ("text", "'metric' is str; numbers are needed"),
        ("unnamed", "returned loss; 'metric' is needed"),
        ("wide", r"'metric' is \(12, 2\); one value per case"),
    ],
)
def test_what_an_evaluator_returns_is_checked(rung: str, message: str) -> None:
    data = _Data(torch.zeros(12, 1), torch.zeros(12))
    with pytest.raises(ConfigError, match=message):
        custom("wrong").examine(torch.nn.Identity(), data, rung=rung)
    with pytest.raises(
        ConfigError, match=r"task\.evaluator = .*: tests\.test_tasks has no 'wrongg'; did you mean"
    ):
        custom("wrongg")
