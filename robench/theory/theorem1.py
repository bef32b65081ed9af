"""Theorem 1: no classifier has an average risk below 1/2 under l_inf with 2 eta and l_1 with 2.

Two adversaries suffice. The first moves each weak feature by 2 eta against the label, within the l_inf ball; the second
reverses x_0, within the l_1 ball. The first leaves (x, y) with the very distribution that the second gives to (x, -y):
what is right for one is wrong for the other, so that the two error rates of any classifier sum to 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .features import Features, Inputs, Labels
from .linear import Linear, reach, risk

L1_RADIUS = 2.0


def linf_radius(features: Features) -> float:
    """2 eta: as much as reverses the mean of a weak feature."""
    return 2 * features.eta


@dataclass(frozen=True)
class Risks:
    """Adversarial risks of one classifier."""

    linf: float
    l1: float
    union: float

    @property
    def average(self) -> float:
        """The mean risk over the two threats."""
        return (self.linf + self.l1) / 2


def attacked(x: Inputs, y: Labels, features: Features) -> tuple[Inputs, Inputs]:
    """The inputs after the l_inf adversary of the proof, and after its l_1 adversary."""
    if features.p0 is None:
        raise ValueError("Theorem 1 is about a binary x_0: give p0")
    after_linf, after_l1 = x.copy(), x.copy()
    after_linf[:, 1:] -= linf_radius(features) * y[:, None]
    after_l1[:, 0] = -x[:, 0]
    return after_linf, after_l1


def single_risks(classifier: Linear, features: Features) -> Risks:
    """Exact risks under the best adversary of each ball, and under the better of both for each example."""
    under_linf = reach(classifier.w, "linf", linf_radius(features))
    under_l1 = reach(classifier.w, "l1", L1_RADIUS)
    return Risks(
        linf=risk(classifier, features, under_linf),
        l1=risk(classifier, features, under_l1),
        union=risk(classifier, features, max(under_linf, under_l1)),
    )


def mixtures(features: Features, shares: Float[np.ndarray, "m"]) -> list[Risks]:
    """Risks of the linear classifiers between h (share 0) and f (share 1) of section 2.3."""
    return [single_risks(Linear.mixing(float(share), features.d), features) for share in shares]
