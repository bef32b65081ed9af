"""Changes of the quantised coefficients of JPEG: Kang et al. 2019, https://arxiv.org/abs/1908.08016"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ..shapes import Inputs
from .base import Ball, TransformParams
from .jpeg_codec import Layout, decoded, encoded
from .lp import L1, L2, Linf
from .param_ball import ParamBall

HALF = 0.5  # of a parameter is added to its coefficient, as in the authors' code: 1 is the width of a rounding interval


@dataclass(frozen=True)
class Jpeg(ParamBall):
    """The image that its own coefficients give once half of the parameters is added to them, without rounding.

    The radius is the authors' epsilon. As in their code, a parameter is at most 2 in absolute value under l_2 and l_1.
    Without a change, colour images lose half of the resolution of their colours, so the clean image is not a member.
    """

    @classmethod
    def n_params(cls, shape: Sequence[int]) -> int:
        return Layout.of(shape).size

    @property
    def peak(self) -> Fraction:
        return Fraction(2)

    def apply(self, x: Inputs, params: TransformParams) -> Inputs:
        return decoded(encoded(x) + HALF * params, x.shape[1:]).clamp(0, 1)


@dataclass(frozen=True)
class JpegLinf(Jpeg):
    """Every parameter is at most `radius`."""

    name: ClassVar[str] = "jpeg-linf"
    form: ClassVar[str] = "jpeg-linf:0.125"
    meaning: ClassVar[str] = "every quantised JPEG coefficient moves by at most half the radius"
    norm: ClassVar[type[Ball]] = Linf

    @property
    def peak(self) -> Fraction:
        return self.radius


@dataclass(frozen=True)
class JpegL2(Jpeg):
    """The Euclidean length of the parameters is at most `radius`."""

    name: ClassVar[str] = "jpeg-l2"
    form: ClassVar[str] = "jpeg-l2:1"
    meaning: ClassVar[str] = "the quantised JPEG coefficients move by at most half the radius in Euclidean length"
    norm: ClassVar[type[Ball]] = L2


@dataclass(frozen=True)
class JpegL1(Jpeg):
    """The absolute values of the parameters add up to at most `radius`."""

    name: ClassVar[str] = "jpeg-l1"
    form: ClassVar[str] = "jpeg-l1:64"
    meaning: ClassVar[str] = "the quantised JPEG coefficients move by at most half the radius in all"
    norm: ClassVar[type[Ball]] = L1
