"""Runs with outcomes that are chosen by letters."""

from robench.evidence.records import Claim, Evidence, Exhausted, PlannedAttack, PlannedThreat, Verdict
from robench.leaderboard.collect import RecordedRun, boards

from ..results.made import clean, plan

PGD = PlannedAttack("pgd", "pgd(steps=40)", items=1)
NAMES = ("linf:0.3", "l2:2", "l1:10", "l0:5")


def recorded(rows, threats=NAMES, card=None, attack=PGD, environment=None, size=0.1, **changes):
    """A run whose outcomes are `rows`, a string per threat. Examples are numbered from 0.

    `size` is that of every adversarial image, or a function of threat and example.
    """
    threats = threats[: len(rows)]
    n = len(rows[0])
    cleans, claims, verdicts, exhausted = [], [], [], []
    for example in range(n):
        letters = [row[example] for row in rows]
        if set(letters) != {"O"}:
            cleans.append(clean(example, correct="W" not in letters))
        for threat, letter in zip(threats, letters, strict=True):
            if letter == "B":
                claims.append(Claim(len(claims) + 1, example, threat, attack.spec, 0, -1, 10, 9))
                found = size(threat, example) if callable(size) else size
                verdicts.append(Verdict(len(claims), True, "", "", found, 0.5))
            if letter == "S":
                exhausted.append(Exhausted(example, threat, attack.spec, 1, 40, 40))
    changes.setdefault("weights", changes.get("name", "net").encode().hex().ljust(64, "0")[:64])
    planned = plan(tuple(range(n)), tuple(PlannedThreat(t, (attack,)) for t in threats), **changes)
    evidence = Evidence(tuple(cleans), tuple(claims), tuple(verdicts), tuple(exhausted), environment=environment or {})
    return RecordedRun(planned, lambda: (evidence, card))


def same(one, other):
    """Whether two records are of one model."""
    return one == other


def board(*runs):
    """The only board of the runs."""
    (found,) = boards(runs, same)
    return found
