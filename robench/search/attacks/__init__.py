"""The attacks by name, and as text: `pgd(loss='margin', steps=40)` names an attack with every number."""

import ast
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ...errors import UserError, unknown
from ...problem.losses import UNTARGETED
from ..attack import AnyAttack
from ..foreign import foolbox
from ..foreign.autoattack import AutoAttackReference
from .affine import AffineLp, AffineRTAttack
from .apgd import APGD
from .boundary import Boundary
from .brendel_bethge import BrendelBethge
from .carlini_wagner import CarliniWagner
from .ddn import DDN
from .ead import EAD
from .fab import FAB
from .fmn import FMN
from .frank_wolfe import FrankWolfe
from .hop_skip_jump import HopSkipJump
from .pgd import PGD
from .pointwise import Pointwise
from .salt_and_pepper import SaltAndPepper
from .slide import SLIDE
from .spatial import Grid, RandomPoses
from .square import Square

MOST = 10**9  # of any whole number; beyond, counters and seconds mean nothing

ATTACKS: dict[str, type[AnyAttack]] = {
    a.name: a
    for a in (
        *(PGD, APGD, SLIDE, FrankWolfe, FAB, Square),
        *(CarliniWagner, EAD, DDN, FMN, BrendelBethge),
        *(Boundary, HopSkipJump, Pointwise, SaltAndPepper),
        *(Grid, RandomPoses, AffineLp, AffineRTAttack),
        AutoAttackReference,
    )
}


def build(name: str, settings: dict[str, Any]) -> AnyAttack:
    """An attack from its name and settings. Raises UserError for names and values it does not know."""
    if name.startswith(foolbox.PREFIX):
        return foolbox.build(name, settings)
    if name not in ATTACKS:
        raise unknown_attack(name)
    kind = ATTACKS[name]
    known: dict[str, Any] = {f.name: f for f in fields(kind)}
    settings = {
        key: _whole_as_real(value, known[key].type) if key in known else value for key, value in settings.items()
    }
    for setting, value in settings.items():
        if setting not in known:
            raise unknown(f"setting of {name}", setting, known)
        if isinstance(value, bool) != (known[setting].type is bool) or not isinstance(value, known[setting].type):
            raise UserError(f"{name} cannot take {setting}={value!r}; its default is {known[setting].default!r}")
        if isinstance(value, int) and abs(value) > MOST:
            raise UserError(f"{name} cannot take {setting}={value}: no more than {MOST:,}")
    if "loss" in settings and settings["loss"] not in UNTARGETED:
        raise unknown("loss", settings["loss"], UNTARGETED)
    for setting, value in settings.items():
        if isinstance(value, float) and not 0 <= value < float("inf"):
            raise UserError(f"{name} cannot take {setting}={value}: it must be a finite number, not below 0")
    if settings.get("targets", 0) < 0:
        raise UserError(
            f"{name} cannot take targets={settings['targets']}: 0 aims at no class, 9 at the nine likeliest"
        )
    if settings.get("steps", 1) < 1:
        raise UserError(f"{name} cannot take steps={settings['steps']}: it needs at least one")
    return kind(**settings)


def unknown_attack(name: str, suites: Iterable[str] = ()) -> UserError:
    """What to say of a name that is none: the nearest of robench's own, of suites, and of an installed Foolbox."""
    return unknown("attack", name, [*ATTACKS, *suites, f"{foolbox.PREFIX}NAME"], foolbox.names())


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`pgd` or `pgd(steps=40, loss='margin')` as a name and its settings. Quotes may be left out."""
    match = re.fullmatch(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if not match:
        raise UserError(f"cannot read the attack {text!r}; write it like pgd or 'pgd(steps=40, restarts=5)'")
    settings = {}
    for part in filter(None, (p.strip() for p in (match[2] or "").split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"cannot read {part!r} in the attack {text!r}; write settings like steps=40")
        if key.strip() in settings:
            raise UserError(f"{key.strip()} is set twice in the attack {text!r}")
        settings[key.strip()] = _value(value.strip())
    return match[1], settings


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: nested too deep
        return text


def _whole_as_real(value: Any, kind: Any) -> Any:
    """1 where 1.0 is meant: both must give the same text, which is the key of the evidence."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and not isinstance(value, kind) and isinstance(1.0, kind) else value
