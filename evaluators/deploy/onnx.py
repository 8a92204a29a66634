"""Export to ONNX, checked with onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluators.deploy.description import NetworkDescription
from evaluators.deploy.program import (
    CAPTURING,
    CHECKING,
    WRITING,
    Begin,
    Program,
    captured,
    check_answers,
    quiet,
    unheard,
)
from evaluators.named import short
from spaces.errors import ConfigError, InputError, NetworkError

FILE = "model.onnx"
OLDEST, NEWEST, USUAL = 18, 23, 18
"""Versions of the operator set: what PyTorch's exporter writes, and what is taken unasked."""

_ONE_FILE = 1_900_000_000
"""Bytes of weights that an ONNX file holds; larger ones lie beside it."""


def check_opset(opset: int) -> None:
    """Refuse operator sets that cannot be written.

    Raises:
        ConfigError: Names those that can.
    """
    if not OLDEST <= opset <= NEWEST:
        way_out = f"update the runtime (onnxruntime 1.14 and later read {OLDEST}), or take --format pt2"
        if opset > NEWEST:
            way_out = f"newer runtimes read {NEWEST}, too"
        raise ConfigError(f"--opset {opset}: PyTorch's exporter writes {OLDEST} to {NEWEST}; {way_out}")


def write_onnx(
    program: Program,
    description: NetworkDescription,
    path: Path,
    about: str = "",
    *,
    opset: int = USUAL,
    begin: Begin = unheard,
) -> None:
    """Write the program and check it in onnxruntime against the network, at several batch sizes.

    Args:
        program: What to export.
        description: Of its network.
        path: To write to.
        about: JSON that travels inside the file, under the key "deployment".
        opset: Version of the operator set.
        begin: Told of every step.

    Raises:
        ConfigError: The operator set cannot be written.
        InputError: The libraries are not installed.
        NetworkError: It cannot be captured or translated.
        RunError: onnxruntime finds other answers.
    """
    check_opset(opset)
    runtime = _runtime()
    begin(CAPTURING)
    found = captured(program, description)
    begin(WRITING)
    try:
        with quiet():
            translated: Any = torch.onnx.export(
                found, dynamo=True, opset_version=opset, input_names=["image"], output_names=["output"],
                verbose=False,
            )  # fmt: skip
            translated.model.metadata_props["deployment"] = about
            weights = sum(tensor.nbytes for tensor in program.state_dict().values())
            translated.save(str(path), external_data=weights > _ONE_FILE)
    except Exception as error:
        raise NetworkError(
            f"ONNX (opset {opset}) has no form for this network: {short(error)}; --format pt2 does"
        ) from error
    begin(CHECKING)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answers(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"image": images})[0])

    check_answers(program, description, answers, path.name)


def _runtime() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch.onnx writes with
    except ImportError as error:
        raise InputError(
            f"--format onnx needs {error.name}: pip install 'paretoprune[onnx]', or take --format pt2"
        ) from None
    return onnxruntime
