"""Images that a run file holds, judged under threats that were planned after they were found."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import counted
from ..evidence.images import Image
from ..evidence.records import Claim, Plan, Verdict
from ..evidence.store import RunFile
from ..problem.threats.base import stacked
from ..results.outcomes import Outcome, answers, outcomes
from .attack_run import ClaimContext

AT_ONCE = 512  # images judged together

_Found = tuple[Claim, Verdict, Image]


def judge_stored(plan: Plan, run: RunFile, context: ClaimContext) -> Iterator[str]:
    """Judges each stored image under every other planned threat in whose set it lies, if its example stands there.

    The referee judges a find under all threats that are planned at that time. Later a threat may be added, or runs of
    different threats merged. Accepted images are written down; yields a note for each threat that they count for.
    """
    evidence = run.evidence()
    answered, by_id = answers(evidence), {claim.id: claim for claim in evidence.claims}
    rows = {number: row for row, number in enumerate(context.split.numbers)}
    unbroken = {
        str(threat): {
            number
            for number, letter in zip(plan.examples, outcomes(plan, evidence, str(threat)), strict=True)
            if letter in (Outcome.STANDING, Outcome.OPEN) and number in answered
        }
        for threat in context.threats
    }
    elsewhere = (
        c for c in evidence.claims for threat in unbroken if c.threat != threat and c.example in unbroken[threat]
    )
    if next(elsewhere, None) is None:
        return
    found: list[_Found] = []
    waiting: list[tuple[Claim, Tensor]] = []
    for number, image in run.images(context.split.shape):
        claim = by_id[number]
        if claim.example in rows and any(claim.example in examples for examples in unbroken.values()):
            waiting.append((claim, torch.from_numpy(image)))
        if len(waiting) == AT_ONCE:
            found += _judged(context, rows, unbroken, waiting)
            waiting = []
    found += _judged(context, rows, unbroken, waiting)
    with run.writing():
        for judged in found:
            run.put_judged(*judged)
    for threat, n in Counter(claim.threat for claim, _, _ in found).items():
        yield f"{counted(n, 'stored image')} of other threats counted under {threat} too"


def _judged(
    context: ClaimContext,
    rows: dict[int, int],
    unbroken: dict[str, set[int]],
    stored: Sequence[tuple[Claim, Tensor]],
) -> Iterator[_Found]:
    """The images that the referee accepts under another threat. Their examples are removed from `unbroken`."""
    if not stored:
        return
    index = [rows[claim.example] for claim, _ in stored]
    x, y = context.split.x[index], context.split.y[index]
    x_adv = torch.stack([image for _, image in stored])
    params = stacked([claim.params for claim, _ in stored])
    for threat in context.threats:
        examples = unbroken[str(threat)]
        inside = threat.contains(x_adv, x, params).tolist()
        at = [
            row
            for row, (claim, _) in enumerate(stored)
            if inside[row] and claim.threat != str(threat) and claim.example in examples
        ]
        if not at:
            continue
        nth = context.numbered(stored[row][0].example for row in at)
        predictions = context.referee.predict(x_adv[at], y[at])
        decisions = context.referee.rule(threat, x[at], x_adv[at], predictions, params[at], nth)
        for row, decision in zip(at, decisions, strict=True):
            if decision.accepted:
                claim, image = stored[row]
                context.claims.add(claim.example)
                examples.discard(claim.example)
                key = replace(claim.key, found_under=claim.key.found_under or claim.threat)
                place = (next(context.claim_ids), claim.example, str(threat), str(key), claim.restart, claim.target)
                d = decision
                verdict = Verdict(place[0], d.accepted, d.rejection, d.reason, d.size, d.margin, d.passes)
                yield Claim(*place, forwards=0, backwards=0, params=claim.params), verdict, image.numpy()
