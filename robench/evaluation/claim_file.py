"""Adversarial images of any origin, from an `.npz` file. Never unpickles."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ..errors import UserError, counted
from ..problem import threats
from ..problem.datasets import npz
from ..problem.datasets.arrays import unit_range
from ..problem.missing import missing
from ..problem.shapes import Inputs
from ..problem.split import Source, Split
from ..problem.threats.base import FARTHEST, MAX_PARAMS

Array = np.ndarray[Any, np.dtype[Any]]

NAMES: tuple[str, ...] = ("x_adv", "example", "threat", "params", "x", "y")  # of the arrays that are read
MAX_IMAGES = 10**6  # in a file
SAME_PIXEL = 1e-6  # the allowed difference of a given clean pixel: float64 and float32 round a byte / 255 differently


@dataclass(frozen=True, eq=False)
class ClaimFile:
    """The images of one file, each with its clean image. Pixels lie in [0, 1], but for NaN and infinite ones."""

    path: Path
    sha256: str  # of the file
    clean: Split  # the clean image of each row; several rows may be about one example
    x_adv: Inputs
    named: tuple[str, ...]  # the threat that each row names, as plans write it; empty if the file names none
    params: Float[torch.Tensor, "N P"] | None  # the parameters of each image; None if the file has none

    def __len__(self) -> int:
        return len(self.clean)


def read(path: Path, shape: tuple[int, ...], whole: Source) -> ClaimFile:
    """The images in `x_adv`, about the examples of `whole` with the numbers in `example`, else the first ones.

    `shape` is that of an image: channels, height, width. `threat` and `params`, which `robench export` writes, are
    optional, and so are `x` and `y`, which have to be those of the examples. Raises UserError with one sentence for
    other contents.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name an .npz file with an array x_adv")
    if not path.is_file():
        raise missing("claims", path)
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is no .npz file, or is cut off; write one with numpy.savez('adv.npz', x_adv=images,"
            " example=numbers)"
        )
    held = npz.names(path)
    if "x_adv" not in held:
        raise UserError(
            f"{path} has no array x_adv; it holds {', '.join(held) or 'none'}: write one with numpy.savez('adv.npz',"
            " x_adv=images, example=numbers)"
        )
    known = [name for name in NAMES if name in held]
    arrays: dict[str, Array] = dict(zip(known, npz.arrays(path, *known), strict=True))
    x_adv = _images(arrays.pop("x_adv"), shape, f"{path}: x_adv")
    for name, array in arrays.items():
        if array.shape[:1] != (len(x_adv),):
            rows = "no rows" if not array.ndim else counted(len(array), "row")
            raise UserError(
                f"{path} has {counted(len(x_adv), 'image')} in x_adv and {rows} in {name}; give one for each"
            )
    clean = whole.take(_rows(arrays.get("example"), len(x_adv), whole, path))
    _refuse_others(clean, arrays, path)
    return ClaimFile(
        path=path,
        sha256=_sha256(path),
        clean=clean,
        x_adv=torch.from_numpy(x_adv),
        named=_texts(arrays["threat"], path) if "threat" in arrays else (),
        params=_params(arrays["params"], shape, path) if "params" in arrays else None,
    )


def _images(x: Array, shape: tuple[int, ...], source: str) -> Array:
    """The images as float32 (N,C,H,W). Those of the data decide which axis holds the channels."""
    channels, height, width = shape
    if x.ndim == 3 and channels == 1:
        x = x[:, None]
    if x.ndim == 4 and x.shape[1:] != shape and x.shape[1:] == (height, width, channels):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1:] != shape:
        wanted = f"(N, {channels}, {height}, {width}) or (N, {height}, {width}, {channels})"
        wanted += f" or (N, {height}, {width})" if channels == 1 else ""
        raise UserError(f"{source} has shape {x.shape}; images of these data are {wanted}")
    if not 1 <= len(x) <= MAX_IMAGES:
        raise UserError(f"{source} holds {counted(len(x), 'image')}; give 1 to {MAX_IMAGES:,}")
    return unit_range(x, source, finite=False)


def _rows(example: Array | None, n: int, whole: Source, path: Path) -> list[int]:
    """The row in the data of each image."""
    if example is None:
        if n > len(whole):
            raise UserError(
                f"{path} has {counted(n, 'image')} in x_adv and {whole.name} has {len(whole)}; give the number of the"
                " example of each image in an array example"
            )
        return list(range(n))
    if example.ndim != 1 or example.dtype.kind not in "iu":
        raise UserError(
            f"{path}: example holds {example.dtype} of shape {example.shape}; give the whole number of an example in"
            f" {whole.name} for each image"
        )
    rows = {number: row for row, number in enumerate(whole.numbers)}
    numbers = example.tolist()
    if strange := [number for number in numbers if number not in rows]:
        raise UserError(
            f"{path}: {whole.name} has no example {strange[0]}; its examples are numbered {min(rows)} to {max(rows)}"
        )
    return [rows[number] for number in numbers]


def _refuse_others(clean: Split, arrays: dict[str, Array], path: Path) -> None:
    """Raises UserError where the file gives a clean image or a label, and it is not that of the data."""
    if "y" in arrays:
        y = arrays["y"]
        labels = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if labels.ndim != 1 or labels.dtype.kind not in "iuf":
            raise UserError(
                f"{path}: y holds {y.dtype} of shape {y.shape}; give one label for each image, or leave y out"
            )
        if len(wrong := np.flatnonzero(labels != clean.y.numpy())):
            row = int(wrong[0])
            raise UserError(
                f"{path}: y gives example {clean.numbers[row]} the label {labels[row]}, and in {clean.name} it has"
                f" {int(clean.y[row])}; give the numbers of the examples in an array example"
            )
    if "x" in arrays:
        x = _images(arrays["x"], clean.shape, f"{path}: x")
        apart = np.abs(x - clean.x.numpy()).reshape(len(x), -1).max(axis=1)
        if len(wrong := np.flatnonzero(~(apart <= SAME_PIXEL))):
            row = int(wrong[0])
            raise UserError(
                f"{path}: x holds another image as example {clean.numbers[row]} than {clean.name}; give the numbers of"
                " the examples in an array example, or the data with --data"
            )


def _texts(threat: Array, path: Path) -> tuple[str, ...]:
    """The threat that each row names, as plans write it."""
    if threat.ndim != 1 or threat.dtype.kind != "U":
        raise UserError(
            f"{path}: threat holds {threat.dtype} of shape {threat.shape}; give a text like linf:0.3 per image"
        )
    texts = threat.tolist()
    try:
        spelled = {text: str(threats.parse(text)) for text in dict.fromkeys(texts)}
    except UserError as error:
        raise UserError(f"{path}: threat: {error}") from None
    return tuple(spelled[text] for text in texts)


def _params(params: Array, shape: tuple[int, ...], path: Path) -> Float[torch.Tensor, "N P"]:
    """The parameters: as many as a threat model has for images of this shape."""
    numbers = {threat.n_params(shape) for threat in threats.THREATS.values()}
    known = params.ndim == 2 and params.shape[1] in numbers and params.shape[1] <= MAX_PARAMS
    if not known or params.dtype.kind not in "iuf":
        raise UserError(
            f"{path}: params holds {params.dtype} of shape {params.shape}; give tx, ty and the angle for each image, or"
            " the parameters that robench export writes"
        )
    if not (np.abs(params) <= FARTHEST).all():
        raise UserError(f"{path}: params holds numbers that are no pixels or degrees; give tx, ty and the angle")
    return torch.from_numpy(params.astype(np.float64))


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
