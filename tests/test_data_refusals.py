"""What the sources of images refuse, and how they say it."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.data import source_names
from evaluators.data.sources import check_units
from spaces.errors import ConfigError, DataError
from tests.data_files import arrays, leave, load, masked, save


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)


# --- bad files


def change(**new: Any) -> dict[str, np.ndarray]:
    content = arrays()
    for key, value in new.items():
        content[key] = value(content[key]) if callable(value) else value
    return content


def with_nan(images: np.ndarray) -> np.ndarray:
    floats = images.astype(np.float32) / 255
    floats[1, 2, 3] = np.nan
    floats[2, 2, 3] = np.inf
    return floats


BAD_FILES: dict[str, tuple[Any, str]] = {
    "label too high": (
        lambda: change(val_labels=lambda x: x + 1, class_names=np.array(["a", "b"])),
        r"val_labels holds 2; with 2 classes, indices go from 0 to 1",
    ),
    "negative label": (
        lambda: change(train_labels=lambda x: x.astype(int) - 1, class_names=np.array(["a", "b"])),
        r"train_labels holds -1; with 2 classes",
    ),
    "gap in the labels": (
        lambda: change(train_labels=lambda x: x * 5, val_labels=lambda x: x * 5),
        r"hold 0, 5; number the classes 0, 1, 2",
    ),
    "float labels": (
        lambda: change(val_labels=lambda x: x * 1.0),
        r"val_labels holds float64; class indices must be integers",
    ),
    "several labels": (
        lambda: change(val_labels=lambda x: np.hstack([x, x])),
        r"val_labels is 6 x 2; one class per image is needed",
    ),
    "several labels of another number": (
        lambda: change(train_labels=lambda x: np.hstack([x, x]), val_labels=lambda x: np.hstack([x, x, x])),
        r"val_labels is 6 x 3; a 0 or 1 for each of 2 labels is needed",
    ),
    "several labels that are counts": (
        lambda: change(**{f"{s}_labels": lambda x: np.hstack([x, 3 * x]) for s in ("train", "val", "test")}),
        r"train_labels holds 3; .* \(each of several labels is there or not",
    ),
    "numbers that are NaN": (
        lambda: change(
            **{f"{s}_labels": lambda x: np.where(x, np.nan, 0.5) for s in ("train", "val", "test")}
        ),
        r"train_labels holds 6 numbers that are NaN or infinite; leave these cases out",
    ),
    "several numbers": (
        lambda: change(train_labels=lambda x: np.hstack([x, x]) * 0.5),
        r"train_labels is float64 of 12 x 2; one number per image is needed",
    ),
    "unequal lengths": (
        lambda: change(val_labels=lambda x: x[:-1]),
        r"val_images is 6 x 8 x 8 and val_labels 5 x 1: unequal",
    ),
    "empty split": (
        lambda: change(
            val_images=lambda x: x[:0], val_labels=lambda x: x[:0], class_names=np.array(["a", "b"])
        ),
        r"val_images is empty",
    ),
    "NaN": (lambda: change(train_images=with_nan), r"train_images holds 2 values that are NaN or infinite"),
    "absurd floats": (
        lambda: change(train_images=lambda x: x * 1e30),
        r"train_images goes from 0 to \d.*e\+32; intensities must be between -1e6 and 1e6",
    ),
    "absurd integers": (
        lambda: change(train_images=lambda x: x.astype(np.int64) - 2**40),
        r"train_images goes from -1\..*e\+12 to ",
    ),
    "text as images": (
        lambda: change(train_images=lambda x: x.astype(str)),
        r"images must be integers or floats",
    ),
    "one class in train": (
        lambda: change(train_labels=lambda x: x * 0),
        r"train holds class '0' only; at least two classes",
    ),
    "one class in val": (
        lambda: change(val_labels=lambda x: x * 0, class_names=np.array(["a", "b"])),
        r"val holds class 'a' only; at least two classes",
    ),
    "other size in val": (
        lambda: change(val_images=lambda x: x[:, :7]),
        r"val_images are 1 x 7 x 8, train_images 1 x 8 x 8",
    ),
    "flat images": (
        lambda: change(train_images=lambda x: x.reshape(12, 64)),
        r"is 12 x 64; images must be N x H x W",
    ),
    "four channels or a volume": (
        lambda: arrays(tail=(8, 8, 4)),
        r"either 4 channels or volumes; keep 1 or 3 channels, or give the file a name that ends in 3d.npz",
    ),
    "channels first": (lambda: arrays(tail=(1, 8, 8, 8)), r"channels come last, and there may be 1 to 4"),
    "names that repeat": (
        lambda: change() | {"class_names": np.array(["a", "a"])},
        r"class_names is a, a; 2 to 256 different names",
    ),
    "names that are numbers": (
        lambda: change() | {"class_names": np.arange(2)},
        r"a list of strings is needed",
    ),
    "patient in two splits": (
        lambda: (
            change()
            | {
                f"{s}_patient": np.arange(n) + o
                for s, n, o in (("train", 12, 0), ("val", 6, 10), ("test", 6, 99))
            }
        ),
        r"train and val share 2 of patient; every patient belongs in one split only",
    ),
    "patients of one split only": (
        lambda: change() | {"train_patient": np.arange(12)},
        r"has no val_patient; it holds train_images",
    ),
    "patients of too few images": (
        lambda: (
            change() | {f"{s}_case": np.arange(5) + o for s, o in (("train", 0), ("val", 10), ("test", 99))}
        ),
        r"has 12 images, but 5 patients or cases are listed",
    ),
    "all of train in val": (
        lambda: (
            change(train_images=lambda x: x[:6], train_labels=lambda x: x[:6])
            | {"val_images": arrays()["train_images"][:6]}
        ),
        r"all training images are in val or test too",
    ),
    "labels and masks": (
        lambda: change() | {"train_masks": np.zeros((12, 8, 8), np.uint8)},
        r"has both train_labels and train_masks; keep one",
    ),
    "masks of another shape": (
        lambda: masked() | {"train_masks": np.ones((12, 7, 8), np.uint8)},
        r"train_masks is 12 x 7 x 8, images are 8 x 8",
    ),
    "masks of another rank": (
        lambda: masked() | {"train_masks": np.ones((12, 2, 1, 8, 8), np.uint8)},
        r"images must have the shape of their masks",
    ),
    "masks of grey values": (
        lambda: (
            masked()
            | {"train_masks": masked()["train_masks"] * np.uint8(255), "class_names": np.array(["a", "b"])}
        ),
        r"train_masks holds 255; with 2 classes, indices go from 0 to 1, not grey values",
    ),
    "masks of nothing": (
        lambda: masked() | {"train_masks": np.zeros((12, 8, 8), np.uint8)},
        r"train holds class '0' only",
    ),
    "key missing": (
        lambda: {k: v for k, v in arrays().items() if k != "val_images"},
        r"has no val_images; it holds train_images, train_labels, val_labels",
    ),
    "no targets": (
        lambda: {"images": np.zeros((3, 8, 8))},
        r"has neither train_labels nor train_masks \(it holds images\)",
    ),
    "nothing": (dict, r"has neither train_labels nor train_masks \(it holds no arrays\)"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_line(case: str) -> None:
    make, message = BAD_FILES[case]
    source = save(make())
    with pytest.raises(DataError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("npz:own.npz: ")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("code-was-run"),)


@pytest.mark.parametrize(
    "key", ["train_images", "train_labels", "class_names", "train_patient", "test_images"]
)
def test_pickled_code_is_not_run(key: str) -> None:
    content = arrays() | {
        f"{s}_patient": np.arange(n) + o for s, n, o in (("train", 12, 0), ("val", 6, 20), ("test", 6, 30))
    }
    trap = np.empty(12, dtype=object)
    trap[:] = [Evil() for _ in range(12)]
    source = save(content | {key: trap})
    with pytest.raises(DataError, match=f"{key} holds pickled objects, which could run code"):
        load(source).open_test()
    assert not Path("code-was-run").exists()
    with np.load("own.npz", allow_pickle=True) as file:  # the trap is a real one
        file[key]
    assert Path("code-was-run").exists()


def test_files_that_are_no_npz() -> None:
    Path("torn.npz").write_bytes(Path(save(arrays()).removeprefix("npz:")).read_bytes()[:-200])
    Path("pickle.npz").write_bytes(pickle.dumps(Evil()))
    np.save("array.npy", np.zeros(3))
    Path("empty.npz").touch()
    for name in ("torn.npz", "pickle.npz", "array.npy", "empty.npz"):
        with pytest.raises(DataError, match=f"npz:{name}: no readable .npz file, or torn: ") as caught:
            load(f"npz:{name}")
        assert "\n" not in str(caught.value)
    assert not Path("code-was-run").exists()


def test_damaged_inside() -> None:
    """Bytes flipped in the middle of an array: the archive's checksum tells."""
    np.savez("own.npz", **arrays())
    with zipfile.ZipFile("own.npz") as archive:
        start = archive.getinfo("train_images.npy").header_offset
    data = bytearray(Path("own.npz").read_bytes())
    data[start + 400] ^= 0xFF
    Path("own.npz").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"npz:own.npz: no readable .npz file, or torn: Bad CRC"):
        load("npz:own.npz")


