"""A board with every field filled, and images for it."""

import msgspec
import numpy as np

from robench.leaderboard.entries import (
    LEVELS,
    CardFacts,
    Certified,
    ClaimedRow,
    ClassResult,
    HistoryEntry,
    QueryCurve,
)
from robench.leaderboard.pictures import Adversarial, TableImages

from .made import board, recorded

ROWS = ["WBBSSOSS", "WSBSBSSO"]


def replaced(found, **changes):
    return msgspec.structs.replace(found, **changes)


def full_board(names=("one", "two"), text="text", date="2026-11-0{}T06:10:00Z"):
    """A board with a table, in which every free text is `text`."""
    card = CardFacts(
        text, (text,), 75.0, text, text, certified=(Certified("linf:0.3", 0.125, text), Certified("l2:2", 0.0, text))
    )
    runs = [
        recorded([row[:: (-1) ** i] for row in ROWS], name=name, card=card, environment={"command": text})
        for i, name in enumerate(names)
    ]
    found = board(*runs)
    (table,) = found.tables
    models = tuple(_filled(row, place, text, date) for place, row in enumerate(table.models))
    claimed = (ClaimedRow(text, text, {"clean": 0.99, "linf:0.3": 0.5, "union": 0.4}),)
    return replaced(found, tables=(replaced(table, models=models, claimed=claimed),))


def _filled(row, place, text, date):
    threats = tuple(
        replaced(
            threat,
            levels="".join(LEVELS[2 * n] if letter == "B" else letter for n, letter in enumerate(threat.outcomes, 1)),
            queries=(QueryCurve(text, (3, 40), (0.75, threat.share.accuracy)),),
            masking="suspect",
            masking_evidence=(text,),
        )
        for threat in row.threats
    )
    history = (
        HistoryEntry("", text, "", {}, (0.75, 0.75), 0.75, 0.75),
        HistoryEntry(date.format(place + 1), text, text, {"linf:0.3": 1, "union": 1}, (0.625, 0.625), 0.5, 0.625),
    )
    return replaced(
        row,
        threats=threats,
        history=history,
        parameters=431_080,
        classes=(ClassResult(3, 8, 0.875, (0.625, 0.625), 0.5),),
        competitiveness=0.9,
        competitiveness_worst=0.8,
        stability=0.7,
    )


def full_images(found, count=6, shape=(1, 4, 4)):
    """Clean images of the first examples, and an adversarial one for each that is broken."""
    random = np.random.default_rng(0)
    (table,) = found.tables
    clean = list(random.random((count, *shape), dtype=np.float32))
    adversarial = {
        (row.id, threat.threat): {
            place: Adversarial(np.clip(clean[place] + np.float32(0.25), 0, 1), 0.25 + place)
            for place in range(count)
            if threat.outcomes[place] == "B"
        }
        for row in table.models
        for threat in row.threats
    }
    return {(found.id, table.id): TableImages(range(count), [place % 3 for place in range(count)], clean, adversarial)}
