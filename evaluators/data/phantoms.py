"""`phantom:classification` and `phantom:segmentation`: synthetic images that need no download.

Both build on MONAI's generator of noisy discs (balls in 3-D). Every image has a random stream of its own, so
the n-th image of a split does not depend on how many there are.

Classification: discs are organs; bright rings are lesions, bright dots are not. The class is the number of
rings. Organs and dots differ from image to image in number, place and brightness, so the brightness of an
image says little about its class. Validation AUC in a trial (512 images, 6 epochs): .99 for a small ResNet of
16-128 channels, .94 for 4-32 channels (about 6 % of the FLOPs), .70 for 3-8 channels (about 2 %).

Segmentation: the mask is the generator's. The noise reaches above the discs, so single pixels tell little.
Validation Dice in a trial (200 images, 4 epochs): .92 for a UNet of 16-64 channels, .88 of 4-16, .86 of 2-4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import Field

from evaluators.data.splits import Kind, Splits, Subset
from evaluators.settings import Settings
from spaces.errors import DataError, did_you_mean

Image: TypeAlias = np.ndarray

_ORGAN, _LESION, _RANGE = 0.6, 0.4, 1.6
"""Brightness of organs (at most) and of lesions, and what becomes white; noise has the same unit."""


class _Options(Settings):
    """What all phantoms have."""

    seed: int = Field(0, ge=0)
    spatial_dims: Literal[2, 3] = 2


class ClassificationOptions(_Options):
    """Options of `phantom:classification`."""

    size: int = Field(32, ge=16, le=512, description="edge of an image in pixels")
    n_train: int = Field(512, ge=2)
    n_val: int = Field(200, ge=2)
    n_test: int = Field(400, ge=1)
    classes: int = Field(2, ge=2, le=5, description="no lesion, one lesion, ...")
    noise: float = Field(0.1, ge=0, le=10, description="standard deviation; a lesion is 0.4 brighter")


class SegmentationOptions(_Options):
    """Options of `phantom:segmentation`."""

    size: int = Field(64, ge=16, le=512, description="edge of an image in pixels")
    n_train: int = Field(200, ge=2)
    n_val: int = Field(50, ge=2)
    n_test: int = Field(100, ge=1)
    classes: int = Field(2, ge=2, le=8, description="background included")
    noise: float = Field(1.2, ge=0, le=10, description="maximum of the uniform noise; discs are 0.5 to 1")


def options(kind: str) -> type[Settings]:
    """The options of a kind of phantom."""
    if kind not in _PHANTOMS:
        raise DataError(f"phantom:{kind}: no such phantom; {did_you_mean(kind, _PHANTOMS)}")
    return _PHANTOMS[kind].options


def load(kind: str, given: Any) -> Splits:
    """Phantoms with the given options (of that kind), drawn now; those for testing when they are opened."""
    phantom = _PHANTOMS[kind]
    return Splits(
        name=f"phantom:{kind}",
        train=_draw(kind, given, 0, given.n_train),
        val=_draw(kind, given, 1, given.n_val),
        open_test=partial(_draw, kind, given, 2, given.n_test),
        n_test=given.n_test,
        classes=phantom.classes(given.classes),
        kind=phantom.kind,
        licence="none needed (synthetic)",
    )


def _draw(kind: str, given: Any, split: int, n: int) -> Subset:
    pairs = []
    for index in range(n):
        stream = np.random.SeedSequence([given.seed, split, index])
        # MONAI's generators take the legacy RandomState, here over a modern stream.
        pairs.append(_PHANTOMS[kind].draw(given, index, np.random.RandomState(np.random.MT19937(stream))))
    images, targets = zip(*pairs, strict=True)
    return Subset(np.stack(images)[:, None], np.stack(targets))


def _organs(
    given: ClassificationOptions, index: int, random: np.random.RandomState
) -> tuple[Image, np.int64]:
    lesions = index % given.classes
    size, shape = given.size, (given.size,) * given.spatial_dims
    image = (
        _ORGAN
        * _generator(given)(
            *shape, num_objs=6, rad_max=size // 4, rad_min=size // 10, num_seg_classes=1, random_state=random
        )[0]
    )
    for ring in [True] * lesions + [False] * random.randint(4):
        centre = random.uniform(4, size - 4, len(shape))
        radius = random.uniform(2.5, 3.5)
        axes = np.ogrid[tuple(slice(edge) for edge in shape)]
        distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True)))
        inside = np.abs(distance - radius) < 0.8 if ring else distance < 0.75 * radius
        image = image + _LESION * inside
    image = image + random.normal(0, given.noise, shape)
    return np.clip(20 + image * (255 / _RANGE), 0, 255).astype(np.uint8), np.int64(lesions)


def _discs(given: SegmentationOptions, index: int, random: np.random.RandomState) -> tuple[Image, Image]:
    image, mask = _generator(given)(
        *(given.size,) * given.spatial_dims,
        num_objs=6,
        rad_max=given.size // 5,
        rad_min=max(given.size // 16, 2),
        noise_max=given.noise,
        num_seg_classes=given.classes - 1,
        random_state=random,
    )
    return np.round(np.asarray(image) * 255).astype(np.uint8), np.asarray(mask).astype(np.uint8)


def _generator(given: ClassificationOptions | SegmentationOptions) -> Callable[..., tuple[Image, Image]]:
    from monai.data.synthetic import create_test_image_2d, create_test_image_3d  # seconds to import

    generator: Callable[..., tuple[Image, Image]]
    generator = create_test_image_2d if given.spatial_dims == 2 else create_test_image_3d
    return generator


@dataclass(frozen=True)
class _Phantom:
    kind: Kind
    options: type[Settings]
    classes: Callable[[int], tuple[str, ...]]
    draw: Callable[[Any, int, np.random.RandomState], tuple[Image, Any]]


_PHANTOMS: Mapping[str, _Phantom] = {
    "classification": _Phantom(
        "classification",
        ClassificationOptions,
        lambda n: ("no lesion", "1 lesion", *(f"{lesions} lesions" for lesions in range(2, n))),
        _organs,
    ),
    "segmentation": _Phantom(
        "segmentation",
        SegmentationOptions,
        lambda n: ("background", *(f"disc {brightness}" for brightness in range(1, n))),
        _discs,
    ),
}
