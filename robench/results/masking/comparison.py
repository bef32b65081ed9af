"""First-order attacks compared with attacks of other kinds, on the examples that the masking check has sampled."""

from collections import Counter
from dataclasses import dataclass

from ...evidence.attack_key import AttackKey
from ...evidence.records import Claim, Evidence, MaskingDepth, Plan
from ..outcomes import answers, breaks
from ..stats.intervals import clopper_pearson
from .indicators import LEVEL, tail

SHARE = 0.01  # of what first-order attacks leave: more than this must be broken by evidence of another kind
MIN_IMAGES = 2  # one of one is exactly at SHARE and LEVEL, which is no evidence
CONTROL = 500  # gradients of scale-free losses that must have failed on an example before it counts


@dataclass(frozen=True)
class Comparison:
    """The sampled examples that first-order attacks leave unbroken, and their fate under one threat."""

    left: int  # unbroken by first-order attacks, of those sampled
    broken: Counter[str]  # by attacks of another kind, after first-order control: by the first attack that broke them
    uncontrolled: int = 0  # broken by another kind, with too few first-order gradients as a control
    unsearched: int = 0  # unbroken, and not yet searched by every attack that was assigned to them
    survived: int = 0  # sampled examples that no planned attack has broken
    broken_later: int = 0  # of these, how many anything else has broken
    left_by_plan: float = 0.0  # the share of all planned examples that are correct and unbroken by planned attacks, of
    # any planned threat: an image found under one counts wherever it lies
    standing: float = 0.0  # the share that anything has left
    widened: bool = False  # whether all that stands was searched further

    @property
    def p(self) -> float:
        """The probability of this many broken if no more than SHARE of all are: the exact binomial tail."""
        return tail(self.broken.total(), self.left, SHARE)

    @property
    def settled(self) -> bool:
        """Whether everything that stands was searched by every attack of the further search."""
        return self.widened and not self.unsearched

    @property
    def unsettled(self) -> bool:
        """Whether the further search was not made, has not ended, or its last attacks broke something too."""
        return not self.settled or any(AttackKey(name).kind in ("labels", "outside") for name in self.broken)

    @property
    def lowered(self) -> bool:
        """Whether anything but the planned attacks has broken examples that these left."""
        return self.standing < self.left_by_plan

    @property
    def still_falling(self) -> bool:
        """Whether the number was lowered, and was not settled at the end of a further search."""
        return self.lowered and self.widened and self.unsettled

    @property
    def too_weak(self) -> bool:
        """Whether significantly more than SHARE of what the planned attacks left was broken by anything at all."""
        return self.broken_later >= MIN_IMAGES and tail(self.broken_later, self.survived, SHARE) <= LEVEL

    @property
    def significant(self) -> bool:
        """Whether more than SHARE of what first-order attacks leave is broken, if this is the only threat."""
        return self.broken.total() >= MIN_IMAGES and self.p <= LEVEL

    @property
    def lower_bound(self) -> float:
        """The exact one-sided 99 % bound on the broken share of what first-order attacks leave."""
        return clopper_pearson(self.broken.total(), self.left, 0.98)[0]


def left_by_first_order(plan: Plan, evidence: Evidence, threat: str) -> list[int]:
    """The planned examples that are correct before any attack and unbroken by first-order attacks, in plan order."""
    correct = answers(evidence)
    broken = {claim.example for claim, _ in breaks(evidence, threat) if claim.key.kind == "first-order"}
    return [example for example in plan.examples if correct.get(example, False) and example not in broken]


def uncontrolled(plan: Plan, evidence: Evidence, threat: str) -> list[int]:
    """The examples among them that another kind of attack broke, with too few first-order gradients as a control."""
    broken = _broken(evidence, threat)
    controlled = _controlled(evidence, threat)
    return [e for e in left_by_first_order(plan, evidence, threat) if e in broken and e not in controlled]


