"""What runs a network: torch as it is, torch.compile, onnxruntime. The only file that knows onnxruntime."""

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from spaces.errors import InputError, NetworkError, did_you_mean

Runtime: TypeAlias = Literal["eager", "compile", "onnx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

_COMPILERS = ("g++", "clang++", "c++", "cl")
_MOST_VARIANTS = 512
"""Networks that torch.compile keeps side by side; beyond its own limit of 8 it would run them eagerly."""


@dataclass(frozen=True, eq=False)
class Runner:
    """A network made ready for one shape of inputs.

    Attributes:
        call: Runs it once and does nothing else.
        onnx: The model that onnxruntime loads; None for torch.
    """

    call: Callable[[], object]
    onnx: bytes | None = None


def check_runtime(name: str) -> Runtime:
    """Refuse what is none.

    Raises:
        InputError: Names those that there are.
    """
    for runtime in RUNTIMES:
        if name == runtime:
            return runtime
    raise InputError(f"there is no runtime {name!r}; {did_you_mean(name, RUNTIMES)}")


def runner(runtime: Runtime, network: nn.Module, inputs: Tensor, threads: int) -> Runner:
    """The network made ready to run on these inputs.

    Args:
        runtime: With what.
        network: In eval mode, on the device of the inputs.
        inputs: A batch; the call is made for this shape.
        threads: CPU threads of onnxruntime; torch takes what the process is set to.

    Raises:
        NetworkError: This runtime is not to be had here, or cannot run this network; says why in one line.
    """
    if runtime == "eager":
        return Runner(lambda: _forward(network, inputs))
    if runtime == "compile":
        return Runner(_compiled(network, inputs))
    return _onnx(network, inputs, threads)


def _forward(network: Callable[..., Any], inputs: Tensor) -> object:
    with torch.inference_mode():
        return network(inputs)


def _compiled(network: nn.Module, inputs: Tensor) -> Callable[[], object]:
    if inputs.device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise NetworkError("torch.compile needs a C++ compiler for CPUs, and there is none; install g++")
    with _many_variants():
        compiled = torch.compile(network, dynamic=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _forward(compiled, inputs)
        except Exception as error:  # whatever its back ends raise: the network stays measurable eagerly
            raise NetworkError(f"torch.compile fails on this network: {_line(error)}") from error
    return lambda: _forward(compiled, inputs)


def _many_variants() -> Any:
    import torch._dynamo

    return torch._dynamo.config.patch(
        recompile_limit=_MOST_VARIANTS, accumulated_recompile_limit=_MOST_VARIANTS
    )


def onnx_bytes(network: nn.Module, inputs: Tensor) -> bytes:
    """The network as an ONNX model for inputs of just this shape.

    Raises:
        NetworkError: The extra `onnx` is not installed, or the network cannot be exported.
    """
    try:
        import onnxscript  # noqa: F401  # torch.onnx writes with it
    except ImportError:
        raise NetworkError("ONNX needs the extra `onnx`: pip install 'paretoprune[onnx]'") from None
    try:
        with warnings.catch_warnings(), _silent("torch.onnx"):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(network, (inputs,), dynamo=True, verbose=False)
            assert program is not None
            model: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # the exporter lets everything through
        raise NetworkError(f"the network cannot be exported to ONNX: {_line(error)}") from error
    return model


def _onnx(network: nn.Module, inputs: Tensor, threads: int) -> Runner:
    if inputs.device.type != "cpu":
        raise NetworkError("onnxruntime is measured on CPUs only; use --device cpu")
    model = onnx_bytes(network, inputs)
    session = onnx_session(model, threads)
    feed = {session.get_inputs()[0].name: inputs.numpy()}
    return Runner(lambda: session.run(None, feed), model)


def onnx_session(model: bytes, threads: int) -> Any:
    """An onnxruntime session on the CPU with that many threads.

    Raises:
        NetworkError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise NetworkError("onnxruntime needs the extra `onnx`: pip install 'paretoprune[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Without that logger's notes; its level comes back."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _line(error: Exception) -> str:
    """An error's first line, with its type."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
