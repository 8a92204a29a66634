"""Weights for the rung `shared`: one network trained so that its slices work as they are.

Each step trains the full width on the task, and a few random widths on the task and on what the full width
says (in-place distillation). Once a campaign, kept by content. The sandwich rule would train the narrowest
width in every step as well. Here slices are there to be ranked as a training of their own would rank them,
and what is trained most looks better than it is (`benchmarks/joint.py`).

Optimiser, precision, clipping, augmentation and balance are those of the proxy; with `distill`, the full
width imitates the dense network as candidates do, and slices imitate the full width at least as much.

Source: Yu and Huang 2019 (universally slimmable networks); here every group has a width of its own.
"""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.checkpoints import Checkpoint
from evaluators.dense import as_arrays, kept_weights
from evaluators.identity import fingerprint_of, seed_of
from evaluators.pools.threads import pinned_threads
from evaluators.precision import Precision, resolve_device
from evaluators.protocols import Task
from evaluators.stepwise import Generators, Progress, Stepwise
from evaluators.tasks.heads import main_output
from evaluators.training import (
    Tensors,
    batch_stream,
    blended_loss,
    n_steps,
    optimiser_of,
)
from evaluators.workload import Workload
from spaces.errors import RunError
from spaces.messages import Genome
from spaces.space import ChannelSpace
from spaces.surgery import cut, kept_positions

PROCEDURE = 3
"""Raise it with every change after which training gives other weights."""

RANDOM_WIDTHS = 2
"""Random slices a step, besides the full width."""
NARROWEST = 1 / 8
"""Share of the units that the narrowest random slices keep: 1/64 of the FLOPs."""
SPREAD = 0.5
"""Standard deviation, in natural logarithms, of a group's share around its slice's."""
IMITATION = 0.5
"""How much of a slice's loss is at least about what the full width says; the rest is about the truth."""
LARGEST_GRADIENT = 5.0
"""Norm that a step's gradients, summed over all widths, are clipped to where `clip_norm` does not say."""


