"""Exports: others run them without us and get the same; what cannot be exported is said in one line."""

import csv
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from PIL import Image
from torch import nn

import paretoprune as pp
from evaluators.data.sources import load_splits
from evaluators.deploy.description import describe_network
from evaluators.deploy.facts import read_facts
from evaluators.networks import build_network
from evaluators.settings import DataSettings, NetworkSettings, TaskSettings
from evaluators.tasks.factory import make_task
from search.finals.finalised import keep_finalised
from search.store.entries import CampaignEntry
from spaces.errors import ConfigError, InputError, NetworkError
from spaces.finals import ClassResult, Estimate, FinalNetwork, TestResult
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracing import trace
from tests.outside import run_outside

UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [8, 16], "strides": [2]}
TINY = {"width": 8, "channels": 1, "classes": 2}


def saved(folder: Path, network: NetworkSettings, kind: str, granularity: Any = "group") -> Path:
    """A pruned network of phantoms, in a campaign's folder."""
    data = DataSettings(source=f"phantom:{kind}", options={"size": 32, "n_train": 8, "n_val": 8})
    splits = load_splits(data)
    task = make_task(TaskSettings(kind=splits.kind), splits)
    dense, _ = build_network(network)
    space = trace(dense.eval(), torch.zeros(1, 1, 32, 32), granularity=granularity, round_to=1)
    genome = space.uniform(0.5)
    pruned = prune(dense, space, genome, rank_channels(dense, space))
    for module in pruned.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand_like(module.running_mean)
    values = {task.metric.name: 0.9}
    about = describe_network(
        network, data, splits, task, space, genome, values=values, campaign="c-1", point=3
    )
    return pp.save(folder, pruned, about)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose own class takes its widths."""
    settings = NetworkSettings(factory="monai.networks.nets:UNet", arguments=UNET)
    folder = saved(tmp_path_factory.mktemp("c-1") / "point-3", settings, "segmentation", "stage")
    (folder / "final.json").write_text(json.dumps(asdict(final(pp.read_description(folder).genome))))
    row = {"genome": pp.read_description(folder).genome, "runtime": "eager", "batch": 1, "device": "cpu"}
    row |= {"machine": "a laptop", "median_ms": 1.25, "low_ms": 1.0, "high_ms": 1.5}
    (folder.parent / "latency.json").write_text(json.dumps({"version": 1, "measured": [row]}))
    return folder


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code of the user's own, of any widths."""
    settings = NetworkSettings(factory="tests.tiny:cnn", arguments=TINY)
    return saved(tmp_path_factory.mktemp("mine") / "small", settings, "classification")


def final(genome: Genome) -> FinalNetwork:
    estimate = Estimate(0.91, 0.88, 0.93)
    test = TestResult(
        {"dice": 0.91}, estimate, Estimate(-0.01, -0.02, 0.0),
        (ClassResult("disc 1", "dice", 12, estimate, Estimate(-0.02, -0.03, 0.0)),),
    )  # fmt: skip
    costs = {"flops": 1e6, "params": 1e3, "activation_bytes": 1e5}
    return FinalNetwork(
        point=3, dense=False, folder="point-3", genome=genome, metric="dice", costs=costs, ratios=costs,
        recipe={}, group="g", val={}, seconds=1.0, weights="w", test=test, cases=100, patients=40,
        tested_together=2, openings=1,
    )  # fmt: skip


def answers(folder: Path, images: np.ndarray) -> np.ndarray:
    """What the saved network says, in this process."""
    factory = pp.read_description(folder).factory
    with torch.no_grad():
        return np.asarray(pp.load(folder, factory=factory)(torch.from_numpy(images)))


def images_in(folder: Path, *shape: int) -> np.ndarray:
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.save(folder / "images.npy", images)
    return images


def test_programs_run_without_us(cnn: Path, tmp_path: Path) -> None:
    for name in ("pt2", "onnx"):
        pp.export(cnn, name, tmp_path / name, factory="tests.tiny:cnn")
    images = images_in(tmp_path, 7, 1, 32, 32)
    run_outside(
        """
import numpy, onnxruntime, torch
images = numpy.load("images.npy")
network = torch.export.load("pt2/model.pt2").module()
numpy.save("pt2.npy", network(torch.from_numpy(images)).detach().numpy())
session = onnxruntime.InferenceSession("onnx/model.onnx")
numpy.save("onnx.npy", session.run(None, {"image": images})[0])
assert "activation" in session.get_modelmeta().custom_metadata_map["deployment"]
""",
        tmp_path,
    )
    expected = answers(cnn, images)
    for name in ("pt2", "onnx"):
        assert np.abs(np.load(tmp_path / f"{name}.npy") - expected).max() < 1e-4
    with zipfile.ZipFile(tmp_path / "pt2" / "model.pt2") as archive:  # nothing that can hold code
        contents = {name: archive.read(name)[:2] for name in archive.namelist()}
    assert not [name for name, start in contents.items() if start in (b"\x80\x02", b"\x80\x04", b"PK")]


