"""Layers behind flags that are off, and tables in plain attributes: traced as they would run."""

import gc

import torch
from torch import Tensor, nn

from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.switches import find_switches
from spaces.tracing import trace


class Variational(nn.Module):
    """In train mode its flag adds a layer that reads the bottom; as wide as everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)
        self.mean, self.spread = nn.Linear(8, 4), nn.Linear(8, 4)
        self.estimate_spread = False
        self.unrelated = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.unrelated:
            raise RuntimeError("needs something else")
        x = self.first(x).relu()
        below = self.second(x).relu()
        loss = self.mean(below.mean((2, 3)))
        if self.estimate_spread and self.training:
            loss = loss + self.spread(below.mean((2, 3))).exp()
        return self.last(below), loss.square().sum()


def test_what_a_flag_switches_off_freezes_nothing_and_fits_when_it_is_on() -> None:
    torch.manual_seed(0)
    model, image = Variational(), torch.randn(2, 1, 8, 8)
    space = trace(model, image)
    assert [group.name for group in space.groups] == ["first", "second"]
    assert "spread" in space.groups[1].members
    assert not model.estimate_spread
    pruned = prune(model, space, space.minimal, rank_channels(model, space))
    pruned.estimate_spread = True
    pruned.train()(image)[1].backward()
    assert pruned.spread.weight.grad is not None
    assert pruned.spread.in_features == 1


def test_flags_that_wake_nothing_or_break_the_network_are_left_off() -> None:
    model, image = Variational(), torch.randn(2, 1, 8, 8)

    def run() -> None:
        for training in (False, True):
            model.train(training)(image)

    assert find_switches(model, run) == [("", "estimate_spread")]
    assert not model.estimate_spread
    assert not model.unrelated


class Routed(nn.Module):
    """Which branches run stands in a table that it holds in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(1, 8, 1) for _ in range(3))
        self.last = nn.Conv2d(8, 2, 1)
        self.table = torch.tensor([1.0, 0.0, 1.0])
        self.devices: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self.devices.append(x.device.type)
        made = [branch(x) for branch, active in zip(self.branches, self.table, strict=True) if active]
        return self.last(torch.stack(made).sum(0))


def test_a_table_in_a_plain_attribute_keeps_its_values_and_nothing_is_computed() -> None:
    model = Routed()
    seen = model.devices = _Shared()
    space = trace(model, torch.randn(1, 1, 4, 4), verify=False)
    assert set(seen) == {"meta"}
    assert len(space.groups) == 1
    assert "branches.2" in space.groups[0].members


class _Shared(list[str]):
    """A list that copies of the network write into, too."""

    def __deepcopy__(self, memo: object) -> "_Shared":
        return self


def test_surgery_leaves_the_collector_as_it_was() -> None:
    model, image = Variational(), torch.randn(2, 1, 8, 8)
    space = trace(model, image, verify=False)
    ranking = rank_channels(model, space)
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            prune(model, space, space.minimal, ranking)
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
