"""Rotations and translations whose change is projected onto an l_2 ball."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ... import radius
from ..shapes import Inputs, PerExample
from .base import TransformParams
from .lp import L2
from .rebuilt import Rebuilt
from .rt import RT


@dataclass(frozen=True)
class RTL2(Rebuilt):
    """The image on the way to its transform, as far as the ball reaches: x + min(1, r / |d|) d with d = T(x) - x.

    The "spatial attack projected on l_2" that Madaan et al. 2021 train with, https://arxiv.org/abs/2006.12135, who
    give neither limits nor code. A transform within the ball is a member as it is. The parameters are those of `rt`.
    """

    name: ClassVar[str] = "rt-l2"
    form: ClassVar[str] = "rt-l2:3px,30deg+l2:0.5"
    meaning: ClassVar[str] = "rotated and shifted within limits, the change then projected onto an l2 ball"

    rt: RT
    ball: L2

    @classmethod
    def parse(cls, text: str) -> "RTL2":
        """`3px,30deg+l2:0.5`. Raises ValueError for anything else."""
        limits, plus, ball = text.replace(" ", "").partition("+")
        if not plus or not ball.startswith("l2:"):
            raise ValueError(text)
        return cls(RT.parse(limits), L2(radius.read(ball.removeprefix("l2:"))))

    def __str__(self) -> str:
        return f"rt-l2:{str(self.rt).removeprefix('rt:')}+{self.ball}"

    def limits(self, like: Tensor) -> Float[Tensor, "3"]:
        """The limits of tx and ty in pixels, and of the angle in degrees."""
        return self.rt.limits(like)

    def apply(self, x: Inputs, params: TransformParams) -> Inputs:
        return x + self.ball.project(self.rt.apply(x, params) - x, x)

    def share(self, params: TransformParams) -> PerExample:
        return self.rt.share(params)
