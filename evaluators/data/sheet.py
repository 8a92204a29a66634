"""A contact sheet: a few training images of each class in one picture, masks outlined.

It shows patients, so nothing here is ever made unless somebody asks for it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluators.data.npz import NUMBER
from evaluators.data.splits import Splits, Subset
from spaces.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 112
"""Pixels of the longer edge of an example, about."""
GAP, HEADING = 4, 16
COLOURS = ((255, 80, 80), (80, 200, 255), (255, 220, 60), (120, 255, 120), (230, 120, 255), (255, 160, 60))


def write_sheet(splits: Splits, path: Path, per_class: int = 8, seed: int = 0) -> None:
    """Write the sheet as PNG, readable by the user alone.

    Raises:
        ConfigError: The file cannot be written.
    """
    sheet = contact_sheet(splits, per_class, seed)
    try:
        path.touch(mode=0o600)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise ConfigError(f"--sheet {str(path)!r} cannot be written: {error.strerror}") from None


def contact_sheet(splits: Splits, per_class: int = 8, seed: int = 0) -> "Image":
    """A row for each class, label or foreground class, or quarter of the numbers to predict.

    Volumes are shown by one slice across their shortest axis: that with most foreground, or the middle one.
    """
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    rows = []
    for name, members in _rows(splits):
        chosen = np.sort(rng.permutation(members)[:per_class])
        rows.append((f"{name}: {len(members)}", [_tile(splits.train, index) for index in chosen]))
    width = max(sum(tile.shape[1] + GAP for tile in tiles) for _, tiles in rows) + GAP
    heights = [HEADING + max((tile.shape[0] for tile in tiles), default=0) + GAP for _, tiles in rows]
    sheet = Image.new("RGB", (max(width, 200), sum(heights)))
    draw, top = ImageDraw.Draw(sheet), 0
    for (heading, tiles), height in zip(rows, heights, strict=True):
        draw.text((GAP, top + 2), heading.encode("latin-1", "replace").decode("latin-1"), (255, 255, 255))
        left = GAP
        for tile in tiles:
            sheet.paste(Image.fromarray(tile), (left, top + HEADING))
            left += tile.shape[1] + GAP
        top += height
    return sheet


def _rows(splits: Splits) -> list[tuple[str, np.ndarray]]:
    """What each row is called, and which training images may stand there."""
    targets, classes = splits.train.targets, splits.classes
    if splits.kind == "regression":
        strata = splits.train.strata
        parts = [(np.flatnonzero(strata == part), targets[strata == part]) for part in np.unique(strata)]
        return [(f"{NUMBER[0]} {values.min():g} to {values.max():g}", members) for members, values in parts]
    if splits.kind == "multilabel":
        return [(name, np.flatnonzero(targets[:, label])) for label, name in enumerate(classes)]
    if splits.kind == "classification":
        return [(name, np.flatnonzero(targets == index)) for index, name in enumerate(classes)]
    shown = enumerate(classes[1:], 1)
    return [
        (name, np.flatnonzero([bool((mask == value).any()) for mask in targets])) for value, name in shown
    ]


def _tile(subset: Subset, index: int) -> np.ndarray:
    """One image as (height, width, 3) uint8, its mask outlined."""
    image = subset.images[index]
    target = subset.targets[index]
    mask = target if target.ndim == image.ndim - 1 and target.ndim > 1 else None
    if image.ndim == 4:
        axis = int(np.argmin(image.shape[1:]))
        slices = np.moveaxis(image, axis + 1, 1)
        cut = slices.shape[1] // 2
        if mask is not None:
            across = np.moveaxis(mask, axis, 0)
            cut = int(np.count_nonzero(across.reshape(len(across), -1), axis=1).argmax())
            mask = across[cut]
        image = slices[:, cut]
    colours = np.moveaxis(image if len(image) == 3 else np.repeat(image[:1], 3, axis=0), 0, -1)
    if colours.dtype != np.uint8:
        low, high = np.percentile(colours.astype(np.float32), (1, 99))
        colours = ((colours - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8)
    every = max(1, round(max(colours.shape[:2]) / TILE))
    grow = max(1, TILE // max(colours.shape[:2]))
    tile = colours[::every, ::every].repeat(grow, axis=0).repeat(grow, axis=1)
    if mask is not None:
        large = mask[::every, ::every].repeat(grow, axis=0).repeat(grow, axis=1)
        edge = _outline(large)
        tile[edge] = np.array(COLOURS, dtype=np.uint8)[(large[edge].astype(int) - 1) % len(COLOURS)]
    return tile


def _outline(mask: np.ndarray) -> np.ndarray:
    """Foreground pixels with a neighbour of another value: (height, width) bool."""
    around = np.pad(mask, 1, mode="edge")
    inner = (slice(1, -1), slice(1, -1))
    shifted = [np.roll(around, step, axis=axis)[inner] for axis in (0, 1) for step in (-1, 1)]
    return (mask > 0) & np.any([mask != other for other in shifted], axis=0)
