"""What another round of the same attacks would be expected to break: an estimate from the last one."""

from dataclasses import dataclass

from .intervals import Interval, clopper_pearson


@dataclass(frozen=True)
class Expected:
    """The expected number of broken examples, of those that a round searched and left standing."""

    standing: int
    broken: float
    ci95: Interval


def another_round(searched: int, broken: int) -> Expected:
    """The estimate after a round that searched so many examples, and broke so many of them.

    Where every example breaks with the same probability it is right on average; where they differ, those that stand are
    the harder ones, and it is too high. The interval is that of the broken share (Clopper and Pearson 1934).
    """
    standing = searched - broken
    low, high = clopper_pearson(broken, searched)
    expected = broken * standing / max(searched - 1, 1)  # unbiased: broken * standing / searched is too low
    return Expected(standing, expected, (low * standing, high * standing))
