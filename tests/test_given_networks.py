"""Networks that others trained: nnU-Net's checkpoints and MONAI's bundles in, pruned weights out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.nets import UNet
from torch import nn

import paretoprune as pp
from evaluators.data.sources import load_splits
from evaluators.deploy.description import describe_network
from evaluators.networks import build_network
from evaluators.settings import DataSettings, NetworkSettings, TaskSettings
from evaluators.tasks.factory import make_task
from search.config import parse_config
from spaces.errors import ConfigError
from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracing import trace
from tests.outside import run_outside

ARCHITECTURE: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [8, 16, 32],
    "conv_op": "torch.nn.modules.conv.Conv2d",
    "kernel_sizes": [[3, 3]] * 3,
    "strides": [[1, 1], [2, 2], [2, 2]],
    "n_conv_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def plans(kind: type[nn.Module], arguments: dict[str, Any]) -> dict[str, Any]:
    name = f"{kind.__module__}.{kind.__qualname__}"
    block = {"network_class_name": name, "arch_kwargs": arguments, "_kw_requires_import": IMPORTED}
    return {"configurations": {"2d": {"architecture": block}, "2d_lowres": {"inherits_from": "2d"}}}


def nnunet_s_own(architecture: dict[str, Any], inputs: int, outputs: int) -> nn.Module:
    """As `nnunetv2.utilities.get_network_from_plans` builds it."""
    import pydoc

    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = pydoc.locate(arguments[name])
    kind: Any = pydoc.locate(architecture["network_class_name"])
    return kind(input_channels=inputs, num_classes=outputs, deep_supervision=True, **arguments)


def checkpoint(folder: Path, kind: type[nn.Module] = PlainConvUNet, inside: bool = True) -> Path:
    """A folder as nnU-Net leaves it, with the scalars and objects that its checkpoints hold."""
    torch.manual_seed(0)
    arguments = dict(ARCHITECTURE)
    if kind is ResidualEncoderUNet:
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    network = nnunet_s_own(plans(kind, arguments)["configurations"]["2d"]["architecture"], 1, 2)
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True)
    content: dict[str, Any] = {
        "network_weights": network.state_dict(),
        "optimizer_state": torch.optim.SGD(network.parameters(), 0.1).state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [np.float32(0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "2d_lowres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    if inside:
        content["init_args"]["plans"] = plans(kind, arguments)
    else:
        (folder / "plans.json").write_text(json.dumps(plans(kind, arguments)))
    torch.save(content, path)
    return path


def pruned(settings: NetworkSettings, granularity: Any = "stage") -> tuple[nn.Module, Any]:
    """The network at half of its widths, and its description."""
    data = DataSettings(source="phantom:segmentation", options={"size": 32, "n_train": 8, "n_val": 8})
    splits = load_splits(data)
    task = make_task(TaskSettings(kind="segmentation"), splits)
    network, report = build_network(settings)
    assert report is not None
    space = trace(network.eval(), torch.zeros(1, 1, 32, 32), granularity=granularity, round_to=1)
    genome = space.uniform(0.4)
    small = prune(network, space, genome, rank_channels(network, space)).eval()
    return small, describe_network(settings, data, splits, task, space, genome)


@pytest.mark.parametrize(("kind", "inside"), [(PlainConvUNet, True), (ResidualEncoderUNet, False)])
def test_an_nnunet_checkpoint_in_and_nnunet_s_own_class_out(
    kind: type[nn.Module], inside: bool, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "trained", kind, inside)
    settings = NetworkSettings(nnunet=str(path))
    dense, _ = build_network(settings)
    assert type(dense) is kind
    stored = torch.load(path, weights_only=False)["network_weights"]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in dense.state_dict().items())
    small, about = pruned(settings)
    out = pp.export(pp.save(tmp_path / "small", small, about), "safetensors", tmp_path / "out")
    architecture = json.loads((out / "architecture.json").read_text())
    assert sum(architecture["arch_kwargs"]["features_per_stage"]) < 8 + 16 + 32
    theirs = nnunet_s_own(architecture, 1, 2)
    theirs.load_state_dict(torch.load(out / "checkpoint_final.pth", weights_only=True)["network_weights"])
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        for ours, other in zip(small(image), theirs.eval()(image), strict=True):
            assert torch.allclose(ours, other, atol=1e-5)
    again = NetworkSettings.model_validate(settings.model_dump(mode="json"))  # as from the store
    assert again == settings


def test_an_nnunet_bundle_needs_nothing_of_ours(tmp_path: Path) -> None:
    small, about = pruned(NetworkSettings(nnunet=str(checkpoint(tmp_path / "trained"))))
    out = pp.export(pp.save(tmp_path / "small", small, about), "bundle", tmp_path / "out")
    image = torch.randn(2, 1, 32, 32)
    np.save(out / "images.npy", image.numpy())
    code = (out / "docs" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    run_outside(
        f"{code}\nimport numpy\nimages = torch.from_numpy(numpy.load('images.npy'))\n"
        "numpy.save('card.npy', network(images).detach().numpy())\n"
        "from monai.bundle import ConfigParser\n"
        "parser = ConfigParser()\nparser.read_config('configs/inference.json')\n"
        "network = parser.get_parsed_content('network_def')\n"
        "network.load_state_dict(torch.load('models/model.pt', weights_only=True))\n"
        "numpy.save('bundle.npy', network.eval()(images).detach().numpy())",
        out,
    )
    with torch.no_grad():
        expected = small(image)[0].numpy()
    for name in ("card", "bundle"):
        assert np.abs(np.load(out / f"{name}.npy") - expected).max() < 1e-4


def bundle(folder: Path, **changes: Any) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    definition = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": "@labels#count"}
    definition |= {"channels": [8, 16], "strides": [2], "_mode_": "default"} | changes
    config = {"labels": {"count": 2}, "network_def": definition, "device": "$torch.device('cpu')"}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.save(UNet(2, 1, 2, (8, 16), (2,)).state_dict(), folder / "models" / "model.pt")
    return folder


def test_a_bundle_in(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    settings = NetworkSettings(bundle=str(folder))
    assert settings.factory == "monai.networks.nets:UNet"
    assert settings.arguments["out_channels"] == 2
    network, report = build_network(settings)
    stored = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert report is not None
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.state_dict().items())
    small, about = pruned(settings)
    out = pp.export(pp.save(tmp_path / "small", small, about), "bundle", tmp_path / "out")
    assert type(build_network(NetworkSettings(bundle=str(out)))[0]) is UNet  # and in again
    import yaml

    text = (folder / "configs" / "inference.json").read_text()
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(json.loads(text)))
    assert NetworkSettings(bundle=str(folder)) == settings


def refused(network: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as found:
        parse_config({"name": "x", "data": {"source": "phantom:segmentation"}, "network": network})
    lines = str(found.value).splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strides": "$__import__('os').system('touch hit')"},
            "in its network_def is code, which is not run",
        ),
        ({"strides": "@nowhere"}, "'@nowhere' refers to nothing"),
        ({"_target_": "os.system"}, "its network is 'os.system', no network of MONAI's or nnU-Net's"),
        ({"_target_": "Unheard"}, "its network is 'Unheard'"),
        ({"norm": {"_target_": "torch.nn.ReLU"}}, r"holds another object (torch.nn.ReLU)"),
    ],
)
def test_bundles_that_would_run_code_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refused({"bundle": str(bundle(tmp_path / "b", **changes))})
    assert not Path("hit").exists()


def test_what_is_no_bundle_and_no_checkpoint(tmp_path: Path) -> None:
    assert "there is no folder configs in it" in refused({"bundle": str(tmp_path)})
    folder = bundle(tmp_path / "b")
    (folder / "models" / "model.pt").rename(folder / "models" / "model.ts")
    assert "only a TorchScript program (model.ts); models/model.pt is needed" in refused(
        {"bundle": str(folder)}
    )
    assert "bundle and nnunet are two networks" in refused({"bundle": "a", "nnunet": "b"})
    assert "network.nnunet = 'none.pth': there is no such file" in refused({"nnunet": "none.pth"})
    path = checkpoint(tmp_path / "trained", inside=False)
    content = (tmp_path / "trained" / "plans.json").read_text()
    (tmp_path / "trained" / "plans.json").write_text(content.replace("network_class_name", "UNet_class_name"))
    assert "name no network class (an older nnU-Net)" in refused({"nnunet": str(path)})
    (tmp_path / "trained" / "plans.json").unlink()
    assert "holds no plans, and there is no plans.json beside it" in refused({"nnunet": str(path)})
    path.write_bytes(path.read_bytes()[:-100])
    assert "no readable checkpoint, or torn" in refused({"nnunet": str(path)})
    hostile = {"network_class": "os.system", "command": "touch hit"}
    with pytest.raises(pp.ParetoPruneError, match="must be one of dynamic_network_architectures"):
        build_network(NetworkSettings(factory="evaluators.nnunet:build", arguments=hostile))
