"""Images rotated, scaled, mirrored and shifted in one resampling; contrast, brightness and noise.

All images of a batch at once; every random number comes from the generator that is given.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from evaluators.settings import AugmentationSettings


@dataclass(frozen=True, eq=False)
class Motion:
    """Where a batch's images go, along each spatial axis: (batch, axes) each.

    Attributes:
        shift: In pixels, int.
        mirror: Whether it is mirrored, bool.
    """

    shift: torch.Tensor
    mirror: torch.Tensor


def warp(
    images: torch.Tensor,
    masks: torch.Tensor | None,
    motion: Motion,
    settings: AugmentationSettings,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images (n, channels, *spatial) and masks (n, *spatial) moved alike; the edge fills what moves in.

    Rotated by up to `settings.rotate` degrees (in 3-D around each axis) and scaled by up to `settings.scale`;
    images are interpolated linearly, masks take the nearest value.
    """
    n, spatial = len(images), images.shape[2:]
    dims = len(spatial)
    linear = torch.eye(dims).repeat(n, 1, 1)
    for a, b in itertools.combinations(range(dims), 2):
        angle = math.radians(settings.rotate) * (2 * torch.rand(n, generator=generator) - 1)
        turn = torch.eye(dims).repeat(n, 1, 1)
        turn[:, a, a] = turn[:, b, b] = angle.cos()
        turn[:, a, b], turn[:, b, a] = -angle.sin(), angle.sin()
        linear = linear @ turn
    reach = math.log1p(settings.scale)
    linear = linear * torch.exp(reach * (2 * torch.rand(n, generator=generator) - 1)).view(n, 1, 1)
    side = 1 - 2 * motion.mirror.float()
    linear = linear * side.unsqueeze(2)
    sizes = torch.tensor(spatial, dtype=torch.float32)
    linear = linear * sizes.view(1, 1, -1) / sizes.view(1, -1, 1)  # from pixels to half image sizes
    theta = torch.cat([linear, (side * 2 * motion.shift / sizes).unsqueeze(2)], dim=2)
    theta = theta.flip(1)  # the last axis comes first in torch's grids
    theta = torch.cat([theta[:, :, :dims].flip(2), theta[:, :, dims:]], dim=2).to(images.device)
    grid = F.affine_grid(theta, [n, 1, *spatial], align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if masks is None:
        return moved, None
    flat = masks.unsqueeze(1).to(images.dtype)
    turned = F.grid_sample(flat, grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved, turned[:, 0].to(masks.dtype)


def shade(images: torch.Tensor, settings: AugmentationSettings, generator: torch.Generator) -> torch.Tensor:
    """Images with more or less contrast, brighter or darker, and noisy."""
    shape = (len(images), *[1] * (images.ndim - 1))

    def uniform(largest: float) -> torch.Tensor:
        return largest * (2 * torch.rand(shape, generator=generator) - 1).to(images.device)

    if settings.contrast:
        centre = images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)
        images = centre + (images - centre) * torch.exp(uniform(math.log1p(settings.contrast)))
    if settings.brightness:
        images = images + uniform(settings.brightness)
    if settings.noise:
        level = uniform(settings.noise).abs()
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        images = images + level * noise
    return images
