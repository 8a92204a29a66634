"""Training and measuring one network on images that already lie in memory as tensors."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from evaluators.augment import BatchStream
from evaluators.data.normalisation import Normalisation as Normalisation
from evaluators.data.tensors import Tensors
from evaluators.protocols import Task
from evaluators.settings import ProxySettings, RecipeSettings
from spaces.errors import ConfigError, NetworkError, RunError

Progress: TypeAlias = Callable[[int, int], None]

WARM_UP_SHARE = 0.1
CHECK_EVERY = 20
"""Steps between two looks at the loss; every look waits for the device."""


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first visible GPU, else the CPU.

    Raises:
        ConfigError: A GPU is asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device = {name!r}, but PyTorch sees {torch.cuda.device_count()} CUDA GPUs here; "
            "set proxy.device = 'cpu', or give each worker a share with execution.gpus_per_worker"
        )
    return device


def n_steps(settings: RecipeSettings | ProxySettings, n: int) -> int:
    """Optimiser steps for `settings.epochs` passes over n images: at least one, unless epochs is 0."""
    return max(1, round(settings.epochs * n / min(settings.batch_size, n))) if settings.epochs else 0


def batches(
    data: Tensors, task: Task, settings: RecipeSettings | ProxySettings, n: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The first `n` training batches (images, targets) of this seed."""
    flip_axes = task.flip_axes if settings.augment else None
    stream = BatchStream(data.images, data.targets, settings.batch_size, flip_axes, seed)
    return itertools.islice(stream, n)


def tune(
    network: nn.Module,
    data: Tensors,
    task: Task,
    settings: RecipeSettings | ProxySettings,
    *,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Train the network, in place: SGD with Nesterov momentum, short warm-up, cosine to zero.

    Batches, augmentation and dropout follow from the seed, whatever the network and whatever ran before;
    torch's global generators are left as they were. The network must be on the device of the data and ends in
    eval mode; a task without a loss (the user's own evaluator) leaves it as it is. On GPUs with automatic
    mixed precision and channels last.

    Raises:
        RunError: The loss is no longer finite.
    """
    if not task.trains:
        return
    steps, device = n_steps(settings, len(data)), data.images.device
    optimiser = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )
    precision = _Precision(device, data.images.ndim)
    precision.prepare(network)
    network.train()
    total = torch.zeros((), device=device)
    with _seeded(seed, device):
        for step, (images, targets) in enumerate(batches(data, task, settings, steps, seed)):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _one_cycle(step, steps)
            optimiser.zero_grad()
            total += precision.step(network, images, targets, task, optimiser)
            if ((step + 1) % CHECK_EVERY == 0 or step + 1 == steps) and not math.isfinite(total.item()):
                raise RunError(
                    f"the training loss is not finite by step {step + 1} of {steps} "
                    f"at learning rate {settings.learning_rate:g}; lower it"
                )
            if progress:
                progress(step + 1, steps)
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


class _Precision:
    """One training step in the number format that suits the device: float32, or mixed on GPUs."""

    def __init__(self, device: torch.device, ndim: int) -> None:
        self._cuda = device.type == "cuda"
        self._format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(ndim) if self._cuda else None
        half = torch.bfloat16 if self._cuda and torch.cuda.is_bf16_supported() else torch.float16
        self._autocast = torch.autocast("cuda", dtype=half) if self._cuda else contextlib.nullcontext()
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._cuda and half == torch.float16)

    def prepare(self, network: nn.Module) -> None:
        if self._format is not None:
            network.to(memory_format=self._format)  # type: ignore[call-overload]  # torch's stubs lack it

    def step(
        self,
        network: nn.Module,
        images: torch.Tensor,
        targets: torch.Tensor,
        task: Task,
        optimiser: torch.optim.Optimizer,
    ) -> torch.Tensor:
        """Forward, backward and update; returns the loss, detached."""
        if self._format is not None:
            images = images.contiguous(memory_format=self._format)
        with self._autocast:
            loss = task.loss(network(images), targets)
        self._scaler.scale(loss).backward()
        self._scaler.step(optimiser)
        self._scaler.update()
        return loss.detach()
