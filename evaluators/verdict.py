"""What a finalised network does on the test cases, beyond values and shares: tables and stated confidence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from evaluators.boundaries import drawn, hausdorff_95, summed_up
from evaluators.data.tensors import Tensors
from evaluators.data.volumes import Volumes
from evaluators.evaluation import NetworkEvaluator
from evaluators.protocols import Task
from evaluators.tasks.classification import two_sided
from spaces.finals import Distance, Reliability

BINS = 15
"""Of equal width, as in Guo et al. 2017."""
_PERCENTILES = (5, 25, 50, 75, 95)

Kind: TypeAlias = Literal["confusion", "labels", "dice", "none"]


@dataclass(frozen=True)
class Table:
    """Numbers with names; see `TestResult` for what the kinds hold."""

    kind: Kind = "none"
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Extras:
    """What is said of a network beside its values and shares; see `TestResult`."""

    reliability: Reliability | None = None
    table: Table = field(default_factory=Table)
    distances: tuple[Distance, ...] = ()


def extras_of(
    evaluator: NetworkEvaluator,
    network: nn.Module,
    cases: Tensors | Volumes,
    per_case: Mapping[str, np.ndarray],
    targets: np.ndarray | None,
    spacing: Sequence[float] | None = None,
) -> Extras:
    """Stated confidence, tables, and of a segmentation how far its borders are from the true ones.

    Args:
        evaluator: Of the campaign.
        network: On its device.
        cases: Test cases, prepared.
        per_case: What the evaluator measured on them.
        targets: Of the cases; None where they are whole volumes.
        spacing: Of their pixels, in millimetres, where it is known.
    """
    counted = table(evaluator.task, per_case, targets)
    if evaluator.task.kind != "segmentation":
        assert isinstance(cases, Tensors)
        return Extras(reliability(evaluator.task, cases.targets.cpu(), per_case), counted)
    bins, distances, task = _Bins(), [], evaluator.task
    for logits, masks in evaluator.logits(network, cases):
        bins.add(*_pixels(task, logits.float(), masks))
        distances.append(hausdorff_95(*drawn(task, logits, masks), spacing))
    unit = "pixels" if spacing is None else "mm"
    return Extras(bins.found(), counted, summed_up(counted.rows, np.concatenate(distances), unit))


def class_columns(
    task: Task, per_case: Mapping[str, np.ndarray], values: Mapping[str, float]
) -> tuple[str, tuple[str, ...], np.ndarray] | None:
    """The measure per class: its name, the classes, and shares (n, classes); None where there is none."""
    measure = next((name.partition("/")[0] for name in values if "/" in name), None)
    shares = per_case.get("classes", per_case.get("score"))
    if measure is None or shares is None or shares.ndim != 2:
        return None
    names = task.classes if shares.shape[1] == len(task.classes) else task.classes[1:]
    return (measure, names, shares) if shares.shape[1] == len(names) else None


def cases_of_classes(
    task: Task, names: tuple[str, ...], targets: np.ndarray | Iterable[np.ndarray]
) -> tuple[int, ...]:
    """Test cases of each class, with each label, or that show each region."""
    if task.kind == "multilabel":
        return tuple(int(n) for n in np.asarray(targets).sum(axis=0))
    if task.kind != "segmentation":
        return tuple(int(n) for n in np.bincount(np.asarray(targets), minlength=len(names)))
    regions: Mapping[str, tuple[int, ...]] = getattr(task, "regions", {}) or {}
    first = len(task.classes) - len(names)
    masks = [regions.get(name, (first + i,)) for i, name in enumerate(names)]
    shown = np.array([[np.isin(mask, values).any() for values in masks] for mask in targets])
    return tuple(int(n) for n in shown.sum(axis=0))


def table(task: Task, per_case: Mapping[str, np.ndarray], targets: np.ndarray | None) -> Table:
    """The confusion table of a classification, the counts of labels, or the spread of Dice by class.

    Targets may be None where masks are: Dice is in the scores.
    """
    score, names = per_case.get("score"), task.classes
    if score is None or not names or task.kind in {"regression", "custom"}:
        return Table()
    if task.kind == "segmentation":
        names = names if score.shape[1] == len(names) else names[1:]
        spread = np.percentile(score, _PERCENTILES, axis=0).T
        rows = np.column_stack([score.mean(axis=0, dtype=np.float64), score.std(axis=0), spread])
        columns = ("mean", "sd", *(f"{p} %" for p in _PERCENTILES))
        return Table("dice", names, columns, _rows(rows.round(6)))
    assert targets is not None
    if task.kind == "multilabel":
        said, true = score > 0.5, targets == 1
        counts = [(said & true), (said & ~true), (~said & true), (~said & ~true)]
        rows = np.stack([cells.sum(axis=0) for cells in counts], axis=1)
        return Table("labels", names, ("true +", "false +", "false -", "true -"), _rows(rows))
    counted = np.zeros((len(names), len(names)))
    np.add.at(counted, (targets, score.argmax(axis=1)), 1)
    return Table("confusion", names, names, _rows(counted))


def reliability(task: Task, targets: torch.Tensor, per_case: Mapping[str, np.ndarray]) -> Reliability | None:
    """How far a network's probabilities of cases (of all labels, where there are several) can be believed.

    None where it states none.
    """
    bins = _Bins()
    if task.kind in {"classification", "embedding"}:
        score = torch.from_numpy(per_case["score"])
        confidence, said = score.max(dim=1)
        bins.add(confidence, said == targets)
    elif task.kind == "multilabel":
        score = torch.from_numpy(per_case["score"])
        bins.add(torch.maximum(score, 1 - score), (score > 0.5) == (targets == 1))
    else:
        return None
    return bins.found()


def _pixels(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidence and correctness of every pixel, in every region where regions overlap."""
    regions: Mapping[str, tuple[int, ...]] = getattr(task, "regions", {}) or {}
    if regions:
        p = torch.sigmoid(logits)
        values = [targets.new_tensor(region) for region in regions.values()]
        truth = torch.stack([torch.isin(targets, value) for value in values], dim=1)
        return torch.maximum(p, 1 - p), (p > 0.5) == truth
    confidence, said = torch.softmax(two_sided(logits), dim=1).max(dim=1)
    return confidence, said == targets


class _Bins:
    """Counts, confidence and correctness by bin of confidence, added up batch by batch."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, BINS, dtype=torch.float64)

    def add(self, confidence: torch.Tensor, right: torch.Tensor) -> None:
        flat, correct = confidence.flatten().cpu().double(), right.flatten().cpu().double()
        index = (flat * BINS).long().clamp(0, BINS - 1)
        for row, values in zip(self._sums, (torch.ones_like(flat), flat, correct), strict=True):
            row += torch.bincount(index, values, minlength=BINS)

    def found(self) -> Reliability:
        filled = self._sums[0] > 0
        n, confidence, right = self._sums[:, filled].numpy()
        share, confidence, accuracy = n / n.sum(), confidence / n, right / n
        error = float((share * np.abs(confidence - accuracy)).sum())
        return Reliability(error, *(tuple(row.tolist()) for row in (confidence, accuracy, share)))


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)
