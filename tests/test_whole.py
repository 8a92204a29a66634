"""Whole volumes: kept as they are, measured by a sliding window at the rung full, priced by their windows."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evaluators.data.packs
from evaluators.data.normalisation import Normalisation
from evaluators.data.volumes import Volumes
from evaluators.metrics import find_metric
from evaluators.rungs.prices import prices
from evaluators.settings import ProxySettings
from evaluators.tasks.segmentation import Segmentation
from evaluators.whole import measure_whole, n_windows
from search.config import parse_config
from search.launch import launch
from search.monitor import Monitor
from search.store.archive import Store
from spaces.errors import ConfigError
from tests.data_files import leave, load, volumes

SHARES = {"shares": (0.5, 0.25, 0.25)}
SIZES = [(7, 9, 8), (12, 6, 11), (4, 5, 20)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)


def some(sizes: list[tuple[int, int, int]] = SIZES) -> Volumes:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 200, (2, *s)).astype(np.uint8), rng.integers(0, 3, s)) for s in sizes]
    return Volumes.of(pairs, np.arange(len(sizes)))


class Voxelwise(nn.Module):
    """Says of each voxel what its own intensities are; counts the patches that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0
        self.register_buffer("weight", torch.tensor([[1.0, 0.01317], [0.51713, 0.60411], [0.03119, 1.10723]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown += len(images)
        logits = torch.einsum("kc,nc...->nk...", self.get_buffer("weight"), images)
        return torch.stack([logits, logits * 0], dim=1)  # two supervision heads


def task() -> Segmentation:
    return Segmentation(find_metric("dice", "segmentation"), 0.0, ("0", "1", "2"), 3)


PLAIN = Normalisation((0.0, 0.0), (1.0, 1.0), mode="none")


def test_volumes_of_several_sizes_come_back_as_they_were() -> None:
    rng = np.random.default_rng(0)
    found = some()
    assert len(found) == 3
    for size, (image, mask) in zip(SIZES, found, strict=True):
        assert np.array_equal(image, rng.integers(0, 200, (2, *size)))
        assert np.array_equal(mask, rng.integers(0, 3, size))
    assert [tuple(size) for size in found.limit(2).sizes] in (
        [SIZES[i] for i in pair] for pair in ((0, 1), (0, 2), (1, 2))
    )
    assert found.limit(5) is found
    assert Volumes.joined([found, found]).sizes.tolist() == [list(size) for size in SIZES * 2]


def test_sealed_volumes_travel_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOPRUNE_KEY", "ab" * 32)
    plain = some()
    sealed = Volumes(plain.values, plain.masks, plain.shapes, plain.groups, sealed=True)
    row = plain.values[:40].tobytes()
    assert row in pickle.dumps(plain, protocol=5)
    assert row not in pickle.dumps(sealed, protocol=5)
    back = pickle.loads(pickle.dumps(sealed, protocol=5))
    assert (back.fingerprint, back.sealed) == (plain.fingerprint, True)
    assert np.array_equal(back.groups, np.arange(3))


@pytest.mark.parametrize("window", [(6, 6, 6), (4, 9, 5), (16, 16, 16), (1, 2, 3)])
def test_a_network_without_context_is_measured_as_if_there_were_no_windows(window: tuple[int, ...]) -> None:
    network, judge, found = Voxelwise(), task(), some()
    values, per_case = measure_whole(network, found, judge, PLAIN, window)
    assert network.shown == n_windows(found, window).sum()
    for index, (image, mask) in enumerate(found):
        outputs = network(torch.from_numpy(image[None].astype(np.float32)))
        at_once = judge.per_case(outputs, torch.from_numpy(mask[None]))
        assert per_case["score"][index] == pytest.approx(at_once["score"][0], abs=1e-6)
        assert per_case["loss"][index] == pytest.approx(at_once["loss"][0], abs=1e-4)
    assert values["dice"] == pytest.approx(per_case["metric"].mean())
    assert {"dice/1", "dice/2", "loss"} <= values.keys()


def test_a_volume_smaller_than_the_window_is_padded_as_patches_are() -> None:
    seen = []

    class Looks(Voxelwise):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return super().forward(images)

    found = Volumes.of([(np.full((2, 3, 4, 5), 7, np.uint8), np.zeros((3, 4, 5)))])
    measure_whole(Looks(), found, task(), PLAIN, (6, 6, 6))
    assert seen[0].shape == (1, 2, 6, 6, 6)
    assert (seen[0] == 7).all()


def test_val_is_patches_and_whole_volumes_of_the_same_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes("task", 9)
    splits = load("decathlon:task", patch=(6, 6, 6), patches=3, **SHARES)
    assert splits.open_whole is not None
    whole = splits.open_whole("val")
    assert len(splits.val) == 3 * len(whole)
    assert len(np.unique(whole.sizes[:, 0])) > 1, "sizes differ"
    assert splits.val.groups is not None
    assert whole.groups is not None
    assert set(splits.val.groups.tolist()) == set(whole.groups.tolist())
    assert len(splits.open_whole("test")) == splits.n_test // 3
    monkeypatch.setattr(evaluators.data.packs, "whole", None)  # files are not read again
    again = load("decathlon:task", patch=(6, 6, 6), patches=3, **SHARES)
    assert again.open_whole is not None
    assert again.open_whole("val").fingerprint == whole.fingerprint
    limited = load("decathlon:task", patch=(6, 6, 6), patches=3, val_limit=1, **SHARES).open_whole
    assert limited is not None
    assert len(limited("val")) == 1
    assert load("decathlon:task", patch=(6, 6, 6), whole=False, **SHARES).open_whole is None
    assert splits.fold(0, 2).open_whole is None
    both = load(("decathlon:task", "decathlon:task"), patch=(6, 6, 6), patches=3, **SHARES)  # type: ignore[arg-type]  # several
    assert both.open_whole is not None
    assert len(both.open_whole("val")) == 2 * len(whole)


def test_a_volume_in_two_splits_is_found_out_by_its_patches() -> None:
    folder = volumes("task", 8)
    table = json.loads((folder / "dataset.json").read_text())
    table["validation"] = [table["training"].pop()]
    for kind in ("image", "label"):  # the first of train is the one of val, under another name
        (folder / table["training"][0][kind]).write_bytes(
            (folder / table["validation"][0][kind]).read_bytes()
        )
    (folder / "dataset.json").write_text(json.dumps(table))
    splits = load("decathlon:task", patch=(6, 6, 6), patches=3)
    assert (len(splits.train), splits.duplicates_removed) == (18, 3)


def test_full_is_priced_by_its_windows() -> None:
    few, many = (prices(ProxySettings(), 10, 8, n) for n in (None, 100))
    assert many["full"] - few["full"] == 92
    assert many["finetune"] == few["finetune"]


def small_unet() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 2, 3, padding=1)
    )


def campaign(**data: Any) -> dict[str, Any]:
    return {
        "name": "whole",
        "network": {"factory": "tests.test_whole:small_unet"},
        "data": {
            "source": "decathlon:task",
            "patch": [6, 6, 6],
            "patches": 2,
            "shares": [0.5, 0.3, 0.2],
            **data,
        },
        "task": {"kind": "segmentation"},
        "recipe": {"epochs": 12, "batch_size": 4},
        "proxy": {"rung": "full", "full_epochs": 1, "batch_size": 4},
        "search": {"controller": "ladder"},
        "budget": {"trials": 4},
    }


def bright(n: int) -> Path:
    """Volumes whose organ can be seen."""
    import nibabel

    folder = volumes("task", n)
    for path in (folder / "labelsTr").iterdir():
        mask = np.asarray(nibabel.load(path).dataobj)
        image = folder / "imagesTr" / path.name
        values = np.asarray(nibabel.load(image).dataobj) // 3 + 600 * mask.astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), image)
    return folder


def test_a_campaign_at_full_measures_volumes_and_says_what_they_cost() -> None:
    bright(14)
    campaign_id = launch(parse_config(campaign()), "sqlite:///whole.db", Monitor())
    with Store("sqlite:///whole.db") as store:
        records, about = store.records(campaign_id), store.campaign(campaign_id).description
    n = about["whole"]["volumes"]
    assert n == len(about["patients"]) == about["data"]["sizes"]["val"] // 2
    assert all(len(record.outcome.per_case["metric"]) == n for record in records if record.complete)
    assert about["whole"]["windows"] > 8
    assert about["whole"]["dense_flops"] == about["whole"]["windows"] * about["dense"]["flops"]
    assert about["chance"] < 0.2


def test_folds_hold_out_patches_and_say_so() -> None:
    bright(14)
    with pytest.raises(ConfigError, match=r"data.folds = 2 holds out patches, but the rung 'full' measures"):
        launch(parse_config(campaign(folds=2)), "sqlite:///whole.db", Monitor())
