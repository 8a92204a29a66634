"""What a network returns: one tensor, or several heads of which the finest is the prediction.

A tuple or list holds heads where its tensors look like the first (as many dimensions, as many channels); what
else is in it (a variational branch, features) is left alone. MONAI's DynUNet stacks its heads in one more
dimension after the batch.
"""

from collections.abc import Callable
from typing import Any

import torch

from spaces.errors import NetworkError


def main_output(outputs: Any, rank: int | None = None) -> torch.Tensor:
    """The tensor that counts: the only one, or the finest head.

    Args:
        outputs: What the network returned.
        rank: Dimensions of one head, where that is known; a tensor of one more is a stack of heads.

    Raises:
        NetworkError: There is no tensor.
    """
    return heads(outputs, rank)[0]


def heads(outputs: Any, rank: int | None = None) -> list[torch.Tensor]:
    """All heads, the finest first; as `main_output`."""
    while isinstance(outputs, tuple | list) and outputs and isinstance(outputs[0], tuple | list):
        outputs = outputs[0]
    if isinstance(outputs, torch.Tensor):
        return list(outputs.unbind(1)) if rank is not None and outputs.ndim == rank + 1 else [outputs]
    if not isinstance(outputs, tuple | list) or not outputs or not isinstance(outputs[0], torch.Tensor):
        raise NetworkError(
            f"the network returns {type(outputs).__name__}; it must return a tensor, or a tuple or list "
            "whose first element is one"
        )
    first = outputs[0]
    alike = [
        head
        for head in outputs
        if isinstance(head, torch.Tensor) and head.ndim == first.ndim and head.shape[:2] == first.shape[:2]
    ]
    return sorted(alike, key=lambda head: -head.numel())  # stable: the first of equals stays first


def loss_over_heads(found: list[torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Mean loss of the heads, each weighing half of the finer one before it (as nnU-Net weighs them)."""
    weights = [0.5**i for i in range(len(found))]
    total = sum(weight * loss(head) for weight, head in zip(weights, found, strict=True))
    return torch.as_tensor(total) / sum(weights)
