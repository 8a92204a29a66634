"""A page of example images with what dense and pruned networks say about them; it holds patients' images."""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jinja2
import numpy as np

from reports.page import script_policy, template_text, write_page
from spaces.scrubbing import without_paths

OVERLAYS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""Okabe and Ito's colours, a class each, as lines around masks."""
LEAST_WIDTH = 192
"""Pixels that an image takes on the page; smaller ones are enlarged, pixel by pixel."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of one campaign with answers.

    Attributes:
        campaign: Its id.
        classes: Names by index.
        images: (n, height, width, 3) uint8.
        truth: Per image, a mask (height, width) of class indices, or the true class in words.
        answers: Network's name -> per image, a mask, or probability by class; dense first.
        masks: Whether truth and answers are masks.
    """

    campaign: str
    classes: tuple[str, ...]
    images: np.ndarray
    truth: Sequence[object]
    answers: Mapping[str, Sequence[object]]
    masks: bool


def write_example_page(found: Sequence[Examples], path: str | Path) -> Path:
    """Write the page; one file that needs no network.

    Raises:
        InputError: The file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("examples.html").render(
        campaigns=[
            {
                "id": without_paths(examples.campaign),
                "classes": _legend(examples),
                "columns": ["image, truth" if examples.masks else "image", *examples.answers],
                "rows": [_row(examples, i) for i in range(len(examples.images))],
            }
            for examples in found
        ],
        css=template_text("report.css"),
        policy=script_policy([]),
    )
    return write_page(page, path)


def png(picture: np.ndarray) -> bytes:
    """A picture (height, width, 3) uint8 as a PNG file, without any metadata."""
    height, width, _ = picture.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with a line along the inside of each class of a mask, in the class's colour."""
    drawn = picture.copy()
    padded = np.pad(mask, 1, mode="edge")
    middle = padded[1:-1, 1:-1]
    edge = np.zeros(mask.shape, bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= other != middle
    for value in np.unique(mask[mask > 0]):
        drawn[edge & (mask == value)] = OVERLAYS[(int(value) - 1) % len(OVERLAYS)]
    return drawn


def _legend(examples: Examples) -> list[tuple[str, str]]:
    if not examples.masks:
        return []
    names = enumerate(examples.classes[1:])
    return [(name, "#" + bytes(OVERLAYS[i % len(OVERLAYS)]).hex()) for i, name in names]


def _row(examples: Examples, i: int) -> list[dict[str, object]]:
    """The cells of one image: each a picture, words, or both."""
    picture, truth = _enlarged(examples.images[i]), examples.truth[i]
    if examples.masks:
        shown = [truth, *(answers[i] for answers in examples.answers.values())]
        return [
            {"picture": _address(outlined(picture, _enlarged(np.asarray(mask)))), "words": []}
            for mask in shown
        ]
    cells: list[dict[str, object]] = [{"picture": _address(picture), "words": [("truth", str(truth))]}]
    for answers in examples.answers.values():
        best = sorted(cast(Mapping[str, float], answers[i]).items(), key=lambda item: -item[1])[:3]
        cells.append({"picture": None, "words": [(name, f"{100 * share:.0f} %") for name, share in best]})
    return cells


def _enlarged(picture: np.ndarray) -> np.ndarray:
    times = max(1, -(-LEAST_WIDTH // picture.shape[1]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _address(picture: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"