def compare(plan: Plan, evidence: Evidence, threat: str) -> Comparison:
    """First-order attacks against all others, on the examples that were sampled for it."""
    sampled = frozenset(evidence.masking_state(threat).sampled)
    broken, controlled = _broken(evidence, threat), _controlled(evidence, threat)
    found = breaks(evidence, threat)
    unclassified = {claim.example for claim, _ in found} - broken.keys()
    left = [e for e in left_by_first_order(plan, evidence, threat) if e in sampled and e not in unclassified]
    searched = _searched(evidence, threat)
    by_plan = {claim.example for claim, _ in found if _is_planned(plan, claim)}
    survived = sampled & frozenset(plan.examples) - by_plan
    counted = Counter(broken[e].short for e in left if e in broken and e in controlled)
    correct = answers(evidence)
    standing = {e for e in plan.examples if correct.get(e, False)}
    every = {claim.example for claim, _ in found}
    n = max(len(plan.examples), 1)
    return Comparison(
        left=len(left),
        broken=counted,
        uncontrolled=sum(e in broken for e in left) - counted.total(),
        unsearched=sum(e not in broken and e not in searched for e in left),
        survived=len(survived),
        broken_later=len(survived & every),
        left_by_plan=len(standing - by_plan) / n,
        standing=len(standing - every) / n,
        widened=evidence.masking_state(threat).widened > MaskingDepth.NONE,
    )


def _is_planned(plan: Plan, claim: Claim) -> bool:
    """Whether a planned attack found it, under any planned threat."""
    searched = claim.key.found_under or claim.threat
    specs = (a.spec for planned in plan.threats if planned.threat == searched for a in planned.attacks)
    return str(claim.key.of_search) in specs


def is_another(key: AttackKey) -> bool:
    """Whether it is evidence of another kind than a first-order attack's."""
    return key.kind in ("scores", "labels", "outside", "surrogate")


def _broken(evidence: Evidence, threat: str) -> dict[int, AttackKey]:
    """The first attack of another kind that broke each example."""
    first: dict[int, AttackKey] = {}
    for claim, _ in breaks(evidence, threat):
        if is_another(claim.key):
            first.setdefault(claim.example, claim.key)
    return first


def _searched(evidence: Evidence, threat: str) -> set[int]:
    """The examples that every attack assigned at the greatest depth has searched, or failed on with an error.

    In runs that record no assignments any attack of another kind suffices.
    """
    over = {(s.example, s.attack) for s in evidence.exhausted_under.get(threat, ()) if s.done}
    over |= {(f.example, f.attack) for f in evidence.failures if f.threat == threat}
    keys = {text: AttackKey.parse(text) for text in {text for _, text in over}}
    others = {text: str(key) for text, key in keys.items() if is_another(key)}
    attacks: dict[int, set[str]] = {}
    for example, text in over:
        if text in others:
            attacks.setdefault(example, set()).add(others[text])
    assigned = evidence.masking_state(threat).assigned
    deepest = max((depth for _, depth in assigned), default=None)
    wanted = {attack for attack, depth in assigned if depth == deepest}
    return {example for example, done in attacks.items() if wanted <= done}


def _controlled(evidence: Evidence, threat: str) -> set[int]:
    """The examples on which enough first-order gradients have failed, or on which no first-order attack could run."""
    gradients: Counter[int] = Counter()
    searched = [s for s in evidence.exhausted_under.get(threat, ()) if s.done]
    keys = {text: AttackKey.parse(text) for text in {s.attack for s in searched}}
    controls = {text for text, key in keys.items() if key.kind == "first-order" and key.scale_free}
    for s in searched:
        if s.attack in controls:
            gradients[s.example] += s.backwards
    failed = {f.example for f in evidence.failures if f.threat == threat and f.key.kind == "first-order"}
    return {e for e, n in gradients.items() if n >= CONTROL} | {e for e in failed if not gradients[e]}
