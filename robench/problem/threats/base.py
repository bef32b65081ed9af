"""Threat models: sets of images that an attacker may use in place of an image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...errors import UserError
from ..shapes import Inputs, Mask, PerExample, per_candidate, per_example
from .linear import Column, Rows, number
from .shrinkage import Shrinkage

# A float32 pixel carries a relative error of at most 2**-24 from its own rounding, and as much again from
# the rounding of the radius it was moved by.
PIXEL_ROUNDING = 2.0**-23
SMALLEST, LARGEST = Fraction(1, 10**12), 10**9  # of a radius: what float32 arithmetic can hold
FARTHEST = 10**6  # of a parameter, such as pixels or degrees; run files hold no larger one
TINY = 1e-30  # below any gradient that means something; keeps 0 / 0 away

N_PARAMS = 3
"""The number of parameters of most threat models: tx and ty in pixels, and the angle in degrees.

All are 0 for threat models without parameters. Some have more, as many as the image has coefficients or pixels:
`ThreatModel.n_params`.
"""

MAX_PARAMS = 2**17
"""The largest number of parameters of an image: two for each of 256 x 256 pixels."""

MIN_MANY = 16
"""The smallest number of parameters that are packed as bytes, so that the length shows the form."""

PackedParams = tuple[float, ...] | bytes
"""The parameters of an image outside of tensors: none if all are 0, three numbers, or more as float32 bytes."""

TransformParams = Float[Tensor, "B P"]
"""The parameters of each image. A threat model reads as many as it has; those that are missing are 0.

