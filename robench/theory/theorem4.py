"""Theorem 4: compounding l_inf and rotation-translations is stronger than their union, for linear classifiers too.

A rotation-translation of budget N exchanges x_0 with the feature at one of N positions, the first of which is its own.
The affine adversary takes n of the N positions and the share 1 - n / N of the l_inf radius, for the best n; n = 0 is
all of l_inf, n = N all of the exchange. All weights are positive, so the exchange does not change what l_inf achieves.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from .features import Features
from .linear import Linear, reach

BLOCK = 20_000  # examples at a time: memory


@dataclass(frozen=True)
class Broken:
    """Which of the simulated examples each adversary breaks."""

    linf: Bool[np.ndarray, "n"]
    rt: Bool[np.ndarray, "n"]
    affine: Bool[np.ndarray, "n"]

    @property
    def union(self) -> Bool[np.ndarray, "n"]:
        """Broken by one of the two."""
        either: Bool[np.ndarray, "n"] = self.linf | self.rt
        return either


def compounded_risks(
    classifier: Linear, features: Features, radius: float, positions: int, n: int, seed: int = 0
) -> Broken:
    """Which of n simulated examples fall: the adversaries are exact, the examples are a sample."""
    w = classifier.w
    if not (w[0] > w[1:].max() and w[1:].min() > 0):
        raise ValueError("Theorem 4 needs w_0 > w_i > 0 for all i")
    if not 1 <= positions <= features.d + 1:
        raise ValueError(f"positions must lie between 1 and d + 1 = {features.d + 1}, not {positions}")
    generator = np.random.default_rng(seed)
    blocks = [
        _blocks(classifier, features, radius, positions, min(BLOCK, n - start), generator)
        for start in range(0, n, BLOCK)
    ]
    return Broken(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


def _blocks(
    classifier: Linear, features: Features, radius: float, positions: int, n: int, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    w = classifier.w
    x, y = features.sample(n, generator)
    margin = y * (x @ w + classifier.b)
    moved = reach(w, "linf", radius)
    exchanged = _exchanges(x[:, :positions] * y[:, None], w[:positions])
    taken = np.arange(1, positions + 1)
    mixed = exchanged - (1 - taken / positions) * moved
    by_linf = margin - moved <= 0
    return by_linf, margin + exchanged[:, -1] <= 0, by_linf | (margin + mixed.min(axis=1) <= 0)


def _exchanges(
    u: Float[np.ndarray, "n positions"], w: Float[np.ndarray, "positions"]
) -> Float[np.ndarray, "n positions"]:
    """The least change of the margin by an exchange of x_0 with one of the first 1, 2, ... positions."""
    change = (w[0] - w) * (u - u[:, :1])
    return np.minimum.accumulate(change, axis=1)
