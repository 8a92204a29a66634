"""A latency model of a network on one target, fitted to measured networks of its channel space."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from evaluators.latency.measuring import machine
from evaluators.latency.observing import run_watched
from evaluators.latency.runtimes import runner
from evaluators.latency.timing import times_in_turn
from evaluators.pools.threads import pinned_threads
from evaluators.settings import LatencySettings
from spaces.errors import NetworkError
from spaces.latency import LatencyModel, Layer, features
from spaces.messages import Genome
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune

LOW = 0.1
"""Quantile of a network's calls that is fitted: what disturbs a shared machine only adds."""

MULTIPLES = (1, 8, 16, 32)
PENALTIES = (0.01, 0.1, 1.0)
_FOLDS = 5


def fit_latency(
    network: nn.Module,
    space: ChannelSpace,
    image: Tensor,
    genomes: Sequence[Genome],
    settings: LatencySettings,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyModel:
    """Measure these networks on a target and fit what predicts them.

    Args:
        network: Dense; the values of its weights do not matter.
        space: What can be pruned in it.
        image: One, with its batch axis.
        genomes: Networks to measure, spread over the space; ten at least.
        settings: Runtime, batch, threads.
        device: Where.
        progress: Told after each network that is ready to be timed.

    Raises:
        NetworkError: The runtime is not to be had or cannot run the network.
    """
    times = measured_ms(network, space, image, genomes, settings, device, progress)
    setting = {
        "runtime": settings.runtime,
        "batch": settings.batch,
        "device": str(device),
        "threads": settings.threads,
        "machine": machine(device),
        "shape": list(image.shape[1:]),
        "clock": _clock(settings, device),
    }
    return fitted(layers_of(network, space, image), space, genomes, times, setting)


def measured_ms(
    network: nn.Module,
    space: ChannelSpace,
    image: Tensor,
    genomes: Sequence[Genome],
    settings: LatencySettings,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Milliseconds a call of each network, a low quantile of calls taken in turn: (n,).

    Of one thread on a CPU, processor time, from which other programs take nothing.
    """
    ranking = rank_channels(network, space, "l1")
    inputs = torch.zeros(settings.batch, *image.shape[1:], device=device)
    calls = {}
    with pinned_threads(settings.threads):
        for i, genome in enumerate(genomes):
            pruned = prune(network, space, genome, ranking).to(device).eval()
            calls[i] = runner(settings.runtime, pruned, inputs, settings.threads).call
            progress(i + 1, len(genomes))
        now = time.thread_time if _clock(settings, device) == "processor" else time.perf_counter
        times = times_in_turn(calls, device=device, rounds=settings.rounds, now=now)
    return np.array([np.quantile(times[i], LOW) for i in range(len(genomes))])


def _clock(settings: LatencySettings, device: torch.device) -> str:
    return "processor" if device.type == "cpu" and settings.threads == 1 else "wall"


def fitted(
    layers: tuple[Layer, ...],
    space: ChannelSpace,
    genomes: Sequence[Genome],
    times: np.ndarray,
    setting: Mapping[str, Any],
) -> LatencyModel:
    """The model that predicts measured times best, chosen by cross-validation.

    Prices minimise squared relative errors and are never negative; those of kinds and of single layers are
    held back by a penalty, so that layers share what they can.

    Args:
        layers: Of the network.
        space: Of the genomes.
        genomes: Networks that were measured.
        times: Their milliseconds (n,).
        setting: For the record.
    """
    counts = space.expand(np.array(genomes, dtype=float))
    folds = np.arange(len(times)) % _FOLDS
    best, errors = (1, PENALTIES[0]), np.full(len(times), np.inf)
    for multiple in MULTIPLES:
        design = features(layers, multiple, counts)
        for penalty in PENALTIES:
            predicted = _held_out(design, times, folds, penalty)
            found = np.abs(predicted / times - 1)
            if found.mean() < errors.mean():
                best, errors = (multiple, penalty), found
    flops = np.column_stack([np.ones(len(times)), space.cost(genomes).flops])
    alone = np.abs(_held_out(flops, times, folds, 0.0) / times - 1)
    multiple, penalty = best
    prices = _prices(features(layers, multiple, counts), times, penalty)
    found = {
        "median": float(np.median(errors)),
        "p90": float(np.quantile(errors, 0.9)),
        "flops_median": float(np.median(alone)),
        "networks": len(times),
    }
    return LatencyModel(layers, multiple, prices, setting, found, space.fingerprint)


def _held_out(design: np.ndarray, times: np.ndarray, folds: np.ndarray, penalty: float) -> np.ndarray:
    """Every time as predicted by a fit to the other folds."""
    predicted = np.empty(len(times))
    for fold in range(_FOLDS):
        out = folds == fold
        predicted[out] = design[out] @ _prices(design[~out], times[~out], penalty)
    return predicted


def _prices(design: np.ndarray, times: np.ndarray, penalty: float) -> np.ndarray:
    """Non-negative least squares of relative errors; the first four prices are free of penalty."""
    relative = design / times[:, None]
    scale = relative.mean(axis=0)
    scale[scale == 0] = 1.0
    held = np.sqrt(penalty) * (np.arange(design.shape[1]) >= 4)
    rows = np.vstack([relative / scale, np.diag(held)])
    prices, _ = nnls(rows, np.concatenate([np.ones(len(times)), np.zeros(len(held))]))
    return np.asarray(prices / scale)


def layers_of(network: nn.Module, space: ChannelSpace, image: Tensor) -> tuple[Layer, ...]:
    """The layers that have a matrix of weights and run, as forms in the kept counts of `space.fine`.

    Raises:
        NetworkError: There is none.
    """
    seen: dict[str, tuple[nn.Module, int, int]] = {}
    layers = [
        (module, _noting(seen, name))
        for name, module in network.named_modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.ndim >= 2
    ]
    run_watched(network, image, layers)
    if not seen:
        raise NetworkError("no layer of the network has a matrix of weights: nothing to predict latency from")
    forms = _Forms(space.fine)
    return tuple(_layer(name, *found, forms, len(image)) for name, found in seen.items())


def _noting(seen: dict[str, tuple[nn.Module, int, int]], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            before = seen.get(name, (module, 0, 0))  # shared modules run several times
            seen[name] = (module, before[1] + inputs[0].numel(), before[2] + output.numel())

    return hook


class _Forms:
    """Lengths of the dimensions of tensors as linear forms in the kept counts."""

    def __init__(self, space: ChannelSpace) -> None:
        self._space = space
        self._units = {(axis.tensor, axis.dim): axis.units for axis in space.axes}

    def __call__(self, tensor: str, dim: int, length: int) -> tuple[float, ...]:
        units, groups = self._units.get((tensor, dim)), self._space.groups
        if units is None:
            return (float(length), *(0.0 for _ in groups))
        owners = np.searchsorted(self._space.offsets, units[units >= 0], side="right") - 1
        per_group = np.bincount(owners, minlength=len(groups))
        rows = (float(n / group.units) for n, group in zip(per_group, groups, strict=True))
        return (float((units < 0).sum()), *rows)


def _layer(name: str, module: nn.Module, read: int, made: int, forms: _Forms, batch: int) -> Layer:
    """One layer; of a grouped convolution the first dimension of the weights tells how wide it is."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    groups = int(getattr(module, "groups", 1))
    tensor = f"{name}.weight" if name else "weight"
    first, second = (forms(tensor, dim, weight.shape[dim]) for dim in (0, 1))
    n_first, n_second = weight.shape[0], weight.shape[1] * groups
    n_out, n_in = (n_second, n_first) if transposed else (n_first, n_second)
    out, fan = (second, first) if transposed else (first, second)
    into = fan
    if groups > 1:
        out, into = (tuple(n / n_first * x for x in first) for n in (n_out, n_in))
        fan = (n_in / groups, *(0.0 for _ in first[1:]))
    read_places, made_places = read / n_in / batch, made / n_out / batch
    work_places = read_places if transposed else made_places
    taps = float(np.prod(weight.shape[2:]))
    return Layer(name, out, fan, into, work_places, made_places, read_places, taps)
