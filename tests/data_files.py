"""Files in MedMNIST's layout for the tests of the data package."""

from pathlib import Path
from typing import Any

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
