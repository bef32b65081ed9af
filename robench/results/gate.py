"""Whether a model has become less robust, by the outcomes of the same examples before and now.

The test is exact and unconditional. Its null hypothesis is that the drop in the population is at most the allowance;
outcomes are ordered by Tango's score statistic (Tango 1998, Statistics in Medicine 17:891), and the p-value is the
largest probability, over the rates at which examples may be gained, of an outcome at least as far out: Hsueh, Liu and
Chen 2001, https://doi.org/10.1111/j.0006-341X.2001.00478.x. That rate is sought within its Clopper-Pearson interval,
and the probability that it lies outside is added (Berger and Boos 1994, https://doi.org/10.2307/2290928). So for every
n, a model that has dropped by no more than the allowance is called a regression with at most the probability `level`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, gammaln, xlog1py, xlogy

from ..errors import UserError, unknown
from ..evidence.attack_key import CLAIM, AttackKey
from ..evidence.records import Evidence, Plan
from .outcomes import Outcome, breaks
from .stats.intervals import clopper_pearson
from .summary import ModelEntry, Summary

LEVEL = 0.01  # false alarms over all rows together, when no row has dropped by more than its allowance
OUTSIDE = 1e-5  # the probability that the rate of gains is outside the interval in which it is sought
EVERYWHERE = "1pp"  # the drop allowed in every row by default
POINTS = r"\s*(-?[0-9]{1,3}(?:\.[0-9]{1,9})?)\s*pp"
RATES = 41  # at which the rate of gains is tried; then as many again around the worst


class GateVerdict(str, Enum):
    """The decision of the gate on a row, and on all together."""

    REGRESSION = "regression"
    NONE = "no regression"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Counts:
    """The numbers of n examples that held before and fail now (lost), and the other way round (gained)."""

    n: int
    lost: int
    gained: int

    @property
    def drop(self) -> Fraction:
        """The drop of the share that holds."""
        return Fraction(self.lost - self.gained, self.n)


@dataclass(frozen=True)
class Pairs:
    """The outcomes of the same examples, before and now, as letters of `summary.outcomes`."""

    name: str  # clean, a threat, or union
    before: str
    now: str

    def best_case(self) -> Counts:
        """The counts if every open example turns out in favour of the new model."""
        return self._counts(then=_surely, today=_perhaps)

    def worst_case(self) -> Counts:
        """The counts if every open example turns out against the new model."""
        return self._counts(then=_perhaps, today=_surely)

    @property
    def open(self) -> int:
        """The number of examples with an open outcome, before or now."""
        return sum(Outcome.OPEN in pair for pair in zip(self.before, self.now, strict=True))

    def lost(self) -> tuple[int, ...]:
        """Places of the examples that held before and are known to fail now."""
        pairs = enumerate(zip(self.before, self.now, strict=True))
        return tuple(i for i, (a, b) in pairs if _surely(a) and not _perhaps(b))

    def _counts(self, then: Callable[[str], bool], today: Callable[[str], bool]) -> Counts:
        held = [(then(a), today(b)) for a, b in zip(self.before, self.now, strict=True)]
        return Counts(len(held), held.count((True, False)), held.count((False, True)))


@dataclass(frozen=True)
class GateRow:
    """One row of the gate's table. Drops are fractions of all examples, and positive when the model got worse."""

    pairs: Pairs
    allowance: Fraction | None  # None: shown, not judged
    verdict: GateVerdict | None
    drop: Fraction  # observed; while examples are open, the smallest it can become
    max_drop: Fraction  # the largest it can become; equal to `drop` if nothing is open
    lower_end: float  # of the one-sided interval for the drop in the population
    level: float  # at which this row was tested: 1 - level is that of the interval
    more: int | None  # the approximate number of further examples that would decide, at the same rates

    @property
    def name(self) -> str:
        """clean, a threat, or union."""
        return self.pairs.name


