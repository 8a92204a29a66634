"""Class folders, Decathlon, nnU-Net and DICOM: what is read, how it is divided, what is refused."""

import csv
import gzip
import json
import logging
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from evaluators.data.listing import find_folder
from evaluators.data.preparing import Volume, patches
from evaluators.data.reading import read_scan
from spaces.errors import ConfigError, DataError
from tests.data_files import arrays, leave, load, save, volumes

SHARES = {"shares": (0.5, 0.25, 0.25)}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)


def pictures(n: int = 12, size: tuple[int, int] = (9, 7), ending: str = "png", root: str = "set") -> str:
    """Two class folders of random grey pictures, two a patient."""
    rng = np.random.default_rng(0)
    for label in ("sick", "well"):
        Path(root, label).mkdir(parents=True)
        for index in range(n):
            image = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
            image.save(Path(root, label, f"{label}{index // 2}_{index}.{ending}"))
    return f"folder:{root}"


# --- class folders


def test_class_folders_are_divided_by_patient() -> None:
    splits = load(pictures(), patient=r"^([a-z]+\d+)_", **SHARES)
    assert splits.name == "folder:set"
    assert splits.classes == ("sick", "well")
    assert (splits.channels, splits.spatial) == (1, (9, 7))
    test = splits.open_test()
    assert len(splits.train) + len(splits.val) + len(test) == 24
    groups = [
        set(part.groups.tolist()) for part in (splits.train, splits.val, test) if part.groups is not None
    ]
    assert len(groups) == 3
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12
    assert splits.train.class_counts(2).tolist() == [6, 6]
    again = load("folder:set", patient=r"^([a-z]+\d+)_", **SHARES)
    assert again.fingerprint == splits.fingerprint
    assert load("folder:set", split_seed=1, **SHARES).fingerprint != splits.fingerprint


def test_folders_of_splits_are_taken_as_they_are() -> None:
    for split, n in (("train", 6), ("val", 3)):
        pictures(n, root=f"own/{split}")
        for file in Path(f"own/{split}").rglob("*.png"):  # no picture twice
            Image.fromarray(np.asarray(Image.open(file)) ^ np.uint8(n)).save(file)
    splits = load("folder:own")
    assert (len(splits.train), len(splits.val), splits.n_test) == (12, 6, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_modes_of_pictures(mode: str) -> None:
    picture = Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000)
    if mode != "I;16":
        picture = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) * 12).convert(mode)
    picture.save("x.tif" if mode == "CMYK" else "x.png")
    values = read_scan(Path("x.tif" if mode == "CMYK" else "x.png"), "x").values
    assert values.shape == (3 if mode in ("P", "RGB", "RGBA", "CMYK") else 1, 4, 5)
    if mode == "I;16":
        assert values.max() == 57000


def test_pictures_of_several_sizes_need_a_size() -> None:
    source = pictures(6)
    Image.fromarray(np.zeros((5, 4), np.uint8)).save("set/sick/odd.png")
    with pytest.raises(DataError, match=r"holds images of .* set data.size"):
        load(source, **SHARES).open_test()
    assert load(source, size=(8, 8), **SHARES).spatial == (8, 8)
    with pytest.raises(ConfigError, match=r"data.size = \[8, 8, 8\]: .* has 2 spatial axes"):
        load(source, size=(8, 8, 8), **SHARES)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n torn", b"no picture at all"])
def test_damaged_picture_is_one_line_without_its_name(content: bytes) -> None:
    source = pictures(4)
    Path("set/sick/smith_john.png").write_bytes(content)
    with pytest.raises(DataError, match=r"folder:set: image \d+ of \w+: damaged") as caught:
        load(source, **SHARES).open_test()
    assert "smith" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_patient_in_two_folders_of_splits_is_refused() -> None:
    pictures(4, root="own/train")
    pictures(4, root="own/val")
    with pytest.raises(DataError, match="train and val share 4 patients"):
        load("folder:own", patient=r"^([a-z]+\d+)_")


# --- volumes


def test_decathlon_gives_patches_half_of_them_on_foreground() -> None:
    volumes("task")
    splits = load("decathlon:task", patch=(6, 6, 6), patches=4, **SHARES)
    assert splits.kind == "segmentation"
    assert splits.classes == ("background", "organ")
    assert splits.licence == "CC0"
    assert (splits.channels, splits.spatial) == (1, (6, 6, 6))
    assert len(splits.train) == 16
    assert splits.train.groups is not None
    assert len(set(splits.train.groups.tolist())) == 4
    assert all(splits.train.targets[[0, 1, 4, 5]].reshape(4, -1).any(axis=1))
    assert load("decathlon:task", patch=(6, 6, 6), **SHARES).fingerprint == splits.fingerprint
    assert len(splits.open_test()) == splits.n_test == 8


