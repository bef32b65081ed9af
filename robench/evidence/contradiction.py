"""Claims and verdicts that contradict each other or themselves, and claims that no search can make."""

import math
from collections.abc import Iterator

import torch

from ..errors import UserError
from ..problem import threats
from ..problem.shapes import Inputs
from ..problem.split import Split
from ..problem.threats import AffineBalls, AffineRT, Ball
from ..problem.threats.rebuilt import EDGE
from .records import Claim, Evidence, Verdict
from .referee import NO_ANSWER, NOT_FINITE, OUTSIDE_BOX, RAISES, harmless, outside


def contradictions(evidence: Evidence, passes: int, whole: Split, classes: int) -> Iterator[str]:
    """One line for each contradiction. `passes` are those of the run's referee; `whole` is the whole data."""
    labels = dict(zip(whole.numbers, whole.y.tolist(), strict=True))
    limits = {text: _limits(text, torch.ones(1, *whole.shape)) for text in {c.threat for c in evidence.claims}}
    claims = {c.id: c for c in evidence.claims}
    judged = {v.claim for v in evidence.verdicts}
    for number in sorted(judged - claims.keys()):
        yield f"claim {number}: it has a verdict but does not exist"
    for claim in evidence.claims:
        if claim.id not in judged:
            yield f"example {claim.example} under {claim.threat}: claim {claim.id} has no verdict"
        elif why := _impossible(claim, labels.get(claim.example), classes):
            yield f"example {claim.example} under {claim.threat}: claim {claim.id} {why}"
    for claim, verdict in evidence.judged():
        if why := _contradiction(claim, verdict, passes, *limits[claim.threat]):
            yield f"example {claim.example} under {claim.threat}: the verdict on claim {claim.id} {why}"


def _impossible(claim: Claim, label: int | None, classes: int) -> str:
    """Why no search can make this claim; empty if one can."""
    if claim.target >= classes:
        return f"aims at class {claim.target} of {classes}"
    if claim.target == label:
        return f"aims at class {claim.target}, which is the correct one"
    # A find counts under every threat, but its cost is recorded only under the threat that was searched. The cost of an
    # image from a file is unknown.
    if not claim.forwards and not claim.key.found_under and not claim.key.is_claim:
        return "was found without a forward pass"
    return ""


def _contradiction(claim: Claim, verdict: Verdict, passes: int, radius: float, limit: float) -> str:
    """How a verdict contradicts itself; empty if it does not."""
    if verdict.passes != passes:
        return f"rests on {verdict.passes} passes, not on {passes}"
    if verdict.accepted != (verdict.rejection == "") or verdict.accepted != (verdict.reason == ""):
        return (
            f"is {'accepted' if verdict.accepted else 'rejected'}, and {'' if verdict.reason else 'no '}reason is given"
        )
    if verdict.rejection and not _is_reason(claim, verdict):
        return f"is {verdict.rejection!r}, which contradicts its numbers or its reason"
    deterministic = passes == 1 and not math.isnan(verdict.margin)
    if deterministic and verdict.accepted and verdict.margin < 0:
        return f"is accepted with a margin of {verdict.margin:.6g}: the prediction is correct"
    if deterministic and verdict.rejection == "does not fool" and verdict.margin > 0:
        return f"is rejected with a margin of {verdict.margin:.6g}: the prediction is wrong"
    if (verdict.accepted or verdict.rejection == "does not fool") and verdict.size > limit:
        return f"puts an image at {verdict.size:.9g} inside"
    if verdict.rejection == "outside" and verdict.size <= radius:
        return f"puts an image at {verdict.size:.9g} outside"
    return ""


def _is_reason(claim: Claim, verdict: Verdict) -> bool:
    """Whether the sentence is the one that the referee gives for this rejection and these numbers."""
    if verdict.rejection == "outside the box":
        return verdict.reason == OUTSIDE_BOX
    if verdict.rejection == "outside":
        return verdict.reason == outside(claim.threat, verdict.size)
    if verdict.rejection == "not finite":
        if verdict.reason == NO_ANSWER or verdict.reason.startswith(RAISES):
            return math.isnan(verdict.margin)
        return verdict.reason == NOT_FINITE
    why = harmless(verdict.margin)
    return verdict.reason == why or (verdict.passes > 1 and verdict.reason.startswith(f"{why}, "))


def _limits(text: str, white: Inputs) -> tuple[float, float]:
    """The radius of a threat, and the largest size that a member can have through the rounding of its pixels.

    Both are infinite for a threat that this robench does not know.
    """
    try:
        threat = threats.parse(text)
    except UserError:
        return -math.inf, math.inf
    if isinstance(threat, Ball):
        return threat.r, threat.r + threat.slack(white, white).item()
    parts = threat.parts if isinstance(threat, AffineBalls) else (threat.ball,) if isinstance(threat, AffineRT) else ()
    return 1.0, 1 + EDGE + sum(part.slack(white, white).item() / part.r for part in parts)
