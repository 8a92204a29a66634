"""A training that can stop after any step, be stored, and go on unchanged."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from evaluators.augment import BatchStream
from evaluators.precision import Precision


class Progress(Protocol):
    """Is told of every step."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """So many of the steps are done; and how it goes."""
        ...


class Stepwise(ABC):
    """Trains a network step by step.

    Attributes:
        network: What is trained.
        step: Finished steps.
        steps: All steps.
        note: How it goes, in a word or two.
    """

    network: nn.Module
    step: int
    steps: int
    note: str
    _optimiser: torch.optim.Optimizer
    _stream: BatchStream
    _precision: Precision
    _dropout: "Generators"

    def run(self, until: int | None = None, progress: Progress | None = None) -> None:
        """Train up to step `until`, by default to the end; the network is in eval mode then.

        Raises:
            RunError: The loss or a weight is no longer finite.
        """
        until = self.steps if until is None else min(until, self.steps)
        batches = iter(self._stream)
        self.network.train()
        with self._dropout.lent():
            while self.step < until:
                self._one(*next(batches))
                if progress:
                    progress(self.step, self.steps, self.note)
        self.network.eval()

    @abstractmethod
    def _one(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """One step."""

    def state(self) -> dict[str, Any]:
        """What `load` goes on from: dictionaries and lists of tensors, numbers and texts."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "stream": self._stream.state(),
            "precision": self._precision.state(),
            "dropout": self._dropout.states,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a training of the same network, images and settings had that state."""
        self.step = int(state["step"])
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._stream.load(state["stream"])
        self._precision.load(state["precision"])
        self._dropout.states = list(state["dropout"])


class Generators:
    """Torch's global generators, from which dropout draws, as one training has them.

    Attributes:
        states: Of the CPU's and the device's; empty before the first use.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        self.states: list[torch.Tensor] = []

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """They are this training's inside, and given back as they were."""
        on_gpu = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if on_gpu else []):
            if not self.states:
                torch.manual_seed(self._seed)
            else:
                torch.set_rng_state(self.states[0])
                if on_gpu:
                    torch.cuda.set_rng_state(self.states[1], self._device)
            yield
            self.states = [torch.get_rng_state()]
            if on_gpu:
                self.states.append(torch.cuda.get_rng_state(self._device))
