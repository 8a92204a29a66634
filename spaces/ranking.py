"""Which units of a group matter most.

A criterion scores every position along every dimension of every parameter that units run through. A unit's
score is the sum over all positions that it holds, in all coupled parameters: producers, consumers, norms
(Fang et al. 2023, DepGraph, arXiv 2301.12900). Before, the scores along each dimension of each tensor are
divided by their mean, so that large tensors do not drown small ones.

Criteria:

- `l1`: sum of absolute weights (Li et al. 2017, Pruning filters for efficient ConvNets, arXiv 1608.08710).
- `l2`: sum of squared weights, which orders as the Euclidean norm does.
- `taylor`: sum of (weight x gradient)**2, averaged over batches: the squared change of the loss, to first
  order, when the weight goes (Molchanov et al. 2019, Importance estimation, arXiv 1906.10771, equation 8).
- `random`: any order; the control that every criterion must beat.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spaces.clone import check_fit, clone_with, named_tensors
from spaces.errors import InputError, did_you_mean
from spaces.messages import Genome
from spaces.space import ChannelSpace

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[object, Tensor], Tensor]
Importance = Mapping[str, Tensor]
"""A score of every element of every parameter, by name."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of every group, best first.

    Attributes:
        criterion: What ranked them.
        space: Fingerprint of the channel space.
        order: Per group, its units (numbered from 0 within the group), best first; int64.
    """

    criterion: str
    space: str
    order: tuple[np.ndarray, ...]

    def kept(self, space: ChannelSpace, genome: Genome) -> np.ndarray:
        """Mask over all units: the genome's best of each group, (number of units,) bool.

        Raises:
            InputError: The ranking is of another space.
        """
        if self.space != space.fingerprint:
            raise InputError("the ranking belongs to another channel space; rank the channels of this one")
        kept = np.zeros(space.offsets[-1], dtype=bool)
        for start, order, count in zip(space.offsets, self.order, genome, strict=False):
            kept[start + order[:count]] = True
        return kept


def rank_channels(
    model: nn.Module,
    space: ChannelSpace,
    criterion: str = "l1",
    batches: Batches | None = None,
    loss: Loss | None = None,
    *,
    seed: int = 0,
) -> Ranking:
    """Rank the units of every group. Deterministic; the model is not changed.

    Args:
        model: The dense network of the space.
        space: Its channel space.
        criterion: One of `CRITERIA`.
        batches: (images, targets), for criteria that look at data.
        loss: (outputs, targets) -> scalar, for the same.
        seed: Of the criterion `random`.

    Raises:
        InputError: The criterion is unknown, or lacks its data.
        NetworkError: The model is not the one that the space describes.
    """
    if criterion not in _CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; {did_you_mean(criterion, _CRITERIA)}")
    check_fit(model, space)
    importance = _CRITERIA[criterion](_Material(model, batches, loss, seed))
    scores = _unit_scores(space, importance)
    order = tuple(
        np.argsort(-scores[start:stop], kind="stable")
        for start, stop in zip(space.offsets, space.offsets[1:], strict=False)
    )
    return Ranking(criterion, space.fingerprint, order)


@dataclass(frozen=True, eq=False)
class _Material:
    model: nn.Module
    batches: Batches | None
    loss: Loss | None
    seed: int

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named_tensors(self.model):
            if isinstance(tensor, nn.Parameter):
                yield name, tensor.detach()


def _l1(material: _Material) -> Importance:
    return {name: tensor.abs() for name, tensor in material.parameters()}


def _l2(material: _Material) -> Importance:
    return {name: tensor.square() for name, tensor in material.parameters()}


def _random(material: _Material) -> Importance:
    generator = torch.Generator().manual_seed(material.seed)
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in material.parameters()}


def _taylor(material: _Material) -> Importance:
    if material.batches is None or material.loss is None:
        raise InputError("criterion 'taylor' looks at data: give batches=[(images, targets), ...] and loss=")
    model = clone_with(material.model, lambda _, tensor: tensor.detach().clone()).eval()
    weights = dict(model.named_parameters())
    for weight in weights.values():
        weight.requires_grad_(True)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    device = next(iter(weights.values())).device
    count = 0
    with torch.enable_grad():
        for images, targets in material.batches:
            value = material.loss(model(images.to(device)), targets.to(device))
            gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    total[name] += (weight.detach() * gradient).square()
            count += 1
    if count == 0:
        raise InputError("criterion 'taylor' got no batches: give at least one (images, targets)")
    return total


_CRITERIA: Mapping[str, Callable[[_Material], Importance]] = {
    "l1": _l1,
    "l2": _l2,
    "taylor": _taylor,
    "random": _random,
}
CRITERIA: tuple[str, ...] = tuple(_CRITERIA)


def _unit_scores(space: ChannelSpace, importance: Importance) -> np.ndarray:
    scores = np.zeros(space.offsets[-1])
    for axis in space.axes:
        if axis.tensor not in importance:
            continue  # a buffer, or a size that a module only states
        tensor = importance[axis.tensor]
        others = [dim for dim in range(tensor.ndim) if dim != axis.dim]
        along = (tensor.double().sum(dim=others) if others else tensor.double()).cpu().numpy()
        held = axis.units >= 0
        np.add.at(scores, axis.units[held], along[held] / (along[held].mean() or 1.0))
    return scores
