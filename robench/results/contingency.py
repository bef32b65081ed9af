"""How outcomes under several threats go together: robust to all or none, as Tramèr and Boneh find (section 5)?"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import prod

import pandas as pd

from ..errors import counted
from .cells import percent
from .outcomes import Outcome
from .seeds import names
from .summary import Summary
from .table import Table

WRONG, OPEN = "(wrong before any attack)", "(open)"
FEW = 4  # threats, of which every combination is listed, also those that no example shows


def contingency(summaries: Sequence[Summary]) -> Table:
    """A row per combination of threats, a column per model: how many examples withstand these and no others.

    All summaries must answer the same question.
    """
    threats = [t.threat for t in summaries[0].threats]
    if len(threats) < 2:
        return Table(
            pd.DataFrame(), "Outcomes over threats", ("Outcomes are set against each other from two threats on.",)
        )
    counts = [patterns(summary) for summary in summaries]
    listed = [
        combination
        for size in range(len(threats), -1, -1)
        for combination in combinations(threats, size)
        if len(threats) <= FEW or any(count[combination] for count in counts)
    ]
    rows = [[_named(combination, threats), *(str(count[combination]) for count in counts)] for combination in listed]
    for rest in (WRONG, OPEN):
        if any(count[(rest,)] for count in counts):
            rows.append([rest, *(str(count[(rest,)]) for count in counts)])
    frame = pd.DataFrame(rows, columns=["robust to", *names(summaries)])
    footer = [f"Of {counted(summaries[0].data.examples, 'example')}, how many stand under these threats and no others."]
    for name, summary, count in zip(names(summaries), summaries, counts, strict=True):
        footer += _all_or_none(f"{name}: " if len(summaries) > 1 else "", summary, count)
    return Table(frame, "Outcomes over threats", tuple(footer))


def contingency_frame(summary: Summary) -> pd.DataFrame:
    """The same in numbers: a row for each combination that occurs; threats are separated by commas."""
    about = {name: value for name, value in summary.about().items() if name != "examples"}
    threats = [t.threat for t in summary.threats]
    count = sorted(patterns(summary).items(), key=lambda item: (-len(item[0]), item[0]))
    return pd.DataFrame([{**about, "robust to": _named(which, threats), "examples": n} for which, n in count])


def patterns(summary: Summary) -> Counter[tuple[str, ...]]:
    """How many examples withstand each combination of threats; wrong and open examples are counted apart."""
    counts: Counter[tuple[str, ...]] = Counter()
    threats = [t.threat for t in summary.threats]
    for letters in zip(*(t.outcomes for t in summary.threats), strict=True):
        if Outcome.WRONG.value in letters:
            counts[(WRONG,)] += 1
        elif Outcome.OPEN.value in letters:
            counts[(OPEN,)] += 1
        else:
            stands = zip(threats, letters, strict=True)
            counts[tuple(t for t, letter in stands if letter == Outcome.STANDING.value)] += 1
    return counts


def _named(combination: tuple[str, ...], threats: Sequence[str]) -> str:
    if combination in ((WRONG,), (OPEN,)):
        return combination[0]
    if len(combination) == len(threats):
        return "all"
    return ", ".join(combination) or "none"


def _all_or_none(prefix: str, summary: Summary, counts: Counter[tuple[str, ...]]) -> list[str]:
    """The share, beside what it would be if threats felled examples independently of each other."""
    threats = [t.threat for t in summary.threats]
    decided = {which: n for which, n in counts.items() if which not in ((WRONG,), (OPEN,))}
    total = sum(decided.values())
    if not total:
        return []
    together = (decided.get(tuple(threats), 0) + decided.get((), 0)) / total
    shares = [sum(n for which, n in decided.items() if threat in which) / total for threat in threats]
    apart = prod(shares) + prod(1 - share for share in shares)
    return [
        f"{prefix}{percent(together)} % of {total} decided examples are robust to all threats or to none; were threats"
        f" independent, {percent(apart)} % would be."
    ]
