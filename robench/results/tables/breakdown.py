"""Tables of single attacks: what each was tried on, what it broke, and which of them would have sufficed."""

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

import msgspec
import pandas as pd

from ...errors import counted
from ...evidence.attack_key import CLAIM
from ..outcomes import Outcome
from ..stats.another_round import another_round
from ..summary import Summary, ThreatEntry
from .cells import cells, percent
from .seeds import Row, names
from .table import Mark, Table

EARLY_STOP = "An attack ran only on examples that earlier ones left; --every-attack measures each attack alone."
ALONE = "Percent of all examples that one attack alone leaves standing; if not measured, how many of those it ran on."
MAX = 20  # attacks, of which every subset is tried


def breakdown(summary: Summary) -> Table:
    """A row per threat and attack: the examples it was tried on, broke and left, and its cost.

    `left` is an accuracy in percent if the attack ran on every correct example, else a count. `alone` counts examples
    that no other attack broke. The footer names the smallest set of attacks that breaks the same examples.
    """
    rows = []
    for threat in summary.threats:
        for a in threat.attacks:
            row = {"threat": threat.threat, "attack": a.name, "tried": str(a.tried), "broken": str(a.broken)}
            row["left"] = f"{a.standing} of {a.tried} standing" if a.accuracy is None else percent(a.accuracy)
            if summary.every_attack:
                row["alone"] = "" if a.alone is None else str(a.alone)
            row |= {"seconds": f"{a.seconds:.1f}", "forwards": f"{a.forwards:,}", "backwards": f"{a.backwards:,}"}
            rows.append(row)
        if threat.by_claim:  # the last row names no cost: the cost of images from files is unknown
            rows.append({"threat": threat.threat, "attack": CLAIM, "broken": str(threat.by_claim)})
    footer = [EARLY_STOP] if not summary.every_attack and any(t.attacks for t in summary.threats) else []
    footer += [sentence for threat in summary.threats if (sentence := _sufficient(threat))]
    footer += [
        f"{t.threat}: {counted(more, 'more example')} broken by an image found under another threat or by an attack not"
        " listed."
        for t in summary.threats
        if (more := t.elsewhere - t.by_claim)
    ]
    footer += [sentence for threat in summary.threats if (sentence := _another_round(threat))]
    return Table(
        pd.DataFrame(rows).fillna(""), f"Attacks on {summary.model.name}", tuple(footer if rows else ["No attack ran."])
    )


def across(summaries: Sequence[Summary]) -> Table:
    """A row per threat and attack, a column per model: the share that each attack, and then all, leave standing.

    All summaries must answer the same question.
    """
    first = summaries[0]
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], frozenset[Mark]] = {}
    for i, threat in enumerate(first.threats):
        for j, attack in enumerate(threat.attacks):
            rows.append([threat.threat, attack.name, *(_left(s.threats[i], j) for s in summaries)])
        together = [cells(Row(s.model.name, (s,)))[threat.threat] for s in summaries]
        marks |= {(len(rows), 2 + k): frozenset({"masked"}) for k, cell in enumerate(together) if cell.masked}
        rows.append([threat.threat, "all together", *(cell.text(intervals=False) for cell in together)])
    frame = pd.DataFrame(rows, columns=["threat", "attack", *names(summaries)])
    return Table(frame, "What each attack leaves standing", (ALONE,) if rows else ("No attack ran.",), marks)


def smallest_set(broken: Mapping[str, frozenset[int]]) -> list[str] | None:
    """The smallest set of attacks that together break every example that any of them broke; the first of several.

    An attack that breaks an example alone is in every such set; of the others every subset is tried, small ones
    first. So the result is exact; None if there are too many to try.
    """
    everything = frozenset(chain.from_iterable(broken.values()))
    needed = [name for name in broken if broken[name] - _by_others(broken, name)]
    missing = everything.difference(*(broken[name] for name in needed))
    rest = {name: broken[name] & missing for name in broken if broken[name] & missing}
    if len(rest) > MAX:
        return None
    for size in range(len(rest) + 1):
        for chosen in combinations(rest, size):
            if missing <= frozenset(chain.from_iterable(rest[name] for name in chosen)):
                return [name for name in broken if name in needed or name in chosen]
    raise AssertionError("all together break everything")


def attack_frame(summary: Summary) -> pd.DataFrame:
    """The breakdown in numbers: a row per threat and attack, with the fields of the summary file except outcomes."""
    rows = [
        {**summary.about(), "threat": t.threat, **_renamed(msgspec.structs.asdict(a))}
        for t in summary.threats
        for a in t.attacks
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({"alone": "Int64", "accuracy": "float64"}) if rows else frame


def _another_round(threat: ThreatEntry) -> str:
    """What the second round searched and broke, and what one more would; empty where none was planned or has ended."""
    second = [a for a in threat.attacks if a.near is not None]
    if not second or threat.open or any(a.outcomes for a in second):
        return ""
    searched, broken = max(a.tried for a in second), sum(a.broken for a in second)
    text = f"{threat.threat}: the second round searched {counted(searched, 'example')} near the boundary"
    if not searched:
        return f"{text}."
    more = another_round(searched, broken)
    low, high = more.ci95
    return (
        f"{text} and broke {broken}; one more is expected to break {more.broken:.1f} [{low:.1f}, {high:.1f}] of the"
        f" {more.standing} left, or fewer."
    )


def _sufficient(threat: ThreatEntry) -> str:
    """A sentence on the attacks that would have sufficed, if each is known on every example; else empty."""
    if len(threat.attacks) < 2 or not all(a.outcomes and a.accuracy is not None for a in threat.attacks):
        return ""
    broken = {a.name: frozenset(_broken(a.outcomes)) for a in threat.attacks}
    count = len(frozenset(chain.from_iterable(broken.values())))
    chosen = smallest_set(broken)
    if not count or chosen is None:
        return ""
    return f"{threat.threat}: the smallest set of attacks that breaks the same {count}: {', '.join(chosen)}."


def _by_others(broken: Mapping[str, frozenset[int]], name: str) -> frozenset[int]:
    return frozenset(chain.from_iterable(found for other, found in broken.items() if other != name))


def _broken(outcomes: str) -> list[int]:
    return [i for i, letter in enumerate(outcomes) if letter == Outcome.BROKEN.value]


def _left(threat: ThreatEntry, place: int) -> str:
    attack = threat.attacks[place]
    return f"{attack.standing} of {attack.tried}" if attack.accuracy is None else percent(attack.accuracy)


def _renamed(fields: dict[str, object]) -> dict[str, object]:
    return {"attack" if key == "name" else key: value for key, value in fields.items() if key != "outcomes"}
