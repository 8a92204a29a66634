"""Criteria: what each must see, the formulas by hand, and one contract for all."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces import criteria
from spaces.criteria import CRITERIA, by_larger, by_mean
from spaces.errors import InputError, NetworkError
from spaces.ranking import Ranking, rank_channels
from spaces.reference import randomised
from spaces.space import ChannelSpace
from spaces.tracing import trace
from tests.nets import Net, conv
from tests.pruning_checks import assert_untouched, snapshot

UNITS = 6


def _normed() -> nn.Module:
    """Two groups of channels with norms; the second runs through a flatten."""
    return nn.Sequential(
        conv(1, UNITS),
        nn.BatchNorm2d(UNITS),
        nn.ReLU(),
        conv(UNITS, 4),
        nn.GroupNorm(4, 4),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


def _mixed() -> nn.Module:
    """Residual, depthwise, grouped, transposed and concatenated channels."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.relu(m.norm(m.stem(x)))
        x = x + m.back(F.relu(m.depthwise(m.inner(x))))
        x = m.grouped(m.mix(torch.cat([x, m.side(x)], dim=1)))
        return m.head(m.up(x)).mean((2, 3))

    return Net(
        forward,
        stem=conv(1, 6),
        norm=nn.BatchNorm2d(6),
        inner=conv(6, 5),
        depthwise=conv(5, 5, groups=5),
        back=conv(5, 6),
        side=conv(6, 4),
        mix=conv(10, 8),
        grouped=conv(8, 8, groups=4),
        up=nn.ConvTranspose2d(8, 3, 2, stride=2),
        head=conv(3, 2),
    )


def _data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(3, 1, 8, 8, generator=generator), torch.tensor([0, 1, 1])) for _ in range(2)]


def _ready(build: object, seed: int = 0) -> tuple[nn.Module, ChannelSpace]:
    """The network with random parameters and buffers, so that no two units are alike, and its space."""
    model = build()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(randomised(name, tensor, generator, torch.float32))
    return model, trace(model, torch.randn(1, 1, 8, 8), verify=False)


def _rank(model: nn.Module, space: ChannelSpace, criterion: str) -> Ranking:
    return rank_channels(model, space, criterion, _data(), F.cross_entropy)


@pytest.mark.parametrize("criterion", sorted(CRITERIA.keys() - {"random", "bn_scale", "fpgm"}))
def test_a_unit_that_does_nothing_goes_first(criterion: str) -> None:
    model, space = _ready(_normed)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias, model[1].weight, model[1].bias):
            tensor[2] = 0
        model[3].weight[:, 2] = 0
    assert _rank(model, space, criterion).order[0][-1] == 2


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_gradients_see_what_weights_hide(criterion: str) -> None:
    """Large weights that nothing reads from."""
    model, space = _ready(_normed)
    with torch.no_grad():
        model[0].weight[3] *= 100
        model[3].weight[:, 3] = 0
    assert _rank(model, space, criterion).order[0][-1] == 3
    assert _rank(model, space, "l1").order[0][0] == 3


def test_activations_see_a_silent_unit() -> None:
    model, space = _ready(_normed)
    with torch.no_grad():
        model[1].weight[4], model[1].bias[4] = 50, -1000  # never above zero
        model[1].weight[1], model[1].bias[1] = 50, 1000
    order = _rank(model, space, "activation").order[0]
    assert (order[0], order[-1]) == (1, 4)


def test_network_slimming_reads_norm_scales() -> None:
    model, space = _ready(_normed)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.3, -0.9, 0.1, 0.5, 0.2, 0.7]))
        model[4].weight.copy_(torch.tensor([1.0, 3.0, 2.0, 4.0]))
    assert [order.tolist() for order in _rank(model, space, "bn_scale").order] == [
        [1, 5, 3, 0, 4, 2],
        [3, 1, 2, 0],
    ]


def test_network_slimming_without_scales() -> None:
    plain = nn.Sequential(conv(1, 4), conv(4, 2))
    space = trace(plain, torch.randn(1, 1, 8, 8), verify=False)
    with pytest.raises(NetworkError, match="'bn_scale' needs norm layers with scales"):
        rank_channels(plain, space, "bn_scale")
    model, space = _ready(_mixed)
    slimmed, magnitudes = _rank(model, space, "bn_scale"), _rank(model, space, "l1")
    names = [group.name for group in space.groups]
    assert np.array_equal(slimmed.order[names.index("inner")], magnitudes.order[names.index("inner")])
    assert slimmed.order[names.index("stem")].tolist() == (-model.norm.weight).argsort().tolist()


def test_the_geometric_median_goes_first() -> None:
    model = nn.Sequential(nn.Linear(1, 5, bias=False), nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-2.0], [7.0], [1.0], [-1.0], [2.0]]))
        model[1].weight.fill_(1)
    space = trace(model, torch.ones(1, 1))
    # sums of distances: 16, 29, 12, 13 and 13
    assert rank_channels(model, space, "fpgm").order[0].tolist() == [1, 0, 3, 4, 2]
    assert rank_channels(model, space, "l1").order[0].tolist() == [1, 0, 4, 2, 3]


