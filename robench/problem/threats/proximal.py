"""Proximal operators of the l_p norms in a diagonal metric: how a norm that has a price shrinks a delta.

Each gives the minimiser z of `sum(metric * (z - delta)**2) / 2 + weight * norm(z)`, row by row. With the metric 1 they
are those of Parikh and Boyd 2014, section 6.5, https://doi.org/10.1561/2400000003. The metric is positive.
"""

import torch

from .linear import Column, Rows

# Steps of Newton's method for the length of an l_2 solution. Its equation is nearly linear: few are needed.
NEWTON = 30
TINY = 1e-30  # keeps 0 / 0 away


def lowered(delta: Rows, weight: Column, metric: Rows) -> Rows:
    """l_1: every coordinate comes nearer to 0 by `weight / metric`, and not past it."""
    return delta.sign() * (delta.abs() - weight / metric).clamp(min=0)


def largest_lowered(delta: Rows, weight: Column, metric: Rows) -> Rows:
    """l_inf: the largest coordinates are cut to a common level t, where `sum(metric * (abs(delta) - t)+)` is `weight`.

    Over the k largest coordinates alone the level would be a quotient of two sums, and the largest of these is t: the
    quotient rises with k while the next coordinate lies above it, and falls from then on.
    """
    reach, order = delta.double().abs().sort(dim=1, descending=True)
    ordered = metric.double().gather(1, order)
    levels = ((ordered * reach).cumsum(dim=1) - weight) / ordered.cumsum(dim=1)
    t = levels.amax(dim=1, keepdim=True).clamp(min=0).to(delta.dtype)
    return torch.minimum(torch.maximum(delta, -t), t)


def length_shortened(delta: Rows, weight: Column, metric: Rows) -> Rows:
    """l_2: `metric * delta / (metric + weight / n)`, where n is the length of that; 0 if no n > 0 fits.

    1 / (the length of `metric * delta / (metric * n + weight)`) is 1 at n, and rises with it along a concave curve, so
    Newton's method from 0 never passes n.
    """
    metric, weight, pull = metric.double(), weight.double(), metric.double() * delta.double()
    n = torch.zeros_like(weight)
    for _ in range(NEWTON):
        below = (metric * n + weight).clamp(min=TINY)
        length = (pull / below).norm(dim=1, keepdim=True).clamp(min=TINY)
        rate = (pull.square() * metric / below**3).sum(dim=1, keepdim=True) / length**3
        n = n + (1 - 1 / length).clamp(min=0) / rate.clamp(min=TINY)
    shortened = pull * n / (metric * n + weight).clamp(min=TINY)
    return torch.where(weight > 0, shortened, delta.double()).to(delta.dtype)
