"""Numbers and names as pages and files show them."""

import re

from .entries import Certified, ModelResult

UNPRINTABLE = re.compile(r"[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
DATE = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ")


def percent(share: float) -> str:
    """A fraction as percent with one digit."""
    return f"{100 * share:.1f}"


def bounded(share: float, left: int) -> str:
    """An accuracy in percent, with ≤ while so many examples are `left` open: then it is an upper bound."""
    return f"{'≤ ' if left else ''}{percent(share)}"


def duration(minutes: int | float) -> str:
    """A time in the unit that fits it: minutes up to two hours, then hours."""
    return (
        f"{minutes:.0f} min"
        if 10 <= minutes < 120
        else f"{minutes:.1f} min"
        if minutes < 10
        else f"{minutes / 60:.1f} h"
    )


def compact(number: int) -> str:
    """A count to three digits: 431 k, 1.25 M."""
    for scale, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {sign}" if number < 999.5 * scale else f"{number / scale:.0f} {sign}"
    return str(number)


def printable(text: str) -> str:
    """The text with a replacement sign for all that XML cannot hold."""
    return UNPRINTABLE.sub("\ufffd", text)


def is_date(text: str) -> bool:
    """Whether a run's date is one: 2026-11-26T06:10:00Z."""
    return DATE.fullmatch(text) is not None


def certified(row: ModelResult, threat: str) -> Certified | None:
    """The highest lower bound that the card of a model states under a threat."""
    found = () if row.card is None else row.card.certified
    return max((c for c in found if c.threat == threat), key=lambda c: (c.accuracy, c.source), default=None)
