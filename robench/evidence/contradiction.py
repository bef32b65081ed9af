"""Claims and verdicts that contradict each other, themselves, or what a claim can be."""

import math
from collections.abc import Iterator

import torch

from ..errors import UserError
from ..problem import threats
from ..problem.shapes import Inputs
from ..problem.split import Split
from ..problem.threats import AffineBalls, AffineRT, Ball
from ..problem.threats.rt import EDGE
from .records import Claim, Evidence, Verdict
from .referee import NO_ANSWER, NOT_FINITE, OUTSIDE_BOX, harmless, outside


def contradictions(evidence: Evidence, passes: int, whole: Split, classes: int) -> Iterator[str]:
    """A line for each; `passes` are those over which the run judges, `whole` all examples of its data."""
    labels = dict(zip(whole.numbers, whole.y.tolist(), strict=True))
    limits = {text: _limits(text, torch.ones(1, *whole.shape)) for text in {c.threat for c in evidence.claims}}
    claims = {c.id: c for c in evidence.claims}
    judged = {v.claim for v in evidence.verdicts}
    for number in sorted(judged - claims.keys()):
        yield f"claim {number}: there is a verdict on it, and no such claim"
    for claim in evidence.claims:
        if claim.id not in judged:
            yield f"example {claim.example} under {claim.threat}: claim {claim.id} has no verdict"
        elif why := _impossible(claim, labels.get(claim.example), classes):
            yield f"example {claim.example} under {claim.threat}: claim {claim.id} {why}"
    for claim, verdict in evidence.judged():
        if why := _contradiction(claim, verdict, passes, *limits[claim.threat]):
            yield f"example {claim.example} under {claim.threat}: the verdict on claim {claim.id} {why}"


def _impossible(claim: Claim, label: int | None, classes: int) -> str:
    """What no search can claim; empty where all is possible."""
    if claim.target >= classes:
        return f"aims at class {claim.target} of {classes}"
    if claim.target == label:
        return f"aims at class {claim.target}, which is right"
    # What one attack finds counts under every threat, and is paid for once.
    if not claim.forwards and not claim.key.found_under:
        return "was found without a forward pass"
    return ""


def _contradiction(claim: Claim, verdict: Verdict, passes: int, radius: float, limit: float) -> str:
    """In what a verdict contradicts itself; empty where it does not."""
    if verdict.passes != passes:
        return f"rests on {verdict.passes} passes, not on {passes}"
    if verdict.accepted != (verdict.rejection == "") or verdict.accepted != (verdict.reason == ""):
        return (
            f"is {'accepted' if verdict.accepted else 'rejected'}, and {'' if verdict.reason else 'no '}reason is given"
        )
    if verdict.rejection and not _is_reason(claim, verdict):
        return f"is {verdict.rejection!r}, which is not what its numbers and its reason say"
    deterministic = passes == 1 and not math.isnan(verdict.margin)
    if deterministic and verdict.accepted and verdict.margin < 0:
        return f"is accepted with a margin of {verdict.margin:.6g}: the model is right"
    if deterministic and verdict.rejection == "does not fool" and verdict.margin > 0:
        return f"is rejected with a margin of {verdict.margin:.6g}: the model is wrong"
    if (verdict.accepted or verdict.rejection == "does not fool") and verdict.size > limit:
        return f"puts an image at {verdict.size:.9g} inside"
    if verdict.rejection == "outside" and verdict.size <= radius:
        return f"puts an image at {verdict.size:.9g} outside"
    return ""


def _is_reason(claim: Claim, verdict: Verdict) -> bool:
    """Whether the sentence is the one for this rejection and these numbers."""
    if verdict.rejection == "outside the box":
        return verdict.reason == OUTSIDE_BOX
    if verdict.rejection == "outside":
        return verdict.reason == outside(claim.threat, verdict.size)
    if verdict.rejection == "not finite":
        return verdict.reason == NOT_FINITE or (verdict.reason == NO_ANSWER and math.isnan(verdict.margin))
    why = harmless(verdict.margin)
    return verdict.reason == why or (verdict.passes > 1 and verdict.reason.startswith(f"{why}, "))


def _limits(text: str, white: Inputs) -> tuple[float, float]:
    """The radius of a threat, and the largest size that a member can have for the rounding of its pixels.

    Both are open where this robench does not know the threat.
    """
    try:
        threat = threats.parse(text)
    except UserError:
        return -math.inf, math.inf
    if isinstance(threat, Ball):
        return threat.r, threat.r + threat.slack(white, white).item()
    parts = threat.parts if isinstance(threat, AffineBalls) else (threat.ball,) if isinstance(threat, AffineRT) else ()
    return 1.0, 1 + EDGE + sum(part.slack(white, white).item() / part.r for part in parts)
