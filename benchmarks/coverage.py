"""The coverage of the confidence intervals, and the false alarms and the power of the gate.

    python benchmarks/coverage.py [--trials N]

Prints the tables of docs/concepts/statistics.md. The coverage of an interval for one proportion and the power of the
gate are sums over all outcomes, so they are exact; the rest is simulated with a fixed seed.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import binom
from tabulate import tabulate

from robench.results.gate import LEVEL, Counts, p_value
from robench.results.stats.intervals import Interval, average, clopper_pearson, wilson

SHARES = np.arange(0.01, 0.995, 0.01)
TRIALS = 20_000
Rows = list[dict[str, object]]


def percent(share: float, digits: int = 1) -> str:
    """A share as the page writes it."""
    return f"{100 * share:.{digits}f} %"


def coverage(interval: Callable[[int, int], Interval], n: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The probability that the 95 % interval of n examples contains the share, for each of `SHARES`; exact."""
    ends = np.array([interval(k, n) for k in range(n + 1)])
    holds = (ends[:, :1] <= SHARES) & (ends[:, 1:] >= SHARES)
    probabilities: np.ndarray[tuple[int], np.dtype[np.float64]] = (
        binom.pmf(np.arange(n + 1)[:, None], n, SHARES) * holds
    ).sum(axis=0)
    return probabilities


def intervals() -> Rows:
    """The coverage of intervals for one proportion."""
    rows: Rows = []
    for n in (20, 100, 200, 1000):
        exact, score = coverage(clopper_pearson, n), coverage(wilson, n)
        rows.append(
            {
                "examples": n,
                "Clopper-Pearson, least": percent(exact.min()),
                "Clopper-Pearson, mean": percent(exact.mean()),
                "Wilson, least": percent(score.min()),
                "Wilson, mean": percent(score.mean()),
            }
        )
    return rows


def averages(trials: int) -> Rows:
    """The coverage for the mean over three threats, with independent, half shared and shared noise per example."""
    noise = np.random.default_rng(0)
    rows: Rows = []
    for shares in ((0.9, 0.6, 0.3), (0.98, 0.95, 0.9), (0.1, 0.05, 0.02)):
        row: dict[str, object] = {"shares": ", ".join(f"{100 * s:.0f} %" for s in shares)}
        for shared, name in ((0.0, "apart"), (0.5, "half together"), (1.0, "together")):
            held = 0
            for _ in range(trials // 10):
                own, common = noise.random((3, 200)), noise.random((1, 200))
                drawn = np.where(noise.random((1, 200)) < shared, common, own)
                low, high = average(drawn < np.array(shares)[:, None])
                held += bool(low <= np.mean(shares) <= high)
            row[name] = percent(held / (trials // 10))
        rows.append(row)
    return rows


def false_alarms(trials: int) -> Rows:
    """The gate's false alarms over three threats with mostly shared flips, 1 point allowed each; Holm's correction."""
    rows: Rows = []
    for n in (200, 1000):
        row: dict[str, object] = {"examples": n}
        for drop in (0.0, 0.01):
            noise = np.random.default_rng(0)
            shared = noise.multinomial(n, [0.01 + drop, 0.01, 0.98 - drop], size=trials)
            own = noise.multinomial(n, [0.01, 0.01, 0.98], size=(3, trials))
            lost, gained = (shared[:, i] + own[:, :, i] for i in (0, 1))
            alarms = sum(
                min(p_value(Counts(n, *pair), 0.01) for pair in zip(a, b, strict=True)) <= LEVEL / 3
                for a, b in zip(lost.T.tolist(), gained.T.tolist(), strict=True)
            )
            row[f"true drop {100 * drop:.0f} points"] = percent(alarms / trials, 2)
        rows.append(row)
    return rows


def power(n: int, drop: float, rate: float, allowance: float, level: float) -> float:
    """The probability that a regression is found if a share `rate` of the examples is gained and `rate + drop` lost."""
    total, edge = 0.0, 0
    for gained in range(int(n * rate + 6 * (n * rate) ** 0.5) + 3):
        while edge <= n - gained and p_value(Counts(n, edge, gained), allowance) > level:
            edge += 1  # it never decreases: one more gain needs one more loss
        total += binom.pmf(gained, n, rate) * binom.sf(edge - 1, n - gained, (rate + drop) / (1 - rate))
    return total


def powers() -> Rows:
    """The power of the gate for a drop of 3 points."""
    settings = {
        "0pp allowed, one row": (0.0, LEVEL),
        "1pp allowed, one row": (0.01, LEVEL),
        "1pp allowed, the worst of five rows": (0.01, LEVEL / 5),
    }
    return [
        {
            "examples": n,
            **{
                name: percent(power(n, 0.03, 0.01, allowance, level), 0)
                for name, (allowance, level) in settings.items()
            },
        }
        for n in (200, 1000)
    ]


def table(rows: Rows) -> str:
    """The rows as a Markdown table."""
    return tabulate(rows, headers="keys", tablefmt="pipe", colalign=["right"] * len(rows[0]), disable_numparse=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=TRIALS)
    trials = arguments.parse_args().trials
    for rows in (intervals(), averages(trials), false_alarms(trials), powers()):
        print(table(rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
