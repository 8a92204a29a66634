"""The dense network where no weights are given: trained once with the recipe, kept by content."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from evaluators.checkpoints import Checkpoint
from evaluators.data.splits import Splits
from evaluators.files import replacing
from evaluators.identity import fingerprint_of, fingerprint_of_arrays
from evaluators.networks import code_of
from evaluators.pools.threads import pinned_threads
from evaluators.precision import resolve_device, resolve_precision
from evaluators.protocols import Task
from evaluators.settings import NetworkSettings, RecipeSettings
from evaluators.stepwise import Progress
from evaluators.training import Tuning, check_network

PROCEDURE = 2
"""Raise it with every change after which training gives other weights."""


def dense_weights(
    settings: NetworkSettings,
    network: nn.Module,
    splits: Splits,
    task: Task,
    recipe: RecipeSettings,
    *,
    seed: int,
    cache_dir: str | Path,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """The weights that the recipe gives this network on these images: trained, or read if they were before.

    Args:
        settings: What the network was built from.
        network: As the factory made it; left unchanged.
        splits: The images; only train is used.
        task: What the network is for.
        recipe: How it is trained.
        seed: Of batches, augmentation and dropout.
        cache_dir: Where trained weights are kept, named by what they depend on; made if it is not there.
        device: Where to train.
        progress: Told steps done and steps in all; not called when the weights are there.

    Raises:
        NetworkError: The network does not fit the images or the task.
        RunError: The training diverges.
    """
    where = resolve_device(device)
    parts = {
        "procedure": PROCEDURE,
        "network": settings.model_dump(mode="json", include={"factory", "arguments"}),
        "code": code_of(network, settings),
        "initial": fingerprint_of_arrays(as_arrays(network)),
        "data": splits.fingerprint,
        "task": task.signature,
        "recipe": recipe.model_dump(mode="json") | {"precision": resolve_precision(recipe.precision, where)},
        "device": where.type,
        "seed": seed,
    }
    path = Path(cache_dir) / f"dense-{fingerprint_of(parts)[:32]}.safetensors"

    def train(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        trained = train_dense(
            network,
            splits,
            task,
            recipe,
            seed=seed,
            device=device,
            progress=progress,
            checkpoint=checkpoint,
        )
        return as_arrays(trained)

    return kept_weights(path, train)


def kept_weights(path: Path, train: Callable[[Checkpoint], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The weights in this file; where there is none, or it is torn, what training gives, and a file of it.

    The training is given a checkpoint beside the file, which goes once the weights are there.
    """
    if path.is_file():
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            pass  # torn: trained again and replaced below
    checkpoint = Checkpoint(path.with_suffix(".checkpoint"))
    weights = train(checkpoint)
    with replacing(path) as temporary:
        save_file(weights, temporary)
    checkpoint.remove()
    return weights


def train_dense(
    network: nn.Module,
    splits: Splits,
    task: Task,
    recipe: RecipeSettings,
    *,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """A trained copy of the network, on the CPU and in eval mode; see `dense_weights`.

    With a checkpoint, the training goes on from it, and is stored in it every so often.
    """
    where = resolve_device(device)
    data = splits.normalisation.apply(splits.train, where)
    trained = copy.deepcopy(network).to(where)
    check_network(trained, data, task)
    with pinned_threads(recipe.threads):  # the same weights whatever the number of cores
        if not task.trains:
            return trained.eval()
        training = Tuning(trained, data, task, recipe, seed=seed)
        if checkpoint is None:
            training.run(progress=progress)
        else:
            checkpoint.carry_out(training, progress)
    return trained.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # stubs lack it


def as_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """The state dict as arrays of their own, on the CPU."""
    return {name: _array(tensor) for name, tensor in network.state_dict().items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()  # NumPy has no bfloat16
    return np.array(tensor.numpy(), order="C")
