"""Networks put together at random, as trees of named blocks: readable when they fail, and they shrink.

A `Recipe` says what to build; `build` builds it. Blocks that do not fit where they stand (a shuffle of an odd
number of channels) are left out. Some read their sizes off tensors, some state them as numbers, and some do
things to channels that nobody can prune: what matters is that none of them comes out wrong.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.nets import Net

SIDE = {1: 16, 2: 8, 3: 4}  # of images, by the number of spatial dimensions
INPUTS = 2  # channels of an image


@dataclass(frozen=True)
class Node:
    """A block by name; which of its variants; and the blocks inside it."""

    name: str
    variant: int = 0
    inside: tuple["Node", ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A network: spatial dimensions, channels of its stem, blocks, and how it ends."""

    dims: int
    width: int
    blocks: tuple[Node, ...]
    tail: str

    @property
    def example(self) -> Tensor:
        """Two images."""
        return torch.randn(2, INPUTS, *[SIDE[self.dims]] * self.dims)

    def nodes(self) -> Iterator[Node]:
        """All blocks, at every depth."""
        waiting = list(self.blocks)
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.inside


class Unfit(Exception):
    """The block does not fit here."""


@dataclass
class Place:
    """Where a block stands: what it gets, and a source of choices. `draw` is as good as the variant."""

    dims: int
    width: int
    side: int
    draw: random.Random

    @property
    def ones(self) -> list[int]:
        """As many ones as there are spatial dimensions."""
        return [1] * self.dims

    def pick(self, *options: int) -> int:
        """One of them."""
        return self.draw.choice(options)

    def flip(self) -> bool:
        """True or false."""
        return self.draw.random() < 0.5

    def need(self, condition: bool) -> None:
        """Refuse the place."""
        if not condition:
            raise Unfit

    def layer(self, name: str) -> type[nn.Module]:
        """`Conv` -> `nn.Conv2d`, by the number of dimensions."""
        return getattr(nn, f"{name}{self.dims}d")

    def conv(self, into: int, out: int, kernel: int = 1, **options: object) -> nn.Module:
        """A convolution that keeps the image's size."""
        options.setdefault("padding", "same")
        return self.layer("Conv")(into, out, kernel, **options)


Built = tuple[nn.Module, int, int]
"""The module, its output channels, and the side of its output."""

Build = Callable[[Place, tuple[Node, ...]], Built]

BLOCKS: dict[str, Build] = {}
"""Every block by name."""

CONTAINERS = ("residual", "scaled residual", "gate", "dense", "branches", "csp", "u", "twice", "parallel add")
"""Those that hold others."""

TAILS = ("map", "two maps", "mean", "flatten", "mlp", "dictionary")


def block(name: str) -> Callable[[Build], Build]:
    """Enter a block under this name."""

    def enter(build: Build) -> Build:
        BLOCKS[name] = build
        return build

    return enter


def plain(name: str, make: Callable[[Place], nn.Module | None]) -> None:
    """Enter a block that changes neither width nor side, and holds no others."""

    def build(p: Place, _: tuple[Node, ...]) -> Built:
        module = make(p)
        p.need(module is not None)
        assert module is not None
        return module, p.width, p.side

    BLOCKS[name] = build


def sequence(p: Place, nodes: tuple[Node, ...]) -> Built:
    """Blocks one after the other; those that do not fit are left out."""
    layers, width, side = [], p.width, p.side
    for node in nodes:
        place = Place(p.dims, width, side, random.Random(f"{node.name} {node.variant}"))
        try:
            module, width, side = BLOCKS[node.name](place, node.inside)
        except Unfit:
            continue
        layers.append(module)
    return nn.Sequential(*layers), width, side


def body(p: Place, nodes: tuple[Node, ...], out: int) -> nn.Module:
    """Blocks that end with as many channels, on the side that they started from."""
    inner, width, side = sequence(p, nodes)
    if side != p.side:
        inner.append(nn.AdaptiveAvgPool2d(p.side) if p.dims == 2 else Net(_resized(p.side)))
    return nn.Sequential(inner, p.conv(width, out))


def _resized(side: int) -> Callable[..., Tensor]:
    return lambda m, x: F.interpolate(x, size=[side] * (x.ndim - 2))


# --- convolutions


@block("conv")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    out = p.pick(2, 3, 4, 6, 8)
    options = {"bias": p.flip()}
    if p.flip():
        options["padding_mode"] = p.draw.choice(["zeros", "circular", "replicate"])
    return p.conv(p.width, out, p.pick(1, 3), dilation=p.pick(1, 1, 2), **options), out, p.side


