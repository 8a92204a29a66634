"""Export as a `torch.export` program: any PyTorch runs it, without the network's code."""

from pathlib import Path

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

FILE = "model.pt2"


def write_pt2(
    program: Program,
    description: NetworkDescription,
    path: Path,
    about: str = "",
    *,
    begin: Begin = unheard,
) -> None:
    """Write the program and check it, reloaded, against the network.

    Args:
        program: What to export.
        description: Of its network.
        path: To write to.
        about: JSON that travels inside the file, as "deployment.json".
        begin: Told of every step.

    Raises:
        NetworkError: It cannot be captured.
        RunError: The reloaded program answers otherwise.
    """
    begin(CAPTURING)
    found = captured(program, description)
    begin(WRITING)
    found.example_inputs = None  # nothing in the file but the program and its weights
    with quiet():
        torch.export.save(found, path, extra_files={"deployment.json": about})
        reloaded = torch.export.load(path).module()

    def answers(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(reloaded(torch.from_numpy(images)))

    begin(CHECKING)
    check_answers(program, description, answers, path.name)