@pytest.mark.parametrize(
    ("format", "steps"),
    [("pt2", [0, 1, 2, 3]), ("onnx", [0, 1, 2, 3]), ("safetensors", [0, 2]), ("bundle", [0, 1, 2, 3])],
)
def test_an_export_tells_its_steps_and_leaves_nothing_when_stopped(
    cnn: Path, tmp_path: Path, format: str, steps: list[int]
) -> None:
    told: list[tuple[int, int, str]] = []

    def listen(done: int, total: int, note: str = "") -> None:
        told.append((done, total, note))
        if note == stop:
            raise KeyboardInterrupt

    stop = "writing"
    with pytest.raises(KeyboardInterrupt):
        pp.export(cnn, format, tmp_path / "out", factory="tests.tiny:cnn", progress=listen)
    assert not list(tmp_path.iterdir())
    if format == "onnx":  # its translation takes seconds, and says no more
        return
    stop = ""
    told.clear()
    with pytest.raises(KeyboardInterrupt):  # at the last word: the folder is there
        pp.export(cnn, format, tmp_path / "out", factory="tests.tiny:cnn", progress=listen)
    assert [done for done, *_ in told] == [*steps, 4]
    assert {total for _, total, _ in told} == {4}
    assert (tmp_path / "out").is_dir()


def test_weights_load_into_monai_s_own_class(unet: Path, tmp_path: Path) -> None:
    out = pp.export(unet, "safetensors", tmp_path / "out")
    card = (out / "MODEL_CARD.md").read_text()
    code = card.partition("# or without ParetoPrune:\n")[2].partition("```")[0]
    images = images_in(out, 3, 1, 32, 32)
    run_outside(
        f"{code}\nimport numpy, torch\n"
        "images = torch.from_numpy(numpy.load('images.npy'))\n"
        "numpy.save('found.npy', network(images).detach().numpy())",
        out,
    )
    assert np.abs(np.load(out / "found.npy") - answers(unet, images)).max() < 1e-4
    assert pp.read_description(out) == pp.read_description(unet)


