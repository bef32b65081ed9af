"""The user's own images in a folder with a subfolder for each class."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import UserError
from ..split import Split, Undecoded
from . import label_map, pictures
from .pixels import unit
from .preparation import Preparation

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
PARTS = ("train", "training", "val", "valid", "validation", "test")


def read(path: Path, preparation: Preparation | None = None) -> Undecoded:
    """The images in a folder, in the order of torchvision's ImageFolder: classes by name, then files by path.

    The label of a class is its position among the sorted names of the subfolders, or its output in the label map.
    Images are converted to RGB, or stay grey if all are. Raises UserError if there are none. An image that is damaged,
    or differs in size from the others, raises only when it is decoded.
    """
    preparation = preparation or Preparation()
    classes = _classes(path)
    files = [(file, label) for label, name in enumerate(classes) for file in _files(path / name)]
    if not files:
        raise UserError(f"{path} holds no images in its subfolders; robench reads {', '.join(SUFFIXES)}")
    mapped = label_map.read(Path(os.path.expanduser(preparation.labels))) if preparation.labels else None
    outputs = [mapped.output(name) if mapped else label for label, name in enumerate(classes)]
    name = path.resolve().name or "images"

    def open_picture(row: int) -> tuple[Image.Image, str]:
        return pictures.opened(str(files[row][0]), str(files[row][0])), str(files[row][0])

    @lru_cache(maxsize=1)
    def as_grey() -> bool:
        return pictures.grey(open_picture, len(files), preparation)

    def decode(rows: Sequence[int]) -> Split:
        pixels = pictures.decoded(open_picture, rows, as_grey=as_grey(), preparation=preparation, name=str(path))
        return Split(
            name=name,
            x=torch.from_numpy(np.ascontiguousarray(unit(pixels.transpose(0, 3, 1, 2)))),
            y=torch.tensor([outputs[files[row][1]] for row in rows], dtype=torch.long),
            numbers=tuple(rows),
            classes=mapped.classes if mapped else len(classes),
            class_names=dict(zip(classes, outputs, strict=True)),
        )

    return Undecoded(name, len(files), decode, labels=[outputs[label] for _, label in files])


def _classes(path: Path) -> list[str]:
    """The subfolders, sorted. Raises UserError if there are none, or if they are parts and not classes."""
    try:
        entries = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise UserError(f"the folder {path} cannot be read: {error.strerror or error}") from None
    if not entries:
        loose = any(name.lower().endswith(SUFFIXES) for name in os.listdir(path))
        what = "images but no subfolders" if loose else "no subfolders"
        raise UserError(f"{path} has {what}; robench reads a subfolder of images for each class")
    parts = [name for name in entries if name.lower() in PARTS]
    if len(parts) == len(entries):
        raise UserError(f"{path} holds {' and '.join(parts)}; name one of them with --data, as {path / parts[-1]}")
    return entries


def _files(folder: Path) -> list[Path]:
    """The images below a folder, in the order of ImageFolder: folder by folder, each by name."""
    return [
        Path(root) / name
        for root, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES)
    ]
