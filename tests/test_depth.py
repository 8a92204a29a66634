"""Branches that fall to nothing: which may, what falls with them, and that their work is really gone."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.networks import nets
from torch import Tensor, nn

from search.controllers.registry import make_controller
from search.genes import Genes
from search.start import uniform_networks
from spaces.costs import CostModel, Form, Term
from spaces.criteria import CRITERIA
from spaces.errors import InputError, NetworkError
from spaces.objectives import FLOPS, PARAMS
from spaces.ranking import rank_channels
from spaces.space import ChannelGroup, ChannelSpace
from spaces.surgery import prune
from spaces.tracing import trace
from spaces.verification import verify
from tests.nets import BLOCKS, CASES, Net, conv
from tests.pruning_checks import assert_exact_costs, assert_gradients_flow, genomes


def _names(space: ChannelSpace) -> set[str]:
    return {group.name for group in space.groups if group.choices[0] == 0}


def _two_convolutions(norm: Callable[[int], nn.Module]) -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.last(m.b(F.relu(m.mid(m.a(x)))))
        return m.head(F.gelu(x))

    return Net(
        forward, stem=conv(1, 6), a=conv(6, 4), mid=norm(4), b=conv(4, 6), last=norm(6), head=conv(6, 2)
    )


def _bottleneck() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(F.relu(x + m.c(F.relu(m.b(F.relu(m.a(x)))))))

    return Net(forward, stem=conv(1, 6), a=conv(6, 4), b=conv(4, 5), c=conv(5, 6), head=conv(6, 2))


def _parallel() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(m.b(F.relu(m.a(x))) + m.d(F.relu(m.c(x))))

    return Net(
        forward,
        stem=conv(1, 6),
        a=conv(6, 4),
        b=conv(4, 6),
        c=conv(6, 4),
        d=conv(4, 6),
        head=conv(6, 2),
    )


def _levels() -> nn.Module:
    """A U of two levels: without the lower one, what is above still works."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.relu(m.top(x))
        y = F.relu(m.middle(F.max_pool2d(x, 2)))
        z = m.up2(F.relu(m.bottom(m.down(y))))
        y = F.relu(m.join2(torch.cat([y, z], 1)))
        return m.head(torch.cat([x, m.up1(y)], 1))

    return Net(
        forward,
        top=conv(1, 3),
        middle=conv(3, 4),
        down=nn.Conv2d(4, 5, 3, stride=2, padding=1),
        bottom=conv(5, 6),
        up2=nn.ConvTranspose2d(6, 3, 2, stride=2),
        join2=conv(7, 4),
        up1=nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
        head=conv(5, 2),
    )


def _transformer() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.embed(x)
        x = x + m.down(F.gelu(m.up(m.norm(x))))
        return m.head(x)

    modules = {"embed": nn.Linear(3, 8), "norm": nn.LayerNorm(8), "up": nn.Linear(8, 12)}
    return Net(forward, **modules, down=nn.Linear(12, 8), head=nn.Linear(8, 2))


