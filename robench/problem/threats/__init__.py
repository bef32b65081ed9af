"""Threat models by name: `parse("linf:8/255")` is the inverse of `str`."""

from collections.abc import Callable

from ... import radius
from ...errors import UserError, unknown
from . import affine
from .affine import AffineBalls, AffineRT
from .base import Ball, ThreatModel, in_box, inward, room
from .corruption import Corruption
from .elastic import Elastic
from .jpeg import JpegL1, JpegL2, JpegLinf
from .lp import EUCLIDEAN, L0, L1, L2, Linf, dense_steepest
from .param_ball import ParamBall
from .patch import Patch
from .rebuilt import Rebuilt
from .rt import RT
from .rt_l2 import RTL2

__all__ = [
    "EUCLIDEAN",
    "L0",
    "L1",
    "L2",
    "RT",
    "RTL2",
    "THREATS",
    "AffineBalls",
    "AffineRT",
    "Ball",
    "Corruption",
    "Linf",
    "ParamBall",
    "Patch",
    "Rebuilt",
    "ThreatModel",
    "dense_steepest",
    "in_box",
    "inward",
    "parse",
    "room",
]

BALLS: dict[str, type[Ball]] = {t.name: t for t in (Linf, L2, L1, L0)}
PARAM_BALLS: dict[str, type[ParamBall]] = {t.name: t for t in (JpegLinf, JpegL2, JpegL1, Elastic)}
THREATS: dict[str, type[ThreatModel]] = {
    **BALLS,
    **{t.name: t for t in (RT, RTL2, AffineBalls, AffineRT, Corruption, Patch)},
    **PARAM_BALLS,
}

_READERS: dict[str, Callable[[str], ThreatModel]] = {
    **{name: lambda text, ball=ball: ball(radius.read(text)) for name, ball in BALLS.items()},  # type: ignore[misc]
    "rt": RT.parse,
    "rt-l2": RTL2.parse,
    "affine": affine.parse,
    "corruption": Corruption.parse,
    "cifar10c": lambda text: Corruption.parse(text.replace(":", "@")),  # cifar10c:fog:3 is corruption:fog@3
    "patch": Patch.parse,
    **{name: kind.parse for name, kind in PARAM_BALLS.items()},
}
_FORMS = {
    **{name: f"{name}:8/255 or {name}:0.5" for name in BALLS},
    "rt": RT.form,
    "rt-l2": RTL2.form,
    "affine": f"{AffineBalls.form} or {AffineRT.form}",
    "corruption": Corruption.form,
    "cifar10c": "cifar10c:fog:3",
    "patch": Patch.form,
    **{name: kind.form for name, kind in PARAM_BALLS.items()},
}


LONGEST = radius.LONGEST  # characters of a threat model's text


def parse(text: str) -> ThreatModel:
    """`linf:8/255` as a threat model. Raises UserError when the name or the numbers cannot be read."""
    name, _, numbers = text.strip().partition(":")
    if name not in _READERS:
        raise unknown("threat model", name[: radius.LONGEST], _READERS)
    try:
        threat = _READERS[name](numbers)
        if len(str(threat)) > LONGEST:  # `parse` could not read it back
            raise ValueError(f"{name} has too many digits")
        return threat
    except UserError:
        raise
    except ValueError:
        what = "radius" if name in BALLS or name in PARAM_BALLS else "limits"
        shown = text if len(text) <= radius.LONGEST else f"{text[:20]}..."
        raise UserError(f"{shown!r} has no readable {what}; write it like {_FORMS[name]}") from None
