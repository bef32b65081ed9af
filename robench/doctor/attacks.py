"""The attacks under test, with their budgets and what each must find."""

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
REACH = 1.25  # times the exact distance: at this radius an attack must have broken the image
NO_REACH = math.inf  # the attack need not find anything

# Smaller budgets than in an evaluation. On linear models with some twenty pixels, more would add nothing.
BUDGETS = {
    "pgd": ["pgd(steps=40)"],
    "apgd": ["apgd(steps=40)", "apgd(steps=100, loss='dlr', targets=9)"],
    "fab": ["fab(steps=30)"],
    "square": ["square(steps=300)"],
    "cw": ["cw(steps=100, rounds=6, c=1, learning_rate=0.02)"],
    "ead": ["ead(steps=100)"],
    "hop-skip-jump": ["hop-skip-jump(steps=10)"],
    "rays": ["rays(steps=500)"],
    "autoattack-reference": ["autoattack-reference(steps=20, queries=100)"],
}

# Attacks with another reach, by name and threat.
REACHES = {
    # A random search, under l1 in squares of at least nine pixels, half of which cannot move in a useful direction.
    ("square", "linf"): 2.0,
    ("square", "l2"): 2.0,
    ("square", "l1"): 4.0,
    # Signs change block by block: where several classes are near, the search may end at a farther one.
    ("rays", "linf"): 2.0,
    # Noise that is undone pixel by pixel in random order: no bound on its l_1 distance is known.
    ("salt-and-pepper", "l1"): NO_REACH,
    # Both need more queries than the doctor's budget.
    (f"{PREFIX}BoundaryAttack", "l2"): NO_REACH,
    (f"{PREFIX}HopSkipJumpAttack", "l2"): NO_REACH,
}

FOOLBOX_ATTACKS = (
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
NUMBA_ATTACKS = (  # Foolbox needs numba for these, but does not declare it as a dependency
    "LinfinityBrendelBethgeAttack(steps=100)",
    "L2BrendelBethgeAttack(steps=100)",
    "L1BrendelBethgeAttack(steps=100)",
)


@dataclass(frozen=True)
class AttackUnderTest:
    """An attack and the threat model it is tested under."""

    library: str
    name: str  # the attack, with the settings that differ from its defaults
    attack: AnyAttack
    threat: str  # the name of a threat model
    reach: float = REACH  # times the exact distance; infinite if the attack need not find anything

    @property
    def ours(self) -> bool:
        """Whether the attack is robench's own."""
        return self.library == OURS

    @property
    def users(self) -> bool:
        """Whether the attack is the user's own."""
        return self.library == USERS


def attacks_under_test(only: Sequence[str], installed: Sequence[str]) -> list[AttackUnderTest]:
    """Every attack of the installed libraries under every threat that it supports; with `only`, just the named ones.

    Raises UserError for an unknown name.
    """
    if only:
        return [tested for text in only for tested in _named(text, installed)]
    return [tested for library in (OURS, *installed) for tested in LIBRARIES[library]()]


def _named(text: str, installed: Sequence[str]) -> Iterator[AttackUnderTest]:
    """The attacks that `text` names: with the doctor's budget, with the user's settings, or in a file of the user's."""
    if own_attack.names_file(text):
        return iter(_of_user(text))
    if text in LIBRARIES and text not in (OURS, *installed):
        raise UserError(f"{text} is not installed; `robench doctor --attack {OURS}` checks robench's own attacks")
    known = attacks_under_test((), installed)
    named = [tested for tested in known if text in (tested.name, tested.attack.name, tested.library)]
    if named:
        return iter(named)
    try:
        return iter(list(_under_every_threat(_library(text), [text])))
    except UserError:
        if text.startswith(PREFIX) or "(" in text:
            raise
        names = {tested.attack.name for tested in known} | {tested.library for tested in known}
        raise unknown("attack", text, names) from None


def _of_user(text: str) -> list[AttackUnderTest]:
    """An attack in a file, whose code this runs. It need not find anything."""
    attack = own_attack.from_user(text)[0]
    name = own_attack.shown(attack.spec)
    return [AttackUnderTest(USERS, name, attack, threat, NO_REACH) for threat in attack.threats]


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


def _foolbox() -> Iterator[AttackUnderTest]:
    texts = FOOLBOX_ATTACKS + (NUMBA_ATTACKS if find_spec("numba") else ())
    yield from _under_every_threat(FOOLBOX, [PREFIX + text for text in texts])


def _autoattack() -> Iterator[AttackUnderTest]:
    yield from _under_every_threat(AUTOATTACK, BUDGETS["autoattack-reference"])


def _others(library: str, attacks: Callable[[], Sequence[AnyAttack]]) -> Callable[[], Iterator[AttackUnderTest]]:
    def every() -> Iterator[AttackUnderTest]:
        for attack in attacks():
            yield from (
                AttackUnderTest(library, attack.spec.removesuffix("()"), attack, threat) for threat in attack.threats
            )

    return every


LIBRARIES: dict[str, Callable[[], Iterator[AttackUnderTest]]] = {
    OURS: _ours,
    FOOLBOX: _foolbox,
    AUTOATTACK: _autoattack,
    "torchattacks": _others("torchattacks", torchattacks.attacks),
    "ART": _others("ART", art.attacks),
    "adv-lib": _others("adv-lib", adv_lib.attacks),
}
