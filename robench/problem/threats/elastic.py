"""Smooth flows: Kang et al. 2019, https://arxiv.org/abs/1908.08016"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ... import radius
from ..shapes import Inputs
from .base import Ball, TransformParams
from .lp import Linf
from .param_ball import ParamBall
from .resampling import Images, pixels, sampled

# Of an image of 224 pixels, as the authors have it; smaller images have a proportionally smaller kernel.
LENGTH, SIGMA, REACH = 224, 3.0, 12


@dataclass(frozen=True)
class Elastic(ParamBall):
    """Every pixel takes its value from a place nearby: each at most `radius` pixels off along either axis.

    The parameters are the flow before a Gaussian smooths it: the moves across of all pixels in reading order, then
    those down. The image is interpolated bilinearly and black outside. The authors' kernel for CIFAR-10, five pixels
    wide, is the kernel here at 32 pixels.
    """

    name: ClassVar[str] = "elastic"
    form: ClassVar[str] = "elastic:0.5"
    meaning: ClassVar[str] = "every pixel is taken from at most so many pixels away, by a smooth flow"
    norm: ClassVar[type[Ball]] = Linf

    @classmethod
    def parse(cls, text: str) -> "Elastic":
        """A radius in pixels, `0.5` or `0.5px`. Raises ValueError for anything else."""
        return cls(radius.read(text.removesuffix("px")))

    @classmethod
    def n_params(cls, shape: Sequence[int]) -> int:
        return 2 * shape[-2] * shape[-1]

    @property
    def peak(self) -> Fraction:
        return self.radius

    def apply(self, x: Inputs, params: TransformParams) -> Inputs:
        flow = smoothed(params.reshape(-1, 2, *x.shape[2:]))
        rows, columns = pixels(x)
        return sampled(x, rows + flow[:, 1], columns + flow[:, 0]).clamp(0, 1)


def smoothed(flow: Images) -> Images:
    """The flow after a Gaussian that is cut off at 4 of its standard deviations; the edge reflects."""
    height, width = flow.shape[2:]
    kernel = _kernel(min(height, width)).to(flow)
    reach = len(kernel) // 2
    padded = F.pad(flow, [reach] * 4, mode="reflect")
    return F.conv2d(padded, torch.outer(kernel, kernel).expand(2, 1, -1, -1), groups=2)


def _kernel(length: int) -> Float[Tensor, "K"]:
    """The weights along one axis, for images whose shorter side has this length."""
    reach = min(math.ceil(REACH * length / LENGTH), length - 1)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = (-0.5 * (places / (SIGMA * length / LENGTH)).square()).exp()
    return weights / weights.sum()
