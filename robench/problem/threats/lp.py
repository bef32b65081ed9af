"""The balls of the l_p norms, each cut by the box of images."""

from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UserError
from ..shapes import Inputs, PerExample, per_candidate, per_example
from .base import PIXEL_ROUNDING, TINY, Ball, Candidates, room, shrink_to
from .linear import Column, Rows, common_length, filled_first, largest_first, number
from .proximal import largest_lowered, length_shortened, lowered
from .shrinkage import Clipping, Scaling, Shrinkage, Thresholding

# Steps of Newton's method for the threshold of an l_1 ball. Each divides (excess of the sum) * (coordinates above
# the threshold) by 4 or more. Noise, powers, geometric series and clusters of up to 3072 numbers need at most 9.
# A spectrum built against the method can need 15 at 784 numbers, 17 at 3072; of the radius it then has an excess
# of 0.0006 and 0.004 left, which a plain rescale removes.
NEWTON = 12
HALVINGS = 24  # of the range of a delta: down to its own float32 rounding
FAR = 1e20  # times a unit delta: beyond the box in every coordinate that counts, and its square fits a float64


@dataclass(frozen=True)
class Linf(Ball):
    """Every pixel moves by at most `radius`."""

    name: ClassVar[str] = "linf"
    form: ClassVar[str] = "linf:8/255"
    meaning: ClassVar[str] = "every pixel moves by at most the radius"
    p: ClassVar[int | float] = inf
    separable: ClassVar[bool] = True
    shrinkage: ClassVar[type[Shrinkage]] = Clipping

    def size(self, delta: Inputs) -> PerExample:
        return delta.flatten(1).abs().amax(dim=1)

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        return (x + delta.clamp(-self.r, self.r)).clamp(0, 1) - x

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        r = per_example(self._radii(delta, stretch), delta)
        return (x + delta.clamp(-r, r)).clamp(0, 1) - x  # ball and box are boxes: clipping to both is the projection

    def steepest(self, grad: Inputs) -> Inputs:
        return grad.sign()

    def cheapest(self, gain: Rows, limit: Rows, need: Column) -> Rows:
        return torch.minimum(common_length(gain, limit, need), limit)

    def vertex(self, grad: Inputs, x: Inputs) -> Inputs:
        return self.project(self.r * grad.sign(), x)

    def proximal(self, delta: Inputs, weight: PerExample, metric: Inputs) -> Inputs:
        return largest_lowered(delta.flatten(1), weight[:, None], metric.flatten(1)).view_as(delta)

    def shortened(self, delta: Candidates, size: Float[Tensor, "L W"]) -> Candidates:
        reach = per_candidate(size, delta)
        return torch.minimum(torch.maximum(delta, -reach), reach)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        return self.project(self.r * torch.erf(noise * 0.5**0.5), x)  # uniform in the ball


@dataclass(frozen=True)
class L2(Ball):
    """The Euclidean length of the change is at most `radius`."""

    name: ClassVar[str] = "l2"
    form: ClassVar[str] = "l2:0.5"
    meaning: ClassVar[str] = "Euclidean length of the change at most the radius"
    shrinkage: ClassVar[type[Shrinkage]] = Scaling

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

    def cheapest(self, gain: Rows, limit: Rows, need: Column) -> Rows:
        multiple = limit / gain.clamp(min=TINY)
        return gain * torch.minimum(common_length(gain.square(), multiple, need), multiple)

    def vertex(self, grad: Inputs, x: Inputs) -> Inputs:
        return self.nearest(FAR * self.steepest(grad), x)  # a multiple of the gradient, cut by the box

    def proximal(self, delta: Inputs, weight: PerExample, metric: Inputs) -> Inputs:
        return length_shortened(delta.flatten(1), weight[:, None], metric.flatten(1)).view_as(delta)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        return self.project(self.r * self.steepest(noise), x)  # on the sphere, then cut by the box


EUCLIDEAN = L2(Fraction(1))
"""The unit ball of Euclidean length, for lengths and directions that no threat model decides."""


def dense_steepest(threat: Ball, grad: Inputs) -> Inputs:
    """The steepest direction; where that moves a single coordinate, as under l_1, the Euclidean one instead."""
    return EUCLIDEAN.steepest(grad) if threat.sparse_steps else threat.steepest(grad)