def test_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"npz:none\.npz: there is no such file here; \$PARETOPRUNE_DATA is not set"
    ):
        load("npz:none.npz")
    monkeypatch.setenv("PARETOPRUNE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no such file here, nor under \$PARETOPRUNE_DATA"):
        load("npz:none.npz")
    monkeypatch.setenv("PARETOPRUNE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"\$PARETOPRUNE_DATA is '.*nowhere', which is no folder"):
        load("npz:none.npz")


# --- names and options


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (
            "breastmnist",
            {},
            ConfigError,
            "no such kind of source; write one of medmnist:NAME, npz:PATH, folder:FOLDER",
        ),
        ("medmnst:breastmnist", {}, ConfigError, "did you mean 'medmnist'"),
        ("npz:", {}, ConfigError, "write it as npz:PATH"),
        ("medmnist:brestmnist", {}, DataError, "did you mean 'breastmnist'"),
        (
            "medmnist:breastmnist",
            {"size": 29},
            ConfigError,
            r"data.options.size = 29: input should be 28, 64, 128 or 224",
        ),
        ("medmnist:organmnist3d", {"size": 224}, ConfigError, "medmnist:organmnist3d comes in 28, 64"),
        ("npz:own.npz", {"size": 3}, ConfigError, "data.options.size: npz:own.npz has no options"),
        ("phantom:segmentaton", {}, DataError, "did you mean 'segmentation'"),
        (
            "phantom:segmentation",
            {"sise": 3},
            ConfigError,
            "data.options.sise: no such option of .* did you mean 'size'",
        ),
        (
            "phantom:segmentation",
            {"size": 3},
            ConfigError,
            "data.options.size = 3: input should be greater than or equal to 16",
        ),
        (
            "phantom:classification",
            {"classes": "many"},
            ConfigError,
            "data.options.classes = 'many': input should be a valid integer",
        ),
    ],
)
def test_unknown_names_and_options(
    source: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load(source, options)
    assert "\n" not in str(caught.value)


def test_limit_below_the_number_of_classes() -> None:
    with pytest.raises(ConfigError, match=r"data.val_limit = 1: fewer than the 2 classes of npz:own.npz"):
        load(save(arrays()), val_limit=1)


def test_sources_are_listed() -> None:
    assert [name.partition(":")[0] for name in source_names()] == [
        *("medmnist", "npz", "folder", "decathlon", "nnunet", "dicom", "phantom")
    ]


@pytest.mark.parametrize("setting", [{"size": (4, 4)}, {"patch": (4, 4)}, {"patient": "^(a)"}])
def test_settings_that_a_source_does_not_follow_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=f"data.{next(iter(setting))} is for sources of files .* leave it out"
    ):
        load(save(arrays()), **setting)


def test_val_of_one_case_or_patient_is_refused_where_networks_are_compared() -> None:
    patients = {
        "train_patient": np.arange(12),
        "val_patient": np.full(6, 50),
        "test_patient": np.arange(90, 96),
    }
    one = {name: rows[:1] if name.startswith("val") else rows for name, rows in masked().items()}
    for content, whose in ((one, "one case"), (arrays() | patients, "cases of one patient")):
        splits = load(save(content))
        with pytest.raises(DataError, match=f"val holds {whose}; at least two are needed"):
            check_units(splits)
