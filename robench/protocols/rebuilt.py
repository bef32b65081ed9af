"""Attacks of a protocol, rebuilt from a run or a summary. These name every attack with all its settings."""

from dataclasses import replace

from ..evidence.attack_key import AttackKey
from ..search.attack import AnyAttack
from ..search.attacks import build, parse
from ..search.own_attack import Consent, names_own
from . import AttackChoice
from .cost import planned_items


def attack(
    label: str,
    spec: str,
    items: int,
    classes: int,
    consent: Consent | None = None,
    *,
    near: float | None = None,
    sample: int | None = None,
) -> AttackChoice:
    """The attack that was planned with this many searches on each example that it searches.

    Raises UserError if it cannot be built here: its library is missing, robench does not know the attack, or it is in a
    file that the user does not consent to run.
    """
    once = AttackChoice(label, _built(spec, consent or Consent()), near=near, sample=sample)
    return replace(once, restarts=max(1, items // planned_items(once, classes)))


def searches(spec: str, classes: int) -> int:
    """The number of searches that one restart makes on each example. Raises UserError as `attack` does."""
    return planned_items(AttackChoice("", _built(spec, Consent())), classes)


def _built(spec: str, consent: Consent) -> AnyAttack:
    once = str(AttackKey.parse(spec).unaveraged)
    return consent.attack(once) if names_own(once) else build(*parse(once))
