"""Criteria: how much each channel unit matters, as one table.

A unit holds positions along dimensions of many parameters: producers, consumers, norms. Unless its entry
says otherwise, a criterion scores the positions along one dimension of one parameter, adds them up by unit,
divides by the mean over the units of the group, so that large tensors do not drown small ones, and adds up
over all dimensions of all coupled parameters (Fang et al. 2023, DepGraph, arXiv 2301.12900).

- `l1`: absolute weights (Li et al. 2017, Pruning filters for efficient ConvNets, arXiv 1608.08710).
- `l2`: squared weights, which order as the Euclidean norm does.
- `bn_scale`: the absolute scales of norm layers alone (Liu et al. 2017, Network slimming, arXiv 1708.06519);
  groups that no such scale runs through are ranked by `l1`.
- `fpgm`: the sum of the Euclidean distances to the group's other units, small near their geometric median:
  others can stand in for such a unit (He et al. 2019, Filter pruning via geometric median, arXiv 1811.00250).
- `lamp`: squared weights over the sum of those of all units that are as large or larger (Lee et al. 2021,
  Layer-adaptive magnitude, arXiv 2010.07611, equation 2); that is its normalisation, no mean is divided by.
- `taylor`: (weight x gradient)**2, averaged over batches: the squared change of the loss, to first order,
  when the weight goes (Molchanov et al. 2019, Importance estimation, arXiv 1906.10771, equation 8).
- `fisher`: the mean over images of (sum of weight x gradient)**2 over all that the unit holds: the change of
  the loss, to second order at a minimum, when the whole unit goes at once (Theis et al. 2018, Fisher pruning,
  arXiv 1801.05787; Liu et al. 2021, Group Fisher pruning, arXiv 2108.00708). It is in units of the loss, and
  nothing is normalised.
- `activation`: the mean absolute activation where it enters convolutions and linear layers (Hu et al. 2016,
  Network trimming, arXiv 1607.03250, whose share of non-zero activations is of use for ReLU only); groups
  that enter none are ranked by `l1`.
- `random`: any order; the control that every criterion must beat.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from spaces.clone import clone_with, named_tensors
from spaces.errors import InputError, NetworkError
from spaces.space import Axis, ChannelSpace

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]
Loss: TypeAlias = Callable[[Any, Tensor], Tensor]
Normalise: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Of the units of one group along one dimension of one parameter: (n,) -> (n,)."""

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Material:
    """What a criterion may look at.

    Attributes:
        model: The dense network.
        space: Its channel space, one gene a group.
        batches: (images, targets).
        loss: (outputs, targets) -> scalar.
        seed: Of `random`.
    """

    model: nn.Module
    space: ChannelSpace
    batches: Batches
    loss: Loss
    seed: int

    @cached_property
    def parameters(self) -> Mapping[str, Tensor]:
        """Every parameter once, detached."""
        named = named_tensors(self.model)
        return {name: tensor.detach() for name, tensor in named if isinstance(tensor, nn.Parameter)}

    def copy(self) -> nn.Module:
        """A copy in eval mode in which every parameter takes gradients."""
        model = clone_with(self.model, lambda _, tensor: tensor.detach().clone()).eval()
        return model.requires_grad_(True)

    def looks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches, on the network's device.

        Raises:
            InputError: There are none.
        """
        device = next(iter(self.parameters.values())).device
        empty = True
        for images, targets in self.batches:
            empty = False
            yield images.to(device), targets.to(device)
        if empty:
            raise InputError("the criterion got no batches: give at least one (images, targets)")


@dataclass(frozen=True)
class Criterion:
    """One way to score units.

    Attributes:
        score: The score of every unit, higher is kept longer: (number of units,) float64.
        batches: Whether it looks at images.
        loss: Whether it looks at the loss.
    """

    score: Callable[[Material], np.ndarray]
    batches: bool = False
    loss: bool = False


def by_mean(totals: np.ndarray) -> np.ndarray:
    """Shares of the group's mean; zeros stay zeros."""
    return totals / (totals.mean() or 1.0)


def by_larger(totals: np.ndarray) -> np.ndarray:
    """Shares of the sum of all that are as large or larger (LAMP)."""
    ascending, first = np.unique(totals, return_inverse=True)
    counts = np.bincount(first)
    at_least = np.cumsum((ascending * counts)[::-1])[::-1]
    return totals / np.where(at_least > 0, at_least, 1.0)[first]


