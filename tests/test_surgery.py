"""Surgery: what the pruned network is, what the dense one stays, and random networks that keep it honest."""

import re

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spaces.errors import InputError, NetworkError
from spaces.ranking import rank_channels
from spaces.surgery import cut, prune
from spaces.tracing import trace
from spaces.verification import verify
from tests.nets import BLOCKS, CASES, Net, chain, conv
from tests.pruning_checks import (
    assert_exact_costs,
    assert_gradients_flow,
    assert_untouched,
    genomes,
    snapshot,
)


def _minimal(model: nn.Module, example: Tensor) -> nn.Module:
    space = trace(model, example, round_to=1)
    return prune(model, space, space.minimal, rank_channels(model, space))


def test_a_pruned_chain_by_hand() -> None:
    model = chain().eval()
    space = trace(model, torch.randn(1, 1, 6, 6))
    kept = torch.tensor([True, False, True, False, False, True, False, True, True, False]).numpy()
    pruned = cut(model, space, kept)
    assert torch.equal(pruned[0].weight, model[0].weight[[0, 2, 5]])
    assert torch.equal(pruned[0].bias, model[0].bias[[0, 2, 5]])
    assert torch.equal(pruned[1].running_var, model[1].running_var[[0, 2, 5]])
    assert torch.equal(pruned[3].weight, model[3].weight[[1, 2]][:, [0, 2, 5]])
    assert torch.equal(pruned[5].weight, model[5].weight[:, [1, 2]])
    assert torch.equal(pruned[5].bias, model[5].bias)


@pytest.mark.parametrize("name", CASES)
def test_what_modules_state_follows_their_tensors(name: str) -> None:
    case = CASES[name]
    pruned = _minimal(case.build(), torch.randn(case.shape))
    for module in pruned.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            out, into, *kernel = module.weight.shape
            assert (module.out_channels, module.in_channels) == (out, into * module.groups)
            assert tuple(kernel) == module.kernel_size
        elif isinstance(module, nn.ConvTranspose2d):
            into, out, *_ = module.weight.shape
            assert (module.in_channels, module.out_channels) == (into, out * module.groups)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean) == len(module.weight)
        elif isinstance(module, nn.PReLU):
            assert module.num_parameters == len(module.weight)


def test_sizes_that_modules_only_state() -> None:
    instance = _minimal(CASES["instance_normed"].build(), torch.randn(1, 1, 6, 6))
    assert [m.num_features for m in instance.modules() if isinstance(m, nn.InstanceNorm2d)] == [1, 1]
    layer = _minimal(CASES["layer_normed_plainly"].build(), torch.randn(2, 5, 3))
    assert layer[1].normalized_shape == (1,)
    group = _minimal(
        nn.Sequential(conv(1, 8), nn.GroupNorm(4, 8, affine=False), conv(8, 2)), torch.randn(1, 1, 6, 6)
    )
    assert (group[1].num_groups, group[1].num_channels) == (1, 2)


def test_the_pruned_network_is_a_network_of_its_own() -> None:
    model = CASES["tied"].build()
    model[0].weight.requires_grad_(False)
    model[4].eval()
    model.note = {"trained": [1, 2]}
    space = trace(model, torch.randn(2, 3), round_to=1)
    before = snapshot(model)
    pruned = prune(model, space, (4,), rank_channels(model, space))
    assert pruned[1].weight is pruned[3].weight
    assert isinstance(pruned[0].weight, nn.Parameter)
    assert [p.requires_grad for p in pruned[0].parameters()] == [False, True]
    assert [m.training for m in pruned] == [True, True, True, True, False]
    assert pruned.note == model.note
    assert pruned.note["trained"] is not model.note["trained"]
    memory = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not memory & {tensor.data_ptr() for tensor in pruned.state_dict().values()}
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_dense_genome_is_an_equal_copy() -> None:
    model, image = chain().eval(), torch.randn(2, 1, 6, 6)
    space = trace(model, image)
    copied = prune(model, space, space.dense, rank_channels(model, space))
    assert torch.equal(copied(image), model(image))
    assert copied[0].weight.data_ptr() != model[0].weight.data_ptr()


