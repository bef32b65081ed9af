"""Threat models by name: `parse("linf:8/255")` is the inverse of `str`."""

from collections.abc import Callable
from fractions import Fraction

from ...errors import UserError, unknown
from . import affine
from .affine import AffineBalls, AffineRT
from .base import Ball, ThreatModel, in_box, inward, room
from .lp import L0, L1, L2, Linf
from .rt import RT

__all__ = [
    "L0",
    "L1",
    "L2",
    "RT",
    "THREATS",
    "AffineBalls",
    "AffineRT",
    "Ball",
    "Linf",
    "ThreatModel",
    "in_box",
    "inward",
    "parse",
    "room",
]

BALLS: dict[str, type[Ball]] = {t.name: t for t in (Linf, L2, L1, L0)}
THREATS: dict[str, type[ThreatModel]] = {**BALLS, **{t.name: t for t in (RT, AffineBalls, AffineRT)}}

_READERS: dict[str, Callable[[str], ThreatModel]] = {
    **{name: lambda radius, ball=ball: ball(Fraction(radius)) for name, ball in BALLS.items()},  # type: ignore[misc]
    "rt": RT.parse,
    "affine": affine.parse,
}
_FORMS = {**{name: f"{name}:8/255 or {name}:0.5" for name in BALLS}, "rt": RT.form}


def parse(text: str) -> ThreatModel:
    """`linf:8/255` as a threat model. Raises UserError when the name or the numbers cannot be read."""
    name, _, numbers = text.strip().partition(":")
    if name not in _READERS:
        raise unknown("threat model", name, _READERS)
    try:
        return _READERS[name](numbers)
    except UserError:
        raise
    except (ValueError, ZeroDivisionError):
        what = "radius" if name in BALLS else "limits"
        form = _FORMS.get(name, f"{AffineBalls.form} or {AffineRT.form}")
        raise UserError(f"{text!r} has no readable {what}; write it like {form}") from None
