"""One volume or picture as networks get it: orientation, spacing, intensities, size, patches."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators.data.normalisation import case_normalised
from evaluators.data.reading import Scan
from evaluators.settings import DataSettings
from spaces.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Volume:
    """An image (channels, *spatial) and its mask (*spatial) uint8 or None; `spaced`: in known millimetres."""

    image: np.ndarray
    mask: np.ndarray | None
    spaced: bool = False


def prepared(scans: Sequence[Scan], mask: Scan | None, settings: DataSettings, where: str) -> Volume:
    """Modalities joined as channels; axes turned to right-anterior-superior and resampled to data.spacing."""
    image = np.concatenate([scan.values for scan in scans])
    labels = None if mask is None else mask.values[:1]
    if labels is not None:
        if labels.shape[1:] != image.shape[1:]:
            raise DataError(f"{where}: image and mask differ in size")
        whole = np.rint(labels)
        if not np.array_equal(whole, labels) or whole.min() < 0 or whole.max() > 255:
            raise DataError(f"{where}: its mask holds no class indices")
        labels = whole.astype(np.uint8)
    affine = scans[0].affine
    if affine is not None and image.ndim == 4:
        image = _resampled(image, affine, settings.spacing, "bilinear")
        labels = None if labels is None else _resampled(labels, affine, settings.spacing, "nearest")
    elif settings.spacing is not None:
        raise ConfigError(
            f"data.spacing = {list(settings.spacing)}: {where} is a picture without millimetres"
        )
    if settings.normalise == "case":
        image = case_normalised(image[None])[0]
    return Volume(image, None if labels is None else labels[0].astype(np.uint8), settings.spacing is not None)


def fitted(volume: Volume, settings: DataSettings, where: str) -> Volume:
    """Of size data.size: cropped or padded about the middle where millimetres are known, else resized."""
    size = settings.size
    if size is None or volume.image.shape[1:] == size:
        return volume
    if len(size) != volume.image.ndim - 1:
        n = volume.image.ndim - 1
        raise ConfigError(f"data.size = {list(size)}: {where} has {n} spatial axes")
    if volume.spaced:
        mask = None if volume.mask is None else _centred(volume.mask[None], size, 0)[0]
        return Volume(_centred(volume.image, size), mask, True)
    return Volume(_resized(volume.image, size), None if volume.mask is None else _nearest(volume.mask, size))


def patches(volume: Volume, size: tuple[int, ...], n: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`n` patches (image, mask): the first half about a foreground voxel each, the others anywhere.

    The same for the same volume and seed, wherever it is listed, so that a volume that is in two splits is
    found out. One that is smaller than the patch is padded with its lowest intensity.
    """
    assert volume.mask is not None
    if len(size) != volume.mask.ndim:
        raise ConfigError(f"data.patch = {list(size)}: the volumes have {volume.mask.ndim} axes")
    grown = tuple(max(a, b) for a, b in zip(size, volume.mask.shape, strict=True))
    image, mask = _centred(volume.image, grown), _centred(volume.mask[None], grown, 0)[0]
    content = hashlib.blake2b(np.ascontiguousarray(volume.image).data, digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(content, "big")])
    foreground = np.argwhere(mask)
    found = []
    for index in range(n):
        if len(foreground) and 2 * index < n:
            centre = foreground[rng.integers(len(foreground))]
            start = [int(np.clip(c - s // 2, 0, g - s)) for c, s, g in zip(centre, size, grown, strict=True)]
        else:
            start = [int(rng.integers(g - s + 1)) for s, g in zip(size, grown, strict=True)]
        box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        found.append((image[(slice(None), *box)].copy(), mask[box].copy()))
    return found


def _resampled(
    values: np.ndarray, affine: np.ndarray, spacing: tuple[float, ...] | None, mode: str
) -> np.ndarray:
    from monai.data.meta_tensor import MetaTensor  # seconds to import
    from monai.transforms.spatial.array import Orientation, Spacing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turned: Any = MetaTensor(values.astype(np.float32), affine=affine)
        turned = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(turned)
        if spacing is not None:
            turned = Spacing(spacing, mode=mode, padding_mode="border")(turned)
    result = np.ascontiguousarray(turned.numpy())
    return result if spacing is not None and mode == "bilinear" else result.astype(values.dtype)


def _centred(values: np.ndarray, size: tuple[int, ...], fill: float | None = None) -> np.ndarray:
    """Cropped or padded about the middle of all axes but the first, with the lowest value or `fill`."""
    box, pad = [slice(None)], [(0, 0)]
    for have, want in zip(values.shape[1:], size, strict=True):
        start = max(0, (have - want) // 2)
        box.append(slice(start, start + min(have, want)))
        missing = max(0, want - have)
        pad.append((missing // 2, missing - missing // 2))
    return np.pad(values[tuple(box)], pad, constant_values=values.min() if fill is None else fill)


def _resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    import torch
    from torch.nn import functional as F

    flat = torch.from_numpy(image.astype(np.float32))[None]
    if len(size) == 2:
        result = F.interpolate(flat, size, mode="bilinear", antialias=True)[0].numpy()
    else:
        result = F.interpolate(flat, size, mode="trilinear")[0].numpy()
    if image.dtype.kind not in "ui":
        return result
    return np.rint(result).clip(image.min(), image.max()).astype(image.dtype)


def _nearest(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    index = [((np.arange(s) + 0.5) * n / s).astype(int) for n, s in zip(mask.shape, size, strict=True)]
    return mask[np.ix_(*index)]
