"""From a trained network, medical images and pruning ratios to a smaller network, in one call."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.metrics import find_metric
from evaluators.tasks.classification import Classification
from evaluators.tasks.heads import main_output
from evaluators.tasks.segmentation import Segmentation
from spaces.criteria import CRITERIA, Loss
from spaces.errors import DataError, InputError, did_you_mean
from spaces.messages import Genome
from spaces.ranking import rank_channels
from spaces.space import ChannelGroup, ChannelSpace
from spaces.surgery import prune
from spaces.tracing import trace
from spaces.wishes import matches

Array: TypeAlias = np.ndarray | Tensor
Ratios: TypeAlias = float | Mapping[str, float]


@dataclass(frozen=True, eq=False)
class PrunedNetwork:
    """What `prune_with_images` made.

    Attributes:
        network: A network of its own, in the mode of the dense one; fine-tune it before it is used.
        genome: Kept units of every channel group.
        space: What could have been pruned, and what it would have cost.
        flops: FLOPs for one image of the given size.
        params: Number of parameters.
    """

    network: nn.Module
    genome: Genome
    space: ChannelSpace
    flops: float
    params: int

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The pruned network's parameters by name, shared ones once."""
        return dict(self.network.named_parameters())


def prune_with_images(
    model: nn.Module,
    images: Array,
    labels: Array | None = None,
    ratios: Ratios = 0.5,
    criterion: str = "taylor",
    *,
    loss: Loss | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> PrunedNetwork:
    """Prune a network by what it does on images.

    Args:
        model: The trained network; never changed.
        images: (N, channels, *spatial), prepared as for the network: the values are used as they are.
        labels: Classes (N,) of integers; masks (N, *spatial) or (N, 1, *spatial) of integers; or numbers to
            predict, of a floating type. Only criteria that look at the loss need them.
        ratios: Share of its units that every channel group loses; or such a share by module path or pattern
            (`*` and `?` as in file names; a path stands for all that is inside): groups that no pattern
            names stay whole. The nearest number of units that is legal is kept, at least one.
        criterion: One of `CRITERIA`.
        loss: (outputs, labels) -> scalar, for criteria that look at it. By default cross-entropy for
            classes, cross-entropy plus soft Dice for masks, the squared error for numbers.
        batch_size: Images a forward pass.
        seed: Of the criterion `random`.

    Raises:
        DataError: Images or labels that cannot be used, or labels that are missing.
        InputError: A ratio outside 0 to 1, patterns that match nothing or contradict each other, or an
            unknown criterion.
        NetworkError: The network rejects the images, or nothing in it can be pruned.
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; {did_you_mean(criterion, CRITERIA)}")
    _check_ratios(ratios)
    inputs = _images(images)
    targets = None if labels is None else _labels(labels, inputs)
    if CRITERIA[criterion].loss and targets is None:
        raise DataError(
            f"criterion {criterion!r} looks at the loss: give labels=, or take 'activation' or 'l1'"
        )
    space = trace(model, inputs[:2])
    genome = _genome(space, ratios)
    if targets is None:
        targets, loss = torch.zeros(len(inputs)), loss or _no_loss
    ranking = rank_channels(
        model,
        space,
        criterion,
        zip(inputs.split(batch_size), targets.split(batch_size), strict=True),
        loss or _loss_for(targets),
        seed=seed,
    )
    network = prune(model, space, genome, ranking)
    costs = space.cost(genome)
    return PrunedNetwork(network, genome, space, float(costs.flops[0]), int(costs.params[0]))


def _check_ratios(ratios: Ratios) -> None:
    for name, ratio in ratios.items() if isinstance(ratios, Mapping) else [("", ratios)]:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float | np.number) or not 0 <= ratio < 1:
            raise InputError(
                f"ratios: {f'{name!r}: ' if name else ''}{ratio!r} is no pruning ratio; that is the share of "
                "units that goes, 0 or more and less than 1"
            )


def _images(images: Array) -> Tensor:
    tensor = torch.as_tensor(images)
    if tensor.ndim < 2 or not len(tensor) or tensor.is_complex():
        raise DataError(
            f"images must have the shape (images, channels, ...), not {tuple(tensor.shape)}; add the missing "
            "axes with images[None] or images[:, None]"
        )
    tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise DataError("images hold values that are NaN or infinite; remove or replace them")
    return tensor


def _labels(labels: Array, images: Tensor) -> Tensor:
    """Labels as tasks take them: classes (N,) or masks (N, *spatial) as int64, numbers as float32."""
    tensor = torch.as_tensor(labels)
    if not tensor.ndim or len(tensor) != len(images):
        shape = tuple(tensor.shape)
        raise DataError(f"{len(images)} images need as many labels; these have the shape {shape}")
    if tensor.is_floating_point():
        if not bool(torch.isfinite(tensor).all()):
            raise DataError("labels hold values that are NaN or infinite; remove or replace them")
        return tensor.float()
    if tensor.ndim == images.ndim and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and images.ndim > 3 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    spatial = tuple(images.shape[2:])
    if tensor.ndim > 1 and tuple(tensor.shape[1:]) != spatial:
        raise DataError(
            f"integer labels must be classes (N,) or masks (N, {', '.join(map(str, spatial))}), "
            f"not {tuple(tensor.shape)}; give numbers to predict as floats"
        )
    if int(tensor.min()) < 0:
        raise DataError(f"labels must be class indices from 0, and there is {int(tensor.min())}")
    return tensor.long()


def _loss_for(targets: Tensor) -> Loss:
    return _squared_error if targets.is_floating_point() else _task_loss


def _task_loss(outputs: object, targets: Tensor) -> Tensor:
    """The loss of the task that integer labels make."""
    main = main_output(outputs)
    n_classes = max(2, main.shape[1]) if main.ndim > 1 else 2
    if int(targets.max()) >= n_classes:
        raise DataError(
            f"there is the label {int(targets.max())}, but the network's output of shape {tuple(main.shape)} "
            f"has the classes 0 to {n_classes - 1}"
        )
    classes = tuple(map(str, range(n_classes)))
    task: Classification | Segmentation
    if targets.ndim == 1:
        task = Classification(find_metric("accuracy", "classification"), 0.0, classes)
    else:
        task = Segmentation(find_metric("dice", "segmentation"), 0.0, classes, dims=targets.ndim - 1)
    task.check_outputs(outputs, targets)
    return task.loss(outputs, targets)


def _squared_error(outputs: object, targets: Tensor) -> Tensor:
    predicted = main_output(outputs)
    return F.mse_loss(predicted, targets.reshape(predicted.shape))


def _no_loss(outputs: object, _: Tensor) -> Tensor:
    raise DataError(f"there are no labels to compare {type(outputs).__name__} with")


def _genome(space: ChannelSpace, ratios: Ratios) -> Genome:
    """The kept units that the ratios ask for."""
    if not isinstance(ratios, Mapping):
        return space.clip([(1 - ratios) * group.units for group in space.groups])
    found: dict[str, tuple[str, float]] = {}
    for pattern, ratio in ratios.items():
        named = [group for group in space.groups if matches(_producer(group), pattern)]
        if not named:
            raise _unmatched(space, pattern)
        for group in named:
            other, before = found.setdefault(group.name, (pattern, ratio))
            if before != ratio:
                raise InputError(
                    f"ratios contradict each other: {other!r} asks for {before:g} and {pattern!r} for "
                    f"{ratio:g} of the group {group.name!r}; write patterns that do not overlap"
                )
    return space.clip([(1 - found.get(group.name, ("", 0.0))[1]) * group.units for group in space.groups])


def _producer(group: ChannelGroup) -> str:
    """Path of the module that the group is named after."""
    return group.name.partition("[")[0].partition("#")[0]


def _unmatched(space: ChannelSpace, pattern: str) -> InputError:
    start = f"ratios: {pattern!r} names no channel group"
    for frozen in space.frozen:
        if matches(frozen.name, pattern):
            return InputError(f"{start}; {frozen.name!r} stays whole: it {frozen.reason}")
    through = (group.name for group in space.groups if any(matches(m, pattern) for m in group.members))
    if (name := next(through, None)) is not None:
        return InputError(f"{start}; the channels there belong to the group {name!r}: use its name")
    return InputError(f"{start}; {did_you_mean(pattern, set(_names(space)))}")


def _names(space: ChannelSpace) -> Iterator[str]:
    """What a pattern may say: the producing modules and all that is around them."""
    for group in space.groups:
        path = _producer(group)
        while path:
            yield path
            path = path.rpartition(".")[0]
