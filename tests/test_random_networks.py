"""Random networks, pruned at random: right by the tests' own oracle, priced exactly, or frozen."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from spaces.errors import NetworkError
from spaces.messages import Genome
from spaces.ranking import Ranking, rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune
from spaces.tracing import trace
from tests.pruning_checks import assert_exact_costs, assert_untouched, find_all, genomes, snapshot
from tests.pruning_oracle import disagreements, kept_units, random_double, removed_positions, unexplained
from tests.random_networks import BLOCKS, INPUTS, SIDE, Node, Recipe, build, recipes


def judge(recipe: Recipe, genomes: int = 2, folder: Path | None = None, **options: bool) -> str:
    """Trace the network, prune it to the least and at random, and compare; what came of it, in a word.

    Args:
        recipe: The network.
        genomes: Random ones besides the minimal one.
        folder: Where a pruned network is saved and loaded, if it is to be.
        options: Of `trace`.
    """
    torch.manual_seed(0)
    model, image = build(recipe), recipe.example
    before = snapshot(model)
    try:
        space = trace(model, image, round_to=1, **options)
    except NetworkError as error:
        _assert_nothing_to_prune(error)
        return "nothing to prune"
    finally:
        assert_untouched(model, before, training=True)
    assert all(frozen.reason for frozen in space.frozen)
    assert not unexplained(model, space), (unexplained(model, space), space)
    ranking = rank_channels(model, space, "random", seed=1)
    dense = random_double(model)
    images = [image.double(), _larger(recipe)]
    for genome in _genomes(space, genomes):
        removed = removed_positions(space, kept_units(space, genome, ranking))
        pruned = prune(dense, space, genome, ranking)
        wrong = list(disagreements(dense, pruned, removed, images))
        assert not wrong, (recipe, genome, wrong)
    assert_exact_costs(model, space, ranking, image[:1], _genomes(space, genomes))
    if folder is not None:
        _assert_saved(model, space, ranking, genome, image, folder)
    return "pruned"


def _assert_nothing_to_prune(error: NetworkError) -> None:
    assert str(error).startswith("nothing to prune in ")


def _genomes(space: ChannelSpace, count: int) -> list[Genome]:
    return genomes(space, count, seed=1)[1:]


def _larger(recipe: Recipe) -> Tensor:
    """Three images of another size."""
    generator = torch.Generator().manual_seed(1)
    side = SIDE[recipe.dims] * 2
    return torch.randn(3, INPUTS, *[side] * recipe.dims, generator=generator, dtype=torch.float64)


def _assert_saved(
    model: nn.Module, space: ChannelSpace, ranking: Ranking, genome: Genome, image: Tensor, folder: Path
) -> None:
    """Saved, the pruned network loads into one cut from other channels, and is traced again at its price."""
    pruned = prune(model, space, genome, ranking)
    save_model(pruned, str(folder / "pruned.safetensors"))
    loaded = prune(model, space, genome, rank_channels(model, space, "random", seed=2))
    load_model(loaded, folder / "pruned.safetensors")
    with torch.no_grad():
        pairs = zip(find_all(pruned.eval()(image)), find_all(loaded.eval()(image)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    try:
        again = trace(pruned, image, verify=False)
    except NetworkError as error:
        _assert_nothing_to_prune(error)
        return
    assert again.cost(again.dense).flops == space.cost(genome).flops
    assert again.cost(again.dense).params == space.cost(genome).params


OPTIONS: list[dict[str, bool]] = [{}, {"depth": True}, {"heads": True}]
RANDOM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}


@pytest.mark.filterwarnings("ignore")  # torch's own, of nested tensors in transformer layers and the like
@settings(max_examples=40, derandomize=True, phases=[Phase.generate], **RANDOM)  # a repeatable set
@given(recipes(), st.sampled_from(OPTIONS))
def test_random_networks_come_out_right(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, options: dict[str, bool]
) -> None:
    event(judge(recipe, folder=tmp_path_factory.mktemp("saved"), **options))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=600, **RANDOM)
@given(recipes(), st.sampled_from(OPTIONS))
def test_many_random_networks_come_out_right(recipe: Recipe, options: dict[str, bool]) -> None:
    event(judge(recipe, genomes=4, **options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_block_alone(name: str) -> None:
    """Between convolutions, so that no block goes untried."""
    blocks = (Node("conv", 4), Node(name, 1, (Node("conv", 1), Node("group norm", 3))), Node("conv", 2))
    judge(Recipe(1 if name == "recurrent" else 2, 4, blocks, "map"), genomes=1)
