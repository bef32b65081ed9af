"""Confidence intervals for the share in a population, from the share of n sampled examples.

All of them concern the examples that *this protocol* leaves standing. The share that no attack can break is at most
as large, so for true robustness only the upper ends hold.
"""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv

Interval = tuple[float, float]
"""Lower and upper end, within [0, 1]."""


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """The score interval, for tables: close to its level on average over shares, and never of width 0.

    Wilson 1927; Brown, Cai and DasGupta 2001 explain why it is better than the textbook one. It is (0, 1) for n = 0.
    """
    _check(successes, n, level)
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the extremes the formula gives 0 and 1 up to rounding.
    return (max(0.0, centre - half) if successes else 0.0), (min(1.0, centre + half) if successes < n else 1.0)


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval, for the gate: it covers the share with at least its level, whatever the share is.

    Clopper and Pearson 1934, by quantiles of the beta distribution. It is (0, 1) for n = 0.
    """
    _check(successes, n, level)
    tail = (1 - level) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def together(held: Bool[np.ndarray, "threats examples"]) -> Int[np.ndarray, "threats threats"]:
    """How many examples hold under both of two threats, for each pair. These numbers add up over parts."""
    return np.array([(held & row).sum(axis=1) for row in held])


def average(held: Bool[np.ndarray, "threats examples"], level: float = 0.95) -> Interval:
    """The interval for the mean over threats of the share of examples that hold, from the same examples for each."""
    return average_of(together(held), held.shape[1], level)


def average_of(both: Int[np.ndarray, "threats threats"], n: int, level: float = 0.95) -> Interval:
    """The same from what `together` counts, for n examples.

    Each threat gets its Wilson interval; the distances from the shares to its ends are combined with the
    correlations between threats as standard errors would be (MOVER, Zou and Donner 2008,
    https://doi.org/10.1002/sim.3095). Chosen over a t interval on per-example means because that has width
    0 when all examples agree and leaves [0, 1] near its ends; this one does neither: it lies between the
    means of the Wilson ends, and with one threat it is Wilson's. A threat under which all examples agree
    has no correlation to measure; it is taken as 1, the widest.
    """
    assert both.size, "a mean over no threats has no interval"
    assert n, "a mean over no examples has no interval"
    held = both.diagonal()
    ends = np.array([wilson(int(count), n, level) for count in held])
    shares = held / n
    correlations = _correlations(both, n)

    def spread(distance: Float[np.ndarray, "threats"]) -> float:
        return float(np.sqrt(max(0.0, distance @ correlations @ distance)) / len(held))

    middle = float(shares.mean())
    return max(0.0, middle - spread(shares - ends[:, 0])), min(1.0, middle + spread(ends[:, 1] - shares))


def _correlations(both: Int[np.ndarray, "threats threats"], n: int) -> Float[np.ndarray, "threats threats"]:
    held = both.diagonal()
    products = n * both - np.outer(held, held)  # n² times the covariances: whole numbers, so nothing is rounded
    lengths = np.sqrt(products.diagonal())
    scale = np.outer(lengths, lengths)
    known = scale > 0
    measured = np.where(known, products / np.where(known, scale, 1), 1.0)
    # n examples cannot show that threats are exact opposites, which would leave no width at all.
    return np.where(measured < 0, measured * n**2 / (n**2 + 1), measured)


def _check(successes: int, n: int, level: float) -> None:
    assert 0 <= successes <= n, f"{successes} of {n} is no share"
    assert 0 < level < 1, f"a level of {level} is no probability"
