"""A protocol from a run or a summary, which name every attack with every number: no protocol file is needed."""

from dataclasses import replace

from ..search.attack import AnyAttack
from ..search.attacks import build, parse
from ..search.own_attack import Consent, names_own
from . import AttackChoice
from .cost import planned_items

AVERAGED = " over "  # between an attack and the passes over which its answers are averaged
PASSES = " passes"


def averaged(spec: str, passes: int) -> str:
    """The key of an attack's evidence where its answers are averaged over so many passes."""
    return f"{spec}{AVERAGED}{passes}{PASSES}"


def split(spec: str) -> tuple[str, int | None]:
    """The attack, and over how many passes its answers are averaged; None where nothing is averaged."""
    attack, _, passes = spec.partition(AVERAGED)
    number = passes.removesuffix(PASSES)
    return attack, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None


def attack(label: str, spec: str, items: int, classes: int, consent: Consent | None = None) -> AttackChoice:
    """The attack that was planned with so many searches on each example; one in a file only where there is consent.

    Raises UserError where it cannot be built here: its library is not there, or it is none that robench knows.
    """
    once = AttackChoice(label, _built(spec, consent or Consent()))
    return replace(once, restarts=max(1, items // planned_items(once, classes)))


def searches(spec: str, classes: int) -> int:
    """How many searches of each example a single restart makes. Raises UserError as `attack` does."""
    return planned_items(AttackChoice("", _built(spec, Consent())), classes)


def _built(spec: str, consent: Consent) -> AnyAttack:
    once = split(spec)[0]
    return consent.attack(once) if names_own(once) else build(*parse(once))
