"""Networks as folders: what is loaded is what was saved, and nothing else is ever loaded or run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import paretoprune as pp
from evaluators.data.sources import load_splits
from evaluators.deploy.description import describe_network
from evaluators.identity import fingerprint_of
from evaluators.networks import build_network
from evaluators.settings import DataSettings, NetworkSettings, TaskSettings
from evaluators.tasks.factory import make_task
from spaces.changes import changes_between, rebuild
from spaces.clone import clone_with, named_tensors
from spaces.errors import InputError, NetworkError
from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracer import find_tensors
from spaces.tracing import trace
from tests.pruning_checks import genomes, snapshot

UNET = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [8, 16, 32],
    "strides": [2, 2],
    "num_res_units": 1,
}
ABOUT = pp.NetworkDescription(factory="monai.networks.nets:UNet", arguments=UNET, input_shape=(1, 16, 16))


def make(about: pp.NetworkDescription = ABOUT, *, share: float = 0.5, **options: Any) -> nn.Module:
    """A pruned network of this factory, trained a little: none of its numbers is the factory's."""
    network, _ = build_network(NetworkSettings(factory=about.factory, arguments=about.arguments), seed=1)
    space = trace(network.eval(), torch.zeros(1, *about.input_shape), **options)
    pruned = prune(network, space, space.uniform(share), rank_channels(network, space))
    with torch.no_grad():
        for tensor in (*pruned.parameters(), *pruned.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return pruned.eval()


def same(one: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> bool:
    images = torch.randn(3, *shape)
    with torch.no_grad():
        pairs = zip(find_tensors(one.eval()(images)), find_tensors(other(images)), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)


def edited(folder: Path, **changes: Any) -> None:
    """Change the description and sign it anew, as somebody who knows the format would."""
    record = json.loads((folder / "network.json").read_text()) | changes
    record.pop("sha256")
    (folder / "network.json").write_text(json.dumps(record | {"sha256": fingerprint_of(record)}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return pp.save(tmp_path / "small", make(), ABOUT)


def test_a_loaded_network_is_the_saved_one(tmp_path: Path) -> None:
    network = make()
    before, mode = snapshot(network), network.train().training
    loaded = pp.load(pp.save(tmp_path, network, ABOUT))
    assert network.training == mode
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not loaded.training
    assert same(network, loaded, (1, 16, 16))
    assert load_file(tmp_path / "network.safetensors").keys() == before.keys()


def test_another_process_loads_it_without_the_tracer(saved: Path) -> None:
    code = f"""
import sys, torch
import paretoprune as pp
network = pp.load({str(saved)!r})
assert not {{"ray", "spaces.tracing", "spaces.grouping", "pickle5"}} & set(sys.modules)
print(network(torch.ones(1, 1, 16, 16)).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = pp.load(saved)(torch.ones(1, 1, 16, 16)).sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.0])
def test_branches_that_fell_away_stay_away(tmp_path: Path, share: float) -> None:
    network = make(share=share, depth=True)
    assert share or any("Absent" in type(module).__name__ for module in network.modules())
    assert same(network, pp.load(pp.save(tmp_path, network, ABOUT)), (1, 16, 16))


def test_dropped_modules_shared_tensors_and_own_code(tmp_path: Path) -> None:
    about = pp.NetworkDescription(factory="tests.test_saving:tied", input_shape=(1, 8, 8))
    network = tied()
    network.set_submodule("2", nn.Identity())
    loaded = pp.load(pp.save(tmp_path, network, about), factory="tests.test_saving:tied")
    assert isinstance(loaded[2], nn.Identity)
    assert loaded[0].weight is loaded[3].weight
    assert same(network, loaded, (1, 8, 8))
    with pytest.raises(
        NetworkError, match=r"if you trust that code, load it with factory='tests.test_saving:tied'"
    ):
        pp.load(tmp_path)
    with pytest.raises(NetworkError, match=r"is made by 'tests.test_saving:tied', not by"):
        pp.load(tmp_path, factory="tests.tiny:cnn")


def tied() -> nn.Sequential:
    layers = [nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3)]
    layers[3].weight = layers[0].weight  # type: ignore[assignment]
    return nn.Sequential(*layers)


class Masked(nn.Module):
    """A buffer outside the state dict that follows the channels, and one kept in a plain attribute."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3), nn.Conv2d(width, 2, 1)
        self.register_buffer("scale", torch.arange(width).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(image) * self.scale)


class Hidden(nn.Module):
    """What it computes depends on a plain tensor drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)
        self.noise = torch.randn(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.first(image) + self.noise


def test_buffers_outside_the_state_dict_are_kept(tmp_path: Path) -> None:
    about = pp.NetworkDescription(factory="tests.test_saving:Masked", input_shape=(1, 8, 8))
    network = make(about, round_to=1)
    assert network.scale.shape[1] < 8
    loaded = pp.load(pp.save(tmp_path, network, about), factory=about.factory)
    assert torch.equal(loaded.scale, network.scale)


def test_what_cannot_be_rebuilt_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    about = pp.NetworkDescription(factory="tests.test_saving:Hidden", input_shape=(1, 8, 8))
    with pytest.raises(NetworkError, match=r"rebuilt from it, the network answers otherwise"):
        pp.save(tmp_path, Hidden(), about)
    with pytest.raises(NetworkError, match=r"the factory does not make this network: module '.*' is missing"):
        pp.save(tmp_path, Masked(), ABOUT)
    other = ABOUT.model_copy(update={"input_shape": (3, 16, 16)})
    with pytest.raises(NetworkError, match="does not take an image of 3 x 16 x 16"):
        pp.save(tmp_path, make(), other)
    assert not any(tmp_path.iterdir())


def test_torn_and_changed_folders_are_refused(saved: Path) -> None:
    weights, description = saved / "network.safetensors", saved / "network.json"
    whole, text = weights.read_bytes(), description.read_text()
    weights.write_bytes(whole[:-4] + b"0000")
    with pytest.raises(NetworkError, match=r"network.safetensors is torn, or not the one that small/network"):
        pp.load(saved)
    weights.unlink()
    with pytest.raises(NetworkError, match=r"cannot read '.*network.safetensors': No such file"):
        pp.load(saved)
    weights.write_bytes(whole)
    for bad, message in {
        text[:-20]: "small/network.json is torn",
        text.replace('"in_channels": 1', '"in_channels": 2'): "was changed since it was saved",
        "[]": "describes no network",
        text.replace(
            '"format": 1', '"format": 99'
        ): "has format 99; this version reads 1: update paretoprune",
    }.items():
        description.write_text(bad)
        with pytest.raises(NetworkError, match=message):
            pp.load(saved)
    description.unlink()
    with pytest.raises(NetworkError, match=r"holds no saved network: there is no network\.json"):
        pp.read_description(saved)


@pytest.mark.parametrize(
    "factory", ["os:system", "monai.networks.nets.hovernet:download_url", "monai.bundle:run", "builtins:exec"]
)
def test_a_folder_cannot_name_code(saved: Path, factory: str) -> None:
    record = json.loads((saved / "network.json").read_text())
    edited(saved, network=record["network"] | {"factory": factory, "arguments": {"command": "touch hit"}})
    with pytest.raises(NetworkError, match="which is no network of MONAI's or nnU-Net's"):
        pp.load(saved)
    assert not Path("hit").exists()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"nowhere": {"groups": 1}}, "the factory makes no module 'nowhere'"),
        ({"model.0.conv": {"forward": "x"}}, "forward is no attribute that surgery changes"),
        ({"model.0.conv": {"_forward_hooks": {}}}, "no attribute that surgery changes"),
    ],
)
def test_changes_of_another_kind_are_refused(saved: Path, attributes: Any, message: str) -> None:
    record = json.loads((saved / "network.json").read_text())
    edited(saved, changes=record["changes"] | {"attributes": attributes})
    with pytest.raises(NetworkError, match=message):
        pp.load(saved)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    save_file({"other": torch.zeros(1)}, saved / "network.safetensors")
    from hashlib import sha256

    edited(saved, weights_sha256=sha256((saved / "network.safetensors").read_bytes()).hexdigest())
    with pytest.raises(NetworkError, match=r"tensor '.*' is missing, and \d+ more"):
        pp.load(saved)


def test_a_library_that_computes_otherwise_is_noticed(saved: Path) -> None:
    record = json.loads((saved / "network.json").read_text())
    shifted = [[value + 1 for value in one] for one in record["answers"]]
    edited(saved, answers=shifted, versions=record["versions"] | {"monai": "0.9"})
    with pytest.raises(NetworkError, match=r"answers otherwise than when it was saved with monai 0\.9, now"):
        pp.load(saved)
    assert isinstance(pp.load(saved, check=False), nn.Module)


def test_the_description_travels(tmp_path: Path) -> None:
    about = ABOUT.model_copy(update={"classes": ("none", "nucleus"), "genome": (4, 8)})
    pp.save(tmp_path, make(), about)
    assert pp.read_description(tmp_path) == about
    values = {"dice": 0.9, "dice/rare": float("nan")}
    assert pp.NetworkDescription(factory="a:b", input_shape=(1, 2), values=values).values["dice/rare"] is None


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write into '.*file'"):
        pp.save(tmp_path / "file", make(), ABOUT)


def _zoo() -> list[tuple[str, int]]:
    from tests.zoo import FULL, ZOO

    return [
        (name, dims) for name, entry in ZOO.items() for dims in entry.dims if dims not in FULL.get(name, ())
    ]


@pytest.mark.full
@pytest.mark.parametrize(("name", "dims"), _zoo())
def test_every_network_is_rebuilt_from_its_factory(name: str, dims: int) -> None:
    from tests.zoo import ZOO

    entry = ZOO[name]
    network, made = entry.build(dims).eval(), entry.build(dims).eval()
    example = entry.example(dims)
    space = trace(network, example, drop=entry.drop, depth=True)
    for genome in genomes(space, 2):
        pruned = prune(network, space, genome, rank_channels(network, space)).eval()
        twin = rebuild(made, changes_between(made, pruned), dict(named_tensors(pruned)))
        pruned = clone_with(pruned, lambda _, tensor: tensor.clone())
        torch.manual_seed(0)
        expected = list(find_tensors(pruned(example)))
        torch.manual_seed(0)
        assert all(torch.equal(a, b) for a, b in zip(find_tensors(twin(example)), expected, strict=True))


def test_a_campaign_s_network_and_its_own_class(tmp_path: Path) -> None:
    data = DataSettings(source="phantom:segmentation", options={"size": 32, "n_train": 8, "n_val": 8})
    splits = load_splits(data)
    task = make_task(TaskSettings(kind="segmentation"), splits)
    settings = NetworkSettings(factory=ABOUT.factory, arguments=UNET)
    network, _ = build_network(settings)
    space = trace(network.eval(), torch.zeros(1, 1, 32, 32), granularity="stage", round_to=1)
    genome = space.uniform(0.5)
    small = prune(network, space, genome, rank_channels(network, space))
    about = describe_network(settings, data, splits, task, space, genome, values={"dice": 0.9}, point=3)
    assert about.input_shape == (1, 32, 32)
    assert about.costs["flops"] < about.dense_costs["flops"]
    assert about.normalisation == splits.normalisation.describe()
    pp.save(tmp_path, small, about)
    assert about.constructor_arguments is not None
    own = network.__class__(**UNET | about.constructor_arguments)
    load_model(own, tmp_path / "network.safetensors")  # nothing of ours
    assert same(small, own.eval(), about.input_shape)