def test_features_kept_by_a_forward_pass_do_not_get_in_the_way() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        m.kept = [m.a(x)]
        return m.b(m.kept[0])

    model, image = Net(forward, a=conv(1, 4), b=conv(4, 2)), torch.randn(1, 1, 4, 4)
    model(image)  # leaves a tensor with a gradient history, which copy.deepcopy refuses
    space = trace(model, image)
    assert prune(model, space, (2,), rank_channels(model, space))(image).shape == (1, 2, 4, 4)


def test_pruned_networks_can_be_pruned_again() -> None:
    model, image = CASES["residual"].build(), torch.randn(1, 1, 6, 6)
    space = trace(model, image)
    smaller = prune(model, space, (4, 3), rank_channels(model, space))
    again = trace(smaller, image)
    assert again.dense == (4, 3)
    assert again.cost(again.dense).flops == space.cost((4, 3)).flops


def test_another_model_or_space_is_refused() -> None:
    model, image = chain(), torch.randn(1, 1, 6, 6)
    space = trace(model, image)
    ranking = rank_channels(model, space)
    other = nn.Sequential(conv(1, 7), nn.BatchNorm2d(7), nn.ReLU(), conv(7, 4), nn.ReLU(), conv(4, 2))
    with pytest.raises(
        NetworkError, match=r"not the one that was traced: 0\.weight has shape \(7, 1, 3, 3\)"
    ):
        prune(other, space, space.minimal, ranking)
    with pytest.raises(NetworkError, match="not the one that was traced: it has no"):
        prune(nn.Sequential(conv(1, 6)), space, space.minimal, ranking)
    with pytest.raises(InputError, match="ranking belongs to another channel space"):
        prune(other, trace(other, image), (1, 1), ranking)
    with pytest.raises(InputError, match="cannot keep 7 of 6 units"):
        prune(model, space, (7, 1), ranking)


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ((3,), "a genome has 2 genes here, not 1"),
        ((3, 2, 2), "a genome has 2 genes here, not 3"),
        ((-1, 2), "group '0' cannot keep -1 of 6 units"),
        ((0, 2), "group '0' cannot keep 0 of 6 units; choose one of 1, 2, 3, ..., 6"),
        ((3, 5), "group '3' cannot keep 5 of 4 units; choose one of 1, 2, 3, 4"),
        ((2.5, 2), r"group '0' cannot keep 2\.5 of 6 units"),
        ((float("nan"), 2), "group '0' cannot keep nan of 6 units"),
    ],
)
def test_genomes_that_are_none_are_refused_and_change_nothing(
    genome: tuple[float, ...], message: str
) -> None:
    model = chain()
    space = trace(model, torch.randn(1, 1, 6, 6), verify=False)
    ranking, before = rank_channels(model, space), snapshot(model)
    with pytest.raises(InputError, match=message):
        prune(model, space, genome, ranking)  # type: ignore[arg-type]  # that is the point
    assert_untouched(model, before, training=True)


@st.composite
def random_networks(draw: st.DrawFn) -> nn.Module:
    """Blocks put together at random: convolution first, mean and linear layer last."""
    width = draw(st.sampled_from([2, 4, 6]))
    layers: list[nn.Module] = [conv(1, width)]
    for _ in range(draw(st.integers(1, 7))):
        build, width = BLOCKS[draw(st.sampled_from(sorted(BLOCKS)))](width)
        layers.append(build())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


@settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(random_networks())
def test_random_networks_are_exact_or_frozen_with_a_reason(model: nn.Module) -> None:
    image = torch.randn(2, 1, 5, 5)
    before = snapshot(model)
    try:
        space = trace(model, image, round_to=1)
    except NetworkError as error:
        event("nothing to prune")
        assert re.search("nothing to prune in Sequential: 0 .*network's output", str(error))  # noqa: PT017 - one of two outcomes
        return
    event("pruned")
    assert all(frozen.reason for frozen in space.frozen)
    assert verify(model, image, space, genomes=4, seed=99).passed
    assert_untouched(model, before, training=True)
    ranking = rank_channels(model, space, "random")
    assert_exact_costs(model, space, ranking, image[:1], genomes(space, 1))
    assert_gradients_flow(prune(model, space, space.minimal, ranking), image)
