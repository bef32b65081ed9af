"""Sheets of images: the clean ones of a table, and per model and threat adversarial ones and differences.

An example has the same place on every sheet of its table. Pages show one place of a sheet at a time.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entries import Board, ModelResult, Table

COLUMNS = 10  # images in a row of a sheet
GREY = 128  # no change, on a sheet of differences

Image = NDArray[np.float32]
"""(C, H, W) in [0, 1], one channel or three."""


@dataclass(frozen=True)
class Adversarial:
    """The smallest accepted image of an example under a threat, and its size in the unit of the threat."""

    image: Image
    size: float


@dataclass(frozen=True)
class TableImages:
    """The first examples of a table, with what breaks them, by model and threat, and place in the table."""

    numbers: Sequence[int]  # of the examples in the data set
    labels: Sequence[int]
    clean: Sequence[Image]
    adversarial: Mapping[tuple[str, str], Mapping[int, Adversarial]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """The images of one model under one threat: where they lie, which places are taken, what white and black mean."""

    adversarial: str
    difference: str
    sizes: dict[int, float]  # by place
    scale: float  # change of a pixel that a sheet of differences shows as white; black is the negative


@dataclass(frozen=True)
class Gallery:
    """The sheets of a table."""

    clean: str
    numbers: tuple[int, ...]
    labels: tuple[int, ...]
    width: int  # of an image, in pixels
    height: int
    columns: int
    sheets: dict[tuple[str, str], Sheet]  # by model and threat


def gallery(board: Board, table: Table, images: TableImages) -> tuple[Gallery, dict[str, bytes]]:
    """The sheets of a table, and their files."""
    folder = f"images/{board.id}/{table.id}"
    columns = min(COLUMNS, len(images.clean))
    files = {f"{folder}/clean.png": png(_grid(dict(enumerate(map(_bytes, images.clean))), images, columns, 255))}
    sheets = {}
    for row in table.models:
        for place, threat in enumerate(table.threats):
            found = images.adversarial.get((row.id, threat), {})
            if not found:
                continue
            sheet = Sheet(
                f"{folder}/{row.id}-{place}.png",
                f"{folder}/{row.id}-{place}-difference.png",
                {at: found[at].size for at in sorted(found)},
                max(float(np.abs(a.image - images.clean[at]).max()) for at, a in found.items()),
            )
            sheets[row.id, threat] = sheet
            shown = {at: _bytes(a.image) for at, a in found.items()}
            changes = {at: _change(a.image - images.clean[at], sheet.scale) for at, a in found.items()}
            files[sheet.adversarial] = png(_grid(shown, images, columns, 255))
            files[sheet.difference] = png(_grid(changes, images, columns, GREY))
    height, width = images.clean[0].shape[1:]
    numbers, labels = tuple(images.numbers), tuple(images.labels)
    return Gallery(f"{folder}/clean.png", numbers, labels, width, height, columns, sheets), files


def for_script(found: Gallery | None, table: Table, row: ModelResult) -> list[dict[str, Any] | None]:
    """What the script of a model states about its sheets, a record per threat."""
    sheets = [None if found is None else found.sheets.get((row.id, threat)) for threat in table.threats]
    return [
        None
        if sheet is None
        else {
            "adversarial": sheet.adversarial,
            "difference": sheet.difference,
            "scale": sheet.scale,
            "sizes": {str(at): size for at, size in sheet.sizes.items()},
        }
        for sheet in sheets
    ]


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (H, W) grey or (H, W, 3) coloured pixels, without time or any other note."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    lines = np.hstack([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)])
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _bytes(image: Image) -> NDArray[np.uint8]:
    return np.round(image * 255).astype(np.uint8)


def _change(delta: Image, scale: float) -> NDArray[np.uint8]:
    """Grey where nothing changes, white at +scale, black at -scale."""
    return np.round(GREY + (GREY - 1) * delta / (scale or 1)).astype(np.uint8)


def _grid(
    pictures: Mapping[int, NDArray[np.uint8]], images: TableImages, columns: int, empty: int
) -> NDArray[np.uint8]:
    """A sheet as PNG pixels; places without an image are `empty`."""
    channels, height, width = images.clean[0].shape
    rows = -(-len(images.clean) // columns)
    sheet = np.full((channels, rows * height, columns * width), empty, np.uint8)
    for place, picture in pictures.items():
        top, left = place // columns * height, place % columns * width
        sheet[:, top : top + height, left : left + width] = picture
    return sheet[0] if channels == 1 else np.ascontiguousarray(sheet.transpose(1, 2, 0))
