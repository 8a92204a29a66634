"""The running statistics of batch norms."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def averaged_statistics(network: nn.Module, *, afresh: bool = True) -> Iterator[Sequence[nn.Module]]:
    """Inside, batch norms that keep running statistics take the plain average of what they see.

    Gives those layers; outside they go on with the momentum they had. Instance norms that keep some are left
    alone: without a momentum they learn nothing.

    Args:
        network: Whose layers.
        afresh: What they saw before is forgotten; else it counts as so many batches more.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if afresh:
            norm.reset_running_stats()
        norm.momentum = None
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
