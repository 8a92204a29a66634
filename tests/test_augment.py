"""Augmentation and sampling: known motions, masks that follow, and a seed that decides everything."""

import math

import numpy as np
import pytest
import torch

from evaluators.augment import BatchStream
from evaluators.settings import AugmentationSettings
from evaluators.warp import Motion, shade, warp


def still(n: int, dims: int) -> Motion:
    return Motion(torch.zeros(n, dims, dtype=torch.long), torch.zeros(n, dims, dtype=torch.bool))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spatial", [(12, 16), (8, 12, 10)])
def test_nothing_asked_leaves_images_as_they_are(spatial: tuple[int, ...]) -> None:
    images = torch.randn(3, 2, *spatial, generator=generator())
    masks = torch.randint(3, (3, *spatial), generator=generator(), dtype=torch.uint8)
    same, same_masks = warp(images, masks, still(3, len(spatial)), AugmentationSettings(), generator())
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    assert same_masks is not None
    assert torch.equal(same_masks, masks)
    assert torch.equal(shade(images, AugmentationSettings(), generator()), images)


@pytest.mark.parametrize("spatial", [(12, 16), (8, 12, 10)])
def test_resampling_moves_as_gathering_does(spatial: tuple[int, ...]) -> None:
    """Mirrors and whole-pixel shifts by both ways: the same images, edges included."""
    images = torch.randn(4, 1, *spatial, generator=generator())
    masks = (images[:, 0] > 0).to(torch.uint8)
    axes = tuple(range(-len(spatial), 0))
    how = AugmentationSettings(shift=0.2)
    gathered = BatchStream(images, masks, 4, axes, seed=3, how=how)
    resampled = BatchStream(images, masks, 4, axes, seed=3, how=how.model_copy(update={"scale": 1e-9}))
    (a, a_masks), (b, b_masks) = next(iter(gathered)), next(iter(resampled))
    torch.testing.assert_close(b, a, atol=1e-4, rtol=0)
    assert torch.equal(b_masks, a_masks)


def disc(size: int, row: float, column: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).float()


def centre_of(image: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in image.shape), indexing="ij")
    return float((image * rows).sum() / image.sum()), float((image * columns).sum() / image.sum())


def test_rotation_keeps_the_distance_to_the_centre_and_reaches_its_angle() -> None:
    images = disc(41, 20, 32, 3).expand(200, 1, 41, 41)
    moved, _ = warp(images, None, still(200, 2), AugmentationSettings(rotate=30), generator())
    angles = []
    for image in moved[:, 0]:
        row, column = centre_of(image)
        assert math.hypot(row - 20, column - 20) == pytest.approx(12, abs=0.2)
        angles.append(math.degrees(math.atan2(row - 20, column - 20)))
    assert -30.5 < min(angles) < -25
    assert 25 < max(angles) < 30.5


def test_scaling_changes_areas_within_its_bounds_also_of_oblong_images() -> None:
    image = torch.zeros(32, 64)
    image[12:20, 28:36] = 1
    how = AugmentationSettings(scale=0.25)
    moved, masks = warp(
        image.expand(100, 1, 32, 64),
        image.expand(100, 32, 64).to(torch.uint8),
        still(100, 2),
        how,
        generator(),
    )
    areas = moved.sum(dim=(1, 2, 3)) / 64
    assert 0.6 < areas.min() < 0.8
    assert 1.3 < areas.max() < 1.6
    assert masks is not None
    torch.testing.assert_close(masks.sum(dim=(1, 2)) / 64, areas, atol=0.3, rtol=0)
    widths, heights = (moved.amax(dim=2) > 0.5).sum(dim=2), (moved.amax(dim=3) > 0.5).sum(dim=2)
    assert (widths - heights).abs().max() <= 1, "squares stay squares"


def test_shading_stays_within_its_bounds() -> None:
    images = torch.randn(300, 1, 8, 8, generator=generator())
    brighter = shade(images, AugmentationSettings(brightness=0.5), generator()) - images
    assert (brighter.amax(dim=(1, 2, 3)) - brighter.amin(dim=(1, 2, 3))).max() < 1e-5
    assert 0.45 < brighter.abs().max() <= 0.5001
    contrast = shade(images, AugmentationSettings(contrast=0.5), generator())
    ratio = contrast.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 1 / 1.5 <= ratio.min() + 1e-4 < 0.72
    assert 1.4 < ratio.max() <= 1.5001
    torch.testing.assert_close(contrast.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)
    noise = shade(images, AugmentationSettings(noise=0.2), generator()) - images
    assert 0.15 < noise.std(dim=(1, 2, 3)).max() < 0.25


def test_everything_together_follows_from_the_seed() -> None:
    images = torch.randn(20, 1, 16, 16, generator=generator())
    how = AugmentationSettings(rotate=10, scale=0.1, contrast=0.2, brightness=0.2, noise=0.1)
    first, again, other = (
        next(iter(BatchStream(images, torch.arange(20), 8, (-1,), seed, how)))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    off = next(iter(BatchStream(images, torch.arange(20), 20, None, 1, how)))
    assert torch.equal(off[0], images[off[1]]), "augment = false switches it all off"


def test_labels_per_image_do_not_move_with_the_pixels() -> None:
    images, labels = torch.randn(6, 1, 3, 3), torch.randint(2, (6, 9), generator=generator())
    _, drawn = next(iter(BatchStream(images, labels, 6, (-1,), seed=0)))
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, labels.tolist()))


def test_balanced_sampling_shows_all_classes_equally_often() -> None:
    classes = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    stream = BatchStream(torch.arange(100.0).view(-1, 1, 1, 1), classes, 25, None, seed=0, strata=classes)
    drawn, images = [], []
    for _, (batch, targets) in zip(range(40), stream, strict=False):
        drawn.append(targets)
        images.append(batch.flatten())
    counts = np.bincount(torch.cat(drawn), minlength=3)
    assert counts.max() - counts.min() <= 40
    assert len(torch.cat(images).unique()) > 90, "rare cases repeat, common ones are not lost"
