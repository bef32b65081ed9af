"""Has a model become less robust than it was? Paired: what became of the same examples, then and now.

The test is exact and unconditional. Its null hypothesis is that the drop in the population is at most the allowance;
outcomes are ordered by Tango's score statistic (Tango 1998, Statistics in Medicine 17:891), and the p-value is the
largest probability, over the rates at which examples may be gained, of an outcome at least as far out: Hsueh, Liu and
Chen 2001, https://doi.org/10.1111/j.0006-341X.2001.00478.x. That rate is sought within its Clopper-Pearson interval,
and the chance that it lies outside is added (Berger and Boos 1994, https://doi.org/10.2307/2290928). So a model that
has dropped by no more than the allowance is called a regression at most as often as the level says, for every n.
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
from ..evidence.attack_key import AttackKey
from ..evidence.records import Evidence, Plan
from .outcomes import Outcome, breaks
from .stats.intervals import clopper_pearson
from .summary import ModelEntry, Summary

LEVEL = 0.01  # false alarms over all rows together, when no row has dropped by more than its allowance
OUTSIDE = 1e-5  # the chance that the rate of gains is outside the interval in which it is sought
EVERYWHERE = "1pp"  # the drop allowed in every row when nobody says
POINTS = r"\s*(-?[0-9]{1,3}(?:\.[0-9]{1,9})?)\s*pp"
RATES = 41  # at which the rate of gains is tried; then as many again around the worst


class GateVerdict(str, Enum):
    """What the gate says of a row, and of all together."""

    REGRESSION = "regression"
    NONE = "no regression"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Counts:
    """Of n examples, so many held then and fail now, and so many the other way round."""

    n: int
    lost: int
    gained: int

    @property
    def drop(self) -> Fraction:
        """In the share that holds."""
        return Fraction(self.lost - self.gained, self.n)


@dataclass(frozen=True)
class Pairs:
    """The outcomes of the same examples, then and now, a letter each; those of `summary.outcomes`."""

    name: str  # clean, a threat, or union
    before: str
    now: str

    def least(self) -> Counts:
        """If all that is open turned out for the new model."""
        return self._counts(then=_surely, today=_perhaps)

    def most(self) -> Counts:
        """If all that is open turned out against it."""
        return self._counts(then=_perhaps, today=_surely)

    @property
    def open(self) -> int:
        """Examples of which it is not known what became of them."""
        return sum(Outcome.OPEN in pair for pair in zip(self.before, self.now, strict=True))

    def lost(self) -> tuple[int, ...]:
        """Places of the examples that held then and are known to fail now."""
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
    drop: Fraction  # observed; while examples are open, the least it can come to
    most: Fraction  # the most it can come to; equal to `drop` when nothing is open
    at_least: float  # the lower end of the one-sided interval for the drop in the population
    level: float  # at which this row was tested: 1 - level is that of the interval
    more: int | None  # about so many further examples would decide, were they to flip at the same rates

    @property
    def name(self) -> str:
        """clean, a threat, or union."""
        return self.pairs.name


@dataclass(frozen=True)
class Judgement:
    """All rows of the table, and what they come to."""

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

    Where the model raised on a clean image, no example that is open is known to be right.
    """
    known = {Outcome.WRONG.value: Outcome.WRONG} | ({Outcome.OPEN.value: Outcome.OPEN} if summary.clean.open else {})
    rows = {"clean": "".join(known.get(letter, Outcome.STANDING).value for letter in summary.union.outcomes)}
    rows |= {t.threat: t.outcomes for t in summary.threats}
    return rows | ({"union": summary.union.outcomes} if len(summary.threats) > 1 else {})


def paired(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Pairs, ...]:
    """Row by row; both are of the same examples, in the same order, under the same threats."""
    assert list(before) == list(now), "rows are compared with themselves"
    return tuple(Pairs(name, before[name], now[name]) for name in before)


def same_function(one: ModelEntry, other: ModelEntry) -> bool:
    """Equal weights, architecture and normalisation, and equal logits up to float noise and four digits.

    False where a summary of an older version does not say.
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
    regressions each is tested at level / k, so that one false alarm or more in the whole table is as rare as the
    level says, however the rows depend on each other. Open examples are counted for the model where a regression is
    to be shown, against it where none is.
    """
    waiting = [p for p in pairs if p.name in allowances]
    found: dict[str, float] = {}
    while waiting:
        each = level / len(waiting)
        worse = [p for p in waiting if p_value(p.least(), allowances[p.name]) <= each]
        if not worse:
            break
        found |= {p.name: each for p in worse}
        waiting = [p for p in waiting if p.name not in found]
    rest = level / max(len(waiting), 1)
    rows = (_row(p, allowances.get(p.name), found.get(p.name, rest), p.name in found) for p in pairs)
    return Judgement(tuple(rows), level)


def p_value(counts: Counts, allowance: Fraction | float) -> float:
    """How likely a sample as far out would be, at most, had the population dropped by no more than the allowance."""
    return _p_value(counts.n, counts.lost, counts.gained, float(allowance))


