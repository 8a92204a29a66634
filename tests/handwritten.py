"""Networks of the kinds that people write by hand, for the zoo: by the number of spatial dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def _layer(name: str, dims: int) -> type[nn.Module]:
    return getattr(nn, f"{name}{dims}d")


def _ones(x: Tensor) -> list[int]:
    """The axes of an image, as sizes of one."""
    return [1] * (x.ndim - 2)


class _ConvBN(nn.Sequential):
    def __init__(
        self, d: int, into: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        conv = _layer("Conv", d)(into, out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__(conv, _layer("BatchNorm", d)(out))


class _SqueezeExcite(nn.Module):
    """As MobileNetV3: hard sigmoid."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        conv = _layer("Conv", d)
        self.pool = _layer("AdaptiveAvgPool", d)(1)
        self.down, self.up = conv(width, width // 4, 1), conv(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(self.pool(x)))))


class _InvertedResidual(nn.Module):
    """Source: Sandler et al. 2018, Howard et al. 2019."""

    def __init__(
        self, d: int, into: int, out: int, stride: int, expand: int, act: type[nn.Module], excite: bool
    ) -> None:
        super().__init__()
        wide = into * expand
        layers: list[nn.Module] = []
        if expand > 1:
            layers += [_ConvBN(d, into, wide), act(inplace=True)]
        layers += [_ConvBN(d, wide, wide, 3, stride, wide), act(inplace=True)]
        if excite:
            layers.append(_SqueezeExcite(d, wide))
        layers.append(_ConvBN(d, wide, out))
        self.body = nn.Sequential(*layers)
        self.skips = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skips else self.body(x)


class MobileNet(nn.Module):
    """V2 with ReLU6, V3 with Hardswish and squeeze-and-excite."""

    def __init__(self, d: int, version: int) -> None:
        super().__init__()
        act: type[nn.Module] = nn.ReLU6 if version == 2 else nn.Hardswish
        excite = version == 3
        settings = [(8, 1, 1), (12, 2, 4), (12, 1, 4), (16, 2, 4), (16, 1, 4)]
        self.stem = nn.Sequential(_ConvBN(d, 1, 8, 3, 2), act(inplace=True))
        blocks, width = [], 8
        for out, stride, expand in settings:
            blocks.append(_InvertedResidual(d, width, out, stride, expand, act, excite))
            width = out
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(_ConvBN(d, width, 64), act(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x)))
        return self.classifier(x.mean(tuple(range(2, x.ndim))))


class _LayerNorm(nn.Module):
    """ConvNeXt's own, channels first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        shape = (-1, *_ones(x))
        return self.weight.view(shape) * x + self.bias.view(shape)


class _ChannelsLastNorm(nn.LayerNorm):
    """The same numbers by torch's layer: as torchvision's LayerNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _ConvNeXtBlock(nn.Module):
    """Source: Liu et al. 2022."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.depthwise = _layer("Conv", d)(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).movedim(1, -1))
        y = self.gamma * self.back(F.gelu(self.wide(y)))
        return x + y.movedim(-1, 1)


class ConvNeXt(nn.Module):
    """With layer scale, layer norms channels last within blocks, and between stages as told."""

    def __init__(self, d: int, channels_first: bool) -> None:
        super().__init__()
        conv = _layer("Conv", d)
        norm = _LayerNorm if channels_first else _ChannelsLastNorm
        self.stem = nn.Sequential(conv(1, 8, 4, 4), norm(8))
        self.stages = nn.Sequential(
            _ConvNeXtBlock(d, 8), norm(8), conv(8, 16, 2, 2), _ConvNeXtBlock(d, 16), _ConvNeXtBlock(d, 16)
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.head(self.norm(x.mean(tuple(range(2, x.ndim)))))


class TorchTransformer(nn.Module):
    """Patches, a class token, positions, nn.TransformerEncoder."""

    def __init__(self, d: int, norm_first: bool, side: int = 32, width: int = 24) -> None:
        super().__init__()
        self.patches = _layer("Conv", d)(1, width, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (side // 8) ** d + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, activation="gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class AttentionBottleneck(nn.Module):
    """A convolutional segmenter whose lowest level attends to itself with nn.MultiheadAttention."""

    def __init__(self, d: int) -> None:
        super().__init__()
        conv = _layer("Conv", d)
        self.down = nn.Sequential(conv(1, 12, 3, 2, 1), nn.ReLU(), conv(12, 16, 3, 2, 1), nn.ReLU())
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.wide, self.back = nn.Linear(16, 32), nn.Linear(32, 16)
        self.up = nn.Sequential(
            _layer("ConvTranspose", d)(16, 12, 2, 2), nn.ReLU(), _layer("ConvTranspose", d)(12, 8, 2, 2)
        )
        self.head = conv(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        tokens = x.flatten(2).transpose(1, 2)
        seen = self.norm(tokens)
        tokens = tokens + self.attention(seen, seen, seen, need_weights=False)[0]
        tokens = tokens + self.back(F.gelu(self.wide(tokens)))
        return self.head(self.up(tokens.transpose(1, 2).reshape(x.shape)))


class _SelfAttention(nn.Module):
    """timm's: one matrix for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FusedTransformer(nn.Module):
    """A small vision transformer on scaled_dot_product_attention, with a pooled head."""

    def __init__(self, d: int, width: int = 24) -> None:
        super().__init__()
        self.patches = _layer("Conv", d)(1, width, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attentions = nn.ModuleList(_SelfAttention(width, 4) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x).mean(1))


