"""The running statistics of norm layers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def averaged_statistics(network: nn.Module, *, afresh: bool = True) -> Iterator[list[nn.Module]]:
    """Inside, norm layers that keep running statistics take the plain average of what they see.

    Gives those layers; outside they go on with the momentum they had.

    Args:
        network: Whose layers.
        afresh: What they saw before is forgotten; else it counts as so many batches more.
    """
    norms = [module for module in network.modules() if _keeps_statistics(module)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if afresh:
            norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _keeps_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None and hasattr(module, "reset_running_stats")
