"""Threat models whose images vary smoothly with parameters in an l_p ball."""

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch

from ... import radius
from ...errors import UserError
from ..shapes import Inputs, PerExample
from .base import FARTHEST, SMALLEST, Ball, TransformParams, fraction_text
from .rebuilt import Rebuilt

INWARD = Fraction(1, 2**18)  # share of the radius that searches stay away: float32 rounding of long sums


@dataclass(frozen=True)
class ParamBall(Rebuilt):
    """Images of parameters whose norm is at most `radius`, each of them between -peak and peak.

    Attacks on l_p balls search it: parameters are the changes of a grey image of as many pixels, on the scale at which
    the range of each parameter is the range of a pixel.
    """

    norm: ClassVar[type[Ball]]

    radius: Fraction

    def __post_init__(self) -> None:
        if not SMALLEST <= self.radius <= FARTHEST or self._on_pixels < SMALLEST:
            raise UserError(
                f"a radius of {self.name} must be above 0, and not beyond {FARTHEST}; write it like {self.form}"
            )

    @classmethod
    def parse(cls, text: str) -> "ParamBall":
        """A radius. Raises ValueError for anything else."""
        return cls(radius.read(text))

    def __str__(self) -> str:
        return f"{self.name}:{fraction_text(self.radius)}"

    @property
    def r(self) -> float:
        """The radius as a float."""
        return float(self.radius)

    @property
    @abstractmethod
    def peak(self) -> Fraction:
        """The largest absolute value of a parameter."""

    @property
    def ball(self) -> Ball:
        """The ball that attacks search, around grey images: `grey`."""
        return self.norm(self._on_pixels)

    @property
    def _on_pixels(self) -> Fraction:
        return self.radius * (1 - INWARD) / (2 * self.peak)

    def grey(self, x: Inputs) -> TransformParams:
        """The middle of the box of parameters, on the scale of pixels, for each image of x: (B, P)."""
        return x.new_full((len(x), self.n_params(x.shape[1:])), 0.5)

    def params_at(self, delta: TransformParams) -> TransformParams:
        """The parameters of a change of the grey image."""
        return delta * (2 * float(self.peak))

    def share(self, params: TransformParams) -> PerExample:
        values = params.double()
        return torch.maximum(self.norm(self.radius).size(values) / self.r, values.abs().amax(dim=1) / float(self.peak))