@dataclass(frozen=True)
class Branches:
    """A network, its input, and the groups that may fall, each with all that then falls."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    falls: dict[str, set[str]]


LOWER = {"down", "bottom", "up2"}
U = {"middle", "down", "bottom", "up2", "join2", "up1"}
CASES_OF_DEPTH = {
    "residual": Branches(CASES["residual"].build, (1, 1, 6, 6), {"a": {"a"}}),
    "batch norm": Branches(lambda: _two_convolutions(nn.BatchNorm2d), (1, 1, 6, 6), {"a": {"a"}}),
    "instance norm": Branches(lambda: _two_convolutions(nn.InstanceNorm2d), (1, 1, 6, 6), {"a": {"a"}}),
    "group norm": Branches(
        lambda: _two_convolutions(lambda n: nn.GroupNorm(2, n)), (1, 1, 6, 6), {"a": {"a"}}
    ),
    "bottleneck": Branches(_bottleneck, (1, 1, 6, 6), {"a": {"a", "b"}, "b": {"a", "b"}}),
    "parallel": Branches(_parallel, (1, 1, 6, 6), {"a": {"a"}}),
    "squeeze and excite": Branches(CASES["squeeze_excite"].build, (1, 1, 6, 6), {"down": {"down"}}),
    "U": Branches(
        _levels,
        (1, 1, 8, 8),
        {
            **dict.fromkeys(("down", "bottom", "up2"), LOWER),
            **dict.fromkeys(("middle", "join2", "up1"), U),
        },
    ),
    "transformer": Branches(_transformer, (1, 4, 3), {"up": {"up"}}),
    "chain": Branches(CASES["chain"].build, (1, 1, 6, 6), {}),
    "concatenated": Branches(CASES["concatenated"].build, (1, 1, 6, 6), {"a": {"a"}}),
}


@pytest.mark.parametrize("name", CASES_OF_DEPTH)
def test_what_falls_and_with_what(name: str) -> None:
    case = CASES_OF_DEPTH[name]
    torch.manual_seed(0)
    model, example = case.build(), torch.randn(case.shape)
    space = trace(model, example, verify=False, depth=True)
    names = [group.name for group in space.groups]
    falls = {names[i]: {names[j] for j in falling} for i, falling in enumerate(space.falls) if falling}
    assert falls == case.falls
    assert _names(space) == set(case.falls)
    checked = verify(model, example, space, genomes=4)
    assert checked.passed, checked.failures[0].reason
    assert trace(model, example, depth=True).fingerprint == space.fingerprint
    ranking = rank_channels(model, space)
    assert_exact_costs(model, space, ranking, example, genomes(space, 6))
    assert_gradients_flow(prune(model, space, space.minimal, ranking), torch.cat([example, example]))


def test_off_unless_asked_for() -> None:
    model, image = CASES["residual"].build(), torch.randn(1, 1, 6, 6)
    space = trace(model, image)
    assert space.minimal == (1, 1)
    with pytest.raises(InputError, match="group 'a' cannot keep 0 of 5 units; choose one of 1"):
        prune(model, space, (6, 0), rank_channels(model, space))
    deep = trace(model, image, depth=True)
    with pytest.raises(InputError, match="group 'stem' cannot keep 0 of 6 units; choose one of 1"):
        prune(model, deep, (0, 5), rank_channels(model, deep))


def test_a_residual_branch_by_hand() -> None:
    """Without its middle, x + b(relu(a(x))) is x + the bias of b, and no convolution runs in it."""
    model, image = CASES["residual"].build().eval(), torch.randn(2, 1, 6, 6)
    space = trace(model, image, depth=True)
    pruned = prune(model, space, (6, 0), rank_channels(model, space))
    expected = model.head(F.gelu(model.stem(image) + model.b.bias.reshape(-1, 1, 1)))
    assert torch.allclose(pruned(image), expected, atol=1e-6)
    ran = []
    for path, module in pruned.named_modules():
        if type(module) is nn.Conv2d:
            module.register_forward_hook(lambda *_, path=path: ran.append(path))
    pruned(image)
    assert ran == ["stem", "head"]


def test_a_network_without_its_branches_is_a_network() -> None:
    """Copied, saved and loaded, exported, traced, ranked and pruned again."""
    model, image = _two_convolutions(nn.BatchNorm2d).eval(), torch.randn(2, 1, 6, 6)
    space = trace(model, image, depth=True, round_to=1)
    pruned = prune(model, space, (5, 0), rank_channels(model, space))
    copied = copy.deepcopy(pruned)
    state = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    copied.load_state_dict(state)
    assert torch.equal(copied(image), pruned(image))
    exported = torch.export.export(pruned, (image,)).module()
    assert torch.allclose(exported(image), pruned(image), atol=1e-6)
    again = trace(pruned, image)
    assert again.dense == (5,)
    assert again.cost(again.dense).flops == space.cost((5, 0)).flops
    for name, criterion in CRITERIA.items():
        if not criterion.batches:
            ranking = rank_channels(pruned, again, name)
            assert prune(pruned, again, (2,), ranking)(image).shape == (2, 2, 6, 6)


@pytest.mark.parametrize(
    ("build", "side", "least"),
    [
        (lambda: nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=3), 17, 8),
        (lambda: nets.resnet50(spatial_dims=2, n_input_channels=1, num_classes=3), 17, 32),
        (lambda: nets.SegResNet(3, in_channels=1), 16, 12),
        (lambda: nets.UNet(3, 1, 2, (16, 32, 64), (2, 2), num_res_units=2), 8, 4),
        (
            lambda: nets.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=(16, 32, 64), res_block=True),
            16,
            6,
        ),
        (
            lambda: nets.ViT(
                1, (16, 16), (8, 8), hidden_size=24, mlp_dim=32, num_layers=2, num_heads=2, spatial_dims=2
            ),
            16,
            2,
        ),
    ],
    ids=["ResNet18", "ResNet50", "SegResNet", "UNet", "DynUNet", "ViT"],
)
def test_networks_of_monai(build: Callable[[], nn.Module], side: int, least: int) -> None:
    torch.manual_seed(0)
    model = build()
    dims = 3 if any(isinstance(module, nn.Conv3d) for module in model.modules()) else 2
    image = torch.randn(1, 1, *[side] * dims)
    space = trace(model, image, verify=False, depth=True)
    assert len(_names(space)) >= least
    checked = verify(model, image, space, genomes=1)
    assert checked.passed, checked.failures[0].reason
    ranking = rank_channels(model, space)
    assert_exact_costs(model, space, ranking, image, genomes(space, 2))
    smallest = min(len(falling) for falling in space.falls if falling)
    genome = [
        0 if len(falling) == smallest else group.units
        for group, falling in zip(space.groups, space.falls, strict=True)
    ]
    pruned = prune(model, space, genome, ranking)
    again = trace(pruned, image, verify=False)
    assert again.cost(again.dense).flops == space.cost(genome).flops
    assert_gradients_flow(pruned, image.repeat(2, *[1] * (dims + 1)))


@st.composite
def _random_networks(draw: st.DrawFn) -> nn.Module:
    width = draw(st.sampled_from([4, 6]))
    layers: list[nn.Module] = [conv(1, width)]
    names = [*sorted(BLOCKS), "add", "scale", "cat"] * 2
    for _ in range(draw(st.integers(1, 6))):
        build, width = BLOCKS[draw(st.sampled_from(names))](width)
        layers.append(build())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


@settings(max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(_random_networks())
def test_random_networks_are_exact_without_their_branches(model: nn.Module) -> None:
    image = torch.randn(2, 1, 5, 5)
    try:
        space = trace(model, image, round_to=1, depth=True)
    except NetworkError:
        return
    assert verify(model, image, space, genomes=3, seed=99).passed
    ranking = rank_channels(model, space, "random")
    assert_exact_costs(model, space, ranking, image[:1], genomes(space, 1))
    assert_gradients_flow(prune(model, space, space.minimal, ranking), image)


# Genomes.

SPACE = ChannelSpace(
    tuple(
        ChannelGroup(name, 4, 4, (name,), choices)
        for name, choices in (
            ("stem", (1, 2, 3, 4)),
            ("outer", (0, 2, 4)),
            ("inner", (0, 1, 4)),
            ("twin", (0, 3, 4)),
        )
    ),
    costs=CostModel.compile(
        4,
        [Term(1, (Form(1, tuple((i, 1) for i in range(4))),))],
        [Term(1, (Form(0, ((0, 1),)), Form(0, ((3, 1),))))],
        [],
    ),
    falls=((), (1, 2, 3), (2, 3), (2, 3)),
)


def test_a_branch_has_one_genome_without_it() -> None:
    assert SPACE.check((4, 4, 0, 3)) == (4, 4, 0, 0)
    assert SPACE.check((4, 0, 1, 3)) == (4, 0, 0, 0)
    assert SPACE.check((4, 2, 1, 3)) == (4, 2, 1, 3)
    assert SPACE.minimal == (1, 0, 0, 0)
    assert SPACE.uniform(0) == SPACE.minimal
    assert SPACE.uniform(0.3) == (1, 2, 0, 0)  # 1.2 of 4 is nearer to nothing than to 3
    assert SPACE.clip((4, 4, 0.4, 4)) == (4, 4, 0, 0)
    assert SPACE.size == 4 * (1 + 2 * (1 + 2 * 2))
    assert SPACE.cost((4, 4, 0, 3)).flops.tolist() == [9]
    rng = np.random.default_rng(0)
    for _ in range(100):
        genome = SPACE.sample(rng)
        assert SPACE.check(genome) == genome
    with pytest.raises(InputError, match="group 'stem' cannot keep 0 of 4 units"):
        SPACE.check((0, 4, 4, 4))


def test_genes_move_branches_as_a_whole() -> None:
    genes = Genes(SPACE)
    every = set(genes.everything())
    assert len(every) == SPACE.size
    assert all(SPACE.check(genome) == genome for genome in every)
    rng = np.random.default_rng(0)
    seen = {SPACE.minimal}
    genome = SPACE.minimal
    for _ in range(3000):
        genome = genes.mutate(genome, rng)
        seen.add(genome)
    assert seen == every  # nothing is out of reach, and nothing else is reached
    networks, _ = uniform_networks(SPACE)
    assert set(networks) <= every
    assert networks[0] == SPACE.minimal


@pytest.mark.parametrize("controller", ["random", "nsga2", "local", "ladder", "optuna:tpe"])
def test_controllers_ask_for_each_network_once(controller: str) -> None:
    asked = make_controller(controller, SPACE, (FLOPS, PARAMS), 0, (), {}).ask(SPACE.size + 1)
    assert len(set(asked)) == len(asked)
    assert all(SPACE.check(genome) == genome for genome in asked)
    if controller != "ladder":
        assert len(asked) == SPACE.size


def test_a_gene_of_a_block_takes_the_block_away() -> None:
    model, image = nets.resnet50(spatial_dims=2, n_input_channels=1, num_classes=3), torch.randn(1, 1, 33, 33)
    space = trace(model, image, verify=False, depth=True, granularity="block")
    gene = next(i for i, group in enumerate(space.groups) if group.name.startswith("layer3.4"))
    genome = list(space.dense)
    genome[gene] = 0
    pruned = prune(model, space, genome, rank_channels(model, space))
    left = [name for name, module in pruned.layer3[4].named_modules() if type(module) is nn.Conv2d]
    assert left == []
    assert [name for name, module in pruned.layer3[3].named_modules() if type(module) is nn.Conv2d]
    assert verify(model, image, space, genomes=0).passed