def _encoder(d: int) -> nn.Module:
    conv = _layer("Conv", d)
    return nn.Sequential(
        conv(1, 8, 3, 2, 1), _layer("BatchNorm", d)(8), nn.ReLU(), conv(8, 16, 3, 2, 1), nn.ReLU()
    )


class Siamese(nn.Module):
    """Two images through one encoder; scores and a mask of what changed, by name."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.encoder = _encoder(d)
        self.mask, self.score = _layer("Conv", d)(32, 1, 1), nn.Linear(16, 3)

    def forward(self, before: Tensor, after: Tensor) -> dict[str, Tensor | list[Tensor]]:
        a, b = self.encoder(before), self.encoder(after)
        apart = (a - b).abs().mean(tuple(range(2, a.ndim)))
        return {"score": self.score(apart), "masks": [self.mask(torch.cat([a, b], 1))]}


class Recurrent(nn.Module):
    """One block in a Python loop, on the image beside the state."""

    def __init__(self, d: int, steps: int = 3) -> None:
        super().__init__()
        conv = _layer("Conv", d)
        self.steps = steps
        self.look, self.update = conv(1, 8, 3, padding=1), conv(16, 12, 3, padding=1)
        self.back, self.head = conv(12, 8, 1), conv(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.relu(self.look(x))
        state = seen
        for _ in range(self.steps):
            state = state + torch.tanh(self.back(F.relu(self.update(torch.cat([seen, state], 1)))))
        return self.head(state)


class TiedAutoEncoder(nn.Module):
    """The decoder has the encoder's weights, turned."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d
        conv = _layer("Conv", d)
        self.first, self.second = conv(1, 8, 2, 2), conv(8, 16, 2, 2)
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        turned = getattr(F, f"conv_transpose{self.d}d")
        x = F.relu(self.second(F.relu(self.first(x))))
        x = F.relu(turned(x, self.second.weight, self.bias, stride=2))
        return turned(x, self.first.weight, None, stride=2)


class ShuffleNet(nn.Module):
    """Source: Ma et al. 2018."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_ConvBN(d, 1, 16, 3, 2), nn.ReLU())
        self.units = nn.ModuleList(
            nn.Sequential(_ConvBN(d, 8, 8), nn.ReLU(), _ConvBN(d, 8, 8, 3, 1, 8), _ConvBN(d, 8, 8), nn.ReLU())
            for _ in range(3)
        )
        self.last, self.head = nn.Sequential(_ConvBN(d, 16, 32), nn.ReLU()), nn.Linear(32, 3)

    @staticmethod
    def shuffle(x: Tensor) -> Tensor:
        """Two groups, interleaved."""
        b, c, *space = x.shape
        return x.view(b, 2, c // 2, *space).transpose(1, 2).reshape(b, c, *space)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            left, right = x.chunk(2, 1)
            x = self.shuffle(torch.cat([left, unit(right)], 1))
        x = self.last(x)
        return self.head(x.mean(tuple(range(2, x.ndim))))


class SuperResolution(nn.Module):
    """ESPCN: channels become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 32, 3, padding=1), nn.Tanh()
        )
        self.up = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(8, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.body(x))


class EarlyExit(nn.Module):
    """Which way an image goes depends on its values: no symbolic tracer takes that."""

    def __init__(self, d: int) -> None:
        super().__init__()
        conv = _layer("Conv", d)
        self.first, self.easy = _encoder(d), nn.Linear(16, 3)
        self.more, self.hard = nn.Sequential(conv(16, 24, 3, padding=1), nn.ReLU()), nn.Linear(24, 3)
        self.refine = nn.Sequential(conv(16, 12, 1), nn.ReLU(), conv(12, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        x = self.first(x)
        rounds = 0
        while rounds < 2 and x.abs().max() > 1e-3 * rounds:
            x = x + self.refine(x)
            rounds += 1
        sure = self.easy(x.mean(axes))
        if sure.softmax(1).amax() > 2:  # never, but who could tell without values
            return sure
        return sure + self.hard(self.more(x).mean(axes))


class Reparametrised(nn.Module):
    """Weight norm here, spectral norm there, and plain layers between them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        conv = _layer("Conv", d)
        self.layers = nn.Sequential(
            conv(1, 16, 3, padding=1),
            nn.ReLU(),
            parametrizations.weight_norm(conv(16, 8, 3, padding=1)),
            nn.ReLU(),
            conv(8, 24, 3, padding=1),
            nn.ReLU(),
            conv(24, 24, 3, padding=1),
            nn.ReLU(),
            conv(24, 8, 3, padding=1),
            nn.ReLU(),
            parametrizations.spectral_norm(conv(8, 8, 3, padding=1)),
            nn.ReLU(),
            conv(8, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