@block("strided")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.side >= 4)
    out = p.pick(3, 4, 6)
    return p.conv(p.width, out, 3, stride=2, padding=1), out, p.side // 2


@block("grouped")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    groups = p.draw.choice([n for n in range(1, p.width + 1) if p.width % n == 0])
    out = groups * p.pick(1, 2, 3)
    return p.conv(p.width, out, 3, groups=groups, bias=p.flip()), out, p.side


@block("depthwise")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    out = p.width * p.pick(1, 1, 2)
    return p.conv(p.width, out, 3, groups=p.width), out, p.side


@block("transposed")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.side < SIDE[p.dims])
    groups = 2 if p.width % 2 == 0 and p.flip() else 1
    out = groups * p.pick(2, 3)
    layer = p.layer("ConvTranspose")
    if p.flip():
        return layer(p.width, out, 2, stride=2, groups=groups), out, p.side * 2
    return layer(p.width, out, 3, stride=2, padding=1, output_padding=1, groups=groups), out, p.side * 2


@block("inverted residual")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    wide = p.width * p.pick(1, 2)
    norm = p.layer("BatchNorm")

    def forward(m: Net, x: Tensor) -> Tensor:
        return x + m.project(F.hardswish(m.norm(m.depth(F.relu6(m.expand(x))))))

    net = Net(
        forward,
        expand=p.conv(p.width, wide, bias=False),
        depth=p.conv(wide, wide, 3, groups=wide, bias=False),
        norm=norm(wide),
        project=p.conv(wide, p.width, bias=False),
    )
    return net, p.width, p.side


@block("shared convolution")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    conv = p.conv(p.width, p.width, 3)
    return nn.Sequential(conv, nn.ReLU(), conv), p.width, p.side


@block("tied weights")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    first, second = p.conv(p.width, p.width), p.conv(p.width, p.width)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second), p.width, p.side


