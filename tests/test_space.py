"""Channel spaces and costs, without any network."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.costs import CostModel, Form, Term
from spaces.errors import InputError
from spaces.space import ChannelGroup, ChannelSpace, choices

SPACE = ChannelSpace.chain((4, 40), inputs=3, outputs=2, pixels=10, round_to=None)


def test_a_space_needs_no_torch() -> None:
    code = "import sys, spaces.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_genomes_of_a_chain() -> None:
    assert SPACE.dense == (4, 40)
    assert SPACE.minimal == (1, 8)
    assert SPACE.groups[1].choices == (8, 16, 24, 32, 40)
    assert SPACE.size == 4 * 5
    assert SPACE.uniform(0.5) == (2, 24)  # 20 lies between 16 and 24: the larger
    assert SPACE.uniform(0) == SPACE.minimal
    assert SPACE.uniform(1) == SPACE.dense
    assert SPACE.clip((0.2, 99)) == (1, 40)


def test_costs_of_a_chain_by_hand() -> None:
    costs = SPACE.cost([(4, 40), (1, 8)])
    assert costs.flops.tolist() == [
        2 * 10 * (9 * 3 * 4 + 9 * 4 * 40 + 40 * 2),
        2 * 10 * (9 * 3 * 1 + 9 * 1 * 8 + 8 * 2),
    ]
    assert costs.params.tolist() == [9 * 12 + 9 * 160 + 80, 27 + 72 + 16]
    assert costs.activation_bytes.tolist() == [4 * 10 * (4 + 40), 4 * 10 * (8 + 2)]
    assert costs.row(1) == {"flops": 2300.0, "params": 115.0, "activation_bytes": 400.0}


def test_one_genome_is_priced_like_a_population() -> None:
    assert SPACE.cost(SPACE.dense).flops.shape == (1,)
    assert len(SPACE.cost([])) == 0
    assert SPACE.cost(np.array([SPACE.dense] * 3)).flops.tolist() == [SPACE.cost(SPACE.dense).flops[0]] * 3


def test_products_of_three_sizes() -> None:
    sizes = [Form(1, ((0, 2),)), Form(0, ((1, 1),)), Form(3, ((0, 1), (1, 1)))]
    term = Term.product(5, [*sizes, 2, Form(7)])
    model = CostModel.compile(2, [term], [], [[term], [Term.product(1, [sizes[1]])]])
    space = ChannelSpace(tuple(ChannelGroup(n, 9, 9, (), tuple(range(1, 10))) for n in "ab"), costs=model)
    value = 5 * 2 * 7 * (1 + 2 * 3) * 4 * (3 + 3 + 4)
    assert space.cost((3, 4)).flops.tolist() == [value]
    assert space.cost((3, 4)).activation_bytes.tolist() == [value]
    assert space.cost((3, 4)).params.tolist() == [0]


@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=12), st.data())
def test_the_peak_is_the_largest_step(steps: list[list[int]], data: st.DataObject) -> None:
    forms = [Form(0, ((0, 1),)), Form(0, ((1, 3),)), Form(2)]
    terms = [[Term.product(c, [f]) for c, f in zip(step, forms, strict=True)] for step in steps]
    model = CostModel.compile(2, [], [], terms)
    a, b = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    expected = max(x * a + y * 3 * b + z * 2 for x, y, z in steps)
    assert model.activation_bytes(np.array([[a, b]])).tolist() == [expected]


@given(st.integers(1, 100), st.integers(1, 12), st.sampled_from([None, 1, 4, 8]))
def test_choices_are_multiples_or_all(units: int, channels: int, round_to: int | None) -> None:
    legal = choices(units, channels, round_to)
    assert legal[-1] == units
    assert list(legal) == sorted(set(legal))
    multiple = round_to or (8 if units * channels >= 32 else 1)
    assert all(choice >= 1 and choice * channels % multiple == 0 for choice in legal[:-1])


@given(st.lists(st.floats(-5, 50), min_size=2, max_size=2))
def test_clipping_gives_the_nearest_legal_genome(genome: list[float]) -> None:
    clipped = SPACE.clip(genome)
    assert SPACE.check(clipped) == clipped
    for group, wish, value in zip(SPACE.groups, genome, clipped, strict=True):
        assert abs(value - wish) == min(abs(choice - wish) for choice in group.choices)


@given(st.integers(0, 2**32))
def test_samples_are_legal_and_repeatable(seed: int) -> None:
    first, second = (SPACE.sample(np.random.default_rng(seed)) for _ in range(2))
    assert first == second == SPACE.check(first)
    assert all(type(gene) is int for gene in first)


@given(st.tuples(st.integers(1, 4), st.integers(1, 40)), st.tuples(st.integers(0, 3), st.integers(0, 39)))
def test_fewer_channels_never_cost_more(kept: tuple[int, int], fewer: tuple[int, int]) -> None:
    less = [max(0, k - f) for k, f in zip(kept, fewer, strict=True)]
    costs = SPACE.cost([less, kept])
    for figure in (costs.flops, costs.params, costs.activation_bytes):
        assert figure[0] <= figure[1]


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ((4,), "a genome has 2 genes here, not 1"),
        ((0, 8), "group 'conv0' cannot keep 0 of 4 units; choose one of 1, 2, 3, 4"),
        ((5, 8), "group 'conv0' cannot keep 5 of 4 units"),
        ((-1, 8), "cannot keep -1 of 4"),
        ((4, 9), "group 'conv1' cannot keep 9 of 40 units; choose one of 8, 16, 24, ..., 40"),
        ((1.5, 8), "cannot keep 1.5 of 4"),
    ],
)
def test_illegal_genomes(genome: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SPACE.check(genome)  # type: ignore[arg-type]  # that is the point


def test_costs_refuse_what_is_no_genome() -> None:
    with pytest.raises(InputError, match="genomes have 2 genes here, not 3"):
        SPACE.cost([(1, 2, 3)])
    with pytest.raises(InputError, match="group 'conv1' cannot keep 41 of 40"):
        SPACE.cost([(1, 41)])
    with pytest.raises(InputError, match="within 0 and 1"):
        SPACE.uniform(1.5)


def test_the_fingerprint_follows_what_a_genome_means() -> None:
    again = ChannelSpace.chain((4, 40), inputs=3, outputs=2, pixels=10, round_to=None)
    others = [
        ChannelSpace.chain((4, 40), inputs=3, outputs=2, pixels=11, round_to=None),
        ChannelSpace.chain((4, 40), inputs=3, outputs=2, pixels=10, round_to=1),
        ChannelSpace.chain((40, 4), inputs=3, outputs=2, pixels=10, round_to=None),
    ]
    assert again.fingerprint == SPACE.fingerprint
    assert len({SPACE.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_space_travels() -> None:
    there = pickle.loads(pickle.dumps(SPACE, protocol=5))
    assert there.fingerprint == SPACE.fingerprint
    assert there.cost(there.minimal).flops == SPACE.cost(SPACE.minimal).flops
