"""Networks small enough to search in seconds; named by campaign files as tests.tiny:..."""

import torch
from torch import nn


def cnn(width: int = 16, channels: int = 1, classes: int = 2) -> nn.Module:
    """Three convolutions with batch norm, pooled: classification."""
    blocks: list[nn.Module] = []
    for n_in, n_out in ((channels, width), (width, 2 * width), (2 * width, 2 * width)):
        blocks += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes))


def fixed_size(size: int = 64) -> nn.Module:
    """Takes images of one size only."""
    head = nn.Linear(8 * size * size, 2)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), head)


def bare(size: int = 32) -> nn.Module:
    """One linear layer: input to output, nothing between."""
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, 2))


def broken() -> nn.Module:
    """Fails as factories do."""
    raise ValueError("the factory's own words")


def constant(classes: int = 2) -> nn.Module:
    """A network that has learnt nothing: its head is zero."""
    network = cnn(8, classes=classes)
    torch.nn.init.zeros_(network[-1].weight)
    return network
