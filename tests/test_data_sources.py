"""Phantoms, the MedMNIST sets, and real images."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from evaluators.data import medmnist
from evaluators.data.medmnist_sets import SETS, MedMNISTSet
from spaces.errors import DataError
from tests.data_files import arrays, leave, load


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)


# --- phantoms


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
@pytest.mark.parametrize("dims", [2, 3])
def test_phantoms(kind: str, dims: int) -> None:
    options = {"size": 20, "n_train": 12, "n_val": 6, "n_test": 5, "classes": 3, "spatial_dims": dims}
    splits = load(f"phantom:{kind}", options)
    assert splits.kind == kind
    assert (splits.channels, splits.spatial, splits.n_test) == (1, (20,) * dims, 5)
    assert len(splits.classes) == 3
    assert splits.duplicates_removed == 0
    assert [len(s) for s in (splits.train, splits.val, splits.open_test())] == [12, 6, 5]
    assert splits.train.images.dtype == np.uint8
    assert set(np.unique(splits.train.targets)) == {0, 1, 2}
    if kind == "segmentation":
        assert splits.train.targets.shape == (12, *(20,) * dims)
        assert splits.train.targets.dtype == np.uint8
    else:
        assert splits.train.targets.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_phantoms_are_deterministic_and_do_not_depend_on_their_number(kind: str) -> None:
    small = {"size": 20, "n_train": 10, "n_val": 4, "n_test": 4}
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the point: the global state stays as it was
    one, two = load(f"phantom:{kind}", small), load(f"phantom:{kind}", small)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002 - as above
    assert one.fingerprint == two.fingerprint
    more = load(f"phantom:{kind}", small | {"n_train": 14})
    assert np.array_equal(more.train.images[:10], one.train.images)
    assert np.array_equal(one.open_test().images, two.open_test().images)
    assert load(f"phantom:{kind}", small | {"seed": 1}).fingerprint != one.fingerprint
    assert load(f"phantom:{kind}", small | {"noise": 0.3}).fingerprint != one.fingerprint
    images = np.concatenate([one.train.images, one.val.images, one.open_test().images])
    assert len(np.unique(images, axis=0)) == 18


def test_brightness_does_not_give_the_class_away() -> None:
    """A phantom for pruning must need a network: simple statistics stay far below it (AUC .95 and more)."""
    from sklearn.metrics import roc_auc_score

    train = load("phantom:classification").train
    pixels = train.images.reshape(len(train), -1).astype(float)
    for statistic in (pixels.mean(1), pixels.std(1), pixels.max(1), np.quantile(pixels, 0.95, axis=1)):
        assert abs(roc_auc_score(train.targets, statistic) - 0.5) < 0.25


# --- MedMNIST


def test_table_of_sets() -> None:
    """All of MedMNIST v2, with a checksum for every size: 12 2-D sets of four sizes, 6 3-D sets of two."""
    assert len(SETS) == 18
    sums = [md5 for known in SETS.values() for md5 in known.md5.values()]
    assert len(set(sums)) == len(sums) == 12 * 4 + 6 * 2
    assert all(len(md5) == 32 and int(md5, 16) for md5 in sums)
    assert SETS["adrenalmnist3d"].md5[28].startswith("bbd3c5a5")
    assert SETS["breastmnist"].md5[28].startswith("750601b1")
    assert SETS["dermamnist"].licence == "CC BY-NC 4.0"
    assert [name for name, known in SETS.items() if known.multi_label] == ["chestmnist"]
    assert all(len(set(known.classes)) == len(known.classes) >= 2 for known in SETS.values())


@pytest.fixture
def zenodo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for Zenodo, with one set whose checksum is known."""
    folder = tmp_path / "zenodo"
    folder.mkdir()
    monkeypatch.setattr(medmnist, "ADDRESS", folder.as_uri() + "/{file}")
    np.savez(folder / "breastmnist.npz", **arrays())
    np.savez(folder / "organmnist3d_64.npz", **arrays(tail=(8, 8, 3)))
    for name, size, file in (
        ("breastmnist", 28, "breastmnist.npz"),
        ("organmnist3d", 64, "organmnist3d_64.npz"),
    ):
        md5 = hashlib.md5((folder / file).read_bytes()).hexdigest()
        monkeypatch.setitem(SETS, name, MedMNISTSet({size: md5}, SETS[name].classes))  # type: ignore[arg-type] # a dict
    return folder


