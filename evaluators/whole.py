"""Whole volumes measured by a window that slides over them, patch by patch, as the network is deployed."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.data.normalisation import Normalisation
from evaluators.data.tensors import PackedImages, as_tensor
from evaluators.data.volumes import Volumes
from evaluators.tasks.heads import main_output
from evaluators.tasks.segmentation import Segmentation

OVERLAP = 0.5
"""Share of a window that the next one covers again; predictions there are averaged, Gaussian (as nnU-Net)."""

BATCH = 4
"""Windows that go through the network at once."""


def measure_whole(
    network: nn.Module,
    volumes: Volumes,
    task: Segmentation,
    normalisation: Normalisation,
    window: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The network's values by name, and its per-case arrays as in `Outcome`: a case is a volume.

    Args:
        network: On that device; ends in eval mode.
        volumes: What is measured.
        task: Judges every volume as a whole.
        normalisation: Of the patches that the network was trained on.
        window: Size of a patch.
        device: Where to compute.

    Raises:
        RunError: An output is not finite.
    """
    network.eval()
    judged = []
    with torch.inference_mode():
        for image, mask in volumes:
            packed = PackedImages(as_tensor(image[None]).to(device), normalisation)
            logits = slide(network, packed[:], window)
            judged.append(task.judge(logits, as_tensor(mask[None]).to(device)))
    no_labels = np.empty(0)  # Dice is in the scores already
    per_case = task.gather(judged, no_labels)
    return task.values(per_case, no_labels), per_case


def slide(network: nn.Module, image: torch.Tensor, window: tuple[int, ...]) -> torch.Tensor:
    """Logits (1, channels, *spatial) of one prepared image (1, channels, *spatial), small or large."""
    from monai.inferers.utils import sliding_window_inference

    missing = [max(0, w - s) for w, s in zip(window, image.shape[2:], strict=True)]
    padding = [n for m in reversed(missing) for n in (m // 2, m - m // 2)]
    padded = F.pad(image, padding, value=float(image.min())) if any(missing) else image  # as patches are
    found = sliding_window_inference(
        padded,
        window,
        BATCH,
        lambda patches: main_output(network(patches), patches.ndim),
        overlap=OVERLAP,
        mode="gaussian",
    )
    assert isinstance(found, torch.Tensor)
    inside = [slice(m // 2, m // 2 + s) for m, s in zip(missing, image.shape[2:], strict=True)]
    return found[(slice(None), slice(None), *inside)]


def n_windows(volumes: Volumes, window: tuple[int, ...]) -> np.ndarray:
    """Patches that a network sees of each volume: (n,) int64."""
    along = []
    for axis, edge in enumerate(window):
        sizes = np.maximum(volumes.sizes[:, axis], edge)
        step = max(1, math.floor(edge * (1 - OVERLAP)))
        along.append(-(-(sizes - edge) // step) + 1)
    return np.prod(along, axis=0)
