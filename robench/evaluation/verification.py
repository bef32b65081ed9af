"""Whether a run file can be true: its evidence by recomputation, its question by the protocol it names."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from .. import protocols
from ..errors import UserError
from ..evidence.attack_key import AttackKey
from ..evidence.images import Image
from ..evidence.records import Evidence, Plan, PlannedThreat
from ..evidence.refutation import Facts, Refuted, refuted
from ..problem import threats
from ..protocols import OWN_ATTACKS, OWN_THREATS, rebuilt
from ..results.merging import MERGED
from ..search.attack import ForeignAttack
from ..search.attacks import ATTACKS, build, parse
from .runner import EOT, as_planned

MAX = 10**6  # of a setting, up to which the cost of a search is worked out


def verify(plan: Plan, evidence: Evidence, images: Iterable[tuple[int, Image]], facts: Facts) -> Refuted:
    """Everything that can be recomputed, and the protocol, compared with what is recorded. No attack is run.

    Raises UserError where that cannot be done.
    """
    found = refuted(plan, evidence, images, facts)
    return replace(found, faults=(*_of_question(plan, facts.classifier.classes), *found.faults))


@lru_cache(maxsize=4096)
def least_passes(threat: str, attack: str) -> int:
    """Forward passes that a search which finds nothing takes at least: all its steps, for the attacks of robench."""
    try:
        key = AttackKey.parse(attack)
        name, settings = parse(key.spec)
        if name not in ATTACKS:
            return 1
        # A search that takes fewer steps costs no more, so for huge numbers this is still a lower bound.
        settings = {key: min(v, MAX) if isinstance(v, int) else v for key, v in settings.items()}
        built, under = build(name, settings), threats.parse(threat)
        if isinstance(built, ForeignAttack) or under.name not in built.threats:
            return 1
        return max(1, built.max_queries(under) * built.queries_per_step * (key.passes or 1))
    except (UserError, ArithmeticError):  # an attack of an older robench, or none at all
        return 1


def _of_question(plan: Plan, classes: int) -> Iterator[str]:
    """What the plan asks otherwise than the protocols it names; nothing of those that come from somebody's own file."""
    for t in plan.threats:
        if not _is_known(t.threat):
            yield f"the plan: {t.threat} is no threat model of this robench"
        for a in t.attacks:
            if a.items % (each := _searches(a.spec, classes)):
                yield f"the plan: {a.label} under {t.threat} makes {a.items} searches, and they come by {each}"
    names = plan.protocol.split(MERGED)
    known: dict[str, tuple[PlannedThreat, ...]] = {}
    for name in names:
        try:
            if (expected := _expected(name, plan, classes, merged=len(names) > 1)) is not None:
                known[name] = expected
        except UserError as error:
            yield f"the plan: {error}"
            return
    planned = {t.threat: t for t in plan.threats}
    for name, expected in known.items():
        for t in expected:
            same = planned.get(t.threat) == t if len(names) == 1 else _holds(planned.get(t.threat), t)
            if not same:
                yield f"the plan: what it asks under {t.threat} is not what this robench's protocol {name} asks"
    if len(known) == len(set(names)):  # a protocol that is named twice asks no more
        yield from _beyond(plan, [t for expected in known.values() for t in expected])


def _is_known(threat: str) -> bool:
    """Whether this robench writes a threat model so."""
    try:
        return str(threats.parse(threat)) == threat
    except UserError:
        return False


def _expected(name: str, plan: Plan, classes: int, *, merged: bool) -> tuple[PlannedThreat, ...] | None:
    """What the protocol of this name asks; None where this robench does not know. Raises UserError where it cannot."""
    base, *own = name.split(", ")
    if base not in protocols.names() or not set(own) <= {OWN_THREATS, OWN_ATTACKS} or (own and merged):
        return None
    protocol = protocols.load(base, "")
    if OWN_THREATS in own and OWN_ATTACKS in own:
        return plan.threats
    if OWN_THREATS in own:
        protocol = protocol.with_threats([t.threat for t in plan.threats])
    eot = 1 if plan.passes == 1 else EOT if protocol.eot is None else protocol.eot
    expected = tuple(as_planned(choice, classes, eot) for choice in protocol.threats)
    if OWN_ATTACKS in own:
        planned = {t.threat: t for t in plan.threats}
        expected = tuple(planned.get(t.threat, t) for t in expected)
    return expected


def _holds(planned: PlannedThreat | None, expected: PlannedThreat) -> bool:
    """Whether a merged plan holds every attack of one protocol, with as many searches or more."""
    items = {a.spec: a.items for a in planned.attacks} if planned else {}
    return planned is not None and all(items.get(a.spec, 0) >= a.items for a in expected.attacks)


def _beyond(plan: Plan, expected: Iterable[PlannedThreat]) -> Iterator[str]:
    """What the plan asks and no protocol that it names."""
    most: dict[tuple[str, str], int] = {}
    texts = set()
    for t in expected:
        texts.add(t.threat)
        for a in t.attacks:
            most[t.threat, a.spec] = max(a.items, most.get((t.threat, a.spec), 0))
    for t in plan.threats:
        if t.threat not in texts:
            yield f"the plan: it asks about {t.threat}, and this robench's protocol {plan.protocol} does not"
        elif extra := [a.label for a in t.attacks if a.items > most.get((t.threat, a.spec), 0)]:
            yield f"the plan: {extra[0]} under {t.threat} is not what this robench's protocol {plan.protocol} asks"


def _searches(spec: str, classes: int) -> int:
    """How many searches a restart of this attack makes on an example, as far as this robench knows the attack."""
    try:
        return rebuilt.searches(spec, classes) if parse(spec)[0] in ATTACKS else 1
    except UserError:
        return 1
