"""Features of a saved network as a table: the network's own, in order, and nobody is in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import paretoprune as pp
from evaluators.data.sources import load_splits
from evaluators.deploy.description import describe_network
from evaluators.networks import build_network
from evaluators.settings import DataSettings, NetworkSettings, TaskSettings
from evaluators.tasks.factory import make_task
from spaces.errors import ConfigError, DataError, NetworkError
from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracing import trace

FACTORY = "tests.tiny:cnn"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    """Images with patients that have names."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n in (("train", 12), ("val", 8), ("test", 6)):
        arrays[f"{split}_images"] = random.integers(0, 256, (n, 16, 16), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n)[:, None] % 2
        arrays[f"{split}_patient"] = np.array([f"{split}-{i // 2}" for i in range(n)])
    path = tmp_path_factory.mktemp("data") / "named.npz"
    np.savez(path, **arrays)
    return DataSettings(source=f"npz:{path}")


@pytest.fixture(scope="module")
def saved(source: DataSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = NetworkSettings(factory=FACTORY, arguments={"width": 8})
    splits = load_splits(source)
    task = make_task(TaskSettings(), splits)
    network, _ = build_network(settings)
    space = trace(network.eval(), torch.zeros(1, 1, 16, 16), round_to=1)
    genome = space.uniform(0.5)
    small = prune(network, space, genome, rank_channels(network, space))
    about = describe_network(settings, source, splits, task, space, genome)
    return pp.save(tmp_path_factory.mktemp("saved") / "small", small, about)


def test_features_are_the_network_s_own(saved: Path, source: DataSettings, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = pp.embed(
        saved,
        source,
        tmp_path / "f.parquet",
        factory=FACTORY,
        progress=lambda done, total, _="": told.append((done, total)),
    )
    assert told == [(12, 20), (20, 20)]
    frame = pd.read_parquet(out)
    network, splits = pp.load(saved, factory=FACTORY), load_splits(source)
    body = nn.Sequential(*list(network)[:-1])
    width = network[-1].in_features
    names = [f"feature_{i}" for i in range(width)]
    assert list(frame.columns) == ["split", "case", "patient", *names]
    for split, subset in (("train", splits.train), ("val", splits.val)):
        rows = frame[frame["split"] == split]
        with torch.no_grad():
            expected = body(splits.normalisation.apply(subset).images[:])
        assert rows["case"].tolist() == list(range(len(subset)))
        assert np.allclose(rows[names], expected, atol=1e-6)
    assert frame[frame["split"] == "train"]["patient"].nunique() == 6
    assert set(frame["patient"].str.len()) == {16}
    content = (tmp_path / "f.parquet").read_bytes()
    assert b"train-1" not in content
    assert b"npz" not in content


def test_the_command_test_split_and_layers(saved: Path, source: DataSettings, tmp_path: Path) -> None:
    from search.cli import main

    words = ["embed", str(saved), str(source.source), "--test", "--layer", "0", "--factory", FACTORY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["paretoprune", *words, "--out", str(tmp_path / "f.parquet"), "--quiet"])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    frame = pd.read_parquet(tmp_path / "f.parquet")
    assert set(frame["split"]) == {"test"}
    assert len(frame.columns) == 3 + pp.load(saved, factory=FACTORY)[0].out_channels


def test_what_cannot_be_embedded(saved: Path, source: DataSettings, tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    with pytest.raises(ConfigError, match=r"--layer '9.x': no such module"):
        pp.embed(saved, source, out, layer="9.x", factory=FACTORY)
    with pytest.raises(NetworkError, match="if you trust that code"):
        pp.embed(saved, source, out)
    discs = DataSettings(source="phantom:segmentation", options={"n_train": 4, "n_val": 4})
    for channels, error, message in (
        (3, DataError, "has 1 channels; the network takes 3"),
        (1, ConfigError, "no linear layer whose input its features would be; name a layer with --layer"),
    ):
        arguments = {"spatial_dims": 2, "in_channels": channels, "out_channels": 2}
        arguments |= {"channels": [4, 8], "strides": [2]}
        settings = NetworkSettings(factory="monai.networks.nets:UNet", arguments=arguments)
        about = pp.NetworkDescription(
            factory=settings.factory, arguments=arguments, input_shape=(channels, 16, 16)
        )
        folder = pp.save(tmp_path / str(channels), build_network(settings)[0], about)
        with pytest.raises(error, match=message):
            pp.embed(folder, discs, out)
    assert not out.exists()
