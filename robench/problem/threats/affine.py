"""Mixtures of two threats that share one budget: Tramèr and Boneh 2019, section 2.5, https://arxiv.org/abs/1904.13000

S_affine = { r1 + r2 : r1 in beta S1, r2 in (1 - beta) S2, beta in [0, 1] }
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ... import radius
from ...errors import UserError
from ..shapes import Inputs, Mask, PerExample, per_example
from .base import N_PARAMS, Ball, ThreatModel, TransformParams, fitted, in_box
from .lp import L1, L2, Linf
from .rebuilt import EDGE
from .rt import RT

BISECTIONS = 60  # in float64
TINY = 1e-30  # keeps 0 / 0 away

Reach = Float[Tensor, "B N"]  # absolute changes


@dataclass(frozen=True)
class AffineBalls(ThreatModel):
    """Sums of a share beta of one l_p ball and a share 1 - beta of another: the convex hull of both.

    The size of a change is the gauge of the hull: the smallest t for which t times the hull contains it; 1 at the
    surface.
    """

    name: ClassVar[str] = "affine-lp"
    form: ClassVar[str] = "affine:linf:0.3+l1:10"
    meaning: ClassVar[str] = "a part of one ball added to the rest of another: the convex hull of both"

    one: Ball
    two: Ball

    def __post_init__(self) -> None:
        if {self.one.name, self.two.name} not in ({"linf", "l1"}, {"linf", "l2"}, {"l2", "l1"}):
            raise UserError(f"{self} must mix two of linf, l2 and l1; write it like {self.form}")

    @property
    def parts(self) -> tuple[Ball, Ball]:
        """The two balls."""
        return self.one, self.two

    def __str__(self) -> str:
        return f"affine:{self.one}+{self.two}"

    def size(self, delta: Inputs) -> PerExample:
        """The gauge, in float64."""
        reach = delta.flatten(1).double().abs()
        radius = {part.name: part.r for part in self.parts}
        if "l2" not in radius:
            return _linf_and_l1(reach, radius["linf"], radius["l1"])
        if "l1" not in radius:
            return _linf_and_l2(reach, radius["linf"], radius["l2"])
        return _l2_and_l1(reach, radius["l2"], radius["l1"])

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        """The delta scaled into the hull, then cut by the box, which only makes it smaller."""
        shrunk = delta * per_example(1 / self.size(delta).clamp(min=1), delta).to(delta.dtype)
        return (x + shrunk).clamp(0, 1) - x

    def contains(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> Mask:
        # Rounding can add at most as much as it can add in either ball, measured by that ball.
        slack = torch.maximum(*(part.slack(x_adv, x) / part.r for part in self.parts))
        return in_box(x_adv) & (self.measure(x_adv, x) <= 1 + slack)

    def measure(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> PerExample:
        return self.size(x_adv.double() - x.double())


def _linf_and_l1(reach: Reach, linf: float, l1: float) -> PerExample:
    """The largest g . |delta| with |g|_1 <= 1 / linf and |g|_inf <= 1 / l1: a fractional knapsack."""
    full = int(min(l1 / linf, reach.shape[1]))
    largest = reach.topk(min(full + 1, reach.shape[1]), dim=1).values
    size: Tensor = largest[:, :full].sum(dim=1)
    if full < reach.shape[1]:
        size = size + (l1 / linf - full) * largest[:, full]
    return size / l1


def _linf_and_l2(reach: Reach, linf: float, l2: float) -> PerExample:
    """The minimum of t / linf + |(|delta| - t)+|_2 / l2 over t: it is convex, so its slope is 0 there."""
    high = reach.amax(dim=1, keepdim=True)
    low = torch.zeros_like(high)
    for _ in range(BISECTIONS):
        t = (low + high) / 2
        above = (reach - t).clamp(min=0)
        falls = above.sum(dim=1, keepdim=True) * linf > l2 * above.norm(dim=1, keepdim=True)
        low, high = torch.where(falls, t, low), torch.where(falls, high, t)
    size: Tensor = high.squeeze(1) / linf + (reach - high).clamp(min=0).norm(dim=1) / l2
    return size


def _l2_and_l1(reach: Reach, l2: float, l1: float) -> PerExample:
    """The largest g . |delta| with |g|_2 <= 1 / l2 and |g|_inf <= 1 / l1: g = min(c |delta|, 1 / l1)."""
    peak = reach.amax(dim=1, keepdim=True).clamp(min=TINY)
    share = reach / peak
    low, high = torch.zeros_like(peak), 1 / (l1 * share.masked_fill(share == 0, 1).amin(dim=1, keepdim=True))
    for _ in range(BISECTIONS):
        c = (low + high) / 2
        fits = (c * share).clamp(max=1 / l1).norm(dim=1, keepdim=True) <= 1 / l2
        low, high = torch.where(fits, c, low), torch.where(fits, high, c)
    size: Tensor = ((low * share).clamp(max=1 / l1) * reach).sum(dim=1)
    return size


@dataclass(frozen=True)
class AffineRT(ThreatModel):
    """A rotation and translation within a share beta of its limits, then a change within the rest of a ball.

    As in the definition, the change is added to the transformed image. (The authors' code adds it before the transform:
    the resampling then smooths it, and the set is smaller.)
    """

    name: ClassVar[str] = "affine-rt"
    form: ClassVar[str] = "affine:linf:0.3+rt:3px,30deg"
    meaning: ClassVar[str] = "moved by a share of the limits, then changed by the rest of the ball"
    by_params: ClassVar[bool] = True

    ball: Ball
    rt: RT

    def __str__(self) -> str:
        return f"affine:{self.ball}+{self.rt}"

    def contains(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> Mask:
        transformed = self.rt.apply(x, fitted(params, x, N_PARAMS))
        slack = self.ball.slack(x_adv, transformed) / self.ball.r
        return in_box(x_adv) & (self.measure(x_adv, x, params) <= 1 + EDGE + slack)

    def measure(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> PerExample:
        """The share of the limits plus the share of the radius; 1 at the surface."""
        params = fitted(params, x, N_PARAMS)
        return self.rt.share(params) + self.ball.measure(x_adv, self.rt.apply(x, params)) / self.ball.r


def parse(parts: str) -> ThreatModel:
    """`linf:0.3+l1:10` or `linf:0.3+rt:3px,30deg`. Raises ValueError for anything else."""
    balls: dict[str, Any] = {ball.name: ball for ball in (Linf, L2, L1)}
    one, plus, two = parts.partition("+")
    if not plus:
        raise ValueError(parts)
    if one.startswith("rt:"):
        one, two = two, one
    name, _, extent = one.strip().partition(":")
    other, _, limits = two.strip().partition(":")
    if name not in balls or other not in {*balls, "rt"}:
        raise ValueError(parts)
    first = balls[name](radius.read(extent))
    return AffineRT(first, RT.parse(limits)) if other == "rt" else AffineBalls(first, balls[other](radius.read(limits)))
