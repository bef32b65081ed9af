"""Levels: for each broken example the smallest twentieth of the threat's radius at which it is known to break.

They let a page move the radius. All evidence of a model counts, but levels are given only where every broken example
was searched for its smallest perturbation: elsewhere a find may lie at the full radius for want of a longer search, and
the accuracy at smaller radii would be too high.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence, Set

from ..evidence.records import Evidence, Plan
from ..results.attack_rows import ThreatRows
from ..results.outcomes import Outcome
from ..results.tally import curve_radii
from .entries import LEVELS


def levels(plan: Plan, evidence: Evidence, threat: str, letters: str, runs: Iterable[tuple[Plan, Evidence]]) -> str:
    """A letter per planned example, as `LEVELS` defines them; empty if they would not be honest.

    `letters` are the outcomes by the evidence; `runs` are all runs of the model, each with its own evidence.
    """
    searched = [found for run in runs if (found := minimised(*run, threat)) is not None]
    lost = {e for e, letter in zip(plan.examples, letters, strict=True) if letter == Outcome.BROKEN}
    if not searched or not lost <= set().union(*searched):
        return ""
    rows = ThreatRows(plan, evidence, threat)
    assert rows.radius is not None, "only a ball has a smallest perturbation"
    radii, sizes = curve_radii(rows.radius), rows.smallest()
    return "".join(
        _level(radii, sizes[example]) if letter == Outcome.BROKEN else letter
        for example, letter in zip(plan.examples, letters, strict=True)
    )


def minimised(plan: Plan, evidence: Evidence, threat: str) -> Set[int] | None:
    """The examples on which every planned minimum-norm attack has searched to the end of its budget.

    None if the run did not search for the smallest perturbation, or not under this threat.
    """
    planned = next((t for t in plan.threats if t.threat == threat), None)
    attacks = [attack for attack in planned.attacks if attack.key.minimises] if planned else []
    if not plan.curve or not attacks:
        return None
    rows = ThreatRows(plan, evidence, threat)
    if rows.radius is None:
        return None
    return frozenset(rows.correct).intersection(*(rows.ended(attack) for attack in attacks))


def _level(radii: Sequence[float], size: float) -> str:
    """The letter of the smallest radius that is not below the size; the last one for sizes that rounding put above."""
    place = bisect_left(radii, size) if size >= 0 else len(radii)
    return LEVELS[min(place, len(LEVELS) - 1)]
