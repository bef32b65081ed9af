"""Whether two models differ, by their outcomes on the same examples.

The tests are paired: an example that both withstand, or both lose, carries no information. The p-value is the
probability of a sum of the other examples' differences this far from 0, if each difference is as likely to point the
other way. It is two-sided and exact, without random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.special import bdtr


@dataclass(frozen=True)
class Scores:
    """The points of one row of a table in one column, for each example.

    A share has points 0 or 1 out of 1; an average over three threats 0 to 3 out of 3.
    """

    points: Int[np.ndarray, "examples"]
    out_of: int = 1

    @property
    def mean(self) -> float:
        """The share of points, between 0 and 1."""
        return float(self.points.sum()) / (self.out_of * len(self.points))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value for the examples on which two models differ. McNemar 1947."""
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def permutation(differences: Int[np.ndarray, "examples"]) -> float:
    """The probability that integer differences, each as likely to point the other way, have a sum this far from 0.

    The sign-flip test of Fisher 1935. All 2^n assignments are counted, not sampled: the sum consists of one binomial
    per size of a difference, and the characteristic function of a sum is the product of theirs. With differences of
    one size it is McNemar's test.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) == 0:
        return 1.0
    if len(sizes) == 1:
        gained = int((differences > 0).sum())
        return mcnemar(gained, int(counts[0]) - gained)
    total = int(sizes @ counts)
    # The positive differences sum to 0 ... total. Their distribution, by its transform at total + 1 frequencies.
    angles = 2 * np.pi * np.arange(total + 1) / (total + 1)
    transform = np.prod([((1 + np.exp(1j * k * angles)) / 2) ** m for k, m in zip(sizes, counts, strict=True)], axis=0)
    probabilities = np.fft.fft(transform).real / (total + 1)
    leans = np.abs(2 * np.arange(total + 1) - total)
    return float(min(1.0, probabilities[leans >= abs(int(differences.sum()))].sum()))


def difference(one: Scores, other: Scores) -> float:
    """The p-value for two rows about the same examples."""
    assert len(one.points) == len(other.points), "a pair is one example"
    scaled = one.points.astype(np.int64) * other.out_of - other.points.astype(np.int64) * one.out_of
    return permutation(scaled // max(1, int(np.gcd.reduce(scaled))))


def ranks(column: Sequence[Scores | None], level: float = 0.95) -> list[str]:
    """`best`, `second` or nothing for each row of a column; None is a row that cannot be ranked.

    Best are the highest mean and all that are not significantly worse at `level`; second is the highest of the
    rest, if above 0. If fewer than two rows can be ranked, or all are equal, none is marked.
    """
    ranked = {row: scores for row, scores in enumerate(column) if scores is not None}
    means = {row: scores.mean for row, scores in ranked.items()}
    if len(set(means.values())) < 2:
        return [""] * len(column)
    top = [ranked[row] for row, mean in means.items() if mean == max(means.values())]
    best = {row for row, s in ranked.items() if all(difference(t, s) > 1 - level for t in top)}
    best |= {row for row, mean in means.items() if mean == max(means.values())}
    second = max((mean for row, mean in means.items() if row not in best and mean > 0), default=None)
    return ["best" if row in best else "second" if means.get(row, -1.0) == second else "" for row in range(len(column))]
