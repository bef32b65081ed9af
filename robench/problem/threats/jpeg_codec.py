"""JPEG without rounding: quantised coefficients of an image, and the image of coefficients, differentiable.

ITU-T T.81 with the tables of its annex K (quality 50), JFIF colours, chroma at half the resolution (4:2:0).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..shapes import Inputs

BLOCK = 8  # pixels on each side
LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
# Red, green and blue from 0 to 255 to brightness and two colour differences around 0, and back.
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))

Coefficients = Float[Tensor, "B P"]
"""Quantised coefficients: block after block in reading order, in a block row after row; luma first, then chroma."""

Plane = Float[Tensor, "B N H W"]


@dataclass(frozen=True)
class Layout:
    """The planes of an image of some channels, height and width: in colour if it has three channels, else all luma."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> "Layout":
        """The layout of images of this shape (channels, height, width)."""
        return cls(*shape)

    @property
    def coloured(self) -> bool:
        """Whether two of the planes are colour differences."""
        return self.channels == 3

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width, up to the next whole block of every plane."""
        unit = 2 * BLOCK if self.coloured else BLOCK
        return -(-self.height // unit) * unit, -(-self.width // unit) * unit

    @property
    def size(self) -> int:
        """The number of coefficients."""
        return sum(n * height * width for n, height, width, _ in self.planes())

    def planes(self) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
        """The number of planes of a kind, their height and width, and their table."""
        height, width = self.padded
        if not self.coloured:
            yield self.channels, height, width, LUMA
            return
        yield 1, height, width, LUMA
        yield 2, height // 2, width // 2, CHROMA


def encoded(x: Inputs) -> Coefficients:
    """The coefficients of images with pixels from 0 to 1. Incomplete blocks repeat the last row and column."""
    layout = Layout.of(x.shape[1:])
    height, width = layout.padded
    image = F.pad(255 * x, (0, width - layout.width, 0, height - layout.height), mode="replicate")
    if layout.coloured:
        image = torch.einsum("ij,bjhw->bihw", _matrix(TO_YCC, x.device, x.dtype), image)
        kinds = [image[:, :1] - 128, F.avg_pool2d(image[:, 1:], 2)]
    else:
        kinds = [image - 128]
    return torch.cat([_transformed(p, kind[3]) for p, kind in zip(kinds, layout.planes(), strict=True)], dim=1)


def decoded(coefficients: Coefficients, shape: Sequence[int]) -> Inputs:
    """The images of these coefficients; pixels may leave [0, 1]. Chroma is repeated, without smoothing."""
    layout, kinds, first = Layout.of(shape), [], 0
    for n, height, width, table in layout.planes():
        last = first + n * height * width
        kinds.append(_plane(coefficients[:, first:last], n, height, width, table))
        first = last
    image = kinds[0] + 128
    if layout.coloured:
        chroma = kinds[1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        matrix = _matrix(TO_RGB, coefficients.device, coefficients.dtype)
        image = torch.einsum("ij,bjhw->bihw", matrix, torch.cat([image, chroma], dim=1))
    return image[:, :, : layout.height, : layout.width] / 255


def _transformed(planes: Plane, table: tuple[int, ...]) -> Coefficients:
    """The quantised cosine transform of each block."""
    n, height, width = planes.shape[1:]
    blocks = planes.view(-1, n, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    cosine = _cosine(planes.device, planes.dtype)
    spectrum = torch.einsum("ui,bnyixj,vj->bnyxuv", cosine, blocks, cosine)
    return (spectrum / _table(table, planes.device, planes.dtype)).flatten(1)


def _plane(coefficients: Coefficients, n: int, height: int, width: int, table: tuple[int, ...]) -> Plane:
    """The planes of these coefficients."""
    spectrum = coefficients.reshape(-1, n, height // BLOCK, width // BLOCK, BLOCK, BLOCK)
    spectrum = spectrum * _table(table, coefficients.device, coefficients.dtype)
    cosine = _cosine(coefficients.device, coefficients.dtype)
    return torch.einsum("ui,bnyxuv,vj->bnyixj", cosine, spectrum, cosine).reshape(-1, n, height, width)


@lru_cache
def _cosine(device: torch.device, dtype: torch.dtype) -> Float[Tensor, "8 8"]:
    """The orthonormal cosine transform of eight numbers."""
    rows = [[math.cos((2 * i + 1) * u * math.pi / 16) / 2 for i in range(BLOCK)] for u in range(BLOCK)]
    rows[0] = [8**-0.5] * BLOCK
    return torch.tensor(rows, device=device, dtype=dtype)


@lru_cache
def _table(table: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Float[Tensor, "8 8"]:
    return torch.tensor(table, device=device, dtype=dtype).view(BLOCK, BLOCK)


@lru_cache
def _matrix(rows: tuple[tuple[float, ...], ...], device: torch.device, dtype: torch.dtype) -> Float[Tensor, "3 3"]:
    return torch.tensor(rows, device=device, dtype=dtype)
