"""The user's network and weights: what loads, what is refused, and that files run no code."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators.networks import LoadReport, build_network, code_of, load_weights, read_weights
from evaluators.settings import NetworkSettings
from spaces.errors import NetworkError

FACTORY = """
import torch
from torch import nn

def plain(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))

def breaks(width=4):
    raise RuntimeError("first line\\nsecond line")

def nothing():
    return None

def mutates(sizes):
    sizes.append(1)
    return nn.Linear(len(sizes), 1)

number = 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's folder with a factory in it, which is no longer importable afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(FACTORY)


def plain(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def build(factory: str, **settings: Any) -> tuple[nn.Module, LoadReport | None]:
    return build_network(NetworkSettings(factory=factory, **settings))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- factories


def test_factory_in_the_current_folder_with_arguments() -> None:
    network, report = build("mine:plain", arguments={"width": 6})
    assert report is None
    assert network[0].out_channels == 6  # type: ignore[index] # a Sequential


def test_factory_of_monai() -> None:
    network, _ = build(
        "monai.networks.nets:resnet18",
        arguments={"spatial_dims": 2, "n_input_channels": 1, "num_classes": 2},
    )
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 2)


def test_seed_decides_the_parameters_and_the_callers_state_stays() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    settings = NetworkSettings(factory="mine:plain")
    one, two, other = (build_network(settings, seed)[0].state_dict() for seed in (1, 1, 2))
    assert same(one, two)
    assert not same(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_arguments_are_not_changed_by_the_factory() -> None:
    settings = NetworkSettings(factory="mine:mutates", arguments={"sizes": [1]})
    for _ in range(2):
        build_network(settings)
    assert settings.arguments == {"sizes": [1]}


def test_the_folder_does_not_hide_installed_modules() -> None:
    Path("colorsys.py").write_text("raise SystemError('hidden')")
    sys.modules.pop("colorsys", None)
    with pytest.raises(NetworkError, match="returned tuple"):
        build("colorsys:rgb_to_hsv", arguments={"r": 0.0, "g": 0.0, "b": 0.0})
    build("mine:plain")
    build("mine:plain")
    assert sys.path.count(os.getcwd()) == 1


BAD_FACTORIES = [
    ("plain", {}, r"'plain': write it as module:callable"),
    ("mine:", {}, r"write it as module:callable"),
    ("nowhere:plain", {}, r"there is no module 'nowhere'; run where its file is, or install it"),
    ("monai.networks.netz:UNet", {}, r"there is no module 'monai.networks.netz'"),
    ("mine:plian", {}, r"mine has no 'plian'; did you mean 'plain'\?"),
    ("mine:number", {}, r"this is int, and cannot be called"),
    ("mine:breaks", {}, r"'mine:breaks' failed: RuntimeError: first line$"),
    ("mine:plain", {"widht": 3}, r"failed: TypeError: plain\(\) got an unexpected keyword argument 'widht'"),
    ("mine:nothing", {}, r"returned NoneType, not a torch.nn.Module"),
    ("broken:x", {}, r"importing 'broken' failed: SyntaxError"),
    ("needs:x", {}, r"importing 'needs' failed: ModuleNotFoundError: No module named 'not_there'"),
]


@pytest.mark.parametrize(("factory", "arguments", "message"), BAD_FACTORIES)
def test_bad_factories(factory: str, arguments: dict[str, Any], message: str) -> None:
    Path("broken.py").write_text("def x(:")
    Path("needs.py").write_text("import not_there")
    with pytest.raises(NetworkError, match=message) as caught:
        build(factory, arguments=arguments)
    assert "\n" not in str(caught.value)


# --- reading weights


def test_safetensors_and_torch_files_give_the_state_dict() -> None:
    state = plain().state_dict()
    save_file(state, "w.safetensors")
    torch.save(state, "w.pt")
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pt", "old.pth"):
        assert same(read_weights(name), dict(state))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "network_weights"])
def test_usual_places_are_found(key: str) -> None:
    state = plain().state_dict()
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, key: state}, "w.ckpt")
    assert same(read_weights("w.ckpt"), dict(state))


