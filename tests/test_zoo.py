"""MONAI's networks as they come: traced, verified, pruned, priced exactly."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from monai.networks import nets
from torch import nn

from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracing import trace
from spaces.verification import verify
from tests.pruning_checks import (
    assert_exact_costs,
    assert_gradients_flow,
    assert_untouched,
    genomes,
    snapshot,
)


@dataclass(frozen=True)
class Entry:
    """A network by number of spatial dimensions, the side of a small image, and its number of groups."""

    build: Callable[[int], nn.Module]
    side: int
    groups: int


ZOO = {
    "resnet18": Entry(lambda d: nets.resnet18(spatial_dims=d, n_input_channels=1, num_classes=3), 17, 12),
    "resnet50": Entry(lambda d: nets.resnet50(spatial_dims=d, n_input_channels=1, num_classes=3), 17, 37),
    "densenet121": Entry(lambda d: nets.DenseNet121(d, 1, 3), 32, 120),
    "efficientnet-b0": Entry(
        lambda d: nets.EfficientNetBN(
            "efficientnet-b0", spatial_dims=d, in_channels=1, num_classes=3, pretrained=False
        ),
        32,
        40,
    ),
    "unet": Entry(lambda d: nets.UNet(d, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2), 16, 10),
    "basic-unet": Entry(lambda d: nets.BasicUNet(d, 1, 2, features=(16, 16, 32, 32, 64, 16)), 32, 22),
    "segresnet": Entry(lambda d: nets.SegResNet(d, in_channels=1), 16, 16),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ZOO)
def test_network(name: str, dims: int) -> None:
    entry = ZOO[name]
    torch.manual_seed(0)
    model, image = entry.build(dims), torch.randn(1, 1, *[entry.side] * dims)
    before = snapshot(model)
    space = trace(model, image, verify=False)
    checked = verify(model, image, space, genomes=2, seed=1)
    assert checked.passed, checked.failures[0].reason
    assert len(space.groups) == entry.groups
    ranking = rank_channels(model, space)
    assert_exact_costs(model, space, ranking, image, genomes(space, 5))
    least, most = space.cost([space.minimal, space.dense]).flops
    assert 1 - least / most >= 0.8
    pruned = prune(model, space, space.uniform(0.25), ranking)
    again = trace(pruned, image, verify=False)
    assert again.cost(again.dense).flops == space.cost(space.uniform(0.25)).flops
    assert_gradients_flow(pruned, image.repeat(2, *[1] * (dims + 1)))
    assert_untouched(model, before, training=True)


def test_flops_and_parameters_of_resnet18_by_hand() -> None:
    """At 224 pixels: a known 1,814,073,344 multiply-accumulates and 11,689,512 parameters.

    MONAI's first convolution has stride 1 by default; with stride 2 it is torchvision's network, but for the
    biases of its three shortcut convolutions.
    """
    model = nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=1000, conv1_t_stride=2)
    space = trace(model, torch.randn(1, 3, 224, 224), verify=False)
    costs = space.cost(space.dense)
    assert costs.flops[0] == 2 * 1_814_073_344
    assert costs.params[0] == 11_689_512 + 128 + 256 + 512
