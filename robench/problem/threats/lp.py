"""The balls of the l_p norms, each cut by the box of images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UserError
from ..shapes import Inputs, PerExample, per_example
from .base import ThreatModel, room, shrink_to

TINY = 1e-30  # below any gradient that means something; keeps 0 / 0 away

Rows = Float[Tensor, "B N"]


@dataclass(frozen=True)
class Linf(ThreatModel):
    """Every pixel moves by at most `radius`."""

    name: ClassVar[str] = "linf"
    meaning: ClassVar[str] = "every pixel moves by at most the radius"

    def size(self, delta: Inputs) -> PerExample:
        return delta.flatten(1).abs().amax(dim=1)

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        return (x + delta.clamp(-self.r, self.r)).clamp(0, 1) - x

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        r = per_example(self._radii(delta, stretch), delta)
        return (x + delta.clamp(-r, r)).clamp(0, 1) - x  # ball and box are boxes: clipping to both is the projection

    def steepest(self, grad: Inputs) -> Inputs:
        return grad.sign()

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        return self.project(self.r * torch.erf(noise * 0.5**0.5), x)  # uniform in the ball


@dataclass(frozen=True)
class L2(ThreatModel):
    """Perturbations of Euclidean length at most `radius`."""

    name: ClassVar[str] = "l2"
    meaning: ClassVar[str] = "Euclidean length of the change at most the radius"

    def size(self, delta: Inputs) -> PerExample:
        return delta.flatten(1).square().sum(dim=1).sqrt()

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        # The box last: x is inside it, so clipping only pulls each pixel towards x and the ball still holds.
        return (x + shrink_to(self.size(delta), self._radii(delta), delta)).clamp(0, 1) - x

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        """Clip(s * delta) to the box, for the largest scale s <= 1 whose length fits.

        The stationary points of the Lagrangian have this form, and the squared length is, between the
        scales at which pixels meet the box, a parabola in s: sort those scales and solve one of them.
        """
        flat, image = delta.flatten(1).double(), x.flatten(1).double()
        wall = torch.minimum(room(flat, image), flat.abs())  # where each pixel ends at scale 1
        meets, order = (wall / flat.abs().clamp(min=TINY)).sort(dim=1)  # the scale at which it ends there
        walls = wall.square().gather(1, order)
        free = flat.square().gather(1, order)
        at_wall = walls.cumsum(dim=1) - walls  # of the pixels that have met it before
        moving = free.flip(1).cumsum(dim=1).flip(1)  # of the others, at scale 1
        r = self._radii(delta, stretch)
        limit = r.double()[:, None] ** 2
        too_far = at_wall + meets.square() * moving > limit
        first = too_far.int().argmax(dim=1, keepdim=True)
        scale = ((limit - at_wall.gather(1, first)).clamp(min=0) / moving.gather(1, first).clamp(min=TINY)).sqrt()
        scale = torch.where(too_far.any(dim=1, keepdim=True), scale, 1)
        clipped = (flat * scale).clamp(-image, 1 - image).to(delta.dtype).view_as(delta)
        return (x + shrink_to(self.size(clipped), r, clipped)).clamp(0, 1) - x  # float32 rounding only

    def steepest(self, grad: Inputs) -> Inputs:
        peak = grad.flatten(1).abs().amax(dim=1).clamp(min=TINY)  # first, so that squares do not underflow
        unit = grad / per_example(peak, grad)
        return unit / per_example(self.size(unit).clamp(min=TINY), unit)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        return self.project(self.r * self.steepest(noise), x)  # on the sphere, then cut by the box


@dataclass(frozen=True)
class L1(ThreatModel):
    """The absolute changes of all pixels add up to at most `radius`."""

    name: ClassVar[str] = "l1"
    meaning: ClassVar[str] = "absolute changes of all pixels add up to at most the radius"

    def size(self, delta: Inputs) -> PerExample:
        return delta.flatten(1).abs().sum(dim=1)

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        """Duchi et al. 2008, figure 1, then the box. https://doi.org/10.1145/1390156.1390191."""
        flat = delta.flatten(1)
        falling = flat.abs().sort(dim=1, descending=True).values
        count = torch.arange(1, flat.shape[1] + 1, device=flat.device)
        cut = (falling.cumsum(dim=1) - self.r) / count
        # The last coordinate above its own cut, not the first below: P-01 is off by one here.
        last = ((falling > cut) * count).amax(dim=1, keepdim=True).clamp(min=1)
        threshold = cut.gather(1, last - 1).clamp(min=0)  # 0 leaves members alone, row by row (P-16)
        ball = (flat.sign() * (flat.abs() - threshold).clamp(min=0)).view_as(delta)
        # cumsum loses digits when a delta starts far outside, so finish with a plain rescale.
        return (x + shrink_to(self.size(ball), self._radii(ball), ball)).clamp(0, 1) - x

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        """Sign(delta) * clip(abs(delta) - t, 0, room) for the smallest t >= 0 whose sum fits.

        The sum falls with t along straight lines that bend where a pixel leaves the box (abs - room) or
        reaches 0 (abs): sort the bends, add up the lines, solve on one of them.
        """
        flat, image = delta.flatten(1).double(), x.flatten(1).double()
        reach, wall = flat.abs(), room(flat, image)
        bends, order = torch.cat([(reach - wall).clamp(min=0), reach], dim=1).sort(dim=1)
        n = flat.shape[1]
        slope = torch.where(order < n, -1.0, 1.0).double().cumsum(dim=1)  # after each bend
        drop = slope[:, :-1] * (bends[:, 1:] - bends[:, :-1])
        total = torch.minimum(reach, wall).sum(dim=1, keepdim=True)
        height = torch.cat([total, total + drop.cumsum(dim=1)], dim=1)  # of the sum, at each bend
        r = self._radii(delta, stretch)
        above = (height >= r[:, None]).int().sum(dim=1, keepdim=True)  # heights fall, so these come first
        at = (above - 1).clamp(min=0)
        along = (height.gather(1, at) - r[:, None]) / (-slope.gather(1, at)).clamp(min=1)
        threshold = torch.where(above > 0, bends.gather(1, at) + along, 0)
        inside = flat.sign() * torch.minimum((reach - threshold).clamp(min=0), wall)
        inside = inside.to(delta.dtype).view_as(delta)
        return (x + shrink_to(self.size(inside), r, inside)).clamp(0, 1) - x  # float32 rounding only

    def steepest(self, grad: Inputs) -> Inputs:
        flat = grad.flatten(1)
        i = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter_(1, i, flat.gather(1, i).sign()).view_as(grad)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        tail = torch.erfc(noise.abs() * 0.5**0.5).clamp(min=2.0**-60)
        laplace = -noise.sign() * tail.log()  # as likely to lie anywhere on the sphere, once scaled to it
        return self.project(laplace * per_example(self.r / self.size(laplace).clamp(min=TINY), laplace), x)