def test_key_with_levels() -> None:
    state, ema = plain().state_dict(), plain(seed=1).state_dict()
    torch.save({"state_dict": state, "ema": {"shadow": ema, "best.one": ema}}, "w.pt")
    assert same(read_weights("w.pt", "ema.shadow"), dict(ema))
    assert same(read_weights("w.pt", "state_dict"), dict(state))


def test_numpy_scalars_beside_the_weights() -> None:
    """As Lightning, MONAI and nnU-Net leave them: best metric, loss curves."""
    state = plain().state_dict()
    extras = {
        "best": np.float64(0.9),
        "epoch": np.int64(7),
        "curve": [np.float32(1)],
        "dtype": np.dtype("f4"),
    }
    torch.save({"state_dict": state, **extras}, "w.ckpt")
    assert same(read_weights("w.ckpt"), dict(state))


def test_numpy_scalars_from_numpy_1() -> None:
    state = plain().state_dict()
    torch.save({"state_dict": state, "best": np.float64(0.9)}, "w.pt", _use_new_zipfile_serialization=False)
    data = Path("w.pt").read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    Path("w.pt").write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert same(read_weights("w.pt"), dict(state))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-was-run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(zipped: bool) -> None:
    torch.save(
        {"state_dict": plain().state_dict(), "callback": Evil()},
        "w.pt",
        _use_new_zipfile_serialization=zipped,
    )
    for key in (None, "state_dict"):
        with pytest.raises(
            NetworkError, match=r"w\.pt: holds pickled code \(\w+\.mkdir\), which is never run"
        ) as caught:
            read_weights("w.pt", key)
        assert "\n" not in str(caught.value)
        assert "save only model.state_dict(), with torch.save or as .safetensors" in str(caught.value)
    assert not Path("code-was-run").exists()
    torch.load("w.pt", weights_only=False)  # the trap is a real one
    assert Path("code-was-run").exists()


def test_whole_pickled_modules_are_refused() -> None:
    torch.save(plain(), "w.pt")
    with pytest.raises(NetworkError, match=r"holds pickled code \(torch.nn.modules.container.Sequential\)"):
        read_weights("w.pt")


def test_torchscript_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")  # deprecated, but people have such files
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "w.pt")
    with pytest.raises(NetworkError, match=r"w\.pt: is a TorchScript program; save only its state_dict\(\)$"):
        read_weights("w.pt")


def torn(name: str, save: Callable[[str], None]) -> None:
    save(name)
    Path(name).write_bytes(Path(name).read_bytes()[:-300])


def test_bad_weight_files() -> None:
    state = plain().state_dict()
    torn("torn.safetensors", lambda name: save_file(state, name))
    torn("torn.pt", lambda name: torch.save(state, name))
    torn("torn.pth", lambda name: torch.save(state, name, _use_new_zipfile_serialization=False))
    Path("text.pt").write_text("no weights")
    Path("empty.pt").touch()
    Path("w.h5").touch()
    torch.save({"epoch": 3, "weights": state}, "elsewhere.pt")
    torch.save([1, 2], "list.pt")
    torch.save({}, "nothing.pt")
    save_file(state, "w.safetensors")
    for name, key, message in (
        ("none.pt", None, r"network.weights = 'none.pt': there is no such file"),
        (".", None, r"there is no such file"),
        ("w.h5", None, r"the name must end in one of .safetensors, .pt, .pth, .ckpt"),
        ("torn.safetensors", None, r"torn.safetensors: no readable .safetensors file, or torn"),
        ("torn.pt", None, r"torn.pt: no readable checkpoint, or torn"),
        ("torn.pth", None, r"torn.pth: no readable checkpoint, or torn"),
        ("text.pt", None, r"text.pt: no readable checkpoint, or torn"),
        ("empty.pt", None, r"empty.pt: no readable checkpoint, or torn"),
        (
            "elsewhere.pt",
            None,
            r"no state dict found; it holds epoch, weights; name it with network.weights_key",
        ),
        ("elsewhere.pt", "weight", r"has no 'weight' \(network.weights_key\); did you mean 'weights'\?"),
        ("elsewhere.pt", "epoch", r"'epoch' is no state dict; it holds int"),
        ("elsewhere.pt", "epoch.x", r"has no 'epoch.x' \(network.weights_key\); it holds int"),
        ("list.pt", None, r"no state dict found; it holds list"),
        ("nothing.pt", None, r"no state dict found; it is empty"),
        ("w.safetensors", "state_dict", r"a .safetensors file has no such levels; remove it"),
    ):
        with pytest.raises(NetworkError, match=message) as caught:
            read_weights(name, key)
        assert "\n" not in str(caught.value)


