"""The attacks that the check for gradient masking makes, by the norm and the effort."""

from typing import Literal

from ..protocols import AttackChoice
from ..search.attack import AnySteppedAttack
from ..search.attacks.apgd import APGD
from ..search.attacks.boundary import Boundary
from ..search.attacks.brendel_bethge import BrendelBethge
from ..search.attacks.fab import FAB
from ..search.attacks.hop_skip_jump import HopSkipJump
from ..search.attacks.pgd import PGD
from ..search.attacks.pointwise import Pointwise
from ..search.attacks.rays import RayS
from ..search.attacks.salt_and_pepper import SaltAndPepper
from ..search.attacks.square import Square

Effort = Literal["on", "more", "deep"]
"""`on`: a sample, to see whether anything breaks. `more`: all that stands, of a threat that may be masked. `deep`: full
attacks on all that stands."""


def of_another_kind(threat: str, effort: Effort) -> list[AttackChoice]:
    """Attacks for one norm that read no gradient, or that start where the model is wrong already."""
    square = _choice("square", Square(steps={"on": 150, "more": 500, "deep": 5000}[effort]))
    if threat == "linf":
        longer = [_choice("square-long", Square(steps=3000)), _choice("rays", RayS(steps=1000))]
        deep = [_choice("hop-skip-jump", HopSkipJump(steps=10)), _choice("rays", RayS())]
        return [square, *{"on": [], "more": longer, "deep": deep}[effort]]
    labels = [] if effort == "on" else [_choice("hop-skip-jump", HopSkipJump(steps=10 if effort == "deep" else 6))]
    # Expensive, so it comes last and takes the time that is left.
    outside = _choice("brendel-bethge", BrendelBethge(steps=200 if effort == "deep" else 60))
    if threat == "l2":
        if effort == "deep":
            labels = [_choice("boundary", Boundary(steps=100))]
        return [square, *labels, outside]
    assert threat == "l1", f"no attack is chosen for {threat}"
    pointwise = _choice("pointwise", Pointwise(steps={"on": 40, "more": 150, "deep": 500}[effort]))
    return [pointwise, square, *([_choice("salt-and-pepper", SaltAndPepper())] if effort == "deep" else []), outside]


def first_ascents() -> list[AttackChoice]:
    """Attacks that show whether a surrogate is of use. Steps of one length come first: they work even if the loss
    itself does not change.
    """
    return [_choice("pgd", PGD(steps=40, random_start=False)), _choice("apgd-margin", APGD(loss="margin"))]


def ascent_attacks(effort: Effort) -> list[AttackChoice]:
    """All attacks on a surrogate, those of `first_ascents` among them."""
    return [*first_ascents(), _choice("apgd-t", APGD(loss="dlr", targets=3 if effort == "on" else 9))]


def control() -> list[AttackChoice]:
    """First-order attacks on scale-free losses, with more gradients than `comparison.CONTROL` requires."""
    ascent = _choice("apgd-margin", APGD(loss="margin"), 2)
    return [ascent, _choice("apgd-t", APGD(loss="dlr", targets=4)), _choice("fab", FAB(targets=4, steps=50))]


def _choice(label: str, attack: AnySteppedAttack, restarts: int = 1) -> AttackChoice:
    return AttackChoice(label, attack, restarts)
