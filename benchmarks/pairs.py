"""Pairs of data set and network that banks are recorded of: small enough for seconds an evaluation."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import resnet
from search.config import CampaignConfig, parse_config


def _densenet(dims: int, channels: int, classes: int, width: int = 32) -> dict[str, Any]:
    arguments = {"spatial_dims": dims, "in_channels": channels, "out_channels": classes}
    arguments |= {"init_features": width, "growth_rate": width // 2, "block_config": [2, 2, 2]}
    return {"factory": "monai.networks.nets:DenseNet", "arguments": arguments}


def _unet(dims: int, channels: int, classes: int, widths: Sequence[int] = (8, 16, 32, 64)) -> dict[str, Any]:
    arguments = {"spatial_dims": dims, "in_channels": channels, "out_channels": classes, "norm": "batch"}
    arguments |= {"channels": list(widths), "strides": [2] * (len(widths) - 1), "num_res_units": 1}
    return {"factory": "monai.networks.nets:UNet", "arguments": arguments}


def _attention(channels: int, classes: int) -> dict[str, Any]:
    arguments = {"spatial_dims": 2, "in_channels": channels, "out_channels": classes}
    arguments |= {"channels": [8, 16, 32], "strides": [2, 2]}
    return {"factory": "monai.networks.nets:AttentionUnet", "arguments": arguments}


_BREAST = {"source": "medmnist:breastmnist"}
_PNEUMONIA = {"source": "medmnist:pneumoniamnist", "train_limit": 800, "val_limit": 150}
_NUCLEI = {"source": "half:dsb2018_nuclei.npz", "train_limit": 160, "val_limit": 40}
_VESSELS = {"source": "half:retina_vessels.npz"}
_ADRENAL = {"source": "half:adrenalmnist3d.npz", "train_limit": 800}
_HIPPOCAMPUS = {"source": "half:hippocampus3d.npz", "train_limit": 80}
_TUNED = {"rung": "finetune", "train_limit": 256, "epochs": 2, "learning_rate": 0.02, "device": "cpu"}
_BARELY = {**_TUNED, "train_limit": 128, "epochs": 1}
_SLICED = {"rung": "recalibrate", "train_limit": 128, "device": "cpu"}
_CLASSES = {"task": {"metric": "auc"}, "recipe": {"epochs": 15, "learning_rate": 0.02}, "proxy": _TUNED}
_SHAPES = {"task": {"metric": "auc"}, "recipe": {"epochs": 20, "learning_rate": 0.05}, "proxy": _SLICED}
_MASKS = {
    "task": {"kind": "segmentation", "metric": "dice"},
    "recipe": {"epochs": 40, "learning_rate": 0.1, "batch_size": 16},
    "proxy": _BARELY,
}
_VOLUMES = {
    "task": {"kind": "segmentation", "metric": "dice"},
    "recipe": {"epochs": 30, "learning_rate": 0.005, "batch_size": 8, "optimiser": "adamw"},
    "proxy": {**_SLICED, "train_limit": 32},
}
PAIRS: dict[str, dict[str, Any]] = {
    "nuclei-unet": {"network": _unet(2, 3, 2), "data": _NUCLEI, **_MASKS},
    "breast-resnet": {"network": resnet(2, 1, 2, 16), "data": _BREAST, **_CLASSES},
    "adrenal-resnet": {"network": resnet(3, 1, 2, 8), "data": _ADRENAL, **_SHAPES},
    "pneumonia-densenet": {"network": _densenet(2, 1, 2), "data": _PNEUMONIA, **_CLASSES},
    "vessels-unet": {"network": _unet(2, 3, 2), "data": _VESSELS, **_MASKS},
    "hippocampus-unet": {"network": _unet(3, 1, 3), "data": _HIPPOCAMPUS, **_VOLUMES},
    "breast-densenet": {"network": _densenet(2, 1, 2), "data": _BREAST, **_CLASSES},
    "pneumonia-resnet": {"network": resnet(2, 1, 2, 16), "data": _PNEUMONIA, **_CLASSES},
    "nuclei-attention": {"network": _attention(3, 2), "data": _NUCLEI, **_MASKS},
    "adrenal-densenet": {"network": _densenet(3, 1, 2, 16), "data": _ADRENAL, **_SHAPES},
}
"""A bank's name is DATA-FAMILY. `half:` is every image at half the resolution of the file."""
DATA = {pair: pair.split("-")[0] for pair in PAIRS}
FAMILY = {pair: pair.split("-")[1] for pair in PAIRS}


FREE = ("breast", "pneumonia", "adrenal", "nuclei", "hippocampus")
"""Data under CC0, CC BY or CC BY-SA: what the prior that comes with the program may learn from."""


def config_of(pair: str, seed: int = 0) -> CampaignConfig:
    """The campaign that a bank is of."""
    case = PAIRS[pair]
    data = {**case["data"], "source": _smaller(case["data"]["source"])}
    recipe = {"batch_size": 32, "threads": 1, "seed": seed, **case["recipe"]}
    proxy = {**case["proxy"], "batch_size": recipe["batch_size"]}
    return parse_config({"name": f"bank-{pair}", **case, "data": data, "recipe": recipe, "proxy": proxy})


def _smaller(source: str) -> str:
    """The source itself; of "half:FILE" a copy of half the pixels along each axis, which costs less."""
    kind, _, name = source.partition(":")
    if kind != "half":
        return source
    folder = Path(tempfile.gettempdir()) / f"paretoprune-half-{os.getuid()}"
    if not (small := folder / name).exists():
        folder.mkdir(exist_ok=True)
        with np.load(Path(os.environ["PARETOPRUNE_DATA"]) / name) as file:
            arrays = {key: _halved(array, key.endswith("_masks")) for key, array in file.items()}
        np.savez(folder / f"new-{name}", **arrays)
        (folder / f"new-{name}").rename(small)
    return f"npz:{small}"


def _halved(array: np.ndarray, is_mask: bool) -> np.ndarray:
    """Means over two pixels along each axis, of masks every second one; other arrays as they are."""
    if array.ndim < 3:
        return array
    axes = range(1, array.ndim - (array.shape[-1] == 3))
    if is_mask:
        return np.ascontiguousarray(array[(slice(None), *(slice(None, None, 2) for _ in axes))])
    mean = array.astype(np.float32)
    for axis in axes:
        even, odd = (mean.take(range(start, mean.shape[axis] // 2 * 2, 2), axis) for start in (0, 1))
        mean = (even + odd) / 2
    return mean.round().astype(np.uint8)