def lower_end(counts: Counts, level: float, tolerance: float = 1e-4) -> float:
    """The lower end of the one-sided interval for the drop in the population, covering at 1 - level or better.

    All drops that the test does not turn down lie above it.
    """
    return _boundary(counts, level, -1.0, float(counts.drop), tolerance)


def more_examples(counts: Counts, allowance: Fraction | float, level: float) -> int | None:
    """About how many further examples would show a regression, flipping at the rates of these; None if none would."""
    z = float(_score(np.array(counts.lost), np.array(counts.gained), counts.n, float(allowance)))
    if z <= 0:
        return None
    wanted = NormalDist().inv_cdf(1 - level)
    return max(1, math.ceil(counts.n * (wanted / z) ** 2) - counts.n)  # the statistic grows with the root of n


def read_allowances(texts: Iterable[str], rows: Sequence[str]) -> dict[str, Fraction]:
    """`union=1pp` allows a drop of a hundredth of all examples there; `1pp` alone in every row; nothing: 1pp.

    With some rows named, and nothing said of all, only those are judged. Raises UserError for what cannot be read.
    """
    everywhere: dict[str, Fraction] = {}
    named: dict[str, Fraction] = {}
    for text in list(texts) or [EVERYWHERE]:
        name, equals, amount = text.rpartition("=")
        if equals and name not in rows:
            raise unknown("row of the baseline", name, rows)
        allowed = _points(amount, text)
        if equals:
            named[name] = allowed
        else:
            everywhere = dict.fromkeys(rows, allowed)
    return everywhere | named


def broken_by(plan: Plan, evidence: Evidence, threat: str) -> dict[int, str]:
    """The attack that broke each example first, as the tables call it."""
    labels = {(t.threat, a.spec): a.label for t in plan.threats for a in t.attacks}
    first: dict[int, str] = {}
    for claim, _ in breaks(evidence, threat):
        key = claim.key
        searched = key.found_under or claim.threat
        label = labels.get((searched, str(key.of_search)), str(key.of_search))
        elsewhere = "" if searched == threat else searched
        first.setdefault(claim.example, str(AttackKey(label, found_under=elsewhere)))
    return first


def _row(pairs: Pairs, allowance: Fraction | None, level: float, worse: bool) -> GateRow:
    least, most = pairs.least(), pairs.most()
    if allowance is None:
        return GateRow(pairs, None, None, least.drop, most.drop, lower_end(least, level), level, None)
    verdict = GateVerdict.REGRESSION if worse else GateVerdict.NONE if most.drop <= allowance else GateVerdict.UNDECIDED
    # The two sides of the allowance are searched apart: what is printed agrees with the verdict to the last digit.
    low, high = (float(allowance), float(least.drop)) if worse else (-1.0, min(float(allowance), float(least.drop)))
    at_least = _boundary(least, level, low, high)
    undecided = verdict is GateVerdict.UNDECIDED and not pairs.open
    more = more_examples(least, allowance, level) if undecided else None
    return GateRow(pairs, allowance, verdict, least.drop, most.drop, at_least, level, more)


def _boundary(counts: Counts, level: float, low: float, high: float, tolerance: float = 1e-4) -> float:
    """The largest drop between these that the test turns down; `low` is turned down, or there is no lower."""
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
    low = max(low, -drop)  # what was lost has a rate too, of at least 0
    if low > high:
        return OUTSIDE
    z = float(_score(np.array(lost), np.array(gained), n, drop))
    window = _window(n, low, high)
    edges = _edges(z, window, n, drop)
    rates = np.linspace(low, high, RATES)
    chances = _chances(rates, window, edges, n, drop)
    worst = int(chances.argmax())
    around = np.linspace(rates[max(worst - 1, 0)], rates[min(worst + 1, RATES - 1)], RATES)
    finer = _chances(around, window, edges, n, drop)
    return min(1.0, float(max(chances.max(), finer.max())) + OUTSIDE)


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
    """The numbers of gains that may well happen at such rates; the chance of others is counted in full."""
    reach = [7 * math.sqrt(n * rate * (1 - rate)) + 20 for rate in (low, high)]
    first, last = math.floor(n * low - reach[0]), math.ceil(n * high + reach[1])
    return np.arange(max(first, 0), min(last, n) + 1)


def _edges(z: float, gains: Int[np.ndarray, "gains"], n: int, drop: float) -> Int[np.ndarray, "gains"]:
    """For each number of gains the smallest number of losses at which the statistic is at least z; n + 1 if at none.

    It grows with the losses, so halving finds it.
    """
    low, high = np.zeros_like(gains), n - gains + 1
    while (low < high).any():
        middle = (low + high) // 2
        inside = _score(middle, gains, n, drop) >= z - 1e-9
        open_yet = low < high
        high = np.where(open_yet & inside, middle, high)
        low = np.where(open_yet & ~inside, middle + 1, low)
    return np.where(low > n - gains, n + 1, low)


def _chances(
    rates: Float[np.ndarray, "rates"],
    gains: Int[np.ndarray, "gains"],
    edges: Int[np.ndarray, "gains"],
    n: int,
    drop: float,
) -> Float[np.ndarray, "rates"]:
    """The probability, at each rate of gains, of an outcome on the edge or beyond, had the population dropped so far.

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
