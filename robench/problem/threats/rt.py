"""Rotations and translations of the whole image."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ... import radius
from ...errors import UserError
from ..shapes import Inputs, PerExample
from .base import FARTHEST, TransformParams, fraction_text
from .rebuilt import Rebuilt
from .resampling import Images, pixels, sampled

MAX_PADDING = 1024  # pixels on each side


@dataclass(frozen=True)
class RT(Rebuilt):
    """The image rotated about its middle, then shifted: Engstrom et al. 2019, https://arxiv.org/abs/1712.02779

    Both resample bilinearly, one after the other; pixels from outside the frame are black. A positive tx moves the
    content to the right, a positive ty down; a positive angle turns it anticlockwise. Without padding, content that a
    rotation pushes out of the frame is lost before the shift. With padding, the image lies on a black canvas that is
    wider by `padding` pixels on each side, as in the authors' CIFAR-10 code.
    """

    name: ClassVar[str] = "rt"
    form: ClassVar[str] = "rt:3px,30deg"
    meaning: ClassVar[str] = "rotated, then shifted along both axes, by at most so much; rt:3px,30deg,pad16 on a canvas"

    pixels: Fraction
    degrees: Fraction
    padding: int = 0

    def __post_init__(self) -> None:
        if self.pixels < 0 or self.degrees < 0 or not self.pixels + self.degrees:
            raise UserError("rt needs limits of 0 or more, one of them above 0; write it like rt:3px,30deg")
        if self.padding > MAX_PADDING:
            raise UserError(f"rt cannot pad by {self.padding} pixels; pad{MAX_PADDING} is the limit")
        if self.pixels > FARTHEST:
            raise UserError(f"rt cannot shift by more than {FARTHEST} pixels; write it like rt:3px,30deg")
        if self.degrees > 180:
            raise UserError("rt cannot turn by more than 180 degrees; write it like rt:3px,30deg")

    @classmethod
    def parse(cls, limits: str) -> "RT":
        """`3px,30deg` or `3px,30deg,pad16`. Raises ValueError for anything else."""
        match = re.fullmatch(r"([^,]+)px,([^,]+)deg(?:,pad([0-9]{1,9}))?", limits.replace(" ", ""))
        if not match:
            raise ValueError(limits)
        return cls(radius.read(match[1]), radius.read(match[2]), int(match[3] or 0))

    def __str__(self) -> str:
        canvas = f",pad{self.padding}" if self.padding else ""
        return f"rt:{fraction_text(self.pixels)}px,{fraction_text(self.degrees)}deg{canvas}"

    def limits(self, like: Tensor) -> Float[Tensor, "3"]:
        """The limits of tx and ty in pixels, and of the angle in degrees."""
        return torch.stack([like.new_full((), float(limit)) for limit in (self.pixels, self.pixels, self.degrees)])

    def apply(self, x: Inputs, params: TransformParams) -> Inputs:
        """The images after the transforms of these parameters."""
        canvas = F.pad(x, [self.padding] * 4)
        moved = _shifted(_rotated(canvas, params[:, 2]), params[:, 0], params[:, 1])
        height, width = x.shape[-2:]
        cut = moved[..., self.padding : self.padding + height, self.padding : self.padding + width]
        still = (params == 0).all(dim=1)[:, None, None, None]
        return torch.where(still, x, cut.clamp(0, 1))

    def share(self, params: TransformParams) -> PerExample:
        """The share of the limits that each transform uses: the largest of the three shares."""
        limits = self.limits(params.double())
        used = params.double().abs()
        return torch.where(limits > 0, used / limits.clamp(min=1e-30), torch.where(used > 0, torch.inf, 0.0)).amax(
            dim=1
        )


def _rotated(x: Images, degrees: PerExample) -> Images:
    """The images rotated about the centre, anticlockwise."""
    i, j = pixels(x)
    angle = torch.deg2rad(degrees)[:, None, None]
    down, across = i - (x.shape[-2] - 1) / 2, j - (x.shape[-1] - 1) / 2
    rows = down * angle.cos() + across * angle.sin() + (x.shape[-2] - 1) / 2
    columns = across * angle.cos() - down * angle.sin() + (x.shape[-1] - 1) / 2
    return sampled(x, rows, columns)


def _shifted(x: Images, tx: PerExample, ty: PerExample) -> Images:
    """The images shifted by tx to the right and ty down."""
    i, j = pixels(x)
    blank = x.new_zeros(len(x), *x.shape[-2:])
    return sampled(x, blank + i - ty[:, None, None], blank + j - tx[:, None, None])
