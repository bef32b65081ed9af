"""Fractional knapsacks: how far coordinates move that together must gain a given amount, each up to a limit.

Attacks meet them wherever a ball and the box bound a linear function. Everything is row by row.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "B N"]
Column = Float[Tensor, "B 1"]

# Steps of Newton's method. Every step divides (what is still to be gained) * (slope) by 4 or more, so 12 leave
# a part in a million of it wherever the slope at the end is not a tiny part of the slope at the start.
NEWTON = 12
TINY = 1e-30  # keeps 0 / 0 away
FEW = 4  # entries between two numbers that agree in sign, exponent and the first mantissa bits


def number(compare: Callable[..., Tensor], one: Tensor, other: Tensor | float) -> Tensor:
    """1 where a comparison such as `torch.gt` holds, else 0, in the type of `one`.

    On a CPU it takes a sixth of the time of a mask, and a product with it a fortieth of that of `torch.where`, which
    branches at every element.
    """
    return compare(one, other, out=torch.empty_like(one))


def level(size: Rows, goal: Tensor | float, weight: Rows | None = None) -> Column:
    """The largest v for which the entries of `size` of at least v weigh `goal` or more together, row by row.

    It is 0 where all entries together weigh less. Without `weight`, entries are counted. Sizes are not negative, and
    such floats are ordered like their bit patterns read as integers: bisection over the bits finds v exactly. On a CPU
    only over the first half of them: v is then one of few entries that are left.
    """
    bits = torch.finfo(size.dtype).bits
    found = torch.zeros_like(size[:, :1]).view({32: torch.int32, 64: torch.int64}[bits])
    reached = torch.empty_like(size)

    def is_reached(v: Column) -> Tensor:
        torch.ge(size, v, out=reached)  # 1 and 0 as floats: bools add up slowly
        total = (reached if weight is None else reached.mul_(weight)).sum(dim=1, keepdim=True)
        return total >= goal

    for bit in reversed(range(bits - 1)):  # all but the sign
        found = torch.add(found, is_reached((found + 2**bit).view(size.dtype)), alpha=2**bit)
        if bit == bits // 2 and size.device.type == "cpu":
            everything = found.view(size.dtype).isnan()  # above every number, where the goal is 0
            entry = (found + 2**bit).view(size.dtype)
            for _ in range(FEW):
                below = torch.lt(size, entry, out=reached).mul_(size).amax(dim=1, keepdim=True)
                done = is_reached(below) | (below == 0) | everything
                if done.all():
                    return torch.where(everything, torch.nan, below)
                entry = torch.where(done, entry, below)
    return found.view(size.dtype)


def largest_first(worth: Rows, limit: Rows, need: Column) -> Rows:
    """Coordinates of the highest worth move to their limits, until `need` is met; the last that tie share the rest."""
    last = level(worth, need, worth * limit)
    full, tied = (number(compare, worth, last).mul_(limit) for compare in (torch.gt, torch.eq))
    left = need - (worth * full).sum(dim=1, keepdim=True)
    share = left / (worth * tied).sum(dim=1, keepdim=True).clamp(min=TINY)
    return full + tied * share.clamp(min=0, max=1)


def filled_first(worth: Rows, limit: Rows, budget: float) -> Rows:
    """Coordinates of the highest worth move to their limits until the budget is used up; ties share what is left."""
    last = level(worth, budget, limit)
    full, tied = (number(compare, worth, last).mul_(limit) for compare in (torch.gt, torch.eq))
    left = budget - full.sum(dim=1, keepdim=True)
    return full + tied * (left / tied.sum(dim=1, keepdim=True).clamp(min=TINY)).clamp(max=1)


def common_length(gain: Rows, limit: Rows, need: Column) -> Column:
    """The smallest t at which the sum of gain * min(t, limit) is `need`; larger than every limit if there is none.

    The sum is concave and piecewise linear in t, so Newton's method from 0 never passes the root. On a CPU it ends when
    no row moves any more.
    """
    t, widest = torch.zeros_like(need), limit.amax(dim=1, keepdim=True)
    for _ in range(NEWTON):
        missing = need - torch.minimum(t, limit).mul_(gain).sum(dim=1, keepdim=True)
        rate = number(torch.gt, limit, t).mul_(gain).sum(dim=1, keepdim=True)
        before, t = t, t + missing.clamp(min=0) / rate.clamp(min=TINY)
        if t.device.type == "cpu" and not ((t > before) & (before < widest)).any():
            break
    return t
