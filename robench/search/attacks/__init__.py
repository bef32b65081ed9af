"""The attacks by name, and as text: `pgd(loss='margin', steps=40)` names an attack with every number."""

import re
from collections.abc import Iterable
from typing import Any

from ... import renames
from ... import settings as settings_of
from ...errors import UserError, unknown
from ..attack import AnyAttack
from ..foreign import foolbox
from ..foreign.autoattack import AutoAttackReference
from .affine import AffineLp, AffineRTAttack
from .apgd import APGD
from .boundary import Boundary
from .brendel_bethge import BrendelBethge
from .carlini_wagner import CarliniWagner
from .corruptions import Corruptions
from .ddn import DDN
from .ead import EAD
from .fab import FAB
from .fmn import FMN
from .frank_wolfe import FrankWolfe
from .hop_skip_jump import HopSkipJump
from .param_ascent import ParamAscent
from .patch import PatchPGD
from .pdpgd import PDPGD
from .pgd import PGD
from .pointwise import Pointwise
from .rays import RayS
from .salt_and_pepper import SaltAndPepper
from .sigma_zero import SigmaZero
from .slide import SLIDE
from .spatial import Grid, RandomTransforms
from .square import Square

ATTACKS: dict[str, type[AnyAttack]] = {
    a.name: a
    for a in (
        *(PGD, APGD, SLIDE, FrankWolfe, FAB, Square),
        *(CarliniWagner, EAD, DDN, FMN, PDPGD, SigmaZero, BrendelBethge),
        *(Boundary, HopSkipJump, RayS, Pointwise, SaltAndPepper),
        *(Grid, RandomTransforms, AffineLp, AffineRTAttack, Corruptions, ParamAscent, PatchPGD),
        AutoAttackReference,
    )
}


def without_gradients(threat: str, *, labels: bool) -> list[str]:
    """The names of the attacks under a threat model that read no gradients; those that read labels only, if wanted."""
    reads = ("labels",) if labels else ("labels", "logits")
    return [name for name, attack in ATTACKS.items() if threat in attack.threats and attack.reads in reads]


def build(name: str, settings: dict[str, Any]) -> AnyAttack:
    """An attack from its name and settings. Raises UserError for unknown names and for values out of range."""
    if name.startswith(foolbox.PREFIX):
        return foolbox.build(name, settings)
    name = renames.attack(name)
    if name not in ATTACKS:
        raise unknown_attack(name)
    kind = ATTACKS[name]
    return settings_of.build(kind, settings_of.renamed(kind, settings, lambda key: renames.attack_setting(name, key)))


def unknown_attack(name: str, suites: Iterable[str] = ()) -> UserError:
    """What to say of a name that is none: the nearest of robench's own, of suites, and of an installed Foolbox."""
    return unknown("attack", name, [*ATTACKS, *suites, f"{foolbox.PREFIX}NAME"], foolbox.names())


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`pgd` or `pgd(steps=40, loss='margin')` as a name and its settings. Quotes are optional."""
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
        settings[key.strip()] = settings_of.literal(value.strip())
    return match[1], settings