@dataclass(frozen=True)
class L1(Ball):
    """The absolute changes of all pixels add up to at most `radius`."""

    name: ClassVar[str] = "l1"
    form: ClassVar[str] = "l1:12"
    meaning: ClassVar[str] = "absolute changes of all pixels add up to at most the radius"
    p: ClassVar[int | float] = 1
    sparse_steps: ClassVar[bool] = True
    shrinkage: ClassVar[type[Shrinkage]] = Thresholding

    def size(self, delta: Inputs) -> PerExample:
        return delta.flatten(1).abs().sum(dim=1)

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        """Sign(delta) * clip(abs(delta) - t, min=0) for the smallest t >= 0 whose sum fits, then the box.

        The simplex projection of Duchi et al. 2008, https://doi.org/10.1145/1390156.1390191. The sum falls with
        t along a convex broken line, so Newton's method comes from the left, never passes the root, and stops
        there once on its piece: Michelot 1986, https://doi.org/10.1007/BF00938486.
        """
        flat = delta.flatten(1)
        reach = flat.abs()
        # No root lies left of the largest less r. Counting from there, a hair to the left because of rounding,
        # keeps the digits of a delta far outside: the difference of floats so close is exact.
        far = (reach.amax(dim=1, keepdim=True) * (1 - 2 * PIXEL_ROUNDING) - self.r).clamp(min=0)
        reach.sub_(far).clamp_(min=0)
        threshold, above = torch.zeros_like(far), torch.empty_like(reach)
        before: list[Tensor] = []
        while len(before) < NEWTON:
            before.append(threshold)
            torch.sub(reach, threshold, out=above).clamp_(min=0)
            excess = above.sum(dim=1, keepdim=True) - self.r
            threshold = threshold + excess / above.sign_().sum(dim=1, keepdim=True).clamp(min=1)
            # At the root, or where rounding leads round it by two or three neighbours: 6 more steps would end here.
            halfway = len(before) == NEWTON - 6 and delta.device.type == "cpu"
            if halfway and torch.stack([threshold == past for past in before[-3:]]).any(dim=0).all():
                break
        threshold = threshold.clamp(min=0)  # 0 leaves members alone, row by row (P-16)
        ball = (flat.sign() * reach.sub_(threshold).clamp_(min=0)).view_as(delta)
        # Rounding, and a line so crooked that NEWTON is too few, leave the sum too large, never too small.
        return (x + shrink_to(self.size(ball), self._radii(ball), ball)).clamp(0, 1) - x

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        """Sign(delta) * clip(abs(delta) - t, 0, room) for the smallest t >= 0 whose sum fits.

        The sum falls with t along a line that bends both ways, where a pixel leaves the box (abs - room) or
        reaches 0 (abs), so Newton's method alone may run in circles: halve an interval first.
        """
        flat, image = delta.flatten(1), x.flatten(1)
        reach, wall = flat.abs(), room(flat, image)
        radii = self._radii(delta, stretch)
        r, zero = radii[:, None], torch.zeros_like(flat[:, :1])
        low, width, inside = zero, reach.amax(dim=1, keepdim=True), torch.empty_like(reach)
        for _ in range(HALVINGS):
            width = width * 0.5
            torch.sub(reach, low + width, out=inside).clamp_(min=zero, max=wall)
            too_much = inside.sum(dim=1, keepdim=True).ge_(r)  # 1 or 0, as a float
            low = torch.addcmul(low, width, too_much)
        # The root is in [low, low + width], rounded. Without a bend in there this solves for it; with one,
        # clipping keeps the threshold as near as float32 leaves the largest of delta itself.
        beyond = reach - low
        inside = beyond.clamp(min=zero, max=wall)
        falling = number(torch.gt, beyond, 0.0).sub_(number(torch.gt, beyond, wall)).sum(dim=1, keepdim=True)
        excess = (inside.sum(dim=1, keepdim=True, dtype=torch.float64) - r).to(flat.dtype)
        rest = (excess / falling.clamp(min=1)).clamp(min=-low, max=2 * width)  # not below t = 0: members stay
        inside = (flat.sign() * (beyond - rest).clamp(min=zero, max=wall)).view_as(delta)
        return (x + shrink_to(self.size(inside), radii, inside)).clamp(0, 1) - x  # rounding only

    def steepest(self, grad: Inputs) -> Inputs:
        flat = grad.flatten(1)
        i = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter_(1, i, flat.gather(1, i).sign()).view_as(grad)

    def cheapest(self, gain: Rows, limit: Rows, need: Column) -> Rows:
        return largest_first(gain, limit, need)

    def vertex(self, grad: Inputs, x: Inputs) -> Inputs:
        """The radius goes to the largest gradients, each pixel up to the edge of the box."""
        flat = grad.flatten(1)
        move = filled_first(flat.abs(), room(flat, x.flatten(1)), self.r)
        return (flat.sign() * move).view_as(grad)

    def proximal(self, delta: Inputs, weight: PerExample, metric: Inputs) -> Inputs:
        return lowered(delta.flatten(1), weight[:, None], metric.flatten(1)).view_as(delta)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        tail = torch.erfc(noise.abs() * 0.5**0.5).clamp(min=2.0**-60)
        laplace = -noise.sign() * tail.log()  # as likely to lie anywhere on the sphere, once scaled to it
        return self.project(laplace * per_example(self.r / self.size(laplace).clamp(min=TINY), laplace), x)