def test_anisotropic_volumes_are_resampled() -> None:
    volumes("task", spacing=(1, 1, 2))
    fine = load("decathlon:task", patch=(6, 6, 16), spacing=(1, 1, 1), patches=1, **SHARES)
    coarse = load("decathlon:task", patch=(6, 6, 9), patches=1, **SHARES)
    assert fine.train.images.shape[2:] == (6, 6, 16)
    voxels = [int(np.count_nonzero(part.train.targets)) for part in (fine, coarse)]
    assert 1.5 < voxels[0] / voxels[1] < 2.5


def test_case_normalisation_is_by_volume_and_small() -> None:
    volumes("task")
    splits = load("decathlon:task", patch=(11, 12, 9), patches=1, normalise="case", **SHARES)
    assert splits.train.images.dtype == np.float16
    seen = splits.normalisation.apply(splits.train).images[:]
    assert abs(float(seen.mean())) < 0.05
    assert abs(float(seen.std()) - 1) < 0.05


def test_nnunet_raw_folder_of_two_modalities_with_regions() -> None:
    source = volumes("task")
    raw = Path("Dataset001_Own")
    (raw / "imagesTr").mkdir(parents=True)
    shutil.copytree(source / "labelsTr", raw / "labelsTr")
    for file in (source / "imagesTr").iterdir():
        for channel in range(2):
            shutil.copy(file, raw / "imagesTr" / file.name.replace(".nii", f"_000{channel}.nii"))
    table = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(table))
    splits = load("nnunet:Dataset001_Own", patch=(6, 6, 6), **SHARES)
    assert splits.channels == 2
    assert splits.regions == {"whole": (1, 2), "core": (2,)}
    assert len(splits.classes) == 3
    next(iter((raw / "imagesTr").glob("*_0001*"))).unlink()
    with pytest.raises(DataError, match=r"nnunet:Dataset001_Own: image \d of \w+: the file is not there"):
        load("nnunet:Dataset001_Own", patch=(6, 6, 6), **SHARES).open_test()


def test_patches_of_a_small_volume_are_padded() -> None:
    volume = Volume(np.ones((1, 3, 4, 5), np.int16), np.ones((3, 4, 5), np.uint8))
    [(image, mask)] = patches(volume, (6, 6, 6), 1, [0])
    assert image.shape == (1, 6, 6, 6)
    assert mask.sum() == 60


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:60]), "damaged"),
        (lambda f: f.write_bytes(b"\x1f\x8b" + bytes(40)), "damaged"),
        (lambda f: f.write_bytes(b""), "damaged"),
        (lambda f: nibabel.save(nibabel.Nifti1Image(np.full((11, 12, 9), np.nan), np.eye(4)), f), "NaN"),
        (lambda f: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), f), "differ in size"),
    ],
)
def test_damaged_nifti(damage: Any, message: str) -> None:
    folder = volumes("task", 6)
    damage(folder / "imagesTr" / "c1.nii.gz")
    with pytest.raises(DataError, match=message) as caught:
        load("decathlon:task", patch=(6, 6, 6), **SHARES).open_test()
    assert "c1" not in str(caught.value)


def test_lists_that_lead_out_of_the_folder_are_refused() -> None:
    folder = volumes("task", 6)
    table = json.loads((folder / "dataset.json").read_text())
    table["training"][0]["image"] = "../../etc/passwd"
    (folder / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="lists a file outside its folder"):
        load("decathlon:task", patch=(6, 6, 6))
    with pytest.raises(DataError, match="decathlon:nowhere: there is no such folder"):
        find_folder("nowhere", "decathlon")


