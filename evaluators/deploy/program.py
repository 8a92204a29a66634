"""The network as it is deployed: one tensor in, one tensor out."""

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.deploy.description import NetworkDescription
from evaluators.named import short
from evaluators.tasks.heads import main_output
from spaces.errors import ConfigError, NetworkError, RunError

TOLERANCE = 1e-4
"""How far a reloaded export's answers may be from the network's, in units of the largest (or of one)."""

BATCHES = (1, 2, 5)
"""At which it is compared."""

Begin: TypeAlias = Callable[[str], None]
"""Is told which step begins, one of `STEPS`."""

LOADING, CAPTURING, WRITING, CHECKING = STEPS = ("loading", "capturing", "writing", "checking")
"""Of an export, in this order; not every format needs them all."""


def unheard(step: str) -> None:
    """Nobody wants to know."""


class Program(nn.Module):
    """The tensor that counts among what a network returns; its preprocessing before it where asked.

    Args:
        network: In eval mode on the CPU.
        description: Of it.
        preprocessing: Whether intensities come as they are in files, and are normalised inside.
    """

    def __init__(
        self, network: nn.Module, description: NetworkDescription, *, preprocessing: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        dims = len(description.input_shape)
        self._rank = dims + 1 if description.task == "segmentation" else None
        self.normalise = Normalise(description) if preprocessing else None
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channels, *spatial) float32 -> the network's answer, before softmax or sigmoid."""
        if self.normalise is not None:
            image = self.normalise(image)
        return main_output(self.network(image), self._rank)


class Normalise(nn.Module):
    """`Normalisation` as a module.

    Raises:
        ConfigError: The description has none.
    """

    mean: Tensor
    std: Tensor
    low: Tensor | None
    high: Tensor | None

    def __init__(self, description: NetworkDescription) -> None:
        super().__init__()
        found = description.normalisation
        if found is None:
            raise ConfigError(
                "--with-preprocessing: this network was saved without a normalisation; leave the option out"
            )
        column = (-1, *[1] * (len(description.input_shape) - 1))
        for name in ("mean", "std", "low", "high"):
            values = found.get(name)
            self.register_buffer(name, None if values is None else torch.tensor(values).reshape(column))
        self.case = found.get("mode") == "case"

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channels, *spatial), intensities as in the files -> what the network expects."""
        if self.case:
            axes = list(range(2, image.ndim))
            mean = image.mean(axes, keepdim=True)
            std = (image - mean).square().mean(axes, keepdim=True).sqrt()
            return (image - mean) / torch.where(std > 1e-6, std, torch.ones_like(std))
        if self.low is not None:
            image = torch.clamp(image, self.low, self.high)
        return (image - self.mean) / self.std


def captured(program: Program, description: NetworkDescription) -> torch.export.ExportedProgram:
    """The program as `torch.export` captures it, for batches of any size.

    Raises:
        NetworkError: It cannot be captured.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    image = torch.randn(2, *description.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # where it fails, it prints its whole graph
            return torch.export.export(copy.deepcopy(program), (image,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise NetworkError(
            f"torch.export cannot capture this network, so neither pt2 nor onnx can hold it: {short(error)}; "
            "--format safetensors does"
        ) from error


def check_answers(
    program: Program, description: NetworkDescription, other: Callable[[np.ndarray], np.ndarray], what: str
) -> None:
    """Compare a reloaded export with the network at several batch sizes.

    Args:
        program: What was exported.
        description: Of its network.
        other: The reloaded one: images to answers.
        what: It is, for the message.

    Raises:
        RunError: It answers otherwise.
    """
    random = torch.Generator().manual_seed(1)
    for batch in BATCHES:
        images = torch.randn(batch, *description.input_shape, generator=random)
        with torch.inference_mode():
            expected = program(images).numpy()
        try:
            found = np.asarray(other(images.numpy()))
        except Exception as error:
            raise RunError(f"{what} fails at a batch of {batch}: {short(error)}") from error
        if found.shape != expected.shape:
            raise RunError(f"{what} answers {found.shape} at a batch of {batch}, not {expected.shape}")
        worst, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
        if not worst <= TOLERANCE * max(1.0, largest):
            raise RunError(
                f"{what} answers otherwise than the network: largest difference {worst:.2g} at a batch of "
                f"{batch}, more than {TOLERANCE:g}"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings about its own insides."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
