"""Attacks from a run or a summary, which name every attack with every number: no protocol file is needed."""

from dataclasses import replace

from ..search.attacks import build, parse
from . import AttackChoice
from .cost import planned_items

AVERAGED = " over "  # between an attack and the number of passes that its answers are averaged over
PASSES = " passes"


def averaged(spec: str, passes: int) -> str:
    """The evidence key of an attack whose answers are averaged over this many passes."""
    return f"{spec}{AVERAGED}{passes}{PASSES}"


def split(spec: str) -> tuple[str, int | None]:
    """The attack, and the number of passes that its answers are averaged over; None without averaging."""
    attack, _, passes = spec.partition(AVERAGED)
    number = passes.removesuffix(PASSES)
    return attack, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None


def attack(label: str, spec: str, items: int, classes: int) -> AttackChoice:
    """The attack that was planned with this many searches (`items`) on each example.

    Raises UserError if it cannot be built here: its library is missing, or robench does not know it.
    """
    once = AttackChoice(label, build(*parse(split(spec)[0])))
    return replace(once, restarts=max(1, items // planned_items(once, classes)))


def searches(spec: str, classes: int) -> int:
    """The number of searches per example and restart. Raises UserError as `attack` does."""
    return planned_items(AttackChoice("", build(*parse(split(spec)[0]))), classes)