def test_pictures_and_volumes_that_claim_to_be_enormous_are_refused() -> None:
    source = pictures(4)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    Path("set/sick/huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(DataError, match=r"folder:set: image \d+ of \w+: (claims|damaged)"):
        load(source, **SHARES).open_test()
    folder = volumes("task", 6)
    image = folder / "imagesTr" / "c1.nii.gz"
    huge = nibabel.Nifti1Header()
    huge.set_data_shape((30_000, 30_000, 30_000))
    huge.set_data_dtype(np.int16)
    image.write_bytes(gzip.compress(huge.binaryblock + bytes(100)))
    with pytest.raises(DataError, match=r"is 30000 x 30000 x 30000; 3 axes are needed|damaged"):
        load("decathlon:task", patch=(6, 6, 6), **SHARES).open_test()


# --- joined sources


def test_joined_sources_do_not_share_patients_across_splits() -> None:
    one, two = arrays(), {key: value ^ 1 if "images" in key else value for key, value in arrays().items()}
    for content, names in ((one, ("a", "b", "c")), (two, ("d", "a", "e"))):
        for split, n, name in zip(("train", "val", "test"), (12, 6, 6), names, strict=True):
            content[f"{split}_patient"] = np.array([name] * n)
    two["train_patient"][:4] = "f"
    splits = load((save(one, "one.npz"), save(two, "two.npz")))  # type: ignore[arg-type]  # several
    assert splits.name == "npz:one.npz + npz:two.npz"
    assert (len(splits.train), len(splits.val), splits.n_test) == (12, 12, 12)  # patient a is in val of two
    assert splits.duplicates_removed == 12
    save(arrays(tail=(5, 5)), "small.npz")
    with pytest.raises(DataError, match=r"cannot be joined: spatial \(8, 8\) and \(5, 5\)"):
        load(("npz:one.npz", "npz:small.npz"))  # type: ignore[arg-type]  # several


# --- DICOM


@pytest.mark.data
def test_dicom_folder_keeps_patients_and_tags_to_itself(
    data_dir: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    Path("clinic").mkdir()
    rows = []
    for index, file in enumerate(sorted((data_dir / "dicom" / "mr_T1post_PGBM-003").iterdir())[:12]):
        shutil.copy(file, f"clinic/{index}.dcm")
        rows.append({"file": f"{index}.dcm", "label": "ab"[index % 2], "patient": f"Dumbledore{index // 2}"})
    with open("clinic/labels.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["file", "label", "patient"])
        writer.writeheader()
        writer.writerows(rows)
    splits = load("dicom:clinic", size=(32, 32), **SHARES)
    assert splits.classes == ("a", "b")
    assert splits.spatial == (32, 32)
    shown = json.dumps(splits.describe()) + repr(splits) + caplog.text + "".join(capfd.readouterr())
    for secret in ("Dumbledore", "Albus", "PGBM", "1.3.6.1"):
        assert secret not in shown
    Path("clinic/0.dcm").write_bytes(Path("clinic/0.dcm").read_bytes()[:3000])
    with pytest.raises(DataError, match="damaged") as caught:
        load("dicom:clinic", size=(32, 32), **SHARES).open_test()
    assert "Dumbledore" not in str(caught.value)
    with pytest.raises(DataError, match=r"no column 'labl' \(data.options.label\); did you mean 'label'"):
        load("dicom:clinic", {"label": "labl"})


def test_dicom_files_of_a_patient_stay_together_without_a_column_that_says_so() -> None:
    from pydicom import Dataset, FileMetaDataset, dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    Path("clinic").mkdir()
    rng, rows = np.random.default_rng(0), ["file,label"]
    for index in range(24):
        slice_ = Dataset()
        slice_.PatientID, slice_.SOPInstanceUID = f"Dumbledore{index // 4}", generate_uid()
        slice_.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        slice_.Rows = slice_.Columns = 8
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.PixelData = rng.integers(0, 4000, (8, 8), dtype=np.uint16).tobytes()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dcmwrite(f"clinic/{index}.dcm", slice_, enforce_file_format=True)
        rows.append(f"{index}.dcm,{'ab'[index % 2]}")
    Path("clinic/labels.csv").write_text("\n".join(rows))
    splits = load("dicom:clinic", shares=(0.5, 0.25, 0.25))
    assert splits.duplicates_removed == 0, "nobody had to be taken out afterwards"
    parts = [splits.train, splits.val, splits.open_test()]
    owners = [set(part.groups.tolist()) for part in parts if part.groups is not None]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 6
    assert sum(map(len, parts)) == 24


@pytest.mark.data
def test_dicom_series_is_a_volume_in_millimetres(data_dir: Path) -> None:
    scan = read_scan(data_dir / "dicom" / "mr_T1post_PGBM-003", "series")
    assert scan.values.shape == (1, 280, 320, 22)
    assert scan.affine is not None
    edges = np.linalg.norm(scan.affine[:3, :3], axis=0)
    assert edges[:2] == pytest.approx([0.6875, 0.6875], abs=1e-4)
    assert edges[2] >= 5
    for file in sorted((data_dir / "dicom" / "pydicom").glob("*.dcm")):
        one = read_scan(file, "file")
        assert one.values.ndim == 3
        assert one.values.shape[0] in (1, 3)


@pytest.mark.data
def test_real_decathlon(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOPRUNE_DATA", str(data_dir))
    splits = load("decathlon:decathlon_hippocampus", patch=(32, 32, 32), patches=2, normalise="case")
    assert splits.describe()["sizes"] == {"train": 80, "val": 16, "test": 24}
    assert splits.classes == ("background", "Anterior", "Posterior")
