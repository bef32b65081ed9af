"""Whether a run file can be true: its evidence is recomputed, its plan compared with the protocol it names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from .. import protocols
from ..errors import UserError
from ..evidence.attack_key import AttackKey
from ..evidence.images import Image
from ..evidence.records import Evidence, Plan, PlannedAttack, PlannedThreat
from ..evidence.refutation import Facts, Refuted, refuted
from ..problem import threats
from ..protocols import OWN_ATTACKS, OWN_THREATS, Protocol, ThreatChoice, rebuilt
from ..results.merging import MERGED
from ..search.attack import ForeignAttack
from ..search.attacks import ATTACKS, build, parse
from .planning import as_planned, averaging

MAX = 10**6  # larger settings are cut to this before the cost of a search is computed


def verify(plan: Plan, evidence: Evidence, images: Iterable[tuple[int, Image]], facts: Facts) -> Refuted:
    """Compares what is recorded with everything that can be recomputed, and with the protocol. No attack is run.

    Raises UserError where that is impossible.
    """
    found = refuted(plan, evidence, images, facts)
    return replace(found, faults=(*_plan_faults(plan, facts.classifier.classes), *found.faults))


@lru_cache(maxsize=4096)
def min_passes(threat: str, attack: str) -> int:
    """A lower bound of the forward passes of a search that finds nothing: all steps, for robench's own attacks."""
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
    except (UserError, ArithmeticError):  # of an older robench, or with a surrogate gradient, or invented
        return 1


def _plan_faults(plan: Plan, classes: int) -> Iterator[str]:
    """Differences between the plan and the protocols it names; a protocol from a user's own file is not compared."""
    for t in plan.threats:
        if not _is_known(t.threat):
            yield f"the plan: {t.threat} is no threat model of this robench"
        for a in t.attacks:
            if a.items % (each := _searches(a.spec, classes)):
                yield f"the plan: {a.label} under {t.threat} makes {a.items} searches, which is no multiple of {each}"
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
            if not _same(planned.get(t.threat), t, merged=len(names) > 1):
                yield f"the plan: its attacks under {t.threat} are not those of this robench's protocol {name}"
    if len(known) == len(set(names)):  # a protocol that is named twice adds nothing
        yield from _beyond(plan, [t for expected in known.values() for t in expected])


def _is_known(threat: str) -> bool:
    """Whether this robench spells a threat model so."""
    try:
        return str(threats.parse(threat)) == threat
    except UserError:
        return False


def _expected(name: str, plan: Plan, classes: int, *, merged: bool) -> tuple[PlannedThreat, ...] | None:
    """The threats and attacks of the protocol of this name; None where this robench does not know it.

    Where the plan has those that the protocol had before it was changed, these. Raises UserError where they cannot be
    built here.
    """
    base, *own = name.split(", ")
    if base not in protocols.names() or not set(own) <= {OWN_THREATS, OWN_ATTACKS} or (own and merged):
        return None
    if OWN_THREATS in own and OWN_ATTACKS in own:
        return plan.threats
    planned = {t.threat: t for t in plan.threats}
    for former in protocols.former(base):
        before = _planned(former, own, plan, classes)
        if all(_same(planned.get(t.threat), t, merged=merged) for t in before):
            return before
    return _planned(protocols.load(base, ""), own, plan, classes)


def _planned(protocol: Protocol, own: Sequence[str], plan: Plan, classes: int) -> tuple[PlannedThreat, ...]:
    """The threats and attacks of a protocol as a plan holds them, with `own` parts of the plan in place of its."""
    if OWN_THREATS in own:
        protocol = protocol.with_threats([t.threat for t in plan.threats])
    eot = 1 if plan.passes == 1 else averaging(protocol)
    planned = {t.threat: t for t in plan.threats}
    expected = tuple(_as_expected(choice, planned, classes, eot) for choice in protocol.threats)
    if OWN_ATTACKS in own:
        expected = tuple(planned.get(t.threat, t) for t in expected)
    return expected


def _same(planned: PlannedThreat | None, expected: PlannedThreat, *, merged: bool) -> bool:
    """Whether a plan has the attacks of one protocol; with `merged`, at least these."""
    return _holds(planned, expected) if merged else planned == expected


def _as_expected(choice: ThreatChoice, planned: Mapping[str, PlannedThreat], classes: int, eot: int) -> PlannedThreat:
    """One threat of a protocol as a plan holds it: with its former attacks where the plan has just these."""
    former = protocols.formerly_usual(choice.threat)
    before = None if former is None else as_planned(former, classes, eot)
    return before if before and before == planned.get(before.threat) else as_planned(choice, classes, eot)


def _holds(planned: PlannedThreat | None, expected: PlannedThreat) -> bool:
    """Whether a merged plan holds every attack of one protocol, with as many searches or more."""
    held = {a.spec: a for a in planned.attacks} if planned else {}
    return all(a.spec in held and _does(held[a.spec], a) for a in expected.attacks) and planned is not None


def _does(planned: PlannedAttack, expected: PlannedAttack) -> bool:
    """Whether a planned attack makes every search of the expected one."""
    restrictions = ((planned.near, expected.near), (planned.sample, expected.sample))
    return planned.items >= expected.items and all(
        mine is None or (other is not None and mine >= other) for mine, other in restrictions
    )


def _beyond(plan: Plan, expected: Iterable[PlannedThreat]) -> Iterator[str]:
    """Threats and searches of the plan that no protocol it names has."""
    largest: dict[tuple[str, str], int] = {}
    texts = set()
    for t in expected:
        texts.add(t.threat)
        for a in t.attacks:
            largest[t.threat, a.spec] = max(a.items, largest.get((t.threat, a.spec), 0))
    for t in plan.threats:
        if t.threat not in texts:
            yield f"the plan: it has the threat {t.threat}, and this robench's protocol {plan.protocol} does not"
        elif extra := [a.label for a in t.attacks if a.items > largest.get((t.threat, a.spec), 0)]:
            yield (
                f"the plan: {extra[0]} under {t.threat} is not in this robench's protocol {plan.protocol}, or makes"
                " fewer searches there"
            )


def _searches(spec: str, classes: int) -> int:
    """The number of searches that a restart of this attack makes on an example; 1 for an unknown attack."""
    try:
        return rebuilt.searches(spec, classes) if parse(spec)[0] in ATTACKS else 1
    except UserError:
        return 1
