"""Running a network once while something looks on."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Look = Callable[[nn.Module, tuple[Any, ...], Any], None]
"""What looks on: told a module, its inputs and its output."""


def run_watched(network: nn.Module, image: Tensor, watched: Iterable[tuple[nn.Module, Look]]) -> None:
    """Run the network in eval mode on an image; leaves it as it was.

    Args:
        network: Any.
        image: One, with its batch axis.
        watched: Modules of it, and who is told when each has run.
    """
    hooks = [module.register_forward_hook(look) for module, look in watched]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(image)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