@dataclass(frozen=True)
class L0(ThreatModel):
    """At most `radius` pixels change; a pixel of several channels counts once."""

    name: ClassVar[str] = "l0"
    meaning: ClassVar[str] = "at most so many pixels change (all channels of a pixel together)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius.denominator != 1:
            raise UserError(f"l0:{self.radius} counts pixels, so it must be a whole number; write it like l0:10")

    def size(self, delta: Inputs) -> PerExample:
        return _pixels(delta).ne(0).any(dim=1).sum(dim=1).to(delta.dtype)

    def slack(self, x_adv: Inputs, x: Inputs) -> PerExample:
        return torch.zeros_like(x_adv.flatten(1)[:, 0], dtype=torch.float64)  # a count has no rounding

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        return self.nearest(delta, x)

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        """Keeps the pixels whose removal would cost most: abs(d)^2 less what the box cuts off anyway."""
        boxed = (x + delta).clamp(0, 1) - x
        worth = (_pixels(delta).square() - _pixels(delta - boxed).square()).sum(dim=1)
        assert stretch is None, "a count of pixels is not stretched"
        return boxed * self._top(worth, delta)

    def steepest(self, grad: Inputs) -> Inputs:
        """One pixel, moved by at most 1 in every channel: the largest change that a box of width 1 admits."""
        best = _pixels(grad).abs().sum(dim=1).argmax(dim=1, keepdim=True)
        return grad.sign() * _spread(torch.zeros_like(_pixels(grad)[:, 0]).scatter_(1, best, 1.0), grad)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        """As many pixels as allowed, those of the largest noise, which also sends them towards 0 or 1."""
        values = 0.5 + 0.5 * torch.erf(noise * 0.5**0.5)
        return (values - x) * self._top(_pixels(noise).abs().sum(dim=1), noise)

    def _top(self, worth: Rows, like: Inputs) -> Inputs:
        kept = worth.topk(min(int(self.radius), worth.shape[1]), dim=1).indices
        return _spread(torch.zeros_like(worth).scatter_(1, kept, 1.0), like)


def _pixels(t: Inputs) -> Float[Tensor, "B C N"]:
    """(B, C, H, W) as channels of pixels; anything else has one channel."""
    return t.flatten(2) if t.ndim == 4 else t.flatten(1).unsqueeze(1)


def _spread(pixels: Rows, like: Inputs) -> Inputs:
    """One number per pixel, repeated over the channels of `like`."""
    return pixels.unsqueeze(1).expand_as(_pixels(like)).reshape(like.shape)
