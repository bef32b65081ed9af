"""Accuracy against queries: how many forward passes the finds of each attack take."""

from dataclasses import dataclass

from ..evidence.records import Claim, Evidence, Exhausted, Plan
from .merging import consolidated
from .outcomes import answers, breaks, is_exhausted, passed_over, planned_threat


@dataclass(frozen=True)
class Fall:
    """One attack under one threat: the share of all examples that stands after a number of queries on each.

    `standing[i]` holds from `queries[i]` on. The last step is the end of the most expensive search.
    """

    attack: str
    queries: tuple[int, ...]
    standing: tuple[float, ...]


def falls(plan: Plan, evidence: Evidence, threat: str) -> list[Fall]:
    """One entry per planned attack that was tried, in plan order.

    A search that ended early because another one broke its example is left out: the example does not stand. One that an
    attack has still to search counts as standing, so that the curve is an upper bound at any time.
    """
    answered = answers(evidence)
    correct = {example for example in plan.examples if answered.get(example, False)}
    unanswered = set(plan.examples) - answered.keys()
    accepted = {v.claim for v in evidence.verdicts if v.accepted}
    claims = {c.id: c for c in evidence.claims if c.threat == threat and c.example in correct}
    exhausted = consolidated(s for s in evidence.exhausted_under.get(threat, ()) if s.example in correct)
    lost = {claim.example for claim, _ in breaks(evidence, threat)}
    found = []
    for attack in planned_threat(plan, threat).attacks:
        costs: dict[int, int] = {}
        searches: list[Claim | Exhausted] = [*claims.values(), *exhausted]
        for record in searches:
            if record.attack == attack.spec:
                costs[record.example] = costs.get(record.example, 0) + record.forwards
        broken = {c.example for c in claims.values() if c.attack == attack.spec and c.id in accepted}
        if not plan.every_attack:
            ended = {s.example for s in exhausted if s.attack == attack.spec and is_exhausted(attack, s.done)}
            costs = {e: cost for e, cost in costs.items() if e in broken | ended or e not in lost}
        if costs:
            # An example that the attack has still to search may withstand it: the curve stays an upper bound.
            waiting = unanswered | (correct - lost - passed_over(attack, evidence, threat) - set(costs))
            met = len(correct | unanswered) if plan.every_attack else len(costs) + len(waiting)
            found.append(_fall(attack.label, met, costs, broken, len(plan.examples)))
    return found


def _fall(attack: str, met: int, costs: dict[int, int], broken: set[int], n: int) -> Fall:
    steps, standing = [1], [met]  # a logarithmic axis has no 0, and there is no find before the first query
    for cost in sorted(costs[example] for example in broken):
        if max(cost, 1) > steps[-1]:
            steps.append(cost)
            standing.append(standing[-1])
        standing[-1] -= 1
    if max(costs.values()) > steps[-1]:
        steps.append(max(costs.values()))
        standing.append(standing[-1])
    return Fall(attack, tuple(steps), tuple(left / n for left in standing))