@dataclass(frozen=True)
class Judgement:
    """All rows of the table, and the joint verdict."""

    rows: tuple[GateRow, ...]
    level: float

    @property
    def verdict(self) -> GateVerdict:
        """A regression if any row is one; none if no row can be."""
        verdicts = {row.verdict for row in self.rows}
        for worst in (GateVerdict.REGRESSION, GateVerdict.UNDECIDED):
            if worst in verdicts:
                return worst
        return GateVerdict.NONE


def letters_of(summary: Summary) -> dict[str, str]:
    """The outcomes by row: clean, every threat, and with two threats or more their union.

    If the model raised on a clean image, no open example is known to be correct.
    """
    known = {Outcome.WRONG.value: Outcome.WRONG} | ({Outcome.OPEN.value: Outcome.OPEN} if summary.clean.open else {})
    rows = {"clean": "".join(known.get(letter, Outcome.STANDING).value for letter in summary.union.outcomes)}
    rows |= {t.threat: t.outcomes for t in summary.threats}
    return rows | ({"union": summary.union.outcomes} if len(summary.threats) > 1 else {})


def paired(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Pairs, ...]:
    """The pairs of each row. Both sides have the same examples, in the same order, under the same threats."""
    assert list(before) == list(now), "rows are compared with themselves"
    return tuple(Pairs(name, before[name], now[name]) for name in before)


def same_function(one: ModelEntry, other: ModelEntry) -> bool:
    """Equal weights, architecture and normalisation, and equal logits up to float noise and four digits.

    False if a summary of an older version lacks these.
    """
    settled = [(m.weights_sha256, m.architecture, m.normalisation) for m in (one, other)]
    try:
        logits = [np.array([float(v) for v in m.fingerprint.split()]) for m in (one, other)]
    except ValueError:  # no numbers: a damaged file
        return False
    if settled[0] != settled[1] or logits[0].shape != logits[1].shape or not logits[0].size:
        return False
    return bool((np.abs(logits[0] - logits[1]) <= 2e-3 * np.abs(logits).max()).all())


def judge(pairs: Sequence[Pairs], allowances: Mapping[str, Fraction], level: float = LEVEL) -> Judgement:
    """The verdict on every row that has an allowance.

    A row is a regression if the lower end of the interval for its drop exceeds the allowance, none if the observed
    drop is within it, else undecided. Over rows Holm's correction (Holm 1979): with k rows not yet found to be
    regressions each is tested at level / k, so that the probability of any false alarm in the table is at most the
    level, however the rows depend on each other. Open examples count for the model when a regression is tested, and
    against it when none is.
    """
    waiting = [p for p in pairs if p.name in allowances]
    found: dict[str, float] = {}
    while waiting:
        each = level / len(waiting)
        worse = [p for p in waiting if p_value(p.best_case(), allowances[p.name]) <= each]
        if not worse:
            break
        found |= {p.name: each for p in worse}
        waiting = [p for p in waiting if p.name not in found]
    rest = level / max(len(waiting), 1)
    rows = (_row(p, allowances.get(p.name), found.get(p.name, rest), p.name in found) for p in pairs)
    return Judgement(tuple(rows), level)


def p_value(counts: Counts, allowance: Fraction | float) -> float:
    """The largest probability of a sample this extreme, if the population has dropped by at most the allowance."""
    return _p_value(counts.n, counts.lost, counts.gained, float(allowance))


def lower_end(counts: Counts, level: float, tolerance: float = 1e-4) -> float:
    """The lower end of the one-sided interval for the drop in the population, covering at 1 - level or better.

    All drops that the test does not reject lie above it.
    """
    return _boundary(counts, level, -1.0, float(counts.drop), tolerance)


def more_examples(counts: Counts, allowance: Fraction | float, level: float) -> int | None:
    """About how many further examples would show a regression, at the same rates; None if none would."""
    z = float(_score(np.array(counts.lost), np.array(counts.gained), counts.n, float(allowance)))
    if z <= 0:
        return None
    wanted = NormalDist().inv_cdf(1 - level)
    return max(1, math.ceil(counts.n * (wanted / z) ** 2) - counts.n)  # the statistic grows with the root of n


