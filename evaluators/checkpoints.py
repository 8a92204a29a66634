"""How far a training is, in a file: tensors as safetensors, the rest as JSON; nothing in it can run."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evaluators.files import replacing
from evaluators.stepwise import Progress, Stepwise

EVERY_S = 20.0
"""How often to store, in seconds; less often where storing takes more than a twentieth of the time."""

_SHARE = 0.05  # of the time, that storing may take
_STEPS = 20  # between two looks at the clock


class Checkpoint:
    """The file that a training goes on from after it was stopped or killed, as often as it takes.

    Args:
        path: Names all that the training depends on, so that what lies there is its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def carry_out(self, training: Stepwise, progress: Progress | None = None) -> None:
        """Go on with what lies in the file, to the end; the file stays until it is removed."""
        state = read_state(self._path)
        if state is not None:
            training.load(state)
        stored, pause = time.monotonic(), EVERY_S
        while training.step < training.steps:
            training.run((training.step // _STEPS + 1) * _STEPS, progress)
            if time.monotonic() - stored >= pause and training.step < training.steps:
                started = time.monotonic()
                write_state(self._path, training.state())
                stored = time.monotonic()
                pause = max(EVERY_S, (stored - started) / _SHARE)
        training.run()  # nothing is left to do, but no step was ever made either: as after any training

    def remove(self) -> None:
        """It is of no use any more."""
        self._path.unlink(missing_ok=True)


def write_state(path: Path, state: Any) -> None:
    """Store dictionaries and lists of tensors, numbers and texts; the file is whole or as it was."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_taken_apart(state, tensors))
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"tree": tree})


def read_state(path: Path) -> Any:
    """What `write_state` stored, on the CPU; None where there is no whole file."""
    with suppress(SafetensorError, OSError, KeyError, ValueError):
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["tree"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        return _put_together(tree, tensors)
    return None


def _taken_apart(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Plain JSON, in which a tensor is its number and a dictionary the list of its entries."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"entries": [[key, _taken_apart(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return [_taken_apart(entry, tensors) for entry in value]
    return value


def _put_together(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(entry, tensors) for entry in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_together(entry, tensors) for key, entry in value["entries"]}
    return value
