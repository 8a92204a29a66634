"""Images from files, and what is done to all images alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.dividing import divide
from evaluators.data.splits import Subset
from spaces.errors import ConfigError, DataError
from tests.data_files import arrays, leave, load, masked, save


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)


# --- the npz layout


def test_grey_images_come_channel_first_as_they_are() -> None:
    content = arrays()
    splits = load(save(content))
    assert splits.name == "npz:own.npz"
    assert splits.kind == "classification"
    assert (splits.channels, splits.spatial, splits.n_test) == (1, (8, 8), 6)
    assert splits.classes == ("0", "1")
    for subset, name in ((splits.train, "train"), (splits.val, "val"), (splits.open_test(), "test")):
        assert subset.images.dtype == np.uint8
        assert subset.targets.dtype == np.int64
        assert np.array_equal(subset.images[:, 0], content[f"{name}_images"])
        assert np.array_equal(subset.targets, content[f"{name}_labels"][:, 0])
        assert subset.groups is None


@pytest.mark.parametrize(
    ("tail", "name", "shape"),
    [
        ((8, 8), "own.npz", (1, 8, 8)),
        ((8, 8, 1), "own.npz", (1, 8, 8)),
        ((8, 8, 3), "own.npz", (3, 8, 8)),
        ((8, 8, 3), "shapes3d.npz", (1, 8, 8, 3)),
        ((5, 8, 6), "own.npz", (1, 5, 8, 6)),
        ((5, 8, 6, 2), "own.npz", (2, 5, 8, 6)),
    ],
)
def test_layouts_of_images(tail: tuple[int, ...], name: str, shape: tuple[int, ...]) -> None:
    content = arrays(tail=tail)
    images = load(save(content, name)).train.images
    assert images.shape[1:] == shape
    first = content["train_images"][0]
    assert np.array_equal(
        images[0], np.moveaxis(first, -1, 0) if shape[0] == tail[-1] else first.reshape(shape)
    )


@pytest.mark.parametrize(
    ("tail", "colours", "shape"),
    [
        ((8, 8), (), (1, 8, 8)),
        ((8, 8), (4,), (4, 8, 8)),
        ((8, 8, 3), (), (1, 8, 8, 3)),
        ((6, 8, 8), (2,), (2, 6, 8, 8)),
    ],
)
def test_masks_tell_channels_from_depth(tail: tuple, colours: tuple, shape: tuple) -> None:
    splits = load(save(masked(tail, colours)))
    assert splits.kind == "segmentation"
    assert splits.train.images.shape[1:] == shape
    assert splits.train.targets.dtype == np.uint8
    assert splits.open_test().targets.shape == (6, *tail)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "expected"),
    [
        (np.float64, 1 / 255, 0, np.float32),
        (np.float16, 1 / 255, 0, np.float32),
        (np.float32, 16, -1000, np.float32),  # Hounsfield units
        (np.int16, 16, -1000, np.float32),
        (np.uint16, 256, 0, np.float32),
        (np.int32, 1, 0, np.uint8),
    ],
)
def test_pixel_types(dtype: Any, scale: float, offset: int, expected: Any) -> None:
    content = arrays()
    for split in ("train", "val", "test"):
        content[f"{split}_images"] = (content[f"{split}_images"] * float(scale) + offset).astype(dtype)
    images = load(save(content)).train.images
    assert images.dtype == expected
    assert np.array_equal(images[:, 0], content["train_images"].astype(np.float32))


def test_binary_images_become_black_and_white() -> None:
    content = arrays()
    shapes = content | {f"{s}_images": content[f"{s}_images"] > 127 for s in ("train", "val", "test")}
    assert set(np.unique(load(save(shapes)).train.images)) == {0, 255}


def test_class_names_of_the_file() -> None:
    content = arrays() | {"class_names": np.array(["sick", "well", "unseen"])}
    splits = load(save(content))
    assert splits.classes == ("sick", "well", "unseen")
    assert splits.describe()["class_counts"] == {"train": [6, 6, 0], "val": [3, 3, 0]}


def test_patients_become_anonymous_indices() -> None:
    content = arrays()
    content["train_patient"] = np.array(["Zoe"] * 4 + ["Adam"] * 4 + ["Mia"] * 4)
    content["val_patient"] = np.array(["Ben"] * 3 + ["Cleo"] * 3)
    content["test_patient"] = np.array(["Ann"] * 6)
    splits = load(save(content))
    assert splits.train.groups is not None
    assert splits.val.groups is not None
    assert splits.train.groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.val.groups.tolist() == [3] * 3 + [4] * 3
    assert splits.open_test().groups.tolist() == [5] * 6
    text = json.dumps(splits.describe()) + repr(splits)
    assert not any(name in text for name in ("Zoe", "Adam", "Mia", "Ben", "Cleo", "Ann"))
    assert splits.describe()["groups"] == {"train": 3, "val": 2}


def test_relative_to_the_folder_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    np.savez(folder / "far.npz", **arrays())
    monkeypatch.setenv("PARETOPRUNE_DATA", str(folder))
    assert load("npz:far.npz").name == "npz:far.npz"
    assert load(f"npz:{folder / 'far.npz'}").name == "npz:far.npz"


# --- what is done to all sources


def test_duplicates_across_splits_leave_train() -> None:
    content = arrays()
    content["train_images"][3] = content["val_images"][0]
    content["train_images"][7] = content["val_images"][0]
    content["train_images"][5] = content["train_images"][6]
    content["train_patient"] = np.arange(12)
    content["val_patient"] = np.arange(100, 106)
    content["test_patient"] = np.arange(200, 206)
    splits = load(save(content))
    kept = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert np.array_equal(splits.train.images[:, 0], content["train_images"][kept])
    assert np.array_equal(splits.train.targets, content["train_labels"][kept, 0])
    assert splits.train.groups is not None
    assert splits.train.groups.tolist() == kept
    assert len(splits.val) == 6
    assert splits.describe()["duplicates_removed"] == 2


def test_limits_are_stratified_and_deterministic() -> None:
    content = arrays((300, 100, 5), (4, 4))
    content["train_labels"] = (np.arange(300) % 10 == 0).astype(np.uint8)
    content["val_labels"] = (np.arange(100) % 4 == 0).astype(np.uint8)
    source = save(content)
    one, two = (load(source, train_limit=50, val_limit=20) for _ in range(2))
    assert one.train.class_counts(2).tolist() == [45, 5]
    assert one.val.class_counts(2).tolist() == [15, 5]
    assert one.fingerprint == two.fingerprint != load(source).fingerprint
    assert load(source, train_limit=1000).fingerprint == load(source).fingerprint


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    n=st.integers(1, 120),
    seed=st.integers(0, 2**32),
)
def test_limit_gives_every_class_its_share(sizes: list[int], n: int, seed: int) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    whole = Subset(np.arange(len(targets))[:, None, None], targets)
    part = whole.limit(n, seed)
    assert len(part) == min(n, len(whole))
    indices = part.images.ravel()
    assert np.all(np.diff(indices) > 0)  # no case twice, order kept
    assert np.array_equal(part.targets, targets[indices])
    if n >= len(sizes):
        share = np.array(sizes) * min(1.0, n / len(whole))
        counts = part.class_counts(len(sizes))
        assert np.all(counts >= 1)
        assert np.all(counts < share + 1)


def test_limit_of_masks_covers_small_and_large_ones() -> None:
    masks = np.zeros((40, 10, 10), dtype=np.uint8)
    for index in range(40):
        masks[index].ravel()[: (index * 7) % 40] = 1
    part = Subset(np.zeros((40, 1, 10, 10), np.uint8), masks).limit(8)
    areas = np.sort(part.targets.reshape(8, -1).sum(1))
    assert [int(np.sum((areas >= low) & (areas < low + 10))) for low in (0, 10, 20, 30)] == [2, 2, 2, 2]


def test_fingerprint_knows_pixels_targets_and_names_but_not_test() -> None:
    content = arrays()
    names = {"class_names": np.array(["a", "b"])}
    base = load(save(content)).fingerprint
    assert len(base) == 64
    assert load(save(content, "renamed.npz")).fingerprint == base
    assert load(save(content | {"test_images": content["test_images"] + 1})).fingerprint == base
    changes: list[dict[str, np.ndarray]] = [names]
    for key in ("train_images", "val_images", "train_labels", "val_labels"):
        changed = content[key].copy()
        changed.flat[0] = 1 - changed.flat[0] if key.endswith("labels") else changed.flat[0] ^ 1
        changes.append({key: changed})
    prints = [load(save(content | change)).fingerprint for change in changes]
    assert len({base, *prints}) == 6


def test_test_images_are_read_only_when_opened() -> None:
    content = arrays()
    content["test_images"] = content["test_images"].astype(np.float32)
    content["test_images"][0] = np.nan
    splits = load(save(content))
    assert splits.n_test == 6
    with pytest.raises(DataError, match="test_images holds 64 values that are NaN"):
        splits.open_test()
    without = {key: value for key, value in content.items() if not key.startswith("test")}
    splits = load(save(without))
    assert splits.n_test == 0
    with pytest.raises(DataError, match="has no test_images; it holds train_images, train_labels"):
        splits.open_test()


def test_description_is_json_without_paths(tmp_path: Path) -> None:
    splits = load(f"npz:{tmp_path / 'own.npz'}" if save(arrays()) else "")
    text = json.dumps(splits.describe())
    assert str(tmp_path) not in text
    assert tmp_path.name not in text
    assert splits.describe()["sizes"] == {"train": 12, "val": 6, "test": 6}


# --- folds and preprocessing


def test_folds_keep_patients_together_and_classes_even() -> None:
    content = arrays((40, 20, 5), (4, 4))
    content["train_patient"], content["val_patient"] = np.arange(40) // 4, 50 + np.arange(20) // 4
    content["test_patient"] = np.arange(100, 105)
    splits = load(save(content))
    folds = [splits.fold(k, 3) for k in range(3)]
    seen = np.concatenate([fold.val.images for fold in folds])
    whole = np.concatenate([splits.train.images, splits.val.images])
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in whole)
    for fold in folds:
        assert fold.train.groups is not None
        assert fold.val.groups is not None
        assert not set(fold.train.groups) & set(fold.val.groups)
        assert len(fold.train) + len(fold.val) == 60
        assert 16 <= len(fold.val) <= 24
        assert abs(int(np.diff(fold.val.class_counts(2))[0])) <= 2
    assert splits.fold(1, 3).fingerprint == folds[1].fingerprint != folds[0].fingerprint
    with pytest.raises(ConfigError, match="has 15 patients; use 2 to 15 folds"):
        splits.fold(0, 16)


def test_a_fold_does_not_train_on_copies_of_its_val() -> None:
    content = arrays((12, 6, 6))
    content["train_images"][1] = content["train_images"][0]
    splits = load(save(content))
    sizes = [(len(fold.train), len(fold.val)) for fold in (splits.fold(k, 18) for k in range(18))]
    assert sizes.count((16, 1)) == 2
    assert sizes.count((17, 1)) == 16


@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=30),
    shares=st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.5), (0.34, 0.33, 0.33)]),
    seed=st.integers(0, 99),
)
def test_division_respects_patients_and_shares(sizes: list[int], shares: tuple, seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    strata = np.arange(len(groups)) % 2
    part = divide(strata, groups, shares, seed)
    assert all(len(set(part[groups == patient])) == 1 for patient in range(len(sizes)))
    assert set(part) == set(range(len(shares)))
    assert np.array_equal(part, divide(strata, groups, shares, seed))


def test_duplicates_are_found_across_number_formats_and_in_test() -> None:
    content = arrays()
    content["val_images"] = content["val_images"].astype(np.float32) + 0.5
    content["val_images"][0] = content["train_images"][3]  # val as a whole is float32, train uint8
    content["train_images"][5] = content["test_images"][2]
    assert load(save(content)).duplicates_removed == 2


@pytest.mark.parametrize(
    ("mode", "low", "high"), [("unit", 0.0, 1.0), ("symmetric", -1.0, 1.0), ("none", 0.0, 255.0)]
)
def test_normalisation_of_bytes_is_what_the_mode_says(mode: str, low: float, high: float) -> None:
    content = arrays()
    content["train_images"][0, 0, :2] = 0, 255
    splits = load(save(content), normalise=mode)
    seen = splits.normalisation.apply(splits.train).images
    assert (float(seen[0].min()), float(seen[0].max())) == (low, high)
    assert seen.packed.dtype == torch.uint8
    assert splits.describe()["normalisation"]["mode"] == mode
    assert splits.fingerprint != load(save(content)).fingerprint


def test_percentiles_clip_what_is_far_out() -> None:
    content = arrays()
    content["train_images"] = content["train_images"].astype(np.float32)
    content["train_images"][0, 0, 0] = 900_000
    splits = load(save(content), normalise="percentile")
    assert splits.normalisation.high is not None
    assert splits.normalisation.high[0] < 300
    assert float(splits.normalisation.apply(splits.train).images[:].max()) < 3
    assert float(splits.normalisation.apply(splits.val).images[:].mean().abs()) < 0.3