@block("transposed tie")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """An autoencoder's: the weight forth and, turned, back."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        x = F.linear(F.relu(m.code(x)), m.code.weight.t(), m.back)
        return x.movedim(-1, 1)

    net = Net(forward, code=nn.Linear(p.width, p.pick(3, 5)))
    net.back = nn.Parameter(torch.zeros(p.width))
    return net, p.width, p.side


# --- norms and activations

plain("batch norm", lambda p: p.layer("BatchNorm")(p.width, affine=p.flip(), track_running_stats=p.flip()))
plain("instance norm", lambda p: p.layer("InstanceNorm")(p.width, affine=p.flip()) if p.side > 1 else None)
plain(
    "group norm",
    lambda p: nn.GroupNorm(
        p.draw.choice([n for n in range(1, p.width + 1) if p.width % n == 0]), p.width, affine=p.flip()
    ),
)
plain(
    "layer norm, channels last",
    lambda p: Net(
        lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1),
        norm=nn.LayerNorm(p.width, elementwise_affine=p.flip()),
    ),
)
plain(
    "rms norm, channels last",
    lambda p: Net(lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1), norm=nn.RMSNorm(p.width)),
)
plain("local response norm", lambda p: nn.LocalResponseNorm(2) if p.dims > 1 else None)


@block("layer norm, channels first")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """As ConvNeXt writes it."""

    def forward(m: Net, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return m.weight.view(-1, *p.ones) * x + m.bias.view(-1, *p.ones)

    net = Net(forward)
    net.weight, net.bias = nn.Parameter(torch.ones(p.width)), nn.Parameter(torch.zeros(p.width))
    return net, p.width, p.side


@block("activation")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.ReLU(inplace=True),
        nn.LeakyReLU,
        nn.GELU,
        nn.SiLU,
        nn.Hardswish,
        nn.Sigmoid,
        nn.Softplus,
        nn.ELU,
        nn.PReLU,
        lambda: nn.PReLU(p.width),
    ]
    return p.draw.choice(kinds)(), p.width, p.side


@block("glu")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    return nn.GLU(dim=1), p.width // 2, p.side


plain("softmax", lambda p: nn.Softmax(1))
plain("normalise", lambda p: Net(lambda m, x: F.normalize(x, dim=1)))
plain("centre", lambda p: Net(lambda m, x: x - x.mean(list(range(2, x.ndim)), keepdim=True)))
plain("centre over channels", lambda p: Net(lambda m, x: x - x.mean(1, keepdim=True)))
plain("cumulate", lambda p: Net(lambda m, x: x.cumsum(1)))
plain("sort channels", lambda p: Net(lambda m, x: x.sort(1).values))


# --- sizes


@block("pool")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.side >= 4)
    return p.layer(p.draw.choice(["MaxPool", "AvgPool"]))(2), p.width, p.side // 2


@block("upsample")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.side < SIDE[p.dims])
    mode = p.draw.choice(["nearest", ("linear", "bilinear", "trilinear")[p.dims - 1]])
    return nn.Upsample(scale_factor=2, mode=mode), p.width, p.side * 2


@block("pixel shuffle")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.dims == 2 and p.width % 4 == 0 and p.side < SIDE[2])
    return nn.PixelShuffle(2), p.width // 4, p.side * 2


@block("pixel unshuffle")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.dims == 2 and p.side >= 4 and p.width <= 4)
    return nn.PixelUnshuffle(2), p.width * 4, p.side // 2


@block("space to depth")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """Swin's patch merging: four shifted images, one after the other, and a linear layer."""
    p.need(p.dims == 2 and p.side >= 4)

    def forward(m: Net, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return m.reduce(torch.cat(parts, -1)).movedim(-1, 1)

    return Net(forward, reduce=nn.Linear(4 * p.width, 2 * p.width)), 2 * p.width, p.side // 2


# --- joining and taking apart


@block("channel shuffle")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    if p.dims == 2 and p.flip():
        return nn.ChannelShuffle(2), p.width, p.side
    stated, whole = p.width // 2 if p.flip() else None, p.flip()

    def forward(m: Net, x: Tensor) -> Tensor:
        shape = x.shape
        half = stated or shape[1] // 2
        x = x.reshape(shape[0], 2, half, *shape[2:]).transpose(1, 2)
        return x.reshape(shape) if whole else x.flatten(1, 2)

    return Net(forward), p.width, p.side


@block("halves swapped")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    how = p.pick(0, 1, 2)
    number = p.width // 2

    def forward(m: Net, x: Tensor) -> Tensor:
        if how == 0:
            left, right = x.chunk(2, dim=1)
        elif how == 1:
            left, right = x.split(number, dim=1)
        else:
            half = x.shape[1] // 2
            left, right = x[:, :half], x[:, half:]
        return torch.cat([right.sigmoid(), left], 1)

    return Net(forward), p.width, p.side


@block("uneven split")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width >= 3)
    stated = p.flip()

    def forward(m: Net, x: Tensor) -> Tensor:
        first = 1 if stated else x.shape[1] // 3
        left, right = x.split([first, x.shape[1] - first], dim=1)
        return torch.cat([right, left.relu()], 1)

    return Net(forward), p.width, p.side


@block("partial convolution")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """FasterNet's: only the first channels are convolved; written in place, or not."""
    p.need(p.width >= 2)
    first, in_place = p.width // 2, p.flip()

    def forward(m: Net, x: Tensor) -> Tensor:
        if in_place:
            x = x.clone()
            x[:, : m.conv.in_channels] = m.conv(x[:, : m.conv.in_channels].clone())
            return x
        left, right = torch.split(x, [m.conv.in_channels, x.shape[1] - m.conv.in_channels], 1)
        return torch.cat([m.conv(left), right], 1)

    return Net(forward, conv=p.conv(first, first, 3)), p.width, p.side


@block("half added in place")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    number = p.pick(1, 2)
    p.need(p.width > number)

    def forward(m: Net, x: Tensor) -> Tensor:
        whole = x.clone()
        whole[:, :number] += m.conv(x)
        return whole

    return Net(forward, conv=p.conv(p.width, number)), p.width, p.side


@block("written into zeros")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    width, out = p.width, p.pick(2, 3)
    stated = p.flip()

    def forward(m: Net, x: Tensor) -> Tensor:
        b = x.shape[0]
        extra = m.conv(x)
        n = width if stated else x.shape[1]
        whole = x.new_zeros(b, n + (out if stated else extra.shape[1]), *x.shape[2:])
        whole[:, :n] = x
        whole[:, n:] = extra
        return whole

    return Net(forward, conv=p.conv(p.width, out)), p.width + out, p.side


@block("addressed")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width >= 2)
    how = p.pick(0, 1, 2, 3, 4)
    order = list(range(p.width))
    p.draw.shuffle(order)

    def forward(m: Net, x: Tensor) -> Tensor:
        if how == 0:
            return x[:, order]
        if how == 1:
            return x.flip(1)
        if how == 2:
            return x * x[:, :1]
        if how == 3:
            return x.roll(1, 1)
        return torch.stack([x[:, i] for i in order], 1)

    return Net(forward), p.width, p.side


