"""Whether two models differ, by what each did on the same examples.

Paired: an example that both withstand, or both lose, says nothing. What is left is asked how often chance alone
would lean so far, were each difference as likely to point the other way. Two-sided and exact, without random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.special import bdtr


@dataclass(frozen=True)
class Scores:
    """What one row of a table earned on each example, in one column.

    A share has points 0 or 1 out of 1; an average over three threats 0 to 3 out of 3.
    """

    points: Int[np.ndarray, "examples"]
    out_of: int = 1

    @property
    def mean(self) -> float:
        """Between 0 and 1."""
        return float(self.points.sum()) / (self.out_of * len(self.points))


def mcnemar(gained: int, lost: int) -> float:
    """The chance of so uneven a split of the examples on which two models differ, McNemar 1947, exact and two-sided."""
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def permutation(differences: Int[np.ndarray, "examples"]) -> float:
    """The chance that whole-number differences, each as likely to point the other way, sum up so far from 0.

    The sign-flip test of Fisher 1935. All 2^n assignments are counted, not sampled: the sum is of one binomial per
    size of a difference, and the distribution of a sum is the product of characteristic functions. With
    differences of one size it is McNemar's test.
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
    chances = np.fft.fft(transform).real / (total + 1)
    leans = np.abs(2 * np.arange(total + 1) - total)
    return float(min(1.0, chances[leans >= abs(int(differences.sum()))].sum()))


def difference(one: Scores, other: Scores) -> float:
    """The p-value for two rows that were asked about the same examples."""
    assert len(one.points) == len(other.points), "a pair is one example"
    wide = one.points.astype(np.int64) * other.out_of - other.points.astype(np.int64) * one.out_of
    return permutation(wide // max(1, int(np.gcd.reduce(wide))))


def ranks(column: Sequence[Scores | None], level: float = 0.95) -> list[str]:
    """`best`, `second` or nothing for each row of a column; None is a row that cannot be ranked.

    Best are the highest mean and all that are not significantly worse at `level`; second is the highest of the
    rest, if above 0. Where fewer than two rows can be ranked, or all are equal, there is nothing to mark.
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
