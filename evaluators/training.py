"""Training and measuring one network on images that already lie in memory as tensors."""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from evaluators.augment import BatchStream
from evaluators.data.normalisation import Normalisation as Normalisation
from evaluators.data.tensors import Tensors
from evaluators.norms import averaged_statistics
from evaluators.precision import Precision
from evaluators.protocols import Task
from evaluators.settings import ProxySettings, RecipeSettings
from evaluators.stepwise import Generators, Progress, Stepwise
from evaluators.teacher import Teacher
from spaces.errors import NetworkError, RunError

Training: TypeAlias = RecipeSettings | ProxySettings


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
    return itertools.islice(batch_stream(data, task, settings, seed), n)


def batch_stream(data: Tensors, task: Task, settings: Training, seed: int) -> BatchStream:
    """The endless training batches of this seed."""
    flip_axes = task.flip_axes if settings.augment else None
    strata = task.strata(data.targets) if settings.balanced else None
    images, targets = data.images, data.targets
    return BatchStream(images, targets, settings.batch_size, flip_axes, seed, settings.augmentation, strata)


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
    if task.trains:
        Tuning(network, data, task, settings, seed=seed, teacher=teacher).run(progress=progress)


class Tuning(Stepwise):
    """The training that `tune` does, step by step.

    The norm statistics of a tuned candidate are those of its last epoch: the running average of a few steps
    would still be half dense's, and what is measured would be how far those are off (`benchmarks/joint.py`).

    Args:
        network: Trained in place; on the device of the data.
        data: What it sees.
        task: What it is for; one with a loss.
        settings: How.
        seed: Of batches, augmentation and dropout.
        teacher: Whom to imitate, for `settings.distill` of the loss.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Tensors,
        task: Task,
        settings: Training,
        *,
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        self.network = network
        self.steps = n_steps(settings, len(data))
        self.step = 0
        last_epoch = math.ceil(len(data) / settings.batch_size) if isinstance(settings, ProxySettings) else 0
        self._settles_at = max(self.steps - last_epoch, 0)
        self._task, self._settings, self._teacher = task, settings, teacher
        self._device = data.images.device
        self._precision = Precision(settings, self._device, data.images.ndim)
        self._precision.prepare(network)
        self._optimiser = optimiser_of(network, settings)
        self._stream = batch_stream(data, task, settings, seed)
        self._told = (seed, len(data), settings.batch_size)  # what decides the batches
        self._share = settings.distill if teacher and isinstance(settings, ProxySettings) else 0.0
        self._dropout = Generators(seed ^ 1, self._device)  # not the stream of the batches
        self._total = torch.zeros((), device=self._device)
        self._seen, self.note = (0, 0.0), ""  # step and total at the last look at the loss

    def run(self, until: int | None = None, progress: Progress | None = None) -> None:
        """See `Stepwise`."""
        until = self.steps if until is None else min(until, self.steps)
        if self.step < self._settles_at:
            super().run(min(until, self._settles_at), progress)
        if until > self._settles_at:
            with averaged_statistics(self.network, afresh=self.step == self._settles_at):
                super().run(until, progress)
        _refuse_infinite(self.network, self._settings)

    def load(self, state: dict[str, Any]) -> None:
        """See `Stepwise`."""
        super().load(state)
        self._seen = (self.step, 0.0)

    def _one(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * _one_cycle(self.step, self.steps)
        self._optimiser.zero_grad()
        loss = partial(self._loss, images, targets)
        self._total += self._precision.step(self.network, self._optimiser, loss)
        self.step += 1
        if self.step % CHECK_EVERY == 0 or self.step == self.steps:
            self._look()

    def _look(self) -> None:
        """At the loss, which waits for the device."""
        total, (step, before) = float(self._total.item()), self._seen
        self.note, self._seen = f"loss {(total - before) / (self.step - step):.3f}", (self.step, total)
        if not math.isfinite(total):
            raise RunError(
                f"the training loss is not finite by step {self.step} of {self.steps} "
                f"at learning rate {self._settings.learning_rate:g}; lower it, or set clip_norm"
            )

    def _loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        images = self._precision.lay_out(images)
        outputs = self.network(images)
        told = None
        if self._share and self._teacher is not None:
            told = self._teacher.tell(self._told, self.step, images)
        return blended_loss(self._task, outputs, targets, told, self._share)


def blended_loss(
    task: Task, outputs: Any, targets: torch.Tensor, told: torch.Tensor | None, share: float
) -> torch.Tensor:
    """The task's loss, a share of it replaced by imitating what another network told of the same images."""
    if told is None or not share:
        return task.loss(outputs, targets)
    imitation = task.imitation(outputs, told)
    return imitation if share == 1 else (1 - share) * task.loss(outputs, targets) + share * imitation


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


def optimiser_of(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """What the settings say, over the parameters that need gradients."""
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
