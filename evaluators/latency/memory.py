"""Peak memory of a network at work: weights, inputs and activations, in bytes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

_PROBE = """
import json, resource, sys
import numpy, onnxruntime
path, shape, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
unit = 1 if sys.platform == "darwin" else 1024
def field(name):
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name + ":"))
def peak():
    return field("VmHWM") if linux else unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak of the imports, which would hide a small model
    linux, before = True, field("VmRSS")
except OSError:
    linux, before = False, None
before = peak() if before is None else before
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = threads, 3
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: numpy.zeros(shape, "float32")})
print(peak() - before)
"""


def torch_peak_bytes(call: Callable[[], object], network: nn.Module, inputs: Tensor) -> int:
    """Weights, inputs and the most that one call had allocated beside them at any moment.

    On CPUs from the allocations that torch's profiler sees (workspace of convolutions too), on GPUs from
    `torch.cuda.max_memory_allocated`.
    """
    own = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers(), inputs])
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
        before = torch.cuda.memory_allocated(inputs.device)
        torch.cuda.reset_peak_memory_stats(inputs.device)
        call()
        torch.cuda.synchronize(inputs.device)
        return own + torch.cuda.max_memory_allocated(inputs.device) - before
    with _silent_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return own + max(accumulate(changes), default=0)


def onnx_peak_bytes(model: bytes, inputs: Tensor, threads: int) -> int | None:
    """What a fresh process of onnxruntime grows by at most when it loads a model and runs it once.

    None where the system does not say.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        arguments = [str(path), json.dumps(list(inputs.shape)), str(threads)]
        command = [sys.executable, "-c", _PROBE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Without what the profiler writes to the process's standard error, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