def read_allowances(texts: Iterable[str], rows: Sequence[str]) -> dict[str, Fraction]:
    """`union=1pp` allows a drop of a hundredth of all examples in that row; `1pp` does in every row, the default.

    If only some rows are named, only those are judged. Raises UserError for text that cannot be read.
    """
    everywhere: dict[str, Fraction] = {}
    named: dict[str, Fraction] = {}
    for text in list(texts) or [EVERYWHERE]:
        name, equals, amount = text.rpartition("=")
        if equals and name not in rows:
            raise unknown("row of the baseline", name, rows)
        allowed = _points(amount, text)
        if (equals and name in named) or (not equals and everywhere):
            what = f"the row {name}" if equals else "every row"
            raise UserError(f"{what} has two allowances, the second is {text!r}; give one")
        if equals:
            named[name] = allowed
        else:
            everywhere = dict.fromkeys(rows, allowed)
    return everywhere | named


def broken_by(plan: Plan, evidence: Evidence, threat: str) -> dict[int, str]:
    """The attack that broke each example first, by its name in the tables."""
    labels = {(t.threat, a.spec): a.label for t in plan.threats for a in t.attacks}
    first: dict[int, str] = {}
    for claim, _ in breaks(evidence, threat):
        key = claim.key
        searched = key.found_under or claim.threat
        label = labels.get((searched, str(key.of_search)), CLAIM if key.is_claim else str(key.of_search))
        elsewhere = "" if searched == threat else searched
        first.setdefault(claim.example, str(AttackKey(label, found_under=elsewhere)))
    return first


def _row(pairs: Pairs, allowance: Fraction | None, level: float, worse: bool) -> GateRow:
    best, worst = pairs.best_case(), pairs.worst_case()
    if allowance is None:
        return GateRow(pairs, None, None, best.drop, worst.drop, lower_end(best, level), level, None)
    verdict = (
        GateVerdict.REGRESSION if worse else GateVerdict.NONE if worst.drop <= allowance else GateVerdict.UNDECIDED
    )
    # The two sides of the allowance are searched apart, so that the printed end agrees with the verdict exactly.
    low, high = (float(allowance), float(best.drop)) if worse else (-1.0, min(float(allowance), float(best.drop)))
    end = _boundary(best, level, low, high)
    undecided = verdict is GateVerdict.UNDECIDED and not pairs.open
    more = more_examples(best, allowance, level) if undecided else None
    return GateRow(pairs, allowance, verdict, best.drop, worst.drop, end, level, more)


def _boundary(counts: Counts, level: float, low: float, high: float, tolerance: float = 1e-4) -> float:
    """The largest drop between these that the test rejects; it rejects `low`, or there is no lower one."""
    while high - low > tolerance:
        middle = (low + high) / 2
        if p_value(counts, middle) <= level:
            low = middle
        else:
            high = middle
    return low


def _points(text: str, whole: str) -> Fraction:
    """A number of percentage points as a fraction of all examples."""
    match = re.fullmatch(POINTS, text)
    if not match:
        raise UserError(
            f"cannot read the allowance {whole!r}; write a number of percentage points, like 1pp or union=0.5pp"
        )
    allowed = Fraction(match[1]) / 100
    if not 0 <= allowed < 1:
        raise UserError(f"the allowance {whole!r} is out of range; it goes from 0pp to less than 100pp")
    return allowed


def _surely(letter: str) -> bool:
    return letter == Outcome.STANDING


def _perhaps(letter: str) -> bool:
    return letter in (Outcome.STANDING, Outcome.OPEN)


