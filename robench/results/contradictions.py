"""Consistency of a summary: every number that follows from others is computed again.

Fields that are missing in files of older versions are not compared.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .masking.verdict import WORST_FIRST
from .outcomes import Outcome, union
from .stats import shares

if TYPE_CHECKING:
    from .attack_rows import AttackEntry
    from .summary import CurveEntry, DataEntry, Summary, ThreatEntry, UnionEntry

NEAR = 1e-6  # intervals are rounded to six digits
MAX_SEEDS = 2**32


def contradiction(summary: "Summary") -> str:
    """The first contradiction, such as `the accuracy of union is not that of its outcomes`; empty if there is none."""
    return next(_all(summary), "")


def numbers(data: "DataEntry") -> tuple[int, ...]:
    """The numbers of the examples. Raises ValueError if the text does not list as many different ones as there are."""
    parts = [part.split(":") for part in data.numbers.split()]
    ends = [(int(first), int(last)) for first, last in parts]
    if any(not 0 <= first < last for first, last in ends) or sum(b - a for a, b in ends) != data.examples:
        raise ValueError(f"not {data.examples} examples")
    every = tuple(n for first, last in ends for n in range(first, last))
    if len(set(every)) != len(every):
        raise ValueError("an example is there twice")
    return every


def _all(summary: "Summary") -> Iterator[str]:
    n = summary.data.examples
    if n < 1:
        yield "it is about no example"
        return
    if not 0 <= summary.seed < MAX_SEEDS:
        yield f"its seed is {summary.seed}"
    names = [t.threat for t in summary.threats]
    yield from (f"it names the threat {name} twice" for name, count in Counter(names).items() if count > 1)
    entries: list[tuple[str, ThreatEntry | UnionEntry]] = [(t.threat, t) for t in summary.threats]
    for name, entry in [*entries, ("union", summary.union)]:
        yield from _of_outcomes(name, entry, n)
    yield from _of_examples(summary.data)
    rows = [t.outcomes for t in summary.threats]
    yield from _of_all_threats(summary, rows)
    yield from _of_clean(summary, rows or [summary.union.outcomes])
    for t in summary.threats:
        yield from _of_threat(t, summary)
    yield from _of_cost(summary)


def _of_outcomes(name: str, entry: "ThreatEntry | UnionEntry", n: int) -> Iterator[str]:
    counts = [entry.wrong, entry.broken, entry.standing, entry.open]
    if entry.failed > entry.open:
        yield f"{name} has {entry.failed} failed examples, but they are among the {entry.open} open ones"
    if counts != [entry.outcomes.count(outcome) for outcome in Outcome] or sum(counts) != len(entry.outcomes):
        yield f"the outcomes of {name} do not fit its counts"
    elif len(entry.outcomes) != n:
        yield f"{name} has {len(entry.outcomes)} outcomes"
    elif not _near(entry.accuracy, shares.accuracy(entry.outcomes)):
        yield f"the accuracy of {name} is not that of its outcomes"
    elif not _all_near(entry.ci95, shares.interval(entry.standing, entry.open, n)):
        yield f"the interval of {name} is not that of its outcomes"


def _of_examples(data: "DataEntry") -> Iterator[str]:
    if data.numbers:
        try:
            numbers(data)
        except ValueError:
            yield f"{data.numbers[:40]!r} are not {data.examples} examples"


def _of_all_threats(summary: "Summary", rows: Sequence[str]) -> Iterator[str]:
    if rows and summary.union.outcomes != union(*rows):
        yield "the outcomes of union are not those of its threats"
    if not rows and set(summary.union.outcomes) & {Outcome.BROKEN.value, Outcome.STANDING.value}:
        yield "it names no threat, and has outcomes under attack"
    average = summary.average
    if not rows and (average.accuracy, average.ci95) != (None, None):
        yield "it has an average, and no threat"
    elif rows and (average.accuracy is None or average.ci95 is None):
        yield "it has threats, and no average over them"
    elif average.accuracy is not None and average.ci95 is not None:
        share, ends = shares.mean(rows)
        if not _near(average.accuracy, share):
            yield "the average is not that of its threats"
        elif not _all_near(average.ci95, ends):
            yield "the interval of the average is not that of its threats"
    verdicts = {t.masking.verdict for t in summary.threats}
    if summary.masking.verdict != next((verdict for verdict in WORST_FIRST if verdict in verdicts), "untested"):
        yield "its verdict on masking is not the worst of its threats"


def _of_clean(summary: "Summary", rows: Sequence[str]) -> Iterator[str]:
    clean, n = summary.clean, summary.data.examples
    wrong = {tuple(place for place, letter in enumerate(row) if letter == Outcome.WRONG) for row in rows}
    unknown = sum(set(letters) == {Outcome.OPEN} for letters in zip(*rows, strict=True))
    if len(wrong) > 1:
        yield "other examples are wrong before any attack under one threat than under another"
        return
    still_open = n - clean.correct - len(wrong.pop())
    # The first versions included open answers without recording their number.
    if not 0 <= still_open <= unknown or clean.open not in (0, still_open):
        yield "the clean answers are not as many as there are examples"
    elif not _near(clean.accuracy, (clean.correct + still_open) / n):
        yield "the clean accuracy is not that of its counts"
    elif not _all_near(clean.ci95, shares.interval(clean.correct, still_open, n)):
        yield "the interval of the clean accuracy is not that of its counts"
    if max(summary.ties, summary.nan) > n:
        yield "more clean predictions are ties, or no numbers, than there are examples"


def _of_threat(t: "ThreatEntry", summary: "Summary") -> Iterator[str]:
    for found in ([a.name for a in t.attacks], [a.spec for a in t.attacks if a.spec]):
        yield from (f"it names the attack {name} twice under {t.threat}" for name, k in Counter(found).items() if k > 1)
    recent = all(a.items for a in t.attacks)  # older versions lack some of the compared fields
    for a in t.attacks:
        if _is_off(a, t, summary):
            yield f"the numbers of {a.name} under {t.threat} do not fit together"
    together = sum(a.broken for a in t.attacks) + t.elsewhere
    if recent and not (t.broken <= together if summary.every_attack else t.broken == together):
        yield f"the attacks under {t.threat} broke other numbers than the threat counts"
    if max(t.elsewhere, t.ties) > t.broken or t.by_claim > t.elsewhere or t.nan > len(t.outcomes):
        yield f"more images are noted under {t.threat} than examples were broken"
    causes: Counter[str] = Counter()
    for r in t.rejections:
        causes[r.rejection] += r.claims
    if (recent or t.rejections) and causes != Counter({cause: count for cause, count in t.rejected.items() if count}):
        yield f"the rejected claims under {t.threat} are not as many as it counts"
    if not _falls(t.curve, summary.clean.accuracy, t.accuracy - summary.clean.open / len(t.outcomes)):
        yield f"the curve under {t.threat} does not fall from its clean accuracy to its accuracy"


def _is_off(a: "AttackEntry", t: "ThreatEntry", summary: "Summary") -> bool:
    """Whether an attack's counts contradict each other, or those of its threat."""
    correct, n = summary.clean.correct, len(t.outcomes)
    if a.items and not summary.every_attack and (a.accuracy, a.alone, a.outcomes) != (None, None, ""):
        return True
    if not a.standing <= a.tried <= correct or a.broken > t.broken or (a.alone or 0) > a.broken:
        return True
    if a.passed_over and ((a.near is None and a.sample is None) or a.passed_over > t.standing + t.open):
        return True
    if a.accuracy is not None and not _near(a.accuracy, (correct - a.broken) / n):
        return True
    if not a.outcomes:
        return False
    mine = [a.outcomes.count(outcome) for outcome in (Outcome.BROKEN, Outcome.STANDING)]
    beyond = any(x == Outcome.BROKEN != y for x, y in zip(a.outcomes, t.outcomes, strict=False))
    return len(a.outcomes) != n or mine != [a.broken, a.standing] or beyond


def _falls(curve: "CurveEntry", clean: float, end: float) -> bool:
    """Whether accuracy falls with the radius, from at most that before any attack to at least `end`."""
    radii, values = curve.radius, curve.accuracy
    if not radii and not values:
        return True
    if len(radii) != len(values) or radii[0] < 0 or values[0] > clean + NEAR or values[-1] < end - NEAR:
        return False
    return all(a < b for a, b in pairwise(radii)) and all(a >= b for a, b in pairwise(values))


def _of_cost(summary: "Summary") -> Iterator[str]:
    attacks = [a for t in summary.threats for a in t.attacks]
    cost = summary.cost
    if (cost.forwards, cost.backwards) != (sum(a.forwards for a in attacks), sum(a.backwards for a in attacks)):
        yield "its passes are not those of its attacks"
    elif abs(cost.seconds - sum(a.seconds for a in attacks)) > NEAR * max(1.0, cost.seconds):
        yield "its seconds are not those of its attacks"


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR


def _all_near(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(map(_near, one, other))
