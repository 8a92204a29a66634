"""Small networks of the kinds people write, each with what tracing must find in it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, an input shape, and the groups to find: name -> (units, channels)."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    groups: dict[str, tuple[int, int]]


class Net(nn.Module):
    """Named modules and a forward function."""

    def __init__(self, forward: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> object:
        return self._forward(self, *inputs)


def conv(into: int, out: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, options.pop("kernel_size", 3), padding="same", **options)


def chain() -> nn.Module:
    return nn.Sequential(conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4), nn.ReLU(), conv(4, 2))


def residual() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.b(F.relu(m.a(x)))
        return m.head(F.gelu(x))

    return Net(forward, stem=conv(1, 6), a=conv(6, 5), b=conv(5, 6), head=conv(6, 2))


def depthwise() -> nn.Module:
    return nn.Sequential(conv(1, 6), conv(6, 12, groups=6), nn.ReLU6(), conv(12, 2, kernel_size=1))


def grouped() -> nn.Module:
    return nn.Sequential(conv(1, 8), conv(8, 12, groups=4), nn.SiLU(), conv(12, 2))


def transposed() -> nn.Module:
    return nn.Sequential(
        conv(1, 6),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.ELU(),
        conv(6, 2),
    )


def concatenated() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        return m.head(torch.cat([a, F.max_pool2d(b, 3, 1, 1), a], dim=1))

    return Net(forward, a=conv(1, 4), b=conv(1, 3), head=conv(11, 2))


def flattened() -> nn.Module:
    return nn.Sequential(conv(1, 4), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 2))


def group_normed() -> nn.Module:
    return nn.Sequential(conv(1, 12), nn.GroupNorm(4, 12), nn.ReLU(), conv(12, 2))


def instance_normed() -> nn.Module:
    return nn.Sequential(
        conv(1, 6),
        nn.InstanceNorm2d(6),
        nn.PReLU(6),
        conv(6, 4),
        nn.InstanceNorm2d(4, affine=True),
        conv(4, 2),
    )


def layer_normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 8),
        nn.LayerNorm(8),
        nn.GELU(),
        nn.Linear(8, 6),
        nn.LayerNorm(6, bias=False),
        nn.Linear(6, 2),
    )


def layer_normed_plainly() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2))


def shared_twice() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        for _ in range(2):
            x = torch.tanh(m.body(x))
        return m.head(x)

    return Net(forward, stem=conv(1, 5), body=conv(5, 5), head=conv(5, 2))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    net[3].weight = net[1].weight
    return net


def squeeze_excite() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        b, c = x.shape[:2]
        scale = m.up(F.relu(m.down(x.mean((2, 3)).view(b, c)))).sigmoid().view(b, c, 1, 1)
        return m.head(x * scale)

    return Net(forward, stem=conv(1, 8), down=nn.Linear(8, 3), up=nn.Linear(3, 8), head=conv(8, 2))


def pixel_shuffled() -> nn.Module:
    return nn.Sequential(conv(1, 12), nn.PixelShuffle(2), conv(3, 4), nn.PixelUnshuffle(2), conv(16, 2))


def channel_shuffled() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.head(x)

    return Net(forward, stem=conv(1, 8), head=conv(8, 2))


def gated() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        a, b = m.stem(x).chunk(2, dim=1)
        return m.head(a * b.sigmoid())

    return Net(forward, stem=conv(1, 12), head=conv(6, 2))


def padded_shortcut() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(m.wide(x) + F.pad(x, (0, 0, 0, 0, 0, 4)))

    return Net(forward, stem=conv(1, 4), wide=conv(4, 8), head=conv(8, 2))


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3),
        nn.ReplicationPad3d(1),
        nn.Dropout3d(0.5),
        nn.Upsample(scale_factor=2),
        nn.Conv3d(6, 2, 1),
    )


def one_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 6, 3), nn.BatchNorm1d(6), nn.AvgPool1d(2), nn.Conv1d(6, 2, 1))


CASES = {
    "chain": Case(chain, (1, 1, 6, 6), {"0": (6, 6), "3": (4, 4)}),
    "residual": Case(residual, (1, 1, 6, 6), {"stem": (6, 6), "a": (5, 5)}),
    "depthwise": Case(depthwise, (1, 1, 6, 6), {"0": (6, 6)}),
    "grouped": Case(grouped, (1, 1, 6, 6), {"0": (4, 8)}),
    "transposed": Case(transposed, (1, 1, 6, 6), {"0": (6, 6), "1": (2, 4)}),
    "concatenated": Case(concatenated, (1, 1, 6, 6), {"a": (4, 4), "b": (3, 3)}),
    "flattened": Case(flattened, (1, 1, 6, 6), {"0": (4, 4), "3": (5, 5)}),
    "group_normed": Case(group_normed, (1, 1, 6, 6), {"0": (4, 12)}),
    "instance_normed": Case(instance_normed, (1, 1, 6, 6), {"0": (6, 6), "3": (4, 4)}),
    "layer_normed": Case(layer_normed, (2, 5, 3), {"0": (8, 8), "3": (6, 6)}),
    "layer_normed_plainly": Case(layer_normed_plainly, (2, 5, 3), {"0": (8, 8)}),
    "shared_twice": Case(shared_twice, (1, 1, 6, 6), {"stem": (5, 5)}),
    "tied": Case(tied, (2, 3), {"0": (6, 6)}),
    "squeeze_excite": Case(squeeze_excite, (1, 1, 6, 6), {"stem": (8, 8), "down": (3, 3)}),
    "pixel_shuffled": Case(pixel_shuffled, (1, 1, 6, 6), {"0": (3, 12), "2": (4, 4)}),
    "channel_shuffled": Case(channel_shuffled, (1, 1, 6, 6), {"stem": (4, 8)}),
    "gated": Case(gated, (1, 1, 6, 6), {"stem": (6, 12)}),
    "padded_shortcut": Case(padded_shortcut, (1, 1, 6, 6), {"stem": (4, 4)}),
    "three_dimensional": Case(three_dimensional, (1, 1, 5, 5, 5), {"0": (6, 6)}),
    "one_dimensional": Case(one_dimensional, (1, 1, 12), {"0": (6, 6)}),
}


Block = tuple[Callable[[], nn.Module], int]
"""How to build it, and how many channels it gives."""


def _around(width: int) -> nn.Module:
    return nn.Sequential(conv(width, 4), nn.ReLU(inplace=True), conv(4, width))


def _shuffle(m: Net, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def _gate(m: Net, x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return m.out(left * right.sigmoid())


BLOCKS: dict[str, Callable[[int], Block]] = {
    "conv": lambda width: (lambda: conv(width, 6), 6),
    "grouped": lambda width: (lambda: conv(width, 8, groups=2), 8),
    "depthwise": lambda width: (lambda: conv(width, width, groups=width), width),
    "batch norm": lambda width: (lambda: nn.BatchNorm2d(width), width),
    "instance norm": lambda width: (lambda: nn.InstanceNorm2d(width), width),
    "group norm": lambda width: (lambda: nn.GroupNorm(2, width), width),
    "layer norm": lambda width: (lambda: nn.GroupNorm(1, width), width),
    "prelu": lambda width: (lambda: nn.PReLU(width), width),
    "hardswish": lambda width: (nn.Hardswish, width),
    "dropout": lambda width: (nn.Dropout2d, width),
    "softmax": lambda width: (lambda: nn.Softmax(1), width),
    "add": lambda width: (lambda: Net(lambda m, x: x + m.body(x), body=_around(width)), width),
    "scale": lambda width: (lambda: Net(lambda m, x: x * m.body(x).sigmoid(), body=_around(width)), width),
    "cat": lambda width: (
        lambda: Net(lambda m, x: torch.cat([m.body(x), x], 1), body=conv(width, 2)),
        width + 2,
    ),
    "gate": lambda width: (lambda: Net(_gate, out=conv(width // 2, 4)), 4),
    "shuffle": lambda width: (lambda: Net(_shuffle), width),
    "centre": lambda width: (lambda: Net(lambda m, x: x - x.mean((2, 3), keepdim=True)), width),
    "pixels": lambda width: (lambda: nn.Sequential(nn.PixelUnshuffle(1), nn.Upsample(scale_factor=1)), width),
}
"""Blocks of random networks, by the number of channels they get (even, at least two)."""
