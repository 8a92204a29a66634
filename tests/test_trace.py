"""Tracing: known groups, known costs, reasons for what is frozen, and wrong inputs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.errors import InputError, NetworkError
from spaces.ranking import rank_channels
from spaces.rules import TABLE
from spaces.surgery import prune
from spaces.tracing import trace
from spaces.verification import verify
from tests.nets import CASES, Net, chain, conv
from tests.pruning_checks import assert_exact_costs, assert_untouched, genomes, snapshot


@pytest.mark.parametrize("name", CASES)
def test_known_groups(name: str) -> None:
    case = CASES[name]
    model, example = case.build(), torch.randn(case.shape)
    before = snapshot(model)
    space = trace(model, example, round_to=1)
    assert {group.name: (group.units, group.channels) for group in space.groups} == case.groups
    assert verify(model, example, space, genomes=5, seed=7).passed
    assert_untouched(model, before, training=True)
    assert_exact_costs(model, space, rank_channels(model, space), example[:1], genomes(space, 3))


def test_members_costs_and_reasons_of_a_chain_by_hand() -> None:
    space = trace(chain(), torch.randn(3, 1, 6, 6))
    first, second = space.groups
    assert (first.members, second.members) == (("0", "1", "3"), ("3", "5"))
    assert first.choices == (1, 2, 3, 4, 5, 6)
    assert [(frozen.name, frozen.reason) for frozen in space.frozen] == [("5", "is the network's output")]
    costs = space.cost([(6, 4), (1, 2)])
    assert costs.flops.tolist() == [2 * 36 * 9 * (6 + 6 * 4 + 4 * 2), 2 * 36 * 9 * (1 + 1 * 2 + 2 * 2)]
    assert costs.params[0] == (9 * 6 + 6) + 2 * 6 + (9 * 24 + 4) + (9 * 8 + 2)
    # the peak: the first batch normalisation's input and output; ReLU needs no third
    assert costs.activation_bytes[0] == 4 * 36 * (6 + 6)


def test_peak_counts_the_skip_that_waits() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        skip = m.a(x)
        return m.c(torch.cat([skip, m.b(skip)], 1))

    model = Net(forward, a=conv(1, 4), b=conv(4, 3), c=conv(7, 1))
    space = trace(model, torch.randn(1, 1, 6, 6))
    assert space.cost((4, 3)).activation_bytes[0] == 4 * 36 * (4 + 3 + 7)


def test_wide_groups_are_rounded_to_eight() -> None:
    space = trace(nn.Sequential(conv(1, 40), conv(40, 2)), torch.randn(1, 1, 4, 4))
    assert space.groups[0].choices == (8, 16, 24, 32, 40)


def test_half_of_a_convolution_may_be_a_group_of_its_own() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        left, right = m.stem(x).split([2, 4], dim=1)
        return m.head(left) + m.tail(right)

    model = Net(forward, stem=conv(1, 6), head=conv(2, 2), tail=conv(4, 2))
    space = trace(model, torch.randn(1, 1, 4, 4), verify=False)
    assert {group.name: group.units for group in space.groups} == {"stem[0:2]": 2, "stem[2:6]": 4}
    with pytest.raises(NetworkError, match=r"nothing to prune.*stem fails when pruned"):
        trace(model, torch.randn(1, 1, 4, 4))  # the code insists on 2 and 4


def _frozen(forward: Callable[..., object], **modules: nn.Module) -> dict[str, str]:
    """Reasons by module, of a network that has a prunable stem besides."""

    def whole(m: Net, x: Tensor) -> object:
        return forward(m, F.relu(m.stem(x)))

    model = Net(whole, stem=conv(1, 4), **modules)
    space = trace(model, torch.randn(1, 1, 6, 6), round_to=1)
    assert "stem" in {group.name for group in space.groups}
    assert verify(model, torch.randn(1, 1, 6, 6), space).passed
    return {frozen.name: frozen.reason for frozen in space.frozen}


def test_an_operator_without_a_rule_freezes_what_it_touches() -> None:
    assert "fft_r2c" not in TABLE
    reasons = _frozen(lambda m, x: m.head(torch.fft.rfft2(m.a(x)).abs()), a=conv(4, 6), head=conv(6, 2))
    assert reasons["a"] == "reaches an operator without a rule (_fft_r2c)"


def test_statistics_over_channels_freeze() -> None:
    reasons = _frozen(lambda m, x: m.head(m.a(x).softmax(1)), a=conv(4, 6), head=conv(6, 2))
    assert reasons["a"].startswith("is mixed along")
    reasons = _frozen(lambda m, x: m.head(m.a(x).mean(1, keepdim=True)), a=conv(4, 6), head=conv(1, 2))
    assert reasons["a"].startswith("is reduced over")
    reasons = _frozen(
        lambda m, x: m.head(m.norm(m.a(x))), a=conv(4, 6), norm=nn.GroupNorm(1, 6), head=conv(6, 2)
    )
    assert "GroupNorm of a single group" in reasons["a"]


def test_code_that_addresses_channels_by_number_is_found_out() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.head(x[:, :3] * x[:, 3:])

    reasons = _frozen(forward, a=conv(4, 6), head=conv(3, 2))
    assert reasons["a"].startswith(("fails when pruned", "gives other values when pruned"))


def test_channels_that_meet_given_ones_stay() -> None:
    reasons = _frozen(
        lambda m, x: m.head(m.a(x) * torch.arange(6.0).view(6, 1, 1)), a=conv(4, 6), head=conv(6, 2)
    )
    assert reasons["a"].startswith("meets channels that are given (mul")


def test_parameters_that_never_run_are_named() -> None:
    assert _frozen(lambda m, x: m.head(x), head=conv(4, 2), unused=nn.Linear(3, 3))["unused"] == (
        "has parameters that the forward pass never uses"
    )


def test_what_may_feed_a_layer_that_never_runs_stays() -> None:
    reasons = _frozen(lambda m, x: m.head(m.a(x)), a=conv(4, 6), head=conv(6, 2), spare=conv(6, 2))
    assert reasons["a"] == "may feed spare, which never runs"


def test_dropped_modules_are_gone_from_space_and_pruned_network() -> None:
    model = Net(lambda m, x: m.head(m.a(x)), a=conv(1, 6), head=conv(6, 2), spare=nn.Sequential(conv(6, 2)))
    example = torch.randn(1, 1, 6, 6)
    with pytest.raises(NetworkError, match=r"may feed spare\.0, which never runs"):
        trace(model, example)
    space = trace(model, example, drop="spare")
    assert space.dense == (6,)
    assert space.dropped == ("spare",)
    assert verify(model, example, space).passed
    pruned = prune(model, space, (2,), rank_channels(model, space))
    assert isinstance(pruned.spare, nn.Identity)
    assert isinstance(model.spare, nn.Sequential)
    assert space.cost((2,)).params[0] == sum(parameter.numel() for parameter in pruned.parameters())
    with pytest.raises(NetworkError, match="drop: without a the network rejects an example input of shape"):
        trace(model, example, drop="a")
    with pytest.raises(NetworkError, match="drop='spere' matches no module"):
        trace(model, example, drop="spere")


def test_heads_that_only_training_uses_are_outputs() -> None:
    def forward(m: Net, x: Tensor) -> object:
        x = m.a(x)
        return (m.head(x), m.side(x)) if m.training else m.head(x)

    model = Net(forward, a=conv(1, 6), head=conv(6, 2), side=conv(6, 4))
    space = trace(model, torch.randn(1, 1, 6, 6), round_to=1)
    assert [group.name for group in space.groups] == ["a"]
    pruned = prune(model, space, (2,), rank_channels(model, space))
    assert pruned.train()(torch.randn(1, 1, 6, 6))[1].shape == (1, 4, 6, 6)


def test_attention_by_hand_and_by_torch() -> None:
    class Attention(nn.Module):
        def __init__(self, fused: bool, heads: int = -1) -> None:
            super().__init__()
            self.fused, self.several = fused, heads
            self.inward, self.mlp = nn.Linear(3, 8), nn.Linear(8, 12)
            self.qkv, self.outward = nn.Linear(12, 3 * 2 * 5), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.mlp(F.gelu(self.inward(x)))
            b, n = x.shape[:2]
            q, k, v = self.qkv(x).view(b, n, 3, self.several, 5).permute(2, 0, 3, 1, 4).unbind(0)
            if self.fused:
                x = F.scaled_dot_product_attention(q, k, v)
            else:
                x = ((q @ k.transpose(-2, -1)) * 5**-0.5).softmax(-1) @ v
            return self.outward(x.transpose(1, 2).flatten(2))

    for fused in (False, True):
        model, example = Attention(fused), torch.randn(1, 4, 3)
        space = trace(model, example, round_to=1)
        groups = {group.name: (group.units, group.channels) for group in space.groups}
        assert groups == {
            "inward": (8, 8),
            "mlp": (12, 12),
            "qkv": (2, 30),
        }  # heads, for their width is fixed
        assert verify(model, example, space, genomes=5).passed
        assert_exact_costs(model, space, rank_channels(model, space), example, genomes(space, 3))
    space = trace(Attention(fused=False, heads=2), example, round_to=1)
    assert [group.name for group in space.groups] == ["inward", "mlp"]
    reasons = {frozen.name: frozen.reason for frozen in space.frozen}
    assert reasons["qkv"].startswith("fails when pruned: shape '[1, 4, 3, 2, 5]' is invalid")


def test_transformer_layers_of_torch_shrink_with_their_embedding() -> None:
    """In every head by as much; the batch is split off the heads in one pass and not in the other."""
    model = Net(
        lambda m, x: m.head(m.layer(m.stem(x).flatten(2).transpose(1, 2)).mean(1)),
        stem=nn.Conv2d(1, 24, 4, 4),
        layer=nn.TransformerEncoderLayer(24, 4, 12, batch_first=True),
        head=nn.Linear(24, 2),
    )
    space = trace(model, torch.randn(1, 1, 16, 16), round_to=1)
    assert {group.name: (group.units, group.channels) for group in space.groups} == {
        "stem": (6, 24),
        "layer.linear1": (12, 12),
    }


def test_einsum_sums_over_two_channels_at_least() -> None:
    """Over one it multiplies, which FlopCounterMode does not count."""
    model = Net(
        lambda m, x: m.head(torch.einsum("bchw,oc->bohw", m.a(x), m.mix)), a=conv(1, 4), head=conv(3, 2)
    )
    model.mix = nn.Parameter(torch.randn(3, 4))
    space = trace(model, torch.randn(1, 1, 4, 4))
    assert {group.name: group.choices for group in space.groups} == {"a": (2, 3, 4), "mix": (1, 2, 3)}


@pytest.mark.parametrize(
    "kind", [nn.Hardswish(inplace=True), nn.LogSigmoid(), nn.RReLU(), nn.GLU(1), nn.Mish(True)]
)
def test_activations_leave_channels_alone(kind: nn.Module) -> None:
    halves = 2 if isinstance(kind, nn.GLU) else 1
    space = trace(nn.Sequential(conv(1, 8), kind, conv(8 // halves, 2)), torch.randn(1, 1, 4, 4))
    assert [(group.units, group.channels) for group in space.groups] == [(8 // halves, 8)]


def test_several_inputs_and_outputs_in_containers() -> None:
    def forward(m: Net, x: Tensor, y: Tensor) -> dict[str, object]:
        mixed = torch.cat([m.a(x), m.b(y)], 1)
        return {"seg": m.head(mixed), "features": [m.tail(mixed)]}

    model = Net(forward, a=conv(1, 4), b=conv(2, 3), head=conv(7, 2), tail=conv(7, 5))
    example = (torch.randn(2, 1, 4, 4), torch.randn(2, 2, 4, 4))
    space = trace(model, example)
    assert {group.name for group in space.groups} == {"a", "b"}
    assert {frozen.name for frozen in space.frozen} == {"head", "tail"}
    assert verify(model, example, space).passed


def test_keyword_inputs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(1, 4), conv(4, 2)

        def forward(self, *, image: Tensor) -> Tensor:
            return self.b(self.a(image))

    assert trace(Model(), {"image": torch.randn(1, 1, 4, 4)}).dense == (4,)


def test_control_flow_on_values_is_traced_on_real_tensors() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        if m.c.weight.max() > 1e-9:  # meta tensors have no values
            x = m.b(x)
        return m.c(x)

    model, example = Net(forward, a=conv(1, 4), b=conv(4, 4), c=conv(4, 2)), torch.randn(1, 1, 4, 4)
    space = trace(model, example)
    assert [group.name for group in space.groups] == ["a"]  # b's channels were looked at in c's weight
    assert space.cost((3,)).flops.tolist() == [2 * 16 * 9 * (3 + 3 * 4 + 4 * 2)]


def test_ignore_and_only() -> None:
    model, example = chain(), torch.randn(1, 1, 6, 6)
    space = trace(model, example, ignore="0")
    assert [group.name for group in space.groups] == ["3"]
    assert ("0", "is ignored on request") in [(f.name, f.reason) for f in space.frozen]
    assert [group.name for group in trace(model, example, only=["0"]).groups] == ["0"]
    nested = nn.Sequential(nn.Sequential(conv(1, 4), conv(4, 4)), conv(4, 2))
    assert [group.name for group in trace(nested, example, ignore=["0.0"]).groups] == ["0.1"]
    with pytest.raises(NetworkError, match=r"nothing to prune.*ignored on request"):
        trace(nested, example, ignore="0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": "stem"}, "ignore='stem' matches no module of the network; known: 0, 1, 2"),
        ({"only": ["*.conv"]}, r"only='\*.conv' matches no module"),
        ({"only": "3", "ignore": "?"}, "contradict each other"),
        ({"round_to": 0}, "round_to must be a whole number of at least 1, not 0"),
        ({"round_to": 64}, "round_to=64 leaves nothing to choose: the widest group, '0', has 6 channels"),
    ],
)
def test_wrong_wishes(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace(chain(), torch.randn(1, 1, 6, 6), **options)  # type: ignore[arg-type]  # from a table


def test_wrong_networks_and_inputs() -> None:
    with pytest.raises(NetworkError, match=r"must be a torch\.nn\.Module, not str"):
        trace("resnet18", torch.randn(1, 1, 6, 6))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(InputError, match=r"must be a tensor with a batch axis, .* not int"):
        trace(chain(), 3)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(NetworkError, match=r"rejects an example input of shape \(1, 3, 6, 6\): .*channels"):
        trace(chain(), torch.randn(1, 3, 6, 6))
    with pytest.raises(NetworkError, match=r"nothing to prune in Conv2d: weight is the network's output"):
        trace(nn.Conv2d(1, 2, 3), torch.randn(1, 1, 6, 6))
    with pytest.raises(NetworkError, match="lazy parameters"):
        trace(nn.Sequential(nn.LazyLinear(3)), torch.randn(1, 4))


def test_tracing_changes_nothing_outside() -> None:
    model = chain().eval()
    model[1].train()
    state = torch.random.get_rng_state()
    trace(model, torch.randn(2, 1, 6, 6, generator=torch.Generator()))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model] == [False, True, False, False, False, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tracing_is_repeatable_and_blind_to_weights() -> None:
    first, second = (trace(chain(), torch.randn(2, 1, 6, 6)) for _ in range(2))
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("moved", [("0.weight", 0), ("1.running_mean", 0), ("3.weight", 1), ("3.bias", 0)])
def test_verification_notices_a_single_wrong_axis(moved: tuple[str, int]) -> None:
    model, example = chain(), torch.randn(1, 1, 6, 6)
    space = trace(model, example)
    axes = tuple(
        replace(axis, units=np.roll(axis.units, 1)) if (axis.tensor, axis.dim) == moved else axis
        for axis in space.axes
    )
    checked = verify(model, example, replace(space, axes=axes))
    assert not checked.passed
    assert checked.worst > 1e-3
    assert "gives other values when pruned" in checked.failures[0].reason
