"""Which attacks are examined, with how much budget, and what is expected of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import UserError, unknown
from ..search import own_attack
from ..search.attack import AnyAttack, ForeignAttack
from ..search.attacks import ATTACKS, build, parse
from ..search.foreign import adv_lib, art, torchattacks
from ..search.foreign.foolbox import PREFIX

OURS, USERS, FOOLBOX, AUTOATTACK = "robench", "your own", "Foolbox", "AutoAttack"
REACH = 1.25  # times the exact distance: there an attack is expected to have found something
NOTHING = math.inf  # is expected

# Smaller budgets than an evaluation's. On linear models of some twenty pixels more would add nothing.
BUDGETS = {
    "pgd": ["pgd(steps=40)"],
    "apgd": ["apgd(steps=40)", "apgd(steps=100, loss='dlr', targets=9)"],
    "fab": ["fab(steps=30)"],
    "square": ["square(steps=300)"],
    "cw": ["cw(steps=100, rounds=6, c=1, learning_rate=0.02)"],
    "ead": ["ead(steps=100)"],
    "hop-skip-jump": ["hop-skip-jump(steps=10)"],
    "autoattack-reference": ["autoattack-reference(steps=20, queries=100)"],
}

# What is expected of those that promise less, by name and threat.
REACHES = {
    ("square", "linf"): 2.0,  # it searches at random,
    ("square", "l2"): 2.0,
    ("square", "l1"): 4.0,  # and in squares of at least nine pixels, half of which cannot move the useful way
    # It is noise, put back at random: nothing says how near it ends in l_1.
    ("salt-and-pepper", "l1"): NOTHING,
    # They need more queries than are spent here.
    (f"{PREFIX}BoundaryAttack", "l2"): NOTHING,
    (f"{PREFIX}HopSkipJumpAttack", "l2"): NOTHING,
}

OF_FOOLBOX = (
    "LinfFastGradientAttack",
    "LinfProjectedGradientDescentAttack(rel_stepsize=0.1)",
    "L2ProjectedGradientDescentAttack(rel_stepsize=0.1, steps=40)",
    "L1ProjectedGradientDescentAttack(rel_stepsize=0.1, steps=40)",
    "SparseL1DescentAttack(steps=40)",
    "L2CarliniWagnerAttack(steps=60, binary_search_steps=7, initial_const=1)",
    "EADAttack(steps=60, binary_search_steps=7, initial_const=1, decision_rule=L1)",
    "DDNAttack(steps=60)",
    "LInfFMNAttack",
    "L2FMNAttack",
    "L1FMNAttack",
    "L0FMNAttack",
    "LinfDeepFoolAttack",
    "L2DeepFoolAttack",
    "NewtonFoolAttack",
    "BoundaryAttack(steps=200)",
    "HopSkipJumpAttack(steps=5, initial_gradient_eval_steps=30)",
)
WITH_NUMBA = (  # which Foolbox does not ask for
    "LinfinityBrendelBethgeAttack(steps=100)",
    "L2BrendelBethgeAttack(steps=100)",
    "L1BrendelBethgeAttack(steps=100)",
)


@dataclass(frozen=True)
class AttackUnderTest:
    """An attack under one threat."""

    library: str
    name: str  # the attack, with what differs from its defaults
    attack: AnyAttack
    threat: str  # the name of a threat model
    reach: float = REACH  # times the exact distance; infinite where nothing is promised

    @property
    def ours(self) -> bool:
        """Whether it is robench's own code."""
        return self.library == OURS

    @property
    def users(self) -> bool:
        """Whether it is the user's own code."""
        return self.library == USERS


def attacks_under_test(only: Sequence[str], installed: Sequence[str]) -> list[AttackUnderTest]:
    """Every attack of these libraries under every threat it is made for, or those that are named.

    Raises UserError for a name that none of them has.
    """
    if only:
        return [tested for text in only for tested in _named(text, installed)]
    return [tested for library in (OURS, *installed) for tested in LIBRARIES[library]()]


def _named(text: str, installed: Sequence[str]) -> Iterator[AttackUnderTest]:
    """By name as in the table, with the doctor's budget or the user's settings; or the attack in a user's file."""
    if own_attack.names_file(text):
        return iter(_of_user(text))
    if text in LIBRARIES and text not in (OURS, *installed):
        raise UserError(f"{text} is not installed; `robench doctor --attack {OURS}` looks at robench's own attacks")
    known = [tested for library in (OURS, *installed) for tested in LIBRARIES[library]()]
    found = [p for p in known if text in (p.name, p.attack.name, p.library)]
    if found:
        return iter(found)
    try:
        return iter(list(_under_every_threat(_library(text), [text])))
    except UserError:
        if text.startswith(PREFIX) or "(" in text:
            raise
        names = {p.attack.name for p in known} | {p.library for p in known}
        raise unknown("attack", text, names) from None


def _of_user(text: str) -> list[AttackUnderTest]:
    """An attack of the user's own, which promises to find nothing in particular. Its file is run."""
    attack = own_attack.from_user(text)[0]
    return [AttackUnderTest(USERS, own_attack.shown(attack.spec), attack, threat, NOTHING) for threat in attack.threats]


def _library(text: str) -> str:
    return FOOLBOX if text.startswith(PREFIX) else AUTOATTACK if text.startswith("autoattack-") else OURS


def _under_every_threat(library: str, texts: Sequence[str]) -> Iterator[AttackUnderTest]:
    for text in texts:
        attack = build(*parse(text))
        for threat in attack.threats:
            yield AttackUnderTest(library, text, attack, threat, REACHES.get((attack.name, threat), REACH))


def _ours() -> Iterator[AttackUnderTest]:
    names = [name for name, kind in ATTACKS.items() if not issubclass(kind, ForeignAttack)]
    yield from _under_every_threat(OURS, [text for name in names for text in BUDGETS.get(name, [name])])


def _of_foolbox() -> Iterator[AttackUnderTest]:
    texts = OF_FOOLBOX + (WITH_NUMBA if find_spec("numba") else ())
    yield from _under_every_threat(FOOLBOX, [PREFIX + text for text in texts])


def _of_autoattack() -> Iterator[AttackUnderTest]:
    yield from _under_every_threat(AUTOATTACK, BUDGETS["autoattack-reference"])


def _of_others(library: str, attacks: Callable[[], Sequence[AnyAttack]]) -> Callable[[], Iterator[AttackUnderTest]]:
    def every() -> Iterator[AttackUnderTest]:
        for attack in attacks():
            yield from (
                AttackUnderTest(library, attack.spec.removesuffix("()"), attack, threat) for threat in attack.threats
            )

    return every


LIBRARIES: dict[str, Callable[[], Iterator[AttackUnderTest]]] = {
    OURS: _ours,
    FOOLBOX: _of_foolbox,
    AUTOATTACK: _of_autoattack,
    "torchattacks": _of_others("torchattacks", torchattacks.attacks),
    "ART": _of_others("ART", art.attacks),
    "adv-lib": _of_others("adv-lib", adv_lib.attacks),
}
