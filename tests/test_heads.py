"""Attention: a gene for the width of the heads, or for their number."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks import nets
from torch import Tensor, nn

from spaces.ranking import rank_channels
from spaces.surgery import cut, prune
from spaces.tracing import trace
from spaces.verification import verify
from tests.pruning_checks import assert_exact_costs, assert_gradients_flow, genomes

HEADS, WIDTH, TOKENS, EMBEDDING = 3, 4, 5, 6


class Attention(nn.Module):
    """Hand-written; subclasses split and join the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = HEADS, WIDTH
        self.inner_dim = HEADS * WIDTH
        self.qkv = nn.Linear(EMBEDDING, 3 * self.inner_dim)
        self.out = nn.Linear(self.inner_dim, EMBEDDING)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(part).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(self.join(x))

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1)

    def join(self, x: Tensor) -> Tensor:
        return x.flatten(2)


class ByAttributes(Attention):
    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim)

    def join(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.inner_dim)


class ByNumbers(Attention):
    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], HEADS, WIDTH)


class Unpacked(Attention):
    """All in one view; products and softmax by hand, with a scale of its own."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).reshape(b, n, -1))


def _net(kind: type[Attention]) -> nn.Module:
    return nn.Sequential(nn.Linear(2, EMBEDDING), kind(), nn.Linear(EMBEDDING, 2))


def _vit() -> nn.Module:
    return nets.ViT(
        1,
        (16, 16),
        (8, 8),
        hidden_size=12,
        mlp_dim=8,
        num_layers=2,
        num_heads=HEADS,
        spatial_dims=2,
        classification=True,
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int | None, int | None]] = {
    "number": (lambda: _net(Attention), (2, TOKENS, 2), WIDTH, HEADS),
    "attributes": (lambda: _net(ByAttributes), (2, TOKENS, 2), WIDTH, HEADS),
    "numbers in code": (lambda: _net(ByNumbers), (2, TOKENS, 2), None, None),
    # Its own scale would follow the width, and the dense network's cannot: so heads it is, asked for or not.
    "unpacked": (lambda: _net(Unpacked), (2, TOKENS, 2), HEADS, HEADS),
    "ViT": (_vit, (2, 1, 16, 16), WIDTH, HEADS),
}
"""A network, its input, and the units of an attention: the heads' width by default, or their number."""


@pytest.mark.parametrize("heads", [False, True], ids=["width", "heads"])
@pytest.mark.parametrize("name", CASES)
def test_attention_prunes_exactly(name: str, heads: bool) -> None:
    build, shape, *units = CASES[name]
    torch.manual_seed(0)
    model, example = build(), torch.randn(shape)
    space = trace(model, example, round_to=1, heads=heads)
    assert {group.units for group in space.groups if "qkv" in group.name} == {units[heads]} - {None}
    assert verify(model, example, space, genomes=4, seed=9).passed
    ranking = rank_channels(model, space)
    # einsum counts no product where a width is one, which is not worth a special case
    wide = [tuple(map(max, genome, [2] * len(genome))) for genome in genomes(space, 4)]
    assert_exact_costs(model, space, ranking, example[:1], wide)
    pruned = prune(model, space, wide[1], ranking)
    assert_gradients_flow(pruned, example)
    again = trace(pruned, example, verify=False, round_to=1, heads=heads)
    assert again.cost(again.dense).flops == space.cost(wide[1]).flops


def test_a_head_less_by_hand() -> None:
    model, example = _net(ByAttributes).eval(), torch.randn(2, TOKENS, 2)
    space = trace(model, example, heads=True, only="1.qkv")
    pruned = cut(model, space, np.array([True, False, True]))
    attention = pruned[1]
    assert (attention.num_heads, attention.head_dim, attention.inner_dim) == (2, WIDTH, 2 * WIDTH)
    assert model[1].num_heads == HEADS
    kept = [*range(WIDTH), *range(2 * WIDTH, 3 * WIDTH)]
    every = np.concatenate([np.array(kept) + part * HEADS * WIDTH for part in range(3)])
    assert torch.equal(attention.qkv.weight, model[1].qkv.weight[every])
    assert torch.equal(attention.out.weight, model[1].out.weight[:, kept])


def test_an_einops_layer_follows() -> None:
    model, example = _vit(), torch.randn(1, 1, 16, 16)
    space = trace(model, example, heads=True, only="*.qkv", round_to=1)
    pruned = prune(model, space, (2, 1), rank_channels(model, space))
    layers = [block.attn.input_rearrange.axes_lengths for block in pruned.blocks]
    assert layers == [{"qkv": 3, "l": 2}, {"qkv": 3, "l": 1}]
    assert [block.attn.num_heads for block in pruned.blocks] == [2, 1]
    assert [block.attn.num_heads for block in model.blocks] == [HEADS, HEADS]


def test_torch_s_own_attention_stays_as_wide_as_its_embedding() -> None:
    """Its forward takes the width of heads as embedding / heads: only both together can shrink."""
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    model, example = nn.Sequential(nn.Linear(2, 8), layer, nn.Linear(8, 2)), torch.randn(2, TOKENS, 2)
    for heads in (False, True):
        space = trace(model, example, round_to=1, heads=heads)
        assert verify(model, example, space, genomes=4, seed=9).passed
        assert {group.name for group in space.groups} >= {"1.linear1"}