So any parameters can be judged under any threat model: what counts is whether they give the image.
"""

Candidates = Float[Tensor, "L #W *D"]
"""W perturbations of each of L images."""


@dataclass(frozen=True)
class ThreatModel(ABC):
    """The images that an attacker may use in place of x. Results are per row, and rows are independent.

    Pixels lie in [0, 1]. Membership may need the transform parameters, from which the image can be computed again.
    """

    name: ClassVar[str]
    form: ClassVar[str]  # an example of its text
    meaning: ClassVar[str]  # one line for `robench list threats`
    by_params: ClassVar[bool] = False  # members are computed from parameters: without them only the identity is one

    @classmethod
    def n_params(cls, shape: Sequence[int]) -> int:
        """The number of parameters of an image of this shape (channels, height, width)."""
        return N_PARAMS

    def refuse_unfit(self, shape: Sequence[int]) -> None:
        """Raises UserError where images of this shape have more parameters than a run file holds."""
        if (n := self.n_params(shape)) > MAX_PARAMS:
            raise UserError(
                f"{self} has {n:,} parameters for images of {'x'.join(map(str, shape))}, and a run file holds"
                f" {MAX_PARAMS:,}; make the images smaller with --resize 224"
            )

    @abstractmethod
    def contains(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> Mask:
        """Whether each image is a member: exactly for the box, up to the rounding of pixels for the rest."""

    @abstractmethod
    def measure(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> PerExample:
        """The distance of each image from x, in float64 and the unit of the threat model; infinite if undefined."""

    @abstractmethod
    def __str__(self) -> str:
        """The text that `parse` reads."""


@dataclass(frozen=True)
class Ball(ThreatModel):
    """Images up to a distance from x, cut by the box, and how to move among them. `delta` is always x_adv - x.

    Attacks name no norm; they use the properties and methods of the ball. The defaults suit a ball without special
    geometry.
    """

    p: ClassVar[int | float] = 2  # the order of the norm; infinite for the largest change, 0 for a count
    separable: ClassVar[bool] = False  # every coordinate has a limit of its own, whatever the others do
    sparse_steps: ClassVar[bool] = False  # the steepest step moves a single coordinate
    counts_pixels: ClassVar[bool] = False  # the size counts changed pixels, however far they change
    shrinkage: ClassVar[type[Shrinkage]] = Shrinkage  # how the norm pulls a delta towards 0

    radius: Fraction

    def __post_init__(self) -> None:
        if not SMALLEST <= self.radius <= LARGEST:
            raise UserError(f"a radius of {self.name} must be above 0, and not beyond {LARGEST}; write it like 8/255")

    @abstractmethod
    def size(self, delta: Inputs) -> PerExample:
        """The size of each delta, in the unit of `radius`. This is the definition of the ball."""

    @abstractmethod
    def project(self, delta: Inputs, x: Inputs) -> Inputs:
        """A cheap map into the set: onto the ball first, then onto the box. Members stay unchanged.

        The result lies in both, but need not be the member nearest to `delta`; see `nearest`.
        """

    @abstractmethod
    def nearest(self, delta: Inputs, x: Inputs, stretch: PerExample | None = None) -> Inputs:
        """The Euclidean projection onto the intersection of ball and box: the member closest to `delta`.

        `stretch` multiplies the radius of each row.
        """

    @abstractmethod
    def steepest(self, grad: Inputs) -> Inputs:
        """The delta of size 1 that maximises a linear loss with this gradient; 0 where grad is 0."""

    def cheapest(self, gain: Rows, limit: Rows, need: Column) -> Rows:
        """The move of least size, 0 <= move <= limit, at which the sum of gain * move is `need`.

        Where the limits are too narrow for that, all coordinates move to their limits. Gains lie in [0, 1].
        """
        raise NotImplementedError(f"{self.name} has no cheapest way to a hyperplane")

    def to_hyperplane(self, x: Inputs, slope: Inputs, value: PerExample) -> Inputs:
        """The move of least size from images x to where `value + slope . move` is 0, inside the box.

        Croce and Hein 2020, section 3.1, https://arxiv.org/abs/1907.02044. Where the hyperplane lies outside the box,
        the move goes as far as the box allows. Coordinates of slope 0 stay.
        """
        flat = slope.flatten(1)
        peak = flat.abs().amax(dim=1, keepdim=True).clamp(min=TINY)  # first, so that squares do not underflow
        direction = -flat.sign() * value.sign()[:, None]
        gain = flat.abs() / peak
        limit = room(direction, x.flatten(1)) * (gain > 0)
        move = self.cheapest(gain, limit, value.abs()[:, None] / peak)
        return (direction * move).view_as(slope)

    def vertex(self, grad: Inputs, x: Inputs) -> Inputs:
        """The member of ball and box that maximises a linear loss with this gradient; 0 where grad is 0.

        `(grad * vertex).sum()` is the support function of the threat set.
        """
        raise NotImplementedError(f"{self.name} knows no best member for a linear loss")

    def proximal(self, delta: Inputs, weight: PerExample, metric: Inputs) -> Inputs:
        """The minimiser z of `sum(metric * (z - delta)**2) / 2 + weight * size(z)`, exactly; the metric is positive."""
        raise NotImplementedError(f"{self.name} has no proximal operator")

    def shortened(self, delta: Candidates, size: Float[Tensor, "L W"]) -> Candidates:
        """Each delta cut down to a size along the way from 0 to delta; unchanged if it is no larger.

        The way is a straight line, unless the ball is separable: then all coordinates set out together and each
        stops where it arrives.
        """
        length = self.size(delta.flatten(0, 1)).view(delta.shape[:2])
        return delta * (per_candidate(size, delta) / per_candidate(length.clamp(min=TINY), delta)).clamp(max=1)

    @abstractmethod
    def sample(self, x: Inputs, noise: Inputs) -> Inputs:
        """A random member, computed from standard normal noise; the caller owns the seed."""

    def contains(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> Mask:
        """Whether each image is a member: exactly for the box, in float64 up to the rounding of pixels for the ball."""
        return in_box(x_adv) & (self.measure(x_adv, x) <= self.r + self.slack(x_adv, x))

    def measure(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> PerExample:
        """The size of x_adv - x in float64."""
        return self.size(x_adv.double() - x.double())

    def slack(self, x_adv: Inputs, x: Inputs) -> PerExample:
        """The largest size that float32 rounding of the pixels can add."""
        return self.size(torch.maximum(x_adv.abs(), x.abs()).double() * PIXEL_ROUNDING)

    def _radii(self, like: Inputs, stretch: PerExample | None = None) -> PerExample:
        """The radius of every row."""
        ones = torch.ones_like(like.flatten(1)[:, 0]) if stretch is None else stretch
        return self.r * ones

    @property
    def r(self) -> float:
        """The radius as a float."""
        return float(self.radius)

    def __str__(self) -> str:
        return f"{self.name}:{fraction_text(self.radius)}"


def fitted(params: TransformParams | None, x: Inputs, n: int) -> Float[Tensor, "B N"]:
    """The first n parameters of each image of x; 0 where they are missing."""
    if params is None:
        return x.new_zeros(len(x), n)
    return params[:, :n] if params.shape[1] >= n else F.pad(params, (0, n - params.shape[1]))


def packed(params: Float[Tensor, "P"]) -> PackedParams:
    """The parameters of one image, as a claim carries them."""
    if not params.any():
        return ()
    if not params[N_PARAMS:].any():
        few: tuple[float, ...] = tuple(params[:N_PARAMS].tolist())
        return few
    many = F.pad(params, (0, max(0, MIN_MANY - len(params))))
    return many.float().cpu().numpy().astype("<f4").tobytes()


def stacked(rows: Sequence[PackedParams]) -> TransformParams:
    """The parameters of several images as one tensor, as wide as the longest; 0 where they are missing."""
    numbers = [np.frombuffer(row, "<f4") if isinstance(row, bytes) else np.array(row, np.float32) for row in rows]
    whole = np.zeros((len(rows), max([N_PARAMS, *map(len, numbers)])), dtype=np.float32)
    for row, values in zip(whole, numbers, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(whole)


def in_box(x_adv: Inputs) -> Mask:
    """Whether every pixel lies in [0, 1]; NaN does not."""
    flat = x_adv.flatten(1)
    return (flat.amin(dim=1) >= 0) & (flat.amax(dim=1) <= 1)


def inward(grad: Inputs, delta: Inputs, x: Inputs) -> Inputs:
    """The gradient without components that push a pixel out of the box at its edge.

    The clipping trick of Tramèr and Boneh 2019, section 3: a step uses no budget on pixels that cannot move.
    """
    x_adv = x + delta
    low, high = (number(at_edge, x_adv, edge).reciprocal_() for at_edge, edge in ((torch.le, 0.0), (torch.ge, 1.0)))
    return torch.clamp(grad, 1 - low, high - 1)  # 0 at an edge, infinite elsewhere


def room(direction: Inputs, x: Inputs) -> Inputs:
    """The distance of each pixel of x from the edge of the box, along the sign of `direction`."""
    up = number(torch.gt, direction, 0.0)
    return up + x * (1 - 2 * up)  # 1 - x, or x


def shrink_to(size: PerExample, radius: PerExample, delta: Inputs) -> Inputs:
    """Delta scaled down to the radius if it is larger. Scaling towards 0 never leaves the box.

    The target is slightly smaller than the radius, so that rounding in the float32 sum of `size` cannot leave the set.
    """
    factor = (radius * (1 - PIXEL_ROUNDING) / torch.maximum(size, radius * 1e-6)).clamp(max=1)
    return delta * per_example(factor, delta)


def fraction_text(value: Fraction) -> str:
    """A fraction as users write it: 0.3 if a short decimal is exact, 8/255 if the denominator fits, else as it is."""
    short = f"{float(value):g}"
    if Fraction(short) == value:
        return short
    over_255 = value * 255
    return f"{over_255.numerator}/255" if over_255.denominator == 1 else str(value)
