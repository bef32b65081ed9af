"""Claim 3: for a linear classifier, mixing two l_p balls affinely is no stronger than their union.

The affine adversary lowers y (w.x + b) by beta a + (1 - beta) b for the best beta, where a and b are what the two balls
alone achieve. That is linear in beta, so its maximum is at 0 or 1: one of the two balls.
"""

from dataclasses import dataclass

import numpy as np

from .features import Features
from .linear import Linear, reach, risk


@dataclass(frozen=True)
class LinearRisks:
    """Exact risks of a linear classifier under two balls, their union and their affine mixture."""

    one: float
    two: float
    union: float
    affine: float


def linear_risks(
    classifier: Linear, features: Features, one: tuple[str, float], two: tuple[str, float], steps: int = 101
) -> LinearRisks:
    """Risks under the balls `one` and `two`, each a norm and a radius; beta takes `steps` values from 0 to 1."""
    a, b = reach(classifier.w, *one), reach(classifier.w, *two)
    mixed = max(float(beta) * a + (1 - float(beta)) * b for beta in np.linspace(0, 1, steps))
    return LinearRisks(
        one=risk(classifier, features, a),
        two=risk(classifier, features, b),
        union=risk(classifier, features, max(a, b)),
        affine=risk(classifier, features, mixed),
    )
