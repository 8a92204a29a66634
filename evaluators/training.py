"""Training and measuring one network on images that already lie in memory as tensors."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from evaluators.augment import BatchStream
from evaluators.data.normalisation import Normalisation as Normalisation
from evaluators.data.tensors import Tensors
from evaluators.precision import Precision
from evaluators.protocols import Task
from evaluators.settings import ProxySettings, RecipeSettings
from evaluators.teacher import Teacher
from spaces.errors import NetworkError, RunError

Training: TypeAlias = RecipeSettings | ProxySettings
Progress: TypeAlias = Callable[[int, int], None]

WARM_UP_SHARE = 0.1
CHECK_EVERY = 20
"""Steps between two looks at the loss; every look waits for the device."""


def n_steps(settings: Training, n: int) -> int:
    """Optimiser steps for `settings.epochs` passes over n images: at least one, unless epochs is 0."""
    return max(1, round(settings.epochs * n / min(settings.batch_size, n))) if settings.epochs else 0


def batches(
    data: Tensors, task: Task, settings: Training, n: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The first `n` training batches (images, targets) of this seed."""
    flip_axes = task.flip_axes if settings.augment else None
    strata = task.strata(data.targets) if settings.balanced else None
    stream = BatchStream(
        data.images, data.targets, settings.batch_size, flip_axes, seed, settings.augmentation, strata
    )
    return itertools.islice(stream, n)


def tune(
    network: nn.Module,
    data: Tensors,
    task: Task,
    settings: Training,
    *,
    seed: int,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the network, in place: SGD with Nesterov momentum or AdamW, short warm-up, cosine to zero.

    Batches, augmentation and dropout follow from the seed, whatever the network and whatever ran before;
    torch's global generators are left as they were. The network must be on the device of the data and ends in
    eval mode; a task without a loss (the user's own evaluator) leaves it as it is. In what
    precision: see `Precision`. With a teacher, `settings.distill` of the loss is about imitating it.

    Raises:
        RunError: The loss or a weight is no longer finite.
    """
    if not task.trains:
        return
    steps, device = n_steps(settings, len(data)), data.images.device
    optimiser = _optimiser(network, settings)
    precision = Precision(settings, device, data.images.ndim)
    precision.prepare(network)
    network.train()
    total = torch.zeros((), device=device)
    stream = (seed, len(data), settings.batch_size)
    share = settings.distill if teacher and isinstance(settings, ProxySettings) else 0.0

    def loss_of(step: int, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        images = precision.lay_out(images)
        outputs = network(images)
        if not share or teacher is None:
            return task.loss(outputs, targets)
        imitation = task.imitation(outputs, teacher.tell(stream, step, images))
        return imitation if share == 1 else (1 - share) * task.loss(outputs, targets) + share * imitation

    with _seeded(seed, device):
        for step, (images, targets) in enumerate(batches(data, task, settings, steps, seed)):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _one_cycle(step, steps)
            optimiser.zero_grad()
            total += precision.step(network, optimiser, partial(loss_of, step, images, targets))
            if ((step + 1) % CHECK_EVERY == 0 or step + 1 == steps) and not math.isfinite(total.item()):
                raise RunError(
                    f"the training loss is not finite by step {step + 1} of {steps} "
                    f"at learning rate {settings.learning_rate:g}; lower it, or set clip_norm"
                )
            if progress:
                progress(step + 1, steps)
    _refuse_infinite(network, settings)
    network.eval()


def measure(
    network: nn.Module,
    data: Tensors,
    task: Task,
    train: Tensors | None = None,
    *,
    rung: str = "",
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The network's values by name, and its per-case arrays as in `Outcome`; in eval mode, in float32.

    `train`, `rung` and `seed` are for the tasks that need them; see `Task.examine`.

    Raises:
        RunError: An output is not finite.
    """
    network.eval()
    per_case = task.examine(network, data, train, rung=rung, seed=seed)
    return task.values(per_case, data.targets.cpu().numpy()), per_case


def check_network(network: nn.Module, data: Tensors, task: Task) -> None:
    """Run two images through the network, in eval mode, and check what comes out.

    Raises:
        NetworkError: The network does not take these images, or its outputs cannot mean the task's classes.
    """
    images, targets = data.images[:2], data.targets[:2]
    network.eval()
    try:
        with torch.inference_mode():
            outputs = network(images)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        shape = tuple(images.shape[1:])
        raise NetworkError(f"the network does not take images of shape {shape}: {reason}") from error
    task.check_outputs(outputs, targets)


def _optimiser(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        parameters,
        lr=rate,
        momentum=settings.momentum,
        weight_decay=decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )


def _refuse_infinite(network: nn.Module, settings: Training) -> None:
    """The last update, or a norm layer's statistics, may be what went wrong."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RunError(
                f"{name} is not finite after training at learning rate {settings.learning_rate:g}; lower it, "
                "or set clip_norm"
            )


def _one_cycle(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: a linear warm-up, then a cosine to zero."""
    warm_up = int(WARM_UP_SHARE * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded (dropout draws from them) and given back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed ^ 1)  # not the stream of the batches
        yield