class Scores:
    """Adds up what units get from dimension after dimension.

    Attributes:
        values: So far, (number of units,).
        seen: Units that got anything.
    """

    def __init__(self, space: ChannelSpace) -> None:
        self._offsets = space.offsets
        self.values = np.zeros(space.offsets[-1])
        self.seen = np.zeros(space.offsets[-1], dtype=bool)

    def add(self, units: np.ndarray, along: np.ndarray, normalise: Normalise | None = by_mean) -> None:
        """Scores of the positions along a dimension, and the unit of each; -1 for none."""
        held = units >= 0
        if not held.any():
            return
        low, high = int(units[held].min()), int(units[held].max()) + 1
        totals = np.bincount(units[held] - low, along[held], minlength=high - low)
        present = np.bincount(units[held] - low, minlength=high - low) > 0
        borders = self._offsets[(self._offsets > low) & (self._offsets < high)] - low
        for span in np.split(np.arange(high - low), borders):
            if present[span[0]]:
                share = totals[span] if normalise is None else normalise(totals[span])
                self.values[low + span] += share
                self.seen[low + span] = True

    def or_else(self, other: "Scores") -> np.ndarray:
        """The values; the other's where a unit got nothing."""
        return np.where(self.seen, self.values, other.values)


def _summed(
    space: ChannelSpace,
    tensors: Mapping[str, Tensor],
    measure: Callable[[Tensor], Tensor] = torch.Tensor.detach,
    normalise: Normalise | None = by_mean,
) -> Scores:
    """Sum what is measured of every element, by unit."""
    scores = Scores(space)
    measured: tuple[str, Tensor] = ("", torch.empty(0))
    for axis in space.axes:
        if axis.tensor in tensors:  # else a buffer, or a size that a module only states
            if measured[0] != axis.tensor:
                measured = axis.tensor, measure(tensors[axis.tensor])
            scores.add(axis.units, _along(measured[1], axis.dim), normalise)
    return scores


def _along(tensor: Tensor, dim: int) -> np.ndarray:
    others = [other for other in range(tensor.ndim) if other != dim]
    summed = tensor.sum(others, dtype=torch.float64) if others else tensor.double()
    return summed.cpu().numpy()


def _magnitudes(material: Material) -> Scores:
    return _summed(material.space, material.parameters, torch.abs)


def _l2(material: Material) -> np.ndarray:
    return _summed(material.space, material.parameters, torch.square).values


def _bn_scale(material: Material) -> np.ndarray:
    scales = {
        f"{path}.weight" for path, module in material.model.named_modules() if isinstance(module, _NORMS)
    }
    chosen = {name: tensor for name, tensor in material.parameters.items() if name in scales}
    scores = _summed(material.space, chosen, torch.abs)
    if not scores.seen.any():
        raise NetworkError(
            "criterion 'bn_scale' needs norm layers with scales, and there are none; take 'l1'"
        )
    return scores.or_else(_magnitudes(material))


def _lamp(material: Material) -> np.ndarray:
    return _summed(material.space, material.parameters, torch.square, by_larger).values


def _fpgm(material: Material) -> np.ndarray:
    scores = Scores(material.space)
    for axis in material.space.axes:
        tensor = material.parameters.get(axis.tensor)
        if tensor is None or not tensor.numel():
            continue
        rows = tensor.movedim(axis.dim, 0).reshape(len(axis.units), -1)
        for units, positions in _by_group(material.space, axis):
            features = rows[positions.ravel()].reshape(len(units), -1)
            scores.add(units, _distances_to_all(features).cpu().numpy())
    return scores.values


def _by_group(space: ChannelSpace, axis: Axis) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For every group on the axis: its units (n,), and the positions of each (n, positions a unit)."""
    order = np.argsort(axis.units, kind="stable")
    order = order[axis.units[order] >= 0]
    bounds = np.searchsorted(axis.units[order], space.offsets)
    for group, (start, stop) in enumerate(pairwise(bounds.tolist())):
        if stop > start:
            units = np.arange(space.offsets[group], space.offsets[group + 1])
            yield units, order[start:stop].reshape(len(units), -1)


def _distances_to_all(features: Tensor) -> Tensor:
    """The sum of each row's Euclidean distances to the others: (n, m) -> (n,) float64."""
    if features.shape[1] > 1:
        return _distances(features).sum(1)
    values, order = features[:, 0].double().sort()  # along a line, sums of what lies below tell
    below = values.cumsum(0)
    rank = torch.arange(1, len(values) + 1, device=values.device)
    sums = (2 * rank - len(values)) * values - 2 * below + below[-1]
    return torch.empty_like(sums).index_copy_(0, order, sums)


