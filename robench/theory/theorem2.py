"""Theorem 2: no classifier has an average risk far below 1/2 under l_inf with 2 eta and rotation-translations.

On this distribution a rotation-translation exchanges x_0 with the feature at one of N positions, the first of which is
its own (section 2.4). The bound here comes from two fixed adversaries. One moves the weak features by 2 eta against the
label. The other draws the position with a probability that is proportional to how much better its feature fits an
x_0 of the other label than a weak feature. With many positions both leave the same distribution, with opposite
labels. The average of the error rates of any classifier under them is its error rate on the mixture of both, so at
least that of the Bayes classifier of the mixture, whose likelihoods are known. Better adversaries could only raise the
bound. The paper leaves its own estimate to its full version (appendix G.1).
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp
from scipy.stats import norm

from .features import Features
from .linear import Linear, reach, risk
from .theorem1 import linf_radius

BLOCK = 20_000  # examples at a time: memory


@dataclass(frozen=True)
class Estimate:
    """The mean of a simulation, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Attacked:
    """Examples after one of the adversaries: the N positions one by one, the other weak features as their sum."""

    positions: Float[np.ndarray, "n N"]
    rest: Float[np.ndarray, "n"]


def lower_bound(features: Features, positions: int, n: int, seed: int = 0) -> Estimate:
    """What the average risk of every classifier is at least, from n simulated examples of the mixture."""
    _check(features, positions)
    generator = np.random.default_rng(seed)
    errors = []
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        errors.append(_bayes_errors(_mixture(features, positions, count, generator), features))
    error = np.concatenate(errors)
    half = NormalDist().inv_cdf(0.975) * float(error.std(ddof=1)) / np.sqrt(n)
    mean = float(error.mean())
    return Estimate(mean, max(0.0, mean - half), min(0.5, mean + half))


def ignoring(features: Features, positions: int) -> float:
    """The average risk of the classifier that sums the weak features that x_0 cannot be moved to."""
    _check(features, positions)
    w = np.ones(features.d + 1)
    w[:positions] = 0
    classifier = Linear(w)
    return (risk(classifier, features, reach(w, "linf", linf_radius(features))) + risk(classifier, features)) / 2


def trusting(features: Features, positions: int) -> float:
    """The average risk of sign(x_0): by l_inf it moves a little, by an exchange it takes the least of N features."""
    _check(features, positions)
    x0 = NormalDist(1, features.spread)
    standing = (1 - x0.cdf(0)) * (1 - NormalDist(features.eta, 1).cdf(0)) ** (positions - 1)
    return (x0.cdf(linf_radius(features)) + 1 - standing) / 2


def _check(features: Features, positions: int) -> None:
    if features.p0 is not None:
        raise ValueError("Theorem 2 is about a normal x_0: leave p0 out")
    if not 1 <= positions <= features.d + 1:
        raise ValueError(f"positions must lie between 1 and d + 1 = {features.d + 1}, not {positions}")


def _mixture(features: Features, positions: int, n: int, generator: np.random.Generator) -> Attacked:
    """n examples of label 1; those of label -1 mirror them, with the same errors of the Bayes classifier."""
    y = np.ones(n, dtype=int)
    near = np.column_stack([features.strong(y, generator), features.weak(y, positions - 1, generator)])
    others = features.d + 1 - positions
    rest = features.eta * others + np.sqrt(others) * generator.standard_normal(n)
    by_linf = generator.random(n) < 0.5
    near[by_linf, 1:] -= linf_radius(features)
    rest[by_linf] -= linf_radius(features) * others
    # The largest of log weights with Gumbel noise is a position drawn with these weights.
    weights = _disguise(near, 1, features) + generator.gumbel(size=near.shape)
    place = np.where(by_linf, 0, weights.argmax(axis=1))
    row = np.arange(n)
    exchanged = near.copy()
    exchanged[row, 0], exchanged[row, place] = near[row, place], near[:, 0]
    return Attacked(exchanged, rest)


def _bayes_errors(seen: Attacked, features: Features) -> Float[np.ndarray, "n"]:
    """The probability of the less likely label, given the features."""
    plus, minus = _log_likelihood(seen, 1, features), _log_likelihood(seen, -1, features)
    errors: Float[np.ndarray, "n"] = np.exp(np.minimum(plus, minus) - np.logaddexp(plus, minus))
    return errors


def _log_likelihood(seen: Attacked, y: int, features: Features) -> Float[np.ndarray, "n"]:
    """The log likelihood of an example of the mixture given its label, up to what both labels share.

    With s and q the densities of x_0 and of a weak feature, t that of x_0 for the other label, and z the N positions:

        l_inf adversary          s(z_0) prod_k>0 q'(z_k)        q' is q for the other label
        exchange                 t(z_0) prod_k>0 q(z_k)  sum_j s/q(z_j) / sum_j t/q(z_j)
    """
    z, eta = seen.positions, y * features.eta
    weak = eta * (z[:, 1:].sum(axis=1) + seen.rest)
    after_linf = norm.logpdf(z[:, 0], y, features.spread) - weak
    hidden = logsumexp(_disguise(z, -y, features, mean=eta), axis=1) - logsumexp(_disguise(z, y, features), axis=1)
    after_exchange = norm.logpdf(z[:, 0], -y, features.spread) + weak + hidden
    either: Float[np.ndarray, "n"] = np.logaddexp(after_linf, after_exchange)
    return either


def _disguise(
    z: Float[np.ndarray, "n N"], y: int, features: Features, mean: float | None = None
) -> Float[np.ndarray, "n N"]:
    """log t/q: how much better a feature fits an x_0 of label -y than a weak feature of label y.

    `mean` is that of the weak feature, if it is another.
    """
    weak = y * features.eta if mean is None else mean
    ratio: Float[np.ndarray, "n N"] = norm.logpdf(z, -y, features.spread) - norm.logpdf(z, weak, 1.0)
    return ratio
