"""Genomes that a proof tries: groups that could be taken for each other differ, each way."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spaces.errors import NetworkError
from spaces.space import Axis, ChannelGroup, ChannelSpace
from spaces.tracing import trace
from spaces.trials import contrasting
from tests.nets import Net, conv


def _on_one_axis(sizes: list[int]) -> ChannelSpace:
    groups = tuple(ChannelGroup(f"g{i}", n, n, (), tuple(range(1, n + 1))) for i, n in enumerate(sizes))
    return ChannelSpace(groups, axes=(Axis("weight", 1, np.arange(sum(sizes), dtype=np.int32)),))


@pytest.mark.parametrize("sizes", [[2, 2], [2, 6], [8] * 12, [2] * 40, [4] * 120, [3, 5, 40, 2]])
def test_each_of_two_groups_on_an_axis_keeps_more_than_the_other_once(sizes: list[int]) -> None:
    space = _on_one_axis(sizes)
    genomes = contrasting(space, np.random.default_rng(0), 3)
    assert 3 <= len(genomes) <= 12
    parts = np.array(genomes) / np.array(sizes)
    assert all((parts[:, i] > parts[:, j]).any() for i, j in permutations(range(len(sizes)), 2))


def test_boundaries_worked_out_from_the_number_of_channels_are_found_out() -> None:
    """With few channels a side, random genomes often keep as many of both."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = torch.cat([m.a(x), m.b(x)], 1)
        half = x.shape[1] // 2
        return m.head(torch.cat([x[:, :half].sigmoid(), x[:, half:]], 1))

    for seed in range(5):
        model = Net(forward, a=conv(1, 3), b=conv(1, 3), head=conv(6, 2))
        with pytest.raises(NetworkError, match="nothing to prune"):
            trace(model, torch.randn(1, 1, 4, 4), seed=seed)


def test_what_is_wrong_before_a_dead_unit_is_found_out() -> None:
    """The last layer's only unit may be dead on random weights: then nothing before it would show."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        x = x * x.shape[1]
        return m.head(torch.relu(m.one(x)))

    for seed in range(8):
        model = Net(forward, a=conv(1, 3), one=nn.Conv2d(3, 1, 4), head=nn.Conv2d(1, 2, 1))
        with pytest.raises(NetworkError, match="nothing to prune"):
            trace(model, torch.randn(1, 1, 4, 4), seed=seed)
