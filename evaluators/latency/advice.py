"""Which multiples of channels a target likes: a network's costliest layers, timed at many widths."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.latency.observing import run_watched
from evaluators.latency.timing import times_in_turn
from evaluators.pools.threads import pinned_threads
from evaluators.stepwise import Progress
from spaces.errors import NetworkError

MULTIPLES = (1, 2, 4, 8, 16, 32)
NEGLIGIBLE = 0.03
"""Differences in time per FLOP below this decide nothing."""

_SPAN = 32  # widths below a layer's own that are tried
_LAYERS = 3
_LOW = 0.1


@dataclass(frozen=True)
class Advice:
    """What `pruning.round_to` should be on a target.

    Attributes:
        round_to: The least multiple that is about as quick per FLOP as the best.
        relative: By multiple, the time per FLOP at its widths over that at all widths.
        layers: Which were timed, in words.
        widths: At how many widths each.
    """

    round_to: int
    relative: Mapping[int, float]
    layers: tuple[str, ...]
    widths: int

    def in_words(self) -> str:
        """One sentence with numbers."""
        timed = f"{len(self.layers)} layers timed at {self.widths} widths each ({'; '.join(self.layers)})"
        if self.round_to == 1:
            best = min(self.relative, key=lambda multiple: self.relative[multiple])
            return (
                f"round_to = 1: here no multiple pays: multiples of {best} channels, the quickest, take "
                f"{_less(self.relative[best])} per FLOP than widths on average; {timed}"
            )
        others = [m for m in MULTIPLES[1:] if m in self.relative and m != self.round_to]
        beside = ", ".join(f"of {m} {_less(self.relative[m])}" for m in others)
        return (
            f"round_to = {self.round_to}: multiples of {self.round_to} channels take "
            f"{_less(self.relative[self.round_to])} time per FLOP than widths on average (multiples "
            f"{beside}); {timed}"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "round_to": self.round_to,
            "relative_time_per_flop": {str(multiple): value for multiple, value in self.relative.items()},
            "layers": list(self.layers),
            "widths": self.widths,
            "sentence": self.in_words(),
        }


def advise(
    network: nn.Module,
    image: Tensor,
    *,
    device: torch.device,
    threads: int = 1,
    rounds: int = 7,
    batch: int = 1,
    progress: Progress | None = None,
) -> Advice:
    """Time copies of the costliest convolutions and linear layers at the widths below their own.

    Layers of as many channels in as out; of two with the same shape one. A low quantile of the calls counts,
    processor time on one CPU thread. `progress` is told of every layer.

    Raises:
        NetworkError: No layer is wide enough to tell.
    """
    layers = _costliest(network, image)
    if not layers:
        raise NetworkError(f"no convolution or linear layer has {_SPAN} channels and more: any width will do")
    now = time.thread_time if device.type == "cpu" and threads == 1 else time.perf_counter
    rates = []
    with pinned_threads(threads), torch.inference_mode():
        for done, layer in enumerate(layers):
            if progress:
                progress(done, len(layers), layer.words)
            calls = {width: _call(layer, width, batch, device) for width in layer.widths}
            times = times_in_turn(calls, device=device, rounds=rounds, visit_s=0.01, now=now)
            rate = np.array([np.quantile(times[width], _LOW) / width**2 for width in layer.widths])
            rates.append(rate / rate.mean())
    if progress:
        progress(len(layers), len(layers), "")
    return advice_from([layer.widths for layer in layers], rates, [layer.words for layer in layers])


def advice_from(
    widths: Sequence[Sequence[int]], rates: Sequence[np.ndarray], layers: Sequence[str]
) -> Advice:
    """The advice that follows from times per FLOP.

    Args:
        widths: That each layer was timed at.
        rates: Each layer's time per FLOP at them, over its mean.
        layers: In words.
    """
    relative = {}
    for multiple in MULTIPLES:
        at = [rate[np.array(w) % multiple == 0] for w, rate in zip(widths, rates, strict=True)]
        if all(len(found) for found in at):
            relative[multiple] = float(np.mean([found.mean() for found in at]))
    best = min(relative.values())
    enough = next(multiple for multiple, value in relative.items() if value <= best + NEGLIGIBLE)
    return Advice(enough, relative, tuple(layers), len(widths[0]))


@dataclass(frozen=True, eq=False)
class _Layer:
    module: nn.Module
    shape: tuple[int, ...]  # of what it reads, without batch and channels
    macs: float
    words: str

    @property
    def widths(self) -> range:
        own = min(_wide(self.module))
        return range(max(1, own - _SPAN), own + 1)


def _costliest(network: nn.Module, image: Tensor) -> list[_Layer]:
    """Layers wide enough, the costliest of every shape first, at most three."""
    found: dict[str, _Layer] = {}
    wide = [module for module in network.modules() if _wide(module) and min(_wide(module)) >= _SPAN]
    run_watched(network, image, [(module, _noting(found)) for module in wide])
    return sorted(found.values(), key=lambda layer: -layer.macs)[:_LAYERS]


def _wide(module: nn.Module) -> tuple[int, ...]:
    """Channels in and out of a layer that can be copied at other widths; nothing for others."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
        return module.in_channels, module.out_channels
    if type(module) is nn.Linear:
        return module.in_features, module.out_features
    return ()


def _noting(found: dict[str, _Layer]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return
        linear = isinstance(module, nn.Linear)
        shape = tuple(inputs[0].shape[1:-1] if linear else inputs[0].shape[2:])
        width, size = min(_wide(module)), " x ".join(map(str, shape))
        kernel = () if linear else getattr(module, "kernel_size", ())
        kind = "linear" if linear else f"convolution {' x '.join(map(str, kernel))}"
        words = f"{kind} of {width} channels" + (f" at {size}" if size else "")
        macs = output.numel() * module.weight[0].numel()  # type: ignore[index]
        found.setdefault(words, _Layer(module, shape, float(macs), words))

    return hook


def _call(layer: _Layer, width: int, batch: int, device: torch.device) -> Any:
    module = layer.module
    if isinstance(module, nn.Linear):
        copy: nn.Module = nn.Linear(width, width, module.bias is not None)
        inputs = torch.zeros(batch, *layer.shape, width, device=device)
    else:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        options: dict[str, Any] = {
            "stride": module.stride,
            "padding": module.padding,
            "dilation": module.dilation,
        }
        make: Any = type(module)
        copy = make(width, width, module.kernel_size, bias=module.bias is not None, **options)
        inputs = torch.zeros(batch, width, *layer.shape, device=device)
    copy = copy.to(device).eval()
    return lambda: copy(inputs)


def _less(relative: float) -> str:
    share = round(100 * (1 - relative))
    return f"{share} % less" if share >= 0 else f"{-share} % more"
