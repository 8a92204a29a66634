"""How intensities become what a network expects: resolved on the training images, then plain numbers."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

    from evaluators.data.splits import Subset
    from evaluators.data.tensors import Tensors

Mode: TypeAlias = Literal["zscore", "unit", "symmetric", "percentile", "case", "none"]

PERCENTILES = (0.5, 99.5)
CHUNK = 256
SAMPLE = 10_000_000
"""Values per channel that percentiles are taken from, evenly spaced over the training images."""


@dataclass(frozen=True)
class Normalisation:
    """Per channel: clip to low..high, subtract the mean, divide by the deviation.

    The modes:

    - zscore: mean and deviation of the training images; a constant channel has the deviation 1.
    - unit: 0 to 255 becomes 0 to 1; for other intensities the training images' extremes do.
    - symmetric: the same, -1 to 1.
    - percentile: clipped to the training images' 0.5 and 99.5 percentiles, then zscore (CT).
    - case: every image has its own mean and deviation (MRI); done where images are read, so nothing is left.
    - none: as in the files.

    Attributes:
        mean: By channel.
        std: By channel.
        low: By channel; None: not clipped.
        high: By channel; None: not clipped.
        mode: What they follow from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    mode: Mode = "zscore"

    @classmethod
    def of(cls, subset: "Subset", mode: Mode = "zscore") -> "Normalisation":
        """What the mode means for these training images, in float64, in chunks."""
        images = subset.images
        channels = images.shape[1]
        if mode in ("none", "case"):
            return cls((0.0,) * channels, (1.0,) * channels, mode=mode)
        if mode in ("unit", "symmetric"):
            low, high = _range(images)
            if mode == "symmetric":
                return cls(_tuple((low + high) / 2), _tuple(_positive((high - low) / 2)), mode=mode)
            return cls(_tuple(low), _tuple(_positive(high - low)), mode=mode)
        if mode == "percentile":
            bounds = _percentiles(images)
            mean, std = _moments(images, bounds)
            return cls(_tuple(mean), _tuple(std), _tuple(bounds[0]), _tuple(bounds[1]), mode)
        mean, std = _moments(images, None)
        return cls(_tuple(mean), _tuple(std), mode=mode)

    def apply(self, subset: "Subset", device: "torch.device | str" = "cpu") -> "Tensors":
        """The subset as tensors that share its memory; intensities are converted batch by batch."""
        from evaluators.data.tensors import Tensors

        return Tensors.of(subset, self, device)

    def describe(self) -> dict[str, Any]:
        """As JSON: what whoever deploys a network has to do to an image."""
        return asdict(self)


def case_normalised(images: np.ndarray) -> np.ndarray:
    """Every image by its own mean and deviation per channel, as float16: (n, channels, *spatial)."""
    result = np.empty(images.shape, dtype=np.float16)
    axes = tuple(range(1, images.ndim - 1))
    for image, out in zip(images, result, strict=True):
        values = image.astype(np.float32)
        mean, std = values.mean(axis=axes, keepdims=True), values.std(axis=axes, keepdims=True)
        np.divide(values - mean, np.where(std > 1e-6, std, 1.0), out=out, casting="unsafe")
    return result


def _range(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    channels = images.shape[1]
    if images.dtype == np.uint8:
        return np.zeros(channels), np.full(channels, 255.0)
    axes = (0, *range(2, images.ndim))
    return images.min(axis=axes).astype(np.float64), images.max(axis=axes).astype(np.float64)


def _percentiles(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    channels = [images[:, channel] for channel in range(images.shape[1])]
    step = max(1, channels[0].size // SAMPLE)
    found = [np.percentile(channel.reshape(-1)[::step], PERCENTILES) for channel in channels]
    low, high = np.array(found, dtype=np.float64).T
    return low, high


def _moments(
    images: np.ndarray, bounds: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    channels = images.shape[1]
    column = (-1, *[1] * (images.ndim - 2))
    sums, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float64)
        if bounds is not None:
            chunk = np.clip(chunk, bounds[0].reshape(column), bounds[1].reshape(column))
        axes = (0, *range(2, chunk.ndim))
        sums += chunk.sum(axis=axes)
        squares += np.square(chunk).sum(axis=axes)
    count = images.size / channels
    mean = sums / count
    return mean, _positive(np.sqrt(np.maximum(squares / count - mean**2, 0)))


def _positive(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 1e-6, scale, 1.0)


def _tuple(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