@block("every other")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    return Net(lambda m, x: x[:, ::2] + x[:, 1::2].tanh()), p.width // 2, p.side


@block("repeated")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width <= 4)
    if p.flip():
        return Net(lambda m, x: x.repeat(1, 2, *p.ones)), 2 * p.width, p.side
    return Net(lambda m, x: x.repeat_interleave(2, 1)), 2 * p.width, p.side


@block("padded")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    extra = p.pick(1, 2)
    return Net(lambda m, x: F.pad(x, [0, 0] * p.dims + [0, extra])), p.width + extra, p.side


@block("maxout")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    outer = p.flip()

    def forward(m: Net, x: Tensor) -> Tensor:
        b, c, *space = x.shape
        if outer:
            return x.reshape(b, 2, c // 2, *space).amax(1)
        return x.reshape(b, c // 2, 2, *space).amax(2)

    return Net(forward), p.width // 2, p.side


@block("constants")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    how = p.pick(0, 1, 2, 3)

    def forward(m: Net, x: Tensor) -> Tensor:
        shape = (-1, *p.ones)
        if how == 0:
            return x * m.scale.view(shape)
        if how == 1:
            return x + m.offset.view(shape)
        if how == 2:
            return x * torch.arange(1.0, x.shape[1] + 1, device=x.device).view(shape).to(x)
        return torch.where(m.scale.view(shape) > 0.5, x, -x)

    net = Net(forward)
    net.scale = nn.Parameter(torch.ones(p.width))
    net.register_buffer("offset", torch.rand(p.width))
    return net, p.width, p.side


@block("position")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    net = Net(lambda m, x: x + m.table)
    net.table = nn.Parameter(torch.zeros(1, p.width, *[p.side] * p.dims))
    return net, p.width, p.side


# --- containers


@block("residual")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    return Net(lambda m, x: x + m.body(x), body=body(p, inside, p.width)), p.width, p.side


@block("scaled residual")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    """With a layer scale, and a shortcut that changes the width."""
    out = p.pick(3, 4)
    net = Net(
        lambda m, x: m.short(x) + m.scale * m.body(x), body=body(p, inside, out), short=p.conv(p.width, out)
    )
    net.scale = nn.Parameter(torch.ones(out, *p.ones))
    return net, out, p.side


@block("gate")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    out = p.pick(1, p.width)  # one for all channels, or each its own
    return Net(lambda m, x: x * m.body(x).sigmoid(), body=body(p, inside, out)), p.width, p.side


@block("dense")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    grown = p.pick(2, 3)
    net = Net(lambda m, x: torch.cat([x, m.body(x)], 1), body=body(p, inside, grown))
    return net, p.width + grown, p.side


@block("branches")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.cat([m.one(x), m.other(x), m.one(x)], 1)

    one, other = p.pick(2, 3), p.pick(2, 4)
    net = Net(forward, one=body(p, inside[::2], one), other=body(p, inside[1::2], other))
    return net, 2 * one + other, p.side


@block("parallel add")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    out = p.pick(3, 4)
    one, other = body(p, inside[::2], out), body(p, inside[1::2], out)
    return Net(lambda m, x: torch.stack([m.one(x), m.other(x)]).sum(0), one=one, other=other), out, p.side


@block("csp")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    """YOLO's: one half goes through the body."""
    p.need(p.width % 2 == 0)
    half = p.width // 2

    def forward(m: Net, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([left, m.body(right)], 1)

    inner, out = Place(p.dims, half, p.side, p.draw), p.pick(half, 3)
    return Net(forward, body=body(inner, inside, out)), half + out, p.side


@block("u")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    """A level below, joined again."""
    p.need(p.side >= 4)
    out = p.pick(2, 4)
    inner = Place(p.dims, p.width, p.side // 2, p.draw)
    net = Net(
        lambda m, x: torch.cat([x, F.interpolate(m.body(m.pool(x)), size=x.shape[2:])], 1),
        body=body(inner, inside, out),
        pool=p.layer("MaxPool")(2),
    )
    return net, p.width + out, p.side


@block("twice")
def _(p: Place, inside: tuple[Node, ...]) -> Built:
    """A recurrent loop over one body."""

    def forward(m: Net, x: Tensor) -> Tensor:
        for _ in range(2):
            x = torch.tanh(m.body(x))
        return x

    return Net(forward, body=body(p, inside, p.width)), p.width, p.side


# --- looking at channels and at positions


@block("squeeze and excite")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    inner = p.pick(1, 2, 4)
    linear = p.flip()

    def forward(m: Net, x: Tensor) -> Tensor:
        axes = list(range(2, x.ndim))
        pooled = x.mean(axes) if linear else x.mean(axes, keepdim=True)
        scale = m.up(F.relu(m.down(pooled))).sigmoid()
        return x * (scale.view(*scale.shape[:2], *p.ones) if linear else scale)

    layer = nn.Linear if linear else p.conv
    return Net(forward, down=layer(p.width, inner), up=layer(inner, p.width)), p.width, p.side


@block("efficient channel attention")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """Convolves along the channels."""

    def forward(m: Net, x: Tensor) -> Tensor:
        pooled = x.mean(list(range(2, x.ndim))).unsqueeze(1)
        return x * m.conv(pooled).squeeze(1).sigmoid().view(*x.shape[:2], *p.ones)

    return Net(forward, conv=nn.Conv1d(1, 1, 3, padding=1)), p.width, p.side


@block("spatial attention")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    def forward(m: Net, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * m.conv(seen).sigmoid()

    return Net(forward, conv=p.conv(2, 1, 3)), p.width, p.side


@block("gram")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """Channels times channels."""

    def forward(m: Net, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        mixed = torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[-1]
        return x + torch.bmm(mixed, flat).view_as(x)

    return Net(forward), p.width, p.side


@block("einsum")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    out = p.pick(3, 4)
    net = Net(lambda m, x: torch.einsum("bc...,oc->bo...", x, m.weight))
    net.weight = nn.Parameter(torch.zeros(out, p.width))
    return net, out, p.side


class Attention(nn.Module):
    """Written by hand in one of many ways; `scale` is None where the number of channels decides."""

    def __init__(self, width: int, heads: int, deep: int, draw: random.Random) -> None:
        super().__init__()
        self.heads, self.deep = heads, deep
        self.layout = draw.choice(["3hd", "h3d", "hd3", "apart", "grouped"])
        self.fused = draw.random() < 0.6
        self.asks_shape = draw.choice(["heads", "deep"])
        self.scale: float | None = None if self.fused and draw.random() < 0.5 else deep**-0.5
        inner = heads * deep
        if self.layout == "apart":
            self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        else:
            self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n = x.shape[:2]
        split = (self.heads, -1) if self.asks_shape == "heads" else (-1, self.deep)
        if self.layout == "apart":
            q, k, v = (layer(x).view(b, n, *split).transpose(1, 2) for layer in (self.q, self.k, self.v))
        elif self.layout == "3hd":
            q, k, v = self.qkv(x).view(b, n, 3, *split).permute(2, 0, 3, 1, 4)
        elif self.layout == "h3d":
            q, k, v = self.qkv(x).view(b, n, self.heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)
        elif self.layout == "hd3":
            q, k, v = self.qkv(x).view(b, n, self.heads, -1, 3).permute(4, 0, 2, 1, 3).unbind(0)
        else:
            q, k, v = (t.reshape(b, n, *split).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            mixed = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, -1))


def _on_tokens(p: Place, layer: nn.Module) -> Built:
    """A layer over (batch, positions, channels), around which the image is flattened; residual."""

    def forward(m: Net, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + m.layer(tokens).transpose(1, 2).reshape(x.shape)

    return Net(forward, layer=layer), p.width, p.side


@block("attention")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    return _on_tokens(p, Attention(p.width, p.pick(1, 2, 3), p.pick(2, 3, 4), p.draw))


@block("multihead attention")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    layer = Net(
        lambda m, x: m.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(p.width, p.pick(1, 2), batch_first=True),
    )
    return _on_tokens(p, layer)


@block("transformer layer")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.width % 2 == 0)
    layer = nn.TransformerEncoderLayer(
        p.width, 2, p.pick(3, 6), dropout=0.0, batch_first=True, norm_first=p.flip()
    )
    return _on_tokens(p, layer)


@block("token mlp")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """MLP-Mixer: along the positions, then along the channels."""
    n, inner = p.side**p.dims, p.pick(3, 5)
    p.need(n <= 64)

    def forward(m: Net, x: Tensor) -> Tensor:
        x = x + m.back(F.gelu(m.over(x.transpose(1, 2)))).transpose(1, 2)
        return m.down(F.gelu(m.up(m.norm(x))))

    layer = Net(
        forward,
        over=nn.Linear(n, 3),
        back=nn.Linear(3, n),
        norm=nn.LayerNorm(p.width),
        up=nn.Linear(p.width, inner),
        down=nn.Linear(inner, p.width),
    )
    return _on_tokens(p, layer)


@block("linear attention over channels")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """Restormer's: softmax over channels times channels."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).flatten(2).chunk(3, 1)
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return x + m.out(mixed.view_as(x))

    net = Net(forward, qkv=p.conv(p.width, 3 * p.width), out=p.conv(p.width, p.width))
    return net, p.width, p.side


@block("non-local")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    inner = p.pick(2, 3)

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
        mixed = torch.matmul(v, torch.softmax(torch.matmul(q.transpose(1, 2), k), -1).transpose(1, 2))
        return x + m.out(mixed.view(x.shape[0], -1, *x.shape[2:]))

    net = Net(
        forward,
        q=p.conv(p.width, inner),
        k=p.conv(p.width, inner),
        v=p.conv(p.width, 3),
        out=p.conv(3, p.width),
    )
    return net, p.width, p.side


@block("recurrent")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    p.need(p.dims == 1)
    layer = Net(lambda m, x: m.gru(x)[0], gru=nn.GRU(p.width, p.width, batch_first=True))
    return _on_tokens(p, layer)


@block("unfolded")
def _(p: Place, _: tuple[Node, ...]) -> Built:
    """im2col and a linear layer instead of a convolution."""
    p.need(p.dims == 2 and p.width <= 4)
    out = p.pick(2, 3)

    def forward(m: Net, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1).transpose(1, 2)
        return m.mix(columns).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])

    return Net(forward, mix=nn.Linear(9 * p.width, out)), out, p.side


# --- whole networks


def build(recipe: Recipe) -> nn.Module:
    """The network; deterministic."""
    start = Place(recipe.dims, recipe.width, SIDE[recipe.dims], random.Random(recipe.tail))
    middle, width, side = sequence(start, recipe.blocks)
    stem = start.conv(INPUTS, recipe.width, 3)
    n = width * side**recipe.dims
    axes = list(range(2, recipe.dims + 2))
    if recipe.tail == "map":
        return Net(
            lambda m, x: m.head(m.middle(m.stem(x))), stem=stem, middle=middle, head=start.conv(width, 2)
        )
    if recipe.tail == "two maps":

        def both(m: Net, x: Tensor) -> list[Tensor]:
            first = m.stem(x)
            last = m.middle(first)
            return [m.side(first), m.head(last)]

        return Net(
            both, stem=stem, middle=middle, head=start.conv(width, 2), side=start.conv(recipe.width, 1)
        )
    if recipe.tail == "mean":
        head: nn.Module = nn.Linear(width, 2)
        return Net(lambda m, x: m.head(m.middle(m.stem(x)).mean(axes)), stem=stem, middle=middle, head=head)
    if recipe.tail == "flatten":
        return Net(
            lambda m, x: m.head(m.middle(m.stem(x)).flatten(1)),
            stem=stem,
            middle=middle,
            head=nn.Linear(n, 2),
        )
    if recipe.tail == "mlp":
        head = nn.Sequential(nn.Flatten(), nn.Linear(n, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
        return Net(lambda m, x: m.head(m.middle(m.stem(x))), stem=stem, middle=middle, head=head)

    def named(m: Net, x: Tensor) -> dict[str, object]:
        x = m.middle(m.stem(x))
        return {"score": m.head(x.mean(axes)), "mask": (m.mask(x),)}

    return Net(named, stem=stem, middle=middle, head=nn.Linear(width, 3), mask=start.conv(width, 1))


def nodes(depth: int) -> st.SearchStrategy[Node]:
    """Blocks that hold others down to this depth."""
    variant = st.integers(0, 30)
    leaves = st.builds(Node, st.sampled_from(sorted(set(BLOCKS) - set(CONTAINERS))), variant)
    if not depth:
        return leaves
    inside = st.lists(nodes(depth - 1), max_size=3).map(tuple)
    return st.one_of(leaves, st.builds(Node, st.sampled_from(CONTAINERS), variant, inside))


def recipes() -> st.SearchStrategy[Recipe]:
    """Networks of one to six blocks."""
    return st.builds(
        Recipe,
        st.sampled_from([2, 2, 2, 2, 3, 1]),
        st.sampled_from([2, 3, 4, 6, 8]),
        st.lists(nodes(2), min_size=1, max_size=6).map(tuple),
        st.sampled_from(TAILS),
    )
