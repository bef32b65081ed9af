"""Attacks of a protocol, rebuilt from a run or a summary. These name every attack with all its settings."""

from dataclasses import replace

from ..evidence.attack_key import AttackKey
from ..search.attack import AnyAttack
from ..search.attacks import build, parse
from . import AttackChoice
from .cost import planned_items


def attack(label: str, spec: str, items: int, classes: int) -> AttackChoice:
    """The attack that was planned with this many searches on each example.

    Raises UserError if it cannot be built here: its library is missing, or robench does not know the attack.
    """
    once = AttackChoice(label, _built(spec))
    return replace(once, restarts=max(1, items // planned_items(once, classes)))


def searches(spec: str, classes: int) -> int:
    """The number of searches that one restart makes on each example. Raises UserError as `attack` does."""
    return planned_items(AttackChoice("", _built(spec)), classes)


def _built(spec: str) -> AnyAttack:
    return build(*parse(str(AttackKey.parse(spec).unaveraged)))