def test_fisher_is_the_squared_change_per_image() -> None:
    first, second = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, -0.3])
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(first)[:, None])
        model[1].weight.copy_(torch.tensor(second)[None])
    space = trace(model, torch.ones(1, 1))
    x, t = torch.tensor([[2.0], [-1.0], [0.7]]), torch.tensor([[0.0], [1.0], [-3.0]])
    expected = np.zeros(3)
    for image, target in zip(x.flatten().tolist(), t.flatten().tolist(), strict=True):
        error = 2 * (image * first @ second - target)
        expected += (2 * error * image * first * second) ** 2  # producer and consumer, each once
    material = criteria.Material(model, space, [(x[:2], t[:2]), (x[2:], t[2:])], F.mse_loss, 0)
    assert CRITERIA["fisher"].score(material) == pytest.approx(expected)


def test_normalisations_by_hand() -> None:
    assert by_mean(np.array([1.0, 2.0, 3.0])).tolist() == [0.5, 1.0, 1.5]
    assert by_mean(np.zeros(2)).tolist() == [0, 0]
    assert by_larger(np.array([4.0, 1.0, 9.0])) == pytest.approx([4 / 13, 1 / 14, 1])
    assert by_larger(np.array([4.0, 4.0, 0.0])).tolist() == [0.5, 0.5, 0]
    assert by_larger(np.zeros(2)).tolist() == [0, 0]


def test_large_groups_on_one_tensor_do_not_drown_small_ones() -> None:
    """Two groups meet in one concatenation; scaling one of them changes nothing in the other."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.head(torch.cat([m.a(x), m.b(x)], dim=1))

    model = Net(forward, a=conv(1, 4), b=conv(1, 3), head=conv(7, 2))
    space = trace(model, torch.randn(1, 1, 6, 6))
    before = rank_channels(model, space).order[0].tolist()
    with torch.no_grad():
        model.head.weight[:, 4:] *= 1000
    assert rank_channels(model, space).order[0].tolist() == before


@pytest.mark.parametrize("build", [_normed, _mixed])
@pytest.mark.parametrize("criterion", CRITERIA)
class TestContract:
    def test_deterministic_and_leaves_everything_alone(self, criterion: str, build: object) -> None:
        model, space = _ready(build)
        before, rng = snapshot(model), torch.get_rng_state()
        first, second = (_rank(model, space, criterion) for _ in range(2))
        assert_untouched(model, before, training=True)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert torch.equal(torch.get_rng_state(), rng)
        assert (first.criterion, first.space) == (criterion, space.fingerprint)
        assert [sorted(order) for order in first.order] == [list(range(n)) for n in space.dense]
        there = pickle.loads(pickle.dumps(second))
        assert all(np.array_equal(a, b) for a, b in zip(first.order, there.order, strict=True))

    def test_permuted_units_are_ranked_as_before(self, criterion: str, build: object) -> None:
        if criterion == "random":
            pytest.skip("looks at nothing")
        model, space = _ready(build)
        rng = np.random.default_rng(0)
        permutations = [rng.permutation(group.units) for group in space.groups]
        permuted = _permuted(model, space, permutations)
        image = torch.randn(2, 1, 8, 8)
        assert torch.allclose(model.eval()(image), permuted.eval()(image), atol=1e-4, rtol=1e-4)
        for permutation, before, after in zip(
            permutations,
            _rank(model, space, criterion).order,
            _rank(permuted, space, criterion).order,
            strict=True,
        ):
            assert permutation[after].tolist() == before.tolist()

    def test_frozen_weights_are_ranked_too(self, criterion: str, build: object) -> None:
        model, space = _ready(build)
        frozen = copy.deepcopy(model).requires_grad_(False)
        with torch.no_grad():
            asked = _rank(frozen, space, criterion)
        assert all(
            np.array_equal(a, b)
            for a, b in zip(asked.order, _rank(model, space, criterion).order, strict=True)
        )

    def test_lacking_data_is_said(self, criterion: str, build: object) -> None:
        model, space = _ready(build)
        needs = CRITERIA[criterion]
        if not needs.batches:
            rank_channels(model, space, criterion)
            return
        with pytest.raises(InputError, match=f"{criterion!r} looks at data: give batches="):
            rank_channels(model, space, criterion)
        with pytest.raises(InputError, match="got no batches"):
            rank_channels(model, space, criterion, [], F.cross_entropy)


def _permuted(model: nn.Module, space: ChannelSpace, permutations: list[np.ndarray]) -> nn.Module:
    """The same function, with the units of every group in another order."""
    permuted = copy.deepcopy(model)
    tensors = dict(permuted.named_parameters()) | dict(permuted.named_buffers())
    for axis in space.axes:
        if axis.tensor not in tensors:
            continue
        source = np.arange(len(axis.units))
        for start, permutation in zip(space.offsets, permutations, strict=False):
            places = [np.flatnonzero(axis.units == start + unit) for unit in range(len(permutation))]
            for unit, old in enumerate(permutation):
                source[places[unit]] = places[old]
        tensor = tensors[axis.tensor]
        with torch.no_grad():
            tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(source)))
    return permuted


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_values_that_are_not_finite_are_refused(criterion: str) -> None:
    model, space = _ready(_normed)
    with torch.no_grad():
        model[0].weight[0] = torch.nan
    with pytest.raises(NetworkError, match="not finite: look for NaN in the weights"):
        _rank(model, space, criterion)


def test_every_criterion_is_documented() -> None:
    documented = set(re.findall(r"^- `(\w+)`", inspect.getdoc(criteria) or "", flags=re.MULTILINE))
    assert documented == set(CRITERIA)
