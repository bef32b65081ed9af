"""Threat models by name: `parse("linf:8/255")` is the inverse of `str`."""

from fractions import Fraction

from ...errors import UserError, unknown
from .base import Ball, ThreatModel, in_box, inward, room
from .lp import L0, L1, L2, Linf

__all__ = ["L0", "L1", "L2", "THREATS", "Ball", "Linf", "ThreatModel", "in_box", "inward", "parse", "room"]

THREATS: dict[str, type[Ball]] = {t.name: t for t in (Linf, L2, L1, L0)}


def parse(text: str) -> ThreatModel:
    """`linf:8/255` as a threat model. Raises UserError when the name or the radius cannot be read."""
    name, _, radius = text.strip().partition(":")
    if name not in THREATS:
        raise unknown("threat model", name, THREATS)
    try:
        return THREATS[name](Fraction(radius))
    except UserError:
        raise
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{text!r} has no readable radius; write it like {name}:8/255 or {name}:0.5") from None
