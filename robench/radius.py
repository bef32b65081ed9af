"""A radius or limit as users write it: `8/255`, `0.5`, `1e-3`. Parsing is exact, and fast for any text."""

import re
from fractions import Fraction

LONGEST = 150  # characters

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_RATIO = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?")


def read(text: str) -> Fraction:
    """The number in this text. Raises ValueError if it is not a number, or longer than `LONGEST`.

    Python's own Fraction also accepts `1e999999999`, and computes with it for hours.
    """
    match = _RATIO.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        raise ValueError(f"no number: {text[:LONGEST]!r}")
    over, under = Fraction(match[1]), Fraction(match[2] or 1)
    if not under:
        raise ValueError(f"divided by 0: {text!r}")
    return over / under
