"""Measured latency and memory of several networks on one machine."""

import copy
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.latency.memory import onnx_peak_bytes, torch_peak_bytes
from evaluators.latency.runtimes import Runner, Runtime, runner
from evaluators.latency.timing import Spread, times_in_turn
from evaluators.pools.threads import pinned_threads
from spaces.errors import InputError, NetworkError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One network on one runtime with one batch size.

    Attributes:
        network: Its key among those that were measured together.
        runtime: What ran it.
        batch: Images a call.
        device: As torch calls it.
        threads: CPU threads.
        machine: Processor or GPU, cores and torch, in words.
        time: Of a call; None: could not be measured, see note.
        peak_bytes: Weights, inputs and activations; None: not known.
        note: Why something is missing.
    """

    network: str
    runtime: Runtime
    batch: int
    device: str
    threads: int
    machine: str
    time: Spread | None
    peak_bytes: int | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data: the figures of `time` beside the others, null where they are missing."""
        row = asdict(self)
        spread = row.pop("time") or dict.fromkeys(Spread.__dataclass_fields__)
        return {**row, **spread}


def measure_latency(
    networks: Mapping[str, nn.Module],
    image: Tensor,
    *,
    runtimes: Sequence[Runtime] = ("eager",),
    batches: Sequence[int] = (1,),
    device: torch.device | str = "cpu",
    threads: int = 1,
    rounds: int = 7,
    memory: bool = True,
    progress: Progress = lambda done, total: None,
) -> list[Measured]:
    """Time networks and weigh their memory, in turn; see `times_in_turn`.

    The networks are copied and left alone; their weights' values do not matter for speed.

    Args:
        networks: By key.
        image: One image with its batch axis, (1, channels, *spatial).
        runtimes: What runs them. One that cannot run a network gives a note instead of figures.
        batches: Images a call.
        device: Where; GPUs are timed with CUDA events.
        threads: CPU threads, stated with every figure.
        rounds: Turns of each network.
        memory: Whether to weigh memory, too.
        progress: Told after each thing that was made ready.

    Raises:
        InputError: A number that is none to measure with.
    """
    if min(batches, default=0) < 1 or threads < 1 or rounds < 1 or not networks:
        raise InputError("batch sizes, threads and rounds must be at least 1, and there must be a network")
    device = torch.device(device)
    ready = {key: copy.deepcopy(network).to(device).eval() for key, network in networks.items()}
    found, total = [], len(runtimes) * len(batches)
    with pinned_threads(threads):
        for done, (runtime, batch) in enumerate(((r, b) for r in runtimes for b in batches), 1):
            inputs = torch.randn(batch, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(
                device
            )
            found += _measured(ready, inputs, runtime, threads, rounds, memory)
            progress(done, total)
    order = {key: i for i, key in enumerate(networks)}
    return sorted(found, key=lambda row: order[row.network])


def _measured(
    networks: Mapping[str, nn.Module],
    inputs: Tensor,
    runtime: Runtime,
    threads: int,
    rounds: int,
    memory: bool,
) -> list[Measured]:
    runners: dict[str, Runner] = {}
    notes: dict[str, str] = {}
    for key, network in networks.items():
        try:
            runners[key] = runner(runtime, network, inputs, threads)
        except NetworkError as error:
            notes[key] = str(error)
    calls = {key: runner.call for key, runner in runners.items()}
    times = times_in_turn(calls, device=inputs.device, rounds=rounds)
    where = machine(inputs.device)
    rows = []
    for key, network in networks.items():
        known = (key, runtime, len(inputs), str(inputs.device), threads, where)
        if key in notes:
            rows.append(Measured(*known, None, None, notes[key]))
            continue
        peak, model = None, runners[key].onnx
        if memory:
            peak = (
                onnx_peak_bytes(model, inputs, threads)
                if model
                else torch_peak_bytes(calls[key], network, inputs)
            )
        rows.append(Measured(*known, Spread.of(times[key]), peak))
    return rows


def machine(device: torch.device) -> str:
    """What computes, in words: no host name, no path."""
    torch_version = torch.__version__.partition("+")[0]
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}; torch {torch_version}"
    return f"{_processor()}, {os.cpu_count()} cores; torch {torch_version}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
