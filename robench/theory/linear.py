"""Exact adversarial risks of linear classifiers sign(w.x + b) on the distribution of section 2.2.

A perturbation r changes y (w.x + b) by at most the support function of its set: eps |w|_1 within an l_inf ball,
eps |w|_2 within an l_2 ball, eps max |w_i| within an l_1 ball. What is left is a normal probability.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from .features import Features


@dataclass(frozen=True)
class Linear:
    """sign(w_0 x_0 + w_1 x_1 + ... + w_d x_d + b); a sum of 0 is an error for both labels."""

    w: Float[np.ndarray, "features"]
    b: float = 0.0

    @classmethod
    def mixing(cls, share: float, d: int) -> "Linear":
        """`share` of x_0, and the rest of the sum of weak features over sqrt(d): 1 is f of section 2.3, 0 is h."""
        return cls(np.concatenate([[share], np.full(d, (1 - share) / math.sqrt(d))]))


def reach(w: Float[np.ndarray, "features"], norm: str, radius: float) -> float:
    """How far a perturbation of the ball moves w.x: the radius times the dual norm of w."""
    dual = {"linf": np.abs(w).sum(), "l2": math.sqrt(np.square(w).sum()), "l1": np.abs(w).max()}
    return radius * float(dual[norm])


def risk(classifier: Linear, features: Features, moved: float = 0.0) -> float:
    """The probability that y (w.x + b) falls to 0 or below when the adversary can lower it by `moved`."""
    w, b = classifier.w, classifier.b
    assert len(w) == features.d + 1, "one weight for each feature"
    mean, variance = features.eta * float(w[1:].sum()), float(np.square(w[1:]).sum())
    if features.p0 is None:
        strong = [(float(w[0]), 1.0)]
        variance += (float(w[0]) * features.spread) ** 2
    else:
        strong = [(float(w[0]), features.p0), (-float(w[0]), 1 - features.p0)]
    spread = math.sqrt(variance)
    return sum(
        0.5 * probability * _not_positive(mean + x0 + y * b - moved, spread)
        for x0, probability in strong
        for y in (1, -1)
    )


def _not_positive(mean: float, spread: float) -> float:
    if spread == 0:
        return float(mean <= 0)
    return NormalDist(mean, spread).cdf(0)
