"""Every network of the zoo: traced, verified, pruned, priced exactly, saved, trained on and traced again."""

import json
from pathlib import Path

import pytest
import torch
from monai.networks import nets
from safetensors.torch import load_model, save_model
from torch import nn

from benchmarks.networks import page
from spaces.inputs import Call
from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracer import find_tensors
from spaces.tracing import trace
from spaces.verification import verify
from tests.conftest import ROOT
from tests.pruning_checks import (
    assert_exact_costs,
    assert_gradients_flow,
    assert_untouched,
    genomes,
    snapshot,
)
from tests.zoo import FULL, ZOO

CASES = [
    pytest.param(
        name,
        dims,
        id=f"{name}, {dims}-D",
        marks=[pytest.mark.full] if dims in FULL.get(name, ()) else [],
    )
    for name, entry in ZOO.items()
    for dims in entry.dims
]


@pytest.mark.filterwarnings("ignore")  # MONAI's own about deprecations and patch sizes
@pytest.mark.parametrize(("name", "dims"), CASES)
def test_network(name: str, dims: int, tmp_path: Path) -> None:
    entry = ZOO[name]
    torch.manual_seed(0)
    model, image = entry.build(dims), entry.example(dims)
    before = snapshot(model)
    space = trace(model, image, drop=entry.drop)
    checked = verify(model, image, space, genomes=1, seed=1)
    assert checked.passed, checked.failures[0].reason
    least, most = space.cost([space.minimal, space.dense]).flops
    assert 1 - least / most >= entry.least
    ranking = rank_channels(model, space)
    assert_untouched(model, before, training=True)

    genome = genomes(space, 1, seed=1)[-1]
    pruned = prune(model, space, genome, ranking)
    again = trace(pruned, image, verify=False)
    assert again.cost(again.dense).flops == space.cost(genome).flops
    assert again.cost(again.dense).params == space.cost(genome).params

    save_model(pruned, str(tmp_path / "pruned.safetensors"))
    loaded = prune(model, space, genome, rank_channels(model, space, "random"))
    load_model(loaded, tmp_path / "pruned.safetensors")
    with torch.no_grad():
        outputs = zip(*(find_tensors(Call.of(image)(net.eval())) for net in (pruned, loaded)), strict=True)
        assert all(torch.equal(one, other) for one, other in outputs)
    assert_gradients_flow(pruned, entry.example(dims, batch=2))
    assert_exact_costs(model, space, ranking, image, genomes(space, 20))


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


SWITCHED = {
    "BasicUNetPlusPlus": "deep_supervision",
    "nnU-Net PlainConvUNet": "decoder.deep_supervision",
    "nnU-Net ResidualEncoderUNet": "decoder.deep_supervision",
    "DynUNet, deep supervision": "deep_supervision",
}


@pytest.mark.filterwarnings("ignore")  # MONAI's own
@pytest.mark.parametrize("name", SWITCHED)
def test_supervision_heads_fit_when_they_are_switched_on_again(name: str) -> None:
    path, _, attribute = SWITCHED[name].rpartition(".")
    model, images = ZOO[name].build(2), ZOO[name].example(2, batch=2)

    def shapes(network: nn.Module) -> list[torch.Size]:
        setattr(network.get_submodule(path), attribute, True)
        with torch.no_grad():
            return [tensor.shape for tensor in find_tensors(network.train()(images))]

    setattr(model.get_submodule(path), attribute, False)
    space = trace(model, images, round_to=1)
    pruned = prune(model, space, space.minimal, rank_channels(model, space))
    assert getattr(pruned.get_submodule(path), attribute) is False
    assert not [frozen for frozen in space.frozen if "never" in frozen.reason]
    assert shapes(pruned) == shapes(model)


def test_the_coverage_page_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "benchmarks" / "networks.json").read_text())
    assert (ROOT / "docs" / "networks.md").read_text() == page(rows)
    assert {(row["network"], row["dims"]) for row in rows} <= {(n, d) for n in ZOO for d in ZOO[n].dims}