def test_download_is_checked_cached_and_silent(
    zenodo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    splits = load("medmnist:breastmnist")
    assert splits.name == "medmnist:breastmnist"
    assert splits.classes == ("malignant", "normal, benign")
    assert splits.licence == "CC BY 4.0"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["breastmnist.npz"]
    (zenodo / "breastmnist.npz").unlink()
    assert load("medmnist:breastmnist").fingerprint == splits.fingerprint
    assert capfd.readouterr().out == ""


def test_larger_sizes_and_volumes(zenodo: Path) -> None:
    splits = load("medmnist:organmnist3d", {"size": 64})
    assert splits.name == "medmnist:organmnist3d at 64 pixels"
    assert splits.train.images.shape == (12, 1, 8, 8, 3)


def test_download_of_another_file_is_refused(
    zenodo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(zenodo / "breastmnist.npz", **arrays((14, 6, 6)))
    with pytest.raises(
        DataError,
        match=r"not the official file .its MD5 differs.; try again, or download file:.*set PARETOPRUNE_DATA",
    ):
        load("medmnist:breastmnist")
    assert list((tmp_path / "cache").iterdir()) == []
    assert capfd.readouterr().out == ""


def test_download_that_fails(zenodo: Path, tmp_path: Path) -> None:
    (zenodo / "breastmnist.npz").unlink()
    with pytest.raises(
        DataError, match=r"medmnist:breastmnist: cannot be downloaded .*set PARETOPRUNE_DATA"
    ) as caught:
        load("medmnist:breastmnist")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []
    Path(tmp_path / "cache").rmdir()
    Path(tmp_path / "cache").touch()  # a file where the cache should be
    with pytest.raises(DataError, match="cannot be downloaded"):
        load("medmnist:breastmnist")


def test_own_file_comes_before_the_cache(
    zenodo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    np.savez(own / "breastmnist.npz", **arrays((20, 6, 6)))
    monkeypatch.setenv("PARETOPRUNE_DATA", str(own))
    assert len(load("medmnist:breastmnist").train) == 20
    assert not (tmp_path / "cache").exists()


def test_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from evaluators.data.places import cache_dir

    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("PARETOPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "paretoprune"


# --- real images


@pytest.mark.data
@pytest.mark.parametrize(
    ("source", "sizes", "shape", "counts", "removed"),
    [
        ("medmnist:breastmnist", (545, 78, 156), (1, 28, 28), [146, 399], 1),
        ("medmnist:pneumoniamnist", (4698, 524, 624), (1, 28, 28), [1214, 3484], 10),
        ("medmnist:adrenalmnist3d", (1188, 98, 298), (1, 28, 28, 28), [929, 259], 0),
        ("npz:crchisto_nuclei.npz", (1170, 154, 356), (3, 64, 64), [286, 288, 295, 301], 0),
        ("npz:dsb2018_nuclei.npz", (461, 68, 135), (3, 128, 128), [6520202, 1032822], 0),
    ],
)
def test_real_images(
    source: str,
    sizes: tuple[int, ...],
    shape: tuple[int, ...],
    counts: list[int],
    removed: int,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARETOPRUNE_DATA", str(data_dir))
    splits = load(source)
    described = splits.describe()
    assert tuple(described["sizes"].values()) == sizes
    assert (splits.channels, *splits.spatial) == shape
    assert described["class_counts"]["train"] == counts
    assert described["duplicates_removed"] == removed
    test = splits.open_test()
    assert test.images.shape == (sizes[2], *shape)
    assert test.images.dtype == np.uint8
    assert str(data_dir) not in json.dumps(described)


@pytest.mark.data
def test_removed_duplicates_are_those_of_the_data_sheet(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 images of pneumoniamnist are in train and val; two of them are in train twice."""
    monkeypatch.setenv("PARETOPRUNE_DATA", str(data_dir))
    with np.load(data_dir / "pneumoniamnist.npz") as file:
        train, val = ([image.tobytes() for image in file[f"{split}_images"]] for split in ("train", "val"))
    assert len(set(train) & set(val)) == 8
    kept = {image.tobytes() for image in load("medmnist:pneumoniamnist").train.images}
    assert not kept & set(val)
    assert kept == set(train) - set(val)