@dataclass(frozen=True)
class L0(Ball):
    """Images that differ in at most `radius` pixels; a pixel of several channels counts once."""

    name: ClassVar[str] = "l0"
    form: ClassVar[str] = "l0:10"
    meaning: ClassVar[str] = "at most so many pixels change (all channels of a pixel together)"
    p: ClassVar[int | float] = 0
    sparse_steps: ClassVar[bool] = True
    counts_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius.denominator != 1:
            raise UserError(f"l0:{self.radius} counts pixels, so it must be a whole number; write it like l0:10")

    def size(self, delta: Inputs) -> PerExample:
        return pixels(delta).ne(0).any(dim=1).sum(dim=1).to(delta.dtype)

    def slack(self, x_adv: Inputs, x: Inputs) -> PerExample:
        return torch.zeros_like(x_adv.flatten(1)[:, 0], dtype=torch.float64)  # a count has no rounding

    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        return self.nearest(delta, x)

    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        """The change of the pixels whose removal would cost most: abs(d)^2 less what the box cuts off."""
        boxed = (x + delta).clamp(0, 1) - x
        worth = (pixels(delta).square() - pixels(delta - boxed).square()).sum(dim=1)
        assert stretch is None, "a count of pixels is not stretched"
        return boxed * self._top(worth, delta)

    def steepest(self, grad: Inputs) -> Inputs:
        """One pixel, moved by at most 1 in every channel: the largest change that a box of width 1 admits."""
        best = pixels(grad).abs().sum(dim=1).argmax(dim=1, keepdim=True)
        return grad.sign() * over_channels(torch.zeros_like(pixels(grad)[:, 0]).scatter_(1, best, 1.0), grad)

    def to_hyperplane(self, x: Inputs, slope: Inputs, value: PerExample) -> Inputs:
        """The fewest pixels with which the hyperplane can be reached, each to the edge of the box: on it or beyond."""
        far = _to_edge(-slope * per_example(value.sign(), slope), x)
        gain = pixels(slope * far).abs().sum(dim=1)
        ordered, order = gain.sort(dim=1, descending=True, stable=True)
        before = ordered.cumsum(dim=1, dtype=torch.float64) - ordered
        moves = (before < value.abs()[:, None]) & (ordered > 0)
        return far * over_channels(torch.zeros_like(gain).scatter_(1, order, moves.to(gain.dtype)), far)

    def vertex(self, grad: Inputs, x: Inputs) -> Inputs:
        far = _to_edge(grad, x)
        return far * self._top(pixels(grad * far).sum(dim=1), grad)

    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        """A change of as many pixels as allowed: those of the largest noise, which also moves them towards 0 or 1."""
        values = 0.5 + 0.5 * torch.erf(noise * 0.5**0.5)
        return (values - x) * self._top(pixels(noise).abs().sum(dim=1), noise)

    def _top(self, worth: Rows, like: Inputs) -> Inputs:
        top = worth.topk(min(int(self.radius), worth.shape[1]), dim=1).indices
        return over_channels(torch.zeros_like(worth).scatter_(1, top, 1.0), like)


def pixels(t: Inputs) -> Float[Tensor, "B C N"]:
    """A tensor (B, C, H, W) as channels of pixels; other shapes have one channel."""
    return t.flatten(2) if t.ndim == 4 else t.flatten(1).unsqueeze(1)


def over_channels(values: Rows, like: Inputs) -> Inputs:
    """One number per pixel, repeated over the channels of `like`."""
    return values.unsqueeze(1).expand_as(pixels(like)).reshape(like.shape)


def _to_edge(direction: Inputs, x: Inputs) -> Inputs:
    """The move of every pixel to the edge of the box, along the sign of `direction`; 0 where that is 0."""
    return direction.sign() * room(direction, x)