@lru_cache(maxsize=65536)
def _p_value(n: int, lost: int, gained: int, drop: float) -> float:
    if lost - gained <= n * drop:
        return 1.0  # nothing speaks against the hypothesis
    low, high = clopper_pearson(gained, n, 1 - OUTSIDE)
    low = max(low, -drop)  # the rate of losses is at least 0 too
    if low > high:
        return OUTSIDE
    z = float(_score(np.array(lost), np.array(gained), n, drop))
    window = _window(n, low, high)
    edges = _edges(z, window, n, drop)
    rates = np.linspace(low, high, RATES)
    tails = _tails(rates, window, edges, n, drop)
    worst = int(tails.argmax())
    around = np.linspace(rates[max(worst - 1, 0)], rates[min(worst + 1, RATES - 1)], RATES)
    finer = _tails(around, window, edges, n, drop)
    return min(1.0, float(max(tails.max(), finer.max())) + OUTSIDE)


def _score(
    lost: Int[np.ndarray, "..."], gained: Int[np.ndarray, "..."], n: int, drop: float
) -> Float[np.ndarray, "..."]:
    """Tango's statistic: how far the observed drop is from `drop`, in standard errors at the likeliest such rates."""
    b = (2 * n - lost + gained) * drop - lost - gained
    c = -gained * drop * (1 - drop)
    rate = (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)
    variance = np.maximum(n * (2 * rate + drop * (1 - drop)), 0)
    distance = lost - gained - n * drop
    error = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error > 1e-12, distance / error, np.sign(distance) * np.inf)
    return np.asarray(np.where(np.abs(distance) < 1e-9, 0.0, ratio), dtype=np.float64)


def _window(n: int, low: float, high: float) -> Int[np.ndarray, "gains"]:
    """The numbers of gains that are likely at these rates; the probability of all others is counted in full."""
    reach = [7 * math.sqrt(n * rate * (1 - rate)) + 20 for rate in (low, high)]
    first, last = math.floor(n * low - reach[0]), math.ceil(n * high + reach[1])
    return np.arange(max(first, 0), min(last, n) + 1)


def _edges(z: float, gains: Int[np.ndarray, "gains"], n: int, drop: float) -> Int[np.ndarray, "gains"]:
    """The smallest number of losses for each number of gains at which the statistic is at least z; n + 1 if at none.

    The statistic grows with the losses, so bisection finds it.
    """
    low, high = np.zeros_like(gains), n - gains + 1
    while (low < high).any():
        middle = (low + high) // 2
        inside = _score(middle, gains, n, drop) >= z - 1e-9
        open_yet = low < high
        high = np.where(open_yet & inside, middle, high)
        low = np.where(open_yet & ~inside, middle + 1, low)
    return np.where(low > n - gains, n + 1, low)


def _tails(
    rates: Float[np.ndarray, "rates"],
    gains: Int[np.ndarray, "gains"],
    edges: Int[np.ndarray, "gains"],
    n: int,
    drop: float,
) -> Float[np.ndarray, "rates"]:
    """The probability, at each rate of gains, of an outcome on the edge or beyond, at this drop of the population.

    For a given rate of gains it is largest at the largest rate of losses, since the region grows with the losses.
    """
    q = rates[:, None]
    losses = np.minimum(np.maximum(q + drop, 0), 1 - q)
    weights = np.exp(
        gammaln(n + 1) - gammaln(gains + 1) - gammaln(n - gains + 1) + xlogy(gains, q) + xlog1py(n - gains, -q)
    )
    share = np.divide(losses, 1 - q, out=np.ones_like(losses), where=q < 1)
    left = n - gains
    reachable = (edges >= 1) & (edges <= left)
    safe = np.where(reachable, edges, 1)
    beyond = betainc(safe, np.maximum(left - safe, 0) + 1, np.minimum(share, 1))
    tails = np.where(edges <= 0, 1.0, np.where(reachable, beyond, 0.0))
    return np.asarray((weights * tails).sum(axis=1) + np.maximum(0, 1 - weights.sum(axis=1)), dtype=np.float64)