_RUN = """
import runpy, sys
sys.argv = "monai.bundle run --config_file configs/inference.json --dataset_dir images".split()
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def test_a_bundle_of_monai_s_own_class_segments_pictures(unet: Path, tmp_path: Path) -> None:
    out = pp.export(unet, "bundle", tmp_path / "out")
    assert (out / "models" / "model.pt").is_file()
    pictures = _pictures(out / "images", (32, 32))
    run_outside(_RUN, out)
    about = pp.read_description(unet)
    for name, picture in pictures.items():
        image = (picture[None, None].astype(np.float32) - about.normalisation["mean"][0]) / (
            about.normalisation["std"][0]
        )
        expected = answers(unet, image.astype(np.float32))[0].argmax(0)
        with Image.open(next((out / "eval").glob(f"{name}*.png"))) as drawn:
            assert np.array_equal(np.asarray(drawn), expected)
        assert 0 < expected.mean() < 1


def test_a_bundle_of_a_program_classifies_pictures(cnn: Path, tmp_path: Path) -> None:
    out = pp.export(cnn, "bundle", tmp_path / "out", factory="tests.tiny:cnn")
    assert (out / "models" / "model.pt2").is_file()
    pictures = _pictures(out / "images", (32, 32))
    run_outside(_RUN, out)
    about = pp.read_description(cnn)
    mean, std = about.normalisation["mean"][0], about.normalisation["std"][0]
    with (out / "eval" / "predictions.csv").open() as file:
        rows = {Path(row[0]).stem: [float(value) for value in row[1:]] for row in csv.reader(file)}
    assert rows.keys() == pictures.keys()
    for name, picture in pictures.items():
        image = ((picture[None, None] - mean) / std).astype(np.float32)
        logits = answers(cnn, image)[0]
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert rows[name] == pytest.approx(expected, abs=1e-4)


def test_a_bundle_draws_regions_that_overlap_in_volumes(tmp_path: Path) -> None:
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    about = pp.NetworkDescription(
        factory="monai.networks.nets:UNet",
        arguments=arguments,
        input_shape=(1, 16, 16, 16),
        task="segmentation",
        classes=("whole", "core"),
        regions={"whole": (1, 2), "core": (2,)},
        normalisation={"mode": "case"},
    )
    torch.manual_seed(0)
    pp.save(tmp_path / "saved", UNet(**arguments).eval(), about)
    out = pp.export(tmp_path / "saved", "bundle", tmp_path / "out")
    volume = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    (out / "images").mkdir()
    nib.save(nib.Nifti1Image(volume, np.diag([2.0, 1.0, 1.0, 1.0])), out / "images" / "one.nii.gz")
    run_outside(_RUN, out)
    image = ((volume - volume.mean()) / volume.std())[None, None]
    expected = np.moveaxis(answers(tmp_path / "saved", image)[0] > 0, 0, -1)
    drawn = nib.load(next((out / "eval").glob("one*.nii.gz")))
    assert np.mean(np.asarray(drawn.dataobj).squeeze() == expected) > 0.999
    assert 0 < expected[..., 0].mean() < 1
    assert drawn.affine[0, 0] == 2.0, "where it was"


def test_a_bundle_says_numbers_in_their_units(tmp_path: Path) -> None:
    about = pp.NetworkDescription(
        factory="tests.tiny:cnn",
        arguments={**TINY, "classes": 1},
        input_shape=(1, 32, 32),
        task="regression",
        units=(60.0, 12.5),
        normalisation={"mode": "none"},
    )
    network, _ = build_network(NetworkSettings(factory=about.factory, arguments=about.arguments))
    pp.save(tmp_path / "saved", network.eval(), about)
    out = pp.export(tmp_path / "saved", "bundle", tmp_path / "out", factory=about.factory)
    pictures = _pictures(out / "images", (32, 32))
    run_outside(_RUN, out)
    with (out / "eval" / "predictions.csv").open() as file:
        rows = {Path(row[0]).stem: float(row[1]) for row in csv.reader(file)}
    for name, picture in pictures.items():
        said = answers(tmp_path / "saved", picture[None, None].astype(np.float32)).item()
        assert rows[name] == pytest.approx(60 + 12.5 * said, abs=1e-2)
    assert "the answer is 60 + 12.5 times it" in (out / "docs" / "README.md").read_text()


def _pictures(folder: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    folder.mkdir()
    random = np.random.default_rng(3)
    found = {}
    for name in ("one", "two"):
        picture = random.integers(0, 256, size, dtype=np.uint8)
        picture[: size[0] // 4] = 250  # no symmetry that could hide a transposed image
        Image.fromarray(picture).save(folder / f"{name}.png")
        found[name] = picture
    return found


def test_preprocessing_inside_takes_raw_intensities(cnn: Path, tmp_path: Path) -> None:
    out = pp.export(cnn, "pt2", tmp_path / "out", factory="tests.tiny:cnn", preprocessing=True)
    raw = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32)).astype(np.float32)
    about = pp.read_description(cnn)
    mean, std = about.normalisation["mean"][0], about.normalisation["std"][0]
    program = torch.export.load(out / "model.pt2").module()
    found = program(torch.from_numpy(raw)).detach().numpy()
    assert np.abs(found - answers(cnn, ((raw - mean) / std).astype(np.float32))).max() < 1e-4
    deployment = json.loads((out / "deployment.json").read_text())
    assert deployment["input"]["normalisation"] is None
    assert deployment["sha256"].keys() == {"model.pt2"}
    with pytest.raises(ConfigError, match="--with-preprocessing is for pt2 and onnx; bundle has it"):
        pp.export(cnn, "bundle", tmp_path / "other", preprocessing=True)


def test_the_card_says_what_a_clinic_asks(unet: Path, cnn: Path, tmp_path: Path) -> None:
    card = (pp.export(unet, "safetensors", tmp_path / "a") / "MODEL_CARD.md").read_text()
    for part in (
        "# c-1, point 3",
        "dice 0.910 (0.880 to 0.930) on the test images",
        "Paired difference to the dense network: -0.010 (-0.020 to +0.000)",
        "| disc 1 | 12 | dice | 0.910 (0.880 to 0.930) | -0.020 (-0.030 to +0.000) |",
        "100 held-out cases (40 patients); these test images were opened 1 time",
        "Fewer than 30 test cases show disc 1",
        "| eager | 1 | cpu (a laptop) | 1.25 | 1.00 to 1.50 |",
        "% |",
        "Pruning may have cost classes",
        "Not a medical device",
    ):
        assert part in card
    untested = pp.export(cnn, "safetensors", tmp_path / "b", factory="tests.tiny:cnn") / "MODEL_CARD.md"
    assert "never tested on held-out images" in untested.read_text()


class Unexportable(nn.Module):
    """Looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.first(image)
        return out if out.mean().item() > 0 else -out