def _distances(features: Tensor) -> Tensor:
    """Euclidean distances of all pairs of rows: (n, m) -> (n, n) float64, zeros on the diagonal.

    Products are in float32, which is twice as fast; a distance below a thousandth of the rows' spread is lost
    in rounding, and no sum over the group's units feels that.
    """
    features = features.float()
    features = features - features.mean(0)  # distances stay, and squares lose less to rounding
    distances = (features @ features.T).double()
    squares = distances.diagonal().clone()
    distances.mul_(-2).add_(squares).add_(squares[:, None]).clamp_(min=0).sqrt_()
    return distances.fill_diagonal_(0)


def _taylor(material: Material) -> np.ndarray:
    model = material.copy()
    total: dict[str, Tensor] = {}
    for images, targets in material.looks():
        for name, product in _products(model, material.loss, images, targets):
            total[name] = total[name] + product.square() if name in total else product.square()
    return _summed(material.space, total).values


def _fisher(material: Material) -> np.ndarray:
    model = material.copy()
    total = np.zeros(material.space.offsets[-1])
    for images, targets in material.looks():
        for image in range(len(images)):
            one = slice(image, image + 1)
            products = dict(_products(model, material.loss, images[one], targets[one]))
            total += _summed(material.space, products, normalise=None).values ** 2
    return total


def _products(model: nn.Module, loss: Loss, images: Tensor, targets: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Weight x gradient of every parameter that the loss depends on."""
    weights = dict(model.named_parameters())
    with torch.enable_grad():
        value = loss(model(images), targets)
    gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is not None:
            yield name, weight.detach() * gradient


def _activation(material: Material) -> np.ndarray:
    model = material.copy()
    listener = _Listener(dict(named_tensors(model)))
    with torch.no_grad(), listener:
        for images, _ in material.looks():
            model(images)
    axes = {(axis.tensor, axis.dim): axis.units for axis in material.space.axes}
    scores = Scores(material.space)
    for (name, dim, groups), total in listener.heard.items():
        units = axes.get((name, dim))
        if units is not None:
            heard = total.cpu().numpy()
            scores.add(_input_units(units, len(heard), groups), heard)
    return scores.or_else(_magnitudes(material))


def _input_units(units: np.ndarray, channels: int, groups: int) -> np.ndarray:
    """Units of a layer's input channels; of a grouped one's, from the units of its outputs."""
    if groups == 1:
        return units
    first_output = np.arange(groups) * (len(units) // groups)
    return np.repeat(units[first_output], channels // groups)


class _Listener(TorchFunctionMode):
    """Adds up the absolute inputs of convolutions and linear layers, by input channel.

    Attributes:
        heard: Sums, by (weight, its dimension that tells the input's units, convolution groups).
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.heard: dict[tuple[str, int, int], Tensor] = {}
        self._names = {id(tensor): name for name, tensor in tensors.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = getattr(func, "__name__", "")
        if kind == "linear" or kind.startswith("conv"):
            given = dict(zip(("input", "weight", "bias", "", "", "", "groups"), args, strict=False)) | kwargs
            name = self._names.get(id(given.get("weight")))
            if name is not None:
                self._hear(name, kind, given["input"], int(given.get("groups", 1)))
        return func(*args, **kwargs)

    def _hear(self, name: str, kind: str, images: Tensor, groups: int) -> None:
        channel = images.ndim - 1 if kind == "linear" else 1
        others = [dim for dim in range(images.ndim) if dim != channel]
        total = images.abs().sum(others, dtype=torch.float64)
        by_output = groups > 1  # a transposed one has all its input channels along the first dimension
        key = (name, 0, 1) if "transpose" in kind else (name, 0 if by_output else 1, groups)
        self.heard[key] = self.heard[key] + total if key in self.heard else total


def _random(material: Material) -> np.ndarray:
    return np.random.default_rng(material.seed).random(int(material.space.offsets[-1]))


CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion(lambda material: _magnitudes(material).values),
    "l2": Criterion(_l2),
    "bn_scale": Criterion(_bn_scale),
    "fpgm": Criterion(_fpgm),
    "lamp": Criterion(_lamp),
    "taylor": Criterion(_taylor, batches=True, loss=True),
    "fisher": Criterion(_fisher, batches=True, loss=True),
    "activation": Criterion(_activation, batches=True),
    "random": Criterion(_random),
}
