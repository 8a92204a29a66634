"""Tied groups: still a channel space, exact costs, and networks that their own constructors build."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks import nets
from torch import nn

from search.controllers.registry import make_controller
from search.start import common_first
from spaces.errors import InputError, NetworkError
from spaces.granularity import GRANULARITIES, TiedSpace, fine_genome, tied
from spaces.objectives import FLOPS, Objective
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune
from spaces.survey import coarsen
from spaces.tracer import find_tensors
from spaces.tracing import trace
from spaces.verification import verify
from tests.nets import CASES
from tests.pruning_checks import assert_exact_costs, genomes
from tests.test_cli import Call, call

__all__ = ["call"]  # the fixture

IMAGE = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
NNUNET: dict[str, Any] = {
    "input_channels": 1,
    "n_stages": 3,
    "features_per_stage": [16, 32, 48],
    "conv_op": nn.Conv2d,
    "kernel_sizes": 3,
    "strides": [1, 2, 2],
    "num_classes": 2,
    "n_conv_per_stage_decoder": 1,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm2d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "deep_supervision": True,
}
LEVELS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": (16, 32, 64),
    "strides": (2, 2),
}
DYNAMIC: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [16, 32, 64],
}
BASIC: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "features": (16, 16, 32, 32, 64, 16),
}
RESNET: dict[str, Any] = {
    "layers": [1, 1, 1, 1],
    "block_inplanes": [16, 32, 64, 128],
    "spatial_dims": 2,
    "n_input_channels": 1,
    "num_classes": 2,
}
FAMILIES: dict[str, tuple[type[nn.Module], dict[str, Any], int]] = {
    "PlainConvUNet": (PlainConvUNet, NNUNET | {"n_conv_per_stage": 2}, 3),
    "ResidualEncoderUNet": (ResidualEncoderUNet, NNUNET | {"n_blocks_per_stage": 2}, 3),
    "equal widths": (
        ResidualEncoderUNet,
        NNUNET | {"n_blocks_per_stage": 1, "features_per_stage": [16, 32, 32]},
        2,
    ),
    "DynUNet": (nets.DynUNet, DYNAMIC, 3),
    "DynUNet, residual": (nets.DynUNet, DYNAMIC | {"res_block": True}, 3),
    "UNet": (nets.UNet, LEVELS, 3),
    "UNet, residual": (nets.UNet, LEVELS | {"num_res_units": 2}, 3),
    "AttentionUnet": (nets.AttentionUnet, LEVELS, 3),
    "BasicUNet": (nets.BasicUNet, BASIC, 6),
    "BasicUNetPlusPlus": (nets.BasicUNetPlusPlus, BASIC, 6),
    "SegResNet": (nets.SegResNet, {"spatial_dims": 2, "in_channels": 1, "init_filters": 16}, 1),
    "SegResNet, batch norm": (
        nets.SegResNet,
        {"spatial_dims": 2, "in_channels": 1, "init_filters": 16, "norm": "batch"},
        1,
    ),
    "SegResNetDS": (nets.SegResNetDS, {"spatial_dims": 2, "init_filters": 16, "blocks_down": (1, 1, 1)}, 1),
    "ResNet, basic": (nets.ResNet, RESNET | {"block": "basic"}, 4),
    "ResNet, bottleneck": (nets.ResNet, RESNET | {"block": "bottleneck"}, 4),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_s_own_class_builds_what_is_pruned(name: str) -> None:
    cls, arguments, genes = FAMILIES[name]
    torch.manual_seed(0)
    model = cls(**arguments).eval()
    space = trace(model, IMAGE, verify=False, granularity="stage")
    assert isinstance(space, TiedSpace)
    assert len(space.groups) == genes
    ranking = rank_channels(model, space)
    built = 0
    for genome in genomes(space, 6):
        pruned = prune(model, space, genome, ranking)
        try:
            changed = space.constructor_arguments(genome)
        except NetworkError:  # widths that meet: the class would leave a projection out
            continue
        fresh = cls(**(arguments | changed)).eval()
        fresh.load_state_dict(pruned.state_dict(), strict=True)
        with torch.no_grad():
            outputs = zip(find_tensors(fresh(IMAGE)), find_tensors(pruned(IMAGE)), strict=True)
            assert all(torch.equal(ours, own) for ours, own in outputs)
        built += 1
    assert built >= 6
    dense = space.constructor_arguments(space.dense)
    assert all(list(np.atleast_1d(dense[key])) == list(np.atleast_1d(arguments[key])) for key in dense)


def test_widths_that_meet_are_refused() -> None:
    model = nets.UNet(**(LEVELS | {"num_res_units": 2}))
    space = trace(model, IMAGE, verify=False, granularity="stage")
    assert isinstance(space, TiedSpace)
    with pytest.raises(NetworkError, match="residual projects 16 channels onto as many"):
        space.constructor_arguments((8, 16, 16))
    assert space.constructor_arguments((8, 16, 24)) == {"channels": [8, 16, 24]}


def test_what_the_constructor_cannot_say_is_refused() -> None:
    model = nets.UNet(**LEVELS)
    space = trace(model, IMAGE, verify=False, granularity="stage", ignore="model.1.submodule.2")
    assert isinstance(space, TiedSpace)
    with pytest.raises(NetworkError, match=r"keeps 16 channels where channels\[0\] = 8 gives 8"):
        space.constructor_arguments((8, 16, 24))
    unknown = trace(nets.VNet(2, 1, 2), IMAGE, verify=False, granularity="stage")
    assert isinstance(unknown, TiedSpace)
    with pytest.raises(NetworkError, match="takes no widths that are known here"):
        unknown.constructor_arguments(unknown.dense)


def test_blocks_of_a_resnet() -> None:
    space = trace(nets.ResNet(block="basic", **RESNET), IMAGE, verify=False, granularity="block")
    assert [group.name for group in space.groups] == [
        "conv1",
        "layer1.0.conv1",
        "layer2.0",
        "layer3.0",
        "layer4.0",
    ]


def test_a_densenet_in_few_genes() -> None:
    model = nets.DenseNet121(2, 1, 3)
    space = trace(model, IMAGE, verify=False)
    assert len(space.groups) == 120
    blocks = [group.name for group in coarsen(space, model, IMAGE, "block").groups]
    assert [name for name in blocks if "denseblock" in name] == [
        f"features.denseblock{i}" for i in (1, 2, 3, 4)
    ]
    assert len(blocks) == 8
    assert len(coarsen(space, model, IMAGE, "stage").groups) == 5


def test_squeezing_layers_belong_to_their_block() -> None:
    model = nets.SEResNet50(spatial_dims=2, in_channels=1, num_classes=3)
    space = trace(model, IMAGE, verify=False)
    ties = coarsen(space, model, IMAGE, "stage").ties  # type: ignore[attr-defined]  # it is a tied one
    of_gene = {space.groups[i].name: gene for gene, tie in enumerate(ties) for i in tie.groups}
    assert of_gene["layer2.1.se_layer.fc.0"] == of_gene["layer2.1.conv1.conv"]
    assert of_gene["layer2.1.se_layer.fc.0"] != of_gene["layer1.1.se_layer.fc.0"]


def _tied() -> tuple[nn.Module, ChannelSpace, TiedSpace]:
    model = nets.ResNet(block="bottleneck", **RESNET)
    space = trace(model, IMAGE, verify=False)
    coarse = coarsen(space, model, IMAGE, "block")
    assert isinstance(coarse, TiedSpace)
    return model, space, coarse


def test_costs_are_exact() -> None:
    model, space, coarse = _tied()
    assert_exact_costs(model, coarse, rank_channels(model, space), IMAGE, genomes(coarse, 5))


def test_a_tied_genome_is_a_genome_of_the_groups() -> None:
    model, space, coarse = _tied()
    ranking = rank_channels(model, coarse)
    assert ranking.space == space.fingerprint
    for genome in genomes(coarse, 5):
        fine = space.check(fine_genome(coarse, genome))
        assert np.array_equal(ranking.kept(coarse, genome), ranking.kept(space, fine))
        for gene, tie in enumerate(coarse.ties):
            fraction = genome[gene] / coarse.groups[gene].units
            for group in tie.groups:
                steps = np.diff(space.groups[group].choices).max(initial=1)
                assert abs(fine[group] - fraction * space.groups[group].units) <= steps
    assert fine_genome(coarse, coarse.dense) == space.dense
    assert verify(model, IMAGE, coarse, genomes=1).passed


def test_relaxed_counts_are_priced_between_their_neighbours() -> None:
    _, _, coarse = _tied()
    low, high = coarse.uniform(0.25), coarse.uniform(0.75)
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    prices = coarse.cost([list(map(float, low)), middle, list(map(float, high))]).flops
    assert prices[0] < prices[1] < prices[2]
    with pytest.raises(InputError, match="cannot keep"):
        coarse.cost([2 * units for units in coarse.dense])


def test_fingerprints_tell_granularities_apart_and_are_stable() -> None:
    prints = set()
    for granularity in GRANULARITIES:
        first, second = (
            trace(nets.ResNet(block="basic", **RESNET), IMAGE, verify=False, granularity=granularity)
            for _ in range(2)
        )
        assert first.fingerprint == second.fingerprint
        assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint
        prints.add(first.fingerprint)
    assert len(prints) == len(GRANULARITIES)


@pytest.mark.parametrize("controller", ["random", "nsga2", "optuna:tpe"])
def test_controllers_ask_legal_genomes(controller: str) -> None:
    _, _, coarse = _tied()
    objectives = (FLOPS, Objective("auc", maximize=True))
    asked = make_controller(controller, coarse, objectives, 0, common_first(coarse), {}).ask(4)
    assert [coarse.check(genome) for genome in asked] == asked


def test_groups_that_may_vanish_do_so_together() -> None:
    space = ChannelSpace.chain([16, 8])
    first, second = space.groups
    branch = type(first)(first.name, 16, 16, first.members, (0, 4, 8, 16))
    coarse = tied(ChannelSpace((branch, second), costs=space.costs), ["a", "a"])
    assert coarse.groups[0].choices == (0, 4, 8, 16)
    assert [fine_genome(coarse, (kept,)) for kept in (0, 4, 8, 16)] == [(0, 1), (4, 2), (8, 4), (16, 8)]


def test_a_campaign_over_blocks_resumes(call: Call) -> None:
    blocks = ("--set", "pruning.granularity=stage", "--quiet")
    assert call("run", "tiny.toml", *blocks, "--set", "budget.trials=6").status == 0
    (row,) = json.loads(call("list", "--format", "json").out)
    assert call("resume", row["id"], "--quiet", "--set", "budget.trials=8").status == 0
    points = json.loads(call("front", row["id"], "--format", "json").out)["points"]
    assert {len(point["genome"]) for point in points} == {3}
    changed = call("resume", row["id"], "--quiet", "--set", "pruning.granularity=group")
    assert changed.status == 2
    assert "pruning.granularity" in changed.err


def test_wrong_granularity() -> None:
    with pytest.raises(InputError, match="unknown granularity 'blok'; did you mean 'block'"):
        trace(CASES["chain"].build(), torch.randn(1, 1, 6, 6), granularity="blok")  # type: ignore[arg-type]