def test_what_cannot_be_exported_is_said(
    cnn: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    factory = "tests.test_export:Unexportable"
    about = pp.NetworkDescription(factory=factory, input_shape=(1, 8, 8))
    folder = pp.save(tmp_path / "folder", Unexportable(), about)
    for name in ("pt2", "onnx"):
        with pytest.raises(NetworkError, match=r"neither pt2 nor onnx can hold it: .*; --format safetensors"):
            pp.export(folder, name, tmp_path / "out", factory=factory)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]  # nothing half done
    said = capfd.readouterr()
    assert "forward" not in said.out + said.err, "torch.export shows its graph to nobody"
    pp.export(folder, "safetensors", tmp_path / "out", factory=factory)
    with pytest.raises(InputError, match=r"out' is there already, and not empty; choose another --out"):
        pp.export(folder, "safetensors", tmp_path / "out", factory=factory)
    with pytest.raises(InputError, match=r"no format 'onx'; did you mean 'onnx'\?"):
        pp.export(folder, "onx", tmp_path / "x")
    with pytest.raises(ConfigError, match=r"--opset 9: PyTorch's exporter writes 18 to 23"):
        pp.export(folder, "onnx", tmp_path / "x", opset=9)
    with pytest.raises(ConfigError, match=r"--opset 24: .* writes 18 to 23; newer runtimes read 23, too"):
        pp.export(folder, "onnx", tmp_path / "x", opset=24)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write into .*file/x'"):
        pp.export(folder, "safetensors", tmp_path / "file" / "x", factory=factory)
    with pytest.raises(ConfigError, match="was saved without a normalisation"):
        pp.export(folder, "pt2", tmp_path / "x", factory=factory, preprocessing=True)
    with pytest.raises(NetworkError, match="if you trust that code"):
        pp.export(cnn, "pt2", tmp_path / "x")


def test_the_command_finds_finalised_points_only(
    unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    about = pp.read_description(unet)
    config = {"name": "c", "network": {"factory": about.factory, "arguments": about.arguments}}
    config |= {"data": {"source": "phantom:segmentation"}}
    with pp.Store(url) as store:
        entry = CampaignEntry(name="c", config=config, fingerprint="f", fingerprints={}, description={})
        campaign = store.create(entry)
        for number in (0, 3, 4):
            trial = Trial(number, about.genome)
            store.append(campaign, Record(trial, Outcome(number, "complete", {"dice": 0.9}), about.costs))
        _refused(f"point 3 of {campaign} is not finalised (nothing of it is", campaign, "3", url, capsys)
        _refused(f"`paretoprune finalise {campaign} --points 3` does it", campaign, "3", url, capsys)
        keep_finalised(store, campaign, [final(about.genome)])
        _refused("is not finalised (finalised are: 3)", campaign, "4", url, capsys)
        _refused(f"dense of {campaign} is not finalised", campaign, "dense", url, capsys)
        _refused("measured no point 9", campaign, "9", url, capsys)
        _refused("--point best: it is a trial's number", campaign, "best", url, capsys)
        _refused("there is no campaign 'zzz'", "zzz", "3", url, capsys)
        _refused("the files of point-3", campaign, "3", url, capsys)
        folder = store.artifacts / campaign / "point-3"
        pp.save(folder, pp.load(unet), about)
        _refused(f"point-3 of {campaign} holds a network of c-1; delete '", campaign, "3", url, capsys)
        pp.save(folder, pp.load(unet), about.model_copy(update={"campaign": campaign}))
    assert _export(campaign, "3", url, tmp_path / "out", quiet=False) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "out")
    assert said.err.startswith("exporting point-3 as safetensors: 4/4")
    _refused("out' is there already, and not empty", campaign, "3", url, capsys, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluators.deploy.exporting.load_network", _stop)
        assert _export(campaign, "3", url, tmp_path / "other", quiet=False) == 130
    assert "stopped; nothing was written: the same command begins again" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert (tmp_path / "out" / "network.safetensors").is_file()


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _refused(
    message: str,
    campaign: str,
    point: str,
    url: str,
    capsys: pytest.CaptureFixture[str],
    out: Path = Path("out"),
) -> None:
    assert _export(campaign, point, url, out) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert message in told[0]


def _export(campaign: str, point: str, url: str, out: Path, *, quiet: bool = True) -> int:
    from search.cli import main

    words = ["export", campaign, "--point", point, "--format", "safetensors", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["paretoprune", *words, "--store", url, *["--quiet"] * quiet])
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


def test_torn_results_beside_a_network(unet: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(unet.parent, tmp_path / "c")) / "point-3"
    assert read_facts(folder).latency[0]["median_ms"] == 1.25
    (folder / "final.json").write_text("{")
    with pytest.raises(NetworkError, match=r"point-3/final\.json is torn; finalise the network again"):
        read_facts(folder)
    (folder / "final.json").unlink()
    (folder.parent / "latency.json").write_text("[]")
    with pytest.raises(NetworkError, match=r"latency\.json is torn"):
        read_facts(folder)
