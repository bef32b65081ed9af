"""Whether gradient masking makes a number too high: a rule on what broke which example, and on diagnostics.

The verdict `masked` rests on images, where evidence of another kind breaks significantly more than one in a hundred of
the examples that first-order attacks leave, or on a diagnostic that finds no useful gradient on most examples. Other
diagnostics make a threat `suspect` until a further search of all that stands has settled it. No verdict rules masking
out. docs/concepts/masking.md states the rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from ...evidence.records import Evidence, MaskingDepth, Plan
from ..stats.intervals import clopper_pearson
from . import indicators
from .comparison import Comparison, compare
from .indicators import LEVEL, IndicatorEntry

MaskingVerdict = Literal["masked", "suspect", "none-found", "untested"]
WORST_FIRST: Sequence[MaskingVerdict] = ("masked", "suspect", "untested", "none-found")


@dataclass(frozen=True)
class MaskingFinding:
    """The verdict on masking under one threat, and what it rests on."""

    verdict: MaskingVerdict
    evidence: tuple[str, ...] = ()  # sentences
    next: str = ""  # the command that would show more
    indicators: tuple[IndicatorEntry, ...] = ()


def findings(plan: Plan, evidence: Evidence) -> dict[str, MaskingFinding]:
    """The verdict on every planned threat. A threat that was not checked, or not yet, is untested."""
    checked = [t.threat for t in plan.threats if evidence.masking_state(t.threat).reached]
    comparisons = {threat: compare(plan, evidence, threat) for threat in checked}
    rejected = holm({threat: comparison.p for threat, comparison in comparisons.items()})
    return {
        t.threat: _finding(plan, evidence, t.threat, comparisons[t.threat], t.threat in rejected)
        if t.threat in comparisons
        else _unchecked(evidence, t.threat)
        for t in plan.threats
    }


def joint(of_threats: Mapping[str, MaskingFinding]) -> tuple[MaskingVerdict, tuple[str, ...]]:
    """The worst verdict of all threats, and the sentences of all of them."""
    verdicts = {finding.verdict for finding in of_threats.values()}
    sentences = tuple(f"{threat}: {sentence}" for threat, f in of_threats.items() for sentence in f.evidence)
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), "untested"), sentences


def holm(p: Mapping[str, float]) -> set[str]:
    """The threats whose hypothesis is rejected at LEVEL over all threats together. Holm 1979."""
    rejected: set[str] = set()
    for rank, (threat, value) in enumerate(sorted(p.items(), key=lambda pair: pair[1])):
        if value > LEVEL / (len(p) - rank):
            break
        rejected.add(threat)
    return rejected


def _unchecked(evidence: Evidence, threat: str) -> MaskingFinding:
    """The finding on a threat whose check was not requested, or had not started when the run was stopped."""
    if not evidence.masking_state(threat).started:
        return MaskingFinding("untested")
    sentence = "the run was stopped before this check started"
    return MaskingFinding("untested", (sentence,), _next("untested", evidence, threat, ()))


def _finding(plan: Plan, evidence: Evidence, threat: str, comparison: Comparison, rejected: bool) -> MaskingFinding:
    why = _explanation(comparison, evidence)
    readings = [_explained(r, why, plan) for r in indicators.read(plan, evidence, threat)]
    suspicious = [reading for reading in readings if reading.suspicious]
    too_weak = comparison.too_weak
    verdict: MaskingVerdict = "none-found"
    if (rejected and comparison.significant) or any(r.conclusive for r in suspicious):
        verdict = "masked"
    elif suspicious or comparison.still_falling or (too_weak and (comparison.unsettled or comparison.uncontrolled)):
        verdict = "suspect"
    elif comparison.unsearched or comparison.uncontrolled:
        verdict = "untested"
    relevant = comparison.left or suspicious or too_weak
    advice = _next(verdict, evidence, threat, suspicious) if relevant else ""
    return MaskingFinding(verdict, tuple(_sentences(comparison, readings)), advice, tuple(readings))


AT_RANDOM = ("repeatable", "agrees", "leads", "jump", "slope", "aside", "misled")
"""Measures that need no explanation in a model that answers at random: its attacks average over many passes."""


def _explanation(comparison: Comparison, evidence: Evidence) -> str:
    """Why a suspicious diagnostic that is not conclusive hides nothing; empty if nothing explains it."""
    if any(p.name == "constant" and p.value > 0 for p in evidence.probes):
        return "the model gives everything the same logits"
    if not comparison.survived:
        return "the planned attacks left no image that it could hide"
    if not comparison.unsettled and not comparison.uncontrolled and not comparison.significant:
        return f"every further search of all {_images(comparison.left)} that first-order attacks leave has ended"
    return ""


def _explained(reading: IndicatorEntry, why: str, plan: Plan) -> IndicatorEntry:
    """The reading, no longer suspicious if it is explained."""
    if not reading.suspicious:
        return reading
    measures = {i.name: i.measure for i in indicators.INDICATORS}
    if plan.passes > 1 and measures[reading.name] in AT_RANDOM:
        reading = msgspec.structs.replace(reading, conclusive=False)
        why = why or f"attacks average over {plan.eot} passes"
    overrules = why.startswith("every further")
    if not why or (reading.conclusive and overrules):
        return reading
    return msgspec.structs.replace(
        reading, suspicious=False, conclusive=False, next="", meaning=f"{reading.meaning}; explained: {why}"
    )


def _sentences(comparison: Comparison, readings: Sequence[IndicatorEntry]) -> list[str]:
    """What the verdict rests on."""
    sentences = [_summary(comparison)]
    if comparison.lowered:
        before, after = (f"{100 * share:.1f}" for share in (comparison.left_by_plan, comparison.standing))
        sentences.append(f"attacked down: {before} → {after}, {_end(comparison)}")
    if comparison.too_weak:
        sentences.append(
            f"the planned attacks left {_images(comparison.survived)} unbroken, and others broke"
            f" {comparison.broken_later} of them later"
        )
    if comparison.uncontrolled:
        more = _images(comparison.uncontrolled, "more ")
        sentences.append(f"{more} broken, with too few first-order gradients as a control")
    if comparison.unsearched:
        sentences.append(
            f"{_images(comparison.unsearched)} not yet searched by every attack of another kind: the same command"
            " continues the search"
        )
    shown = (i for i in readings if i.suspicious or "; explained: " in i.meaning)
    return sentences + [f"{i.name}: {i.value}, {i.meaning}" for i in shown]


def _end(comparison: Comparison) -> str:
    """How far the search went that lowered the number."""
    if comparison.still_falling:
        return "still falling"
    if comparison.widened:
        return "settled"
    return "not yet searched further" if comparison.unsearched else "without a further search of what stands"


def _summary(comparison: Comparison) -> str:
    """The comparison as a sentence."""
    broken = comparison.broken.total()
    if not comparison.left:
        return "first-order attacks leave nothing that masking could hide"
    sentence = f"of {_images(comparison.left)} sampled that first-order attacks leave, other evidence broke {broken}"
    if broken:
        sentence += f" ({', '.join(f'{name} {n}' for name, n in comparison.broken.most_common())})"
    if comparison.significant:
        low = math.floor(100 * comparison.lower_bound)
        return f"{sentence}: p = {comparison.p:.1g} for a share of at most 1 %; at least {low} % break (99 %)"
    searched = comparison.left - comparison.unsearched
    high = math.ceil(100 * clopper_pearson(broken, searched, 0.9)[1])  # one-sided 95 %
    return f"{sentence}; " + (
        f"a share above {high} % would have shown (95 %)" if high < 100 else "too few for a conclusion"
    )


def _next(verdict: MaskingVerdict, evidence: Evidence, threat: str, suspicious: Sequence[IndicatorEntry]) -> str:
    """What to type to learn more. The command is named, not repeated: it has options that a run file does not keep."""
    command = "the same robench evaluate command with"
    state = evidence.masking_state(threat)
    if verdict == "untested":
        level = "deep" if max(state.started, state.reached) is MaskingDepth.DEEP else "on"
        return f"{command} --masking {level}, to go on"
    if state.reached < MaskingDepth.DEEP:
        return f"{command} --masking deep"
    steps = [i.next for i in suspicious if i.next]
    return steps[0] if verdict != "none-found" and steps else f"{command} --attack 'square(steps=20000)'"


def _images(n: int, more: str = "") -> str:
    return f"{n} {more}image{'' if n == 1 else 's'}"
