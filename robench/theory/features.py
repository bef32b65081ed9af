"""The distribution of Tramèr and Boneh 2019, section 2.2, after Tsipras et al. 2019.

One feature agrees with the label strongly, and d others agree with it weakly:

    y = +1 or -1, each with probability 1/2
    x_0 = y with probability p0, else -y             (or x_0 ~ N(y, 1/alpha^2), section 2.4)
    x_1 ... x_d ~ N(y eta, 1)                        eta = alpha / sqrt(d)
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Labels = Int[np.ndarray, "n"]
Inputs = Float[np.ndarray, "n features"]
"""x_0 in column 0, then x_1 to x_d."""


@dataclass(frozen=True)
class Features:
    """The distribution, for d weak features of mean eta = alpha / sqrt(d).

    `p0` is the probability that x_0 equals the label; without it x_0 ~ N(y, 1/alpha^2).
    """

    d: int
    alpha: float
    p0: float | None = None

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ValueError(f"d must be at least 1, not {self.d}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, not {self.alpha}")
        if self.p0 is not None and not 0.5 <= self.p0 <= 1:
            raise ValueError(f"p0 must lie between 0.5 and 1, not {self.p0}")

    @property
    def eta(self) -> float:
        """The mean of a weak feature, times the label."""
        return self.alpha / math.sqrt(self.d)

    @property
    def spread(self) -> float:
        """The standard deviation of a normal x_0."""
        return 1 / self.alpha

    def labels(self, n: int, generator: np.random.Generator) -> Labels:
        """Labels of n examples."""
        return generator.choice(np.array([-1, 1]), n)

    def strong(self, y: Labels, generator: np.random.Generator) -> Float[np.ndarray, "n"]:
        """x_0 for these labels."""
        if self.p0 is None:
            return y + self.spread * generator.standard_normal(len(y))
        return np.where(generator.random(len(y)) < self.p0, y, -y).astype(float)

    def weak(self, y: Labels, count: int, generator: np.random.Generator) -> Float[np.ndarray, "n count"]:
        """The first `count` weak features for these labels."""
        return self.eta * y[:, None] + generator.standard_normal((len(y), count))

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Inputs, Labels]:
        """Inputs and labels of n examples."""
        y = self.labels(n, generator)
        return np.column_stack([self.strong(y, generator), self.weak(y, self.d, generator)]), y