def shared_weights(
    workload: Workload, task: Task, *, cache_dir: str | Path, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """The jointly trained weights of this workload: trained, or read if they were before.

    Args:
        workload: Its dense weights are where training starts; its `shared` is not looked at.
        task: What the network is for.
        cache_dir: Where trained weights are kept, named by what they depend on.
        progress: Told steps done and steps in all; not called when the weights are there.

    Raises:
        RunError: The training diverges.
    """
    settings = workload.proxy
    parts = {
        **{part: workload.fingerprints[part] for part in ("network", "weights", "space", "ranking", "data")},
        "task": workload.fingerprints["task"],
        "settings": settings.model_dump(mode="json", include=_SETTINGS),
        "procedure": PROCEDURE,
    }
    name = fingerprint_of(parts)
    path = Path(cache_dir) / f"shared-{name[:32]}.safetensors"

    def train(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        device = resolve_device(settings.device)
        network = workload.dense_network().to(device)
        data = workload.splits.normalisation.apply(workload.splits.train, device)
        with pinned_threads(settings.threads):
            training = JointTraining(network, data, workload, task, seed=seed_of(name, 0))
            checkpoint.carry_out(training, progress)
        return as_arrays(training.network)

    return kept_weights(path, train)


_SETTINGS = {
    "shared_epochs",
    "batch_size",
    "optimiser",
    "learning_rate",
    "momentum",
    "clip_norm",
    "precision",
    "distill",
    "weight_decay",
    "augment",
    "augmentation",
    "balanced",
    "threads",
}


class JointTraining(Stepwise):
    """Trains a copy of a network together with its slices, for `proxy.shared_epochs` passes.

    Args:
        network: Where training starts; left as it is. On the device of the data.
        data: What it sees.
        workload: Its space, its ranking (which units slices keep) and its settings.
        task: What the network is for.
        seed: Of batches, augmentation, dropout and widths.
    """

    def __init__(
        self, network: nn.Module, data: Tensors, workload: Workload, task: Task, *, seed: int
    ) -> None:
        proxy = workload.proxy
        self._settings = settings = proxy.model_copy(
            update={"epochs": proxy.shared_epochs, "clip_norm": proxy.clip_norm or LARGEST_GRADIENT}
        )
        self.step, self.steps, self.note = 0, n_steps(settings, len(data)), ""
        self.network = copy.deepcopy(network)
        self._space, self._ranking, self._task = workload.space, workload.ranking, task
        device = data.images.device
        self._optimiser = optimiser_of(self.network, settings)
        self._precision = Precision(settings, device, data.images.ndim)
        self._precision.prepare(self.network)
        self._dense = copy.deepcopy(self.network).eval() if settings.distill else None
        self._stream = batch_stream(data, task, settings, seed)
        self._widths = np.random.default_rng(seed)
        self._dropout = Generators(seed, device)

    def state(self) -> dict[str, Any]:
        """See `Stepwise`."""
        return {**super().state(), "widths": self._widths.bit_generator.state}

    def load(self, state: dict[str, Any]) -> None:
        """See `Stepwise`."""
        super().load(state)
        self._widths.bit_generator.state = state["widths"]

    def _one(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """One step of all widths."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * _rate(self.step, self.steps)
        self._optimiser.zero_grad(set_to_none=False)
        told = None
        if self._dense is not None:
            with torch.no_grad():
                told = main_output(self._dense(images), images.ndim)
        loss = self._gradients(images, targets, told)
        if not math.isfinite(loss):
            raise RunError(
                f"the joint training's loss is not finite at step {self.step + 1} of {self.steps} at "
                f"learning rate {self._settings.learning_rate:g}; lower proxy.learning_rate"
            )
        self._precision.update(self.network, self._optimiser)
        self.step, self.note = self.step + 1, f"loss {loss:.3f}"

    def _gradients(self, images: torch.Tensor, targets: torch.Tensor, dense: torch.Tensor | None) -> float:
        """Gradients of the full width and of slices, added up; the full width's loss."""
        precision, distill = self._precision, self._settings.distill
        images = precision.lay_out(images)
        with precision.autocast():
            outputs = self.network(images)
            loss = blended_loss(self._task, outputs, targets, dense, distill)
        precision.backward(loss)
        told, share = main_output(outputs, images.ndim).detach(), max(IMITATION, distill)
        for genome in self._slices():
            kept = self._ranking.kept(self._space, genome)
            slice_ = cut(self.network, self._space, kept).train()
            with precision.autocast():
                part = blended_loss(self._task, slice_(images), targets, told, share)
            precision.backward(part)
            self._give_back(slice_, kept)
        return float(loss.detach())

    def _slices(self) -> list[Genome]:
        """What is trained in a step besides the full width."""
        return [random_widths(self._space, self._widths) for _ in range(RANDOM_WIDTHS)]

    def _give_back(self, slice_: nn.Module, kept: np.ndarray) -> None:
        """Add the gradients of a slice to those of the full width, where they came from."""
        cuts, _ = kept_positions(self._space, kept)
        whole = dict(self.network.named_parameters())
        for name, parameter in slice_.named_parameters():
            if parameter.grad is None or name not in whole:
                continue
            gradient = parameter.grad
            for dim, positions in reversed(cuts.get(name, [])):
                shape = list(gradient.shape)
                shape[dim] = whole[name].shape[dim]
                place = positions.to(gradient.device)
                gradient = gradient.new_zeros(shape).index_copy_(dim, place, gradient)
            mine = whole[name]
            mine.grad = gradient if mine.grad is None else mine.grad.add_(gradient)


def random_widths(space: ChannelSpace, rng: np.random.Generator) -> Genome:
    """A random genome: about the same share everywhere, that share uniform in its logarithm."""
    share = NARROWEST ** rng.uniform()
    shares = share * np.exp(SPREAD * rng.standard_normal(len(space.groups)))
    return space.clip(np.minimum(shares, 1.0) * np.array(space.dense))


def _rate(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: a cosine to zero (the weights are trained already)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