# --- loading weights


def test_weights_reach_the_network() -> None:
    state = plain(seed=3).state_dict()
    save_file(state, "w.safetensors")
    network, report = build("mine:plain", weights="w.safetensors")
    assert same(network.state_dict(), state)
    assert report == LoadReport(loaded=7)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net.module."]
)
def test_prefixes_of_wrappers_are_stripped(prefix: str) -> None:
    state = plain(seed=3).state_dict()
    wrapped = {prefix + key: tensor for key, tensor in state.items()}
    network = plain()
    assert load_weights(network, wrapped) == LoadReport(loaded=7, prefix=prefix)
    assert same(network.state_dict(), state)


def test_prefixes_stay_where_the_network_has_them() -> None:
    class Wrapped(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.model = plain(seed=seed)

    network, state = Wrapped(0), Wrapped(3).state_dict()
    assert load_weights(network, state).prefix == ""
    assert same(network.state_dict(), state)
    assert load_weights(network, {f"module.{k}": v for k, v in state.items()}).prefix == "module."


def test_what_lies_beside_the_network_is_left_out() -> None:
    state = {f"model.{key}": tensor for key, tensor in plain(seed=3).state_dict().items()}
    report = load_weights(plain(), state | {"loss.weight": torch.ones(2)})
    assert report == LoadReport(loaded=7, prefix="model.", unexpected=("loss.weight",))


def test_batch_counters_may_be_missing() -> None:
    state = plain(seed=3).state_dict()
    del state["1.num_batches_tracked"]
    assert load_weights(plain(), state) == LoadReport(loaded=6, missing=("1.num_batches_tracked",))


def test_tied_parameters_may_be_saved_once() -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})
        network["decoder"].weight = network["encoder"].weight
        return network

    state = tied(3).state_dict()
    del state["decoder.weight"]
    network = tied(0)
    load_weights(network, state)
    assert torch.equal(network["decoder"].weight, state["encoder.weight"])  # type: ignore[index] # a ModuleDict


def test_weights_of_another_architecture_change_nothing() -> None:
    network = plain()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(NetworkError) as caught:
        load_weights(network, plain(6).state_dict(), "w.pt")
    assert str(caught.value) == (
        "w.pt: not the weights of this network: 0 missing; 0 unexpected; 6 of another shape "
        "(0.weight is 6 x 1 x 3 x 3, the network has 4 x 1 x 3 x 3, 0.bias is 6, the network has 4, "
        "1.weight is 6, the network has 4, ...)"
    )
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    with pytest.raises(
        NetworkError,
        match=r"2 missing \(1.running_mean, 1.running_var\); 2 unexpected \(2.weight, 2.bias\); 2 of",
    ):
        load_weights(network, other)
    assert same(network.state_dict(), before)


def test_weights_that_are_not_finite() -> None:
    state = plain().state_dict()
    state["0.bias"] = torch.full((4,), torch.nan)
    torch.save(state, "w.pt")
    with pytest.raises(NetworkError, match=r"w\.pt: 0\.bias holds values that are NaN or infinite"):
        build("mine:plain", weights="w.pt")


def test_an_edited_forward_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = "from torch import nn\nclass Net(nn.Sequential):\n    pass\n"
    codes = []
    for edit in ("", "# another activation\n"):
        (tmp_path / "edited_network.py").write_text(source + edit)
        sys.modules.pop("edited_network", None)
        settings = NetworkSettings(factory="edited_network:Net")
        codes.append(code_of(build_network(settings)[0], settings))
    assert codes[0] != codes[1]
    monet = NetworkSettings(factory="monai.networks.nets:resnet18", arguments={"n_input_channels": 1})
    assert {"monai", "torch"} <= code_of(build_network(monet)[0], monet).keys()
