"""Small files in the layouts that sources read, for the tests of the data package."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from evaluators.data import load_splits
from evaluators.data.splits import Splits
from evaluators.settings import DataSettings


def leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, without the user's data and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARETOPRUNE_DATA", raising=False)
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "cache"))


def load(source: str, options: dict[str, Any] | None = None, **settings: Any) -> Splits:
    return load_splits(DataSettings(source=source, options=options or {}, **settings))


def arrays(n: tuple[int, int, int] = (12, 6, 6), tail: tuple[int, ...] = (8, 8)) -> dict[str, np.ndarray]:
    """A valid file's content: no two images alike, labels 0 and 1 in turn."""
    rng = np.random.default_rng(0)
    content = {}
    for split, size in zip(("train", "val", "test"), n, strict=True):
        content[f"{split}_images"] = rng.integers(0, 256, (size, *tail), dtype=np.uint8)
        content[f"{split}_labels"] = (np.arange(size) % 2).astype(np.uint8)[:, None]
    return content


def masked(tail: tuple[int, ...] = (8, 8), colours: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    content = arrays(tail=tail + colours)
    for split in ("train", "val", "test"):
        n = len(content.pop(f"{split}_labels"))
        masks = np.zeros((n, *tail), dtype=np.uint8)
        masks[:, 2:5, 2:5] = 1
        content[f"{split}_masks"] = masks
    return content


def save(content: dict[str, np.ndarray], name: str = "own.npz") -> str:
    np.savez_compressed(name, **content)
    return f"npz:{name}"


def several_labels(n: tuple[int, int, int] = (80, 70, 6), labels: int = 14) -> dict[str, np.ndarray]:
    """As `arrays`, at 28 pixels, with several labels an image, each there in a third."""
    rng, content = np.random.default_rng(1), arrays(n, (28, 28))
    return content | {
        f"{split}_labels": (rng.random((size, labels)) < 1 / 3).astype(np.uint8)
        for split, size in zip(("train", "val", "test"), n, strict=True)
    }


def aged(n: tuple[int, int, int] = (40, 20, 6)) -> dict[str, np.ndarray]:
    """As `arrays`, at 28 pixels, with a number to predict: an age."""
    rng, content = np.random.default_rng(1), arrays(n, (28, 28))
    return content | {
        f"{split}_labels": rng.normal(60, 9, (size, 1))
        for split, size in zip(("train", "val", "test"), n, strict=True)
    }


def volumes(root: str, n: int = 8, spacing: tuple[float, float, float] = (1, 1, 1), labels: int = 2) -> Path:
    """A Decathlon of small volumes of odd sizes, the classes beside one another in the middle."""
    rng = np.random.default_rng(0)
    folder = Path(root)
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rows = []
    for index in range(n):
        shape = (11 + index % 3, 12, 9)
        image, mask = rng.integers(0, 900, shape).astype(np.int16), np.zeros(shape, np.uint8)
        for label in range(1, labels):
            mask[4:7, 4:7, 3 * label : 3 * label + 3] = label
        for kind, values in (("images", image), ("labels", mask)):
            nibabel.save(
                nibabel.Nifti1Image(values, np.diag([*spacing, 1])), folder / f"{kind}Tr" / f"c{index}.nii.gz"
            )
        rows.append({"image": f"./imagesTr/c{index}.nii.gz", "label": f"./labelsTr/c{index}.nii.gz"})
    names = {str(label): "organ" if label == 1 else f"organ {label}" for label in range(1, labels)}
    table = {"labels": {"0": "background"} | names, "training": rows, "licence": "CC0"}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder
