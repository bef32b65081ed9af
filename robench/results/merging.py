"""Merging of run files about the same classifier and examples: the worst outcome of each example.

Merging is idempotent, commutative and associative on outcomes, but not on costs: for two runs that exhausted the same
item the higher cost counts, for different items the sum, so a total can depend on the order of merging. Seconds add
up, except those of an exact copy. The caller checks that classifier and split are the same; here only the digests of
the images are compared.
"""

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import count, groupby
from typing import TypeVar

import msgspec

from ..errors import UserError
from ..evidence.records import (
    Claim,
    Clean,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    MaskingState,
    Nearest,
    PassedOver,
    Plan,
    PlannedAttack,
    PlannedThreat,
    Shard,
    Verdict,
)

MERGED = " + "  # between the names of protocols
_ALTERNATIVE = " | "  # between the values that runs disagree about

DATE = "%Y-%m-%dT%H:%M:%SZ"
"""The form of the date in the environment of a run: UTC, when evidence was last added."""


@dataclass(frozen=True)
class Merged:
    """Evidence with new claim ids, counted from 1, and the source of each claim, from which its image is copied."""

    evidence: Evidence
    sources: dict[int, tuple[int, int]]  # new id: (which of the merged, its id there)


@dataclass(frozen=True)
class _Find:
    """A claim with its verdict, if it has one, and its source."""

    claim: Claim
    verdict: Verdict | None
    source: tuple[int, int]

    @property
    def place(self) -> tuple[int, str, str]:
        return self.claim.example, self.claim.threat, self.claim.attack

    @cached_property
    def content(self) -> tuple[object, ...]:
        """Everything except ids: equal for copies of one find, including NaN."""
        c, v = self.claim, self.verdict
        claimed = (*self.place, c.restart, c.target, c.forwards, c.backwards)
        if v is None:
            return claimed
        size, margin = (math.isnan(v.size), repr(v.size)), (math.isnan(v.margin), repr(v.margin))
        return (*claimed, v.accepted, v.rejection, v.reason, size, margin, v.passes)


def merge(evidences: Sequence[Evidence]) -> Merged:
    """The union of all evidence.

    Of the accepted images of one attack on one example and threat only the smallest is retained: it lies in every
    ball that contains another. Rejected claims are retained for the footnotes. Claims keep the order of their old
    ids. Raises UserError if an example is not the same image everywhere.
    """
    finds = _worst_finds([find for which, evidence in enumerate(evidences) for find in _finds(which, evidence)])
    numbered = list(enumerate(finds, start=1))
    return Merged(
        Evidence(
            clean=_worst_clean(c for e in evidences for c in e.clean),
            claims=tuple(msgspec.structs.replace(f.claim, id=i) for i, f in numbered),
            verdicts=tuple(msgspec.structs.replace(f.verdict, claim=i) for i, f in numbered if f.verdict is not None),
            exhausted=consolidated(s for e in evidences for s in e.exhausted),
            failures=_distinct(f for e in evidences for f in e.failures),
            efforts=_added(f for e in evidences for f in e.efforts),
            probes=tuple(sorted({p for e in evidences for p in e.probes}, key=msgspec.structs.astuple)),
            masking=tuple(
                reduce(MaskingState.joined, (e.masking_state(threat) for e in evidences))
                for threat in sorted({state.threat for e in evidences for state in e.masking})
            ),
            nearest=_nearest(n for e in evidences for n in e.nearest),
            passed_over=_passed_over(p for e in evidences for p in e.passed_over),
            environment=_alternatives([e.environment for e in evidences]),
        ),
        sources={i: f.source for i, f in numbered},
    )


def consolidated(exhausted: Iterable[Exhausted]) -> tuple[Exhausted, ...]:
    """One record per example, threat and attack, with every item that any of them has exhausted.

    Costs of different items add up; of records that share items only the more expensive one counts.
    """
    groups: dict[tuple[int, str, str], list[Exhausted]] = {}
    for record in exhausted:
        groups.setdefault((record.example, record.threat, record.attack), []).append(record)
    return tuple(
        found[0] if len(found) == 1 else reduce(_both, sorted(set(found), key=msgspec.structs.astuple))
        for _, found in sorted(groups.items())
    )


def _both(one: Exhausted, other: Exhausted) -> Exhausted:
    disjoint = not one.done & other.done
    return msgspec.structs.replace(
        one,
        done=one.done | other.done,
        forwards=one.forwards + other.forwards if disjoint else max(one.forwards, other.forwards),
        backwards=one.backwards + other.backwards if disjoint else max(one.backwards, other.backwards),
    )


def _finds(which: int, evidence: Evidence) -> list[_Find]:
    judged = {v.claim for v in evidence.verdicts}
    claims = {c.id: c for c in evidence.claims}
    with_verdict = [_Find(claims[v.claim], v, (which, v.claim)) for v in evidence.verdicts if v.claim in claims]
    return with_verdict + [_Find(c, None, (which, i)) for i, c in claims.items() if i not in judged]


def _worst_finds(finds: list[_Find]) -> list[_Find]:
    """The smallest accepted find of each place, every rejected one, and unjudged ones that may still matter."""
    # Of equal finds the one with the oldest id is retained, so copies of a run change nothing.
    distinct = {f.content: f for f in reversed(_by_age(finds))}
    smallest: dict[tuple[int, str, str], _Find] = {}
    for f in distinct.values():
        if f.verdict is not None and f.verdict.accepted:
            smallest[f.place] = min(smallest.get(f.place, f), f, key=_smallness)
    rejected = [f for f in distinct.values() if f.verdict is not None and not f.verdict.accepted]
    judged = {_Find(f.claim, None, f.source).content for f in rejected}
    unjudged = [f for f in distinct.values() if f.verdict is None]
    waiting = [f for f in unjudged if f.place not in smallest and f.content not in judged]
    return _by_age([*smallest.values(), *rejected, *waiting])


def _by_age(finds: Iterable[_Find]) -> list[_Find]:
    """The finds in the order of their old ids, and those with the same id in the order of their content, as text.

    The text begins with the example. The whole text is made only for finds on one example, as it takes long.
    """

    def age(find: _Find) -> tuple[int, str]:
        return find.claim.id, f"{find.claim.example},"  # no such text begins another one

    ordered = list[_Find]()
    for _, group in groupby(sorted(finds, key=age), key=age):
        same = list(group)
        ordered += same if len(same) == 1 else sorted(same, key=lambda f: (repr(f.content), f.source[0]))
    return ordered


def _smallness(find: _Find) -> tuple[float, float, str]:
    assert find.verdict is not None, "only judged finds have a size"
    return find.verdict.size, -find.verdict.margin, repr(find.content)


def _worst_clean(records: Iterable[Clean]) -> tuple[Clean, ...]:
    """One answer per example: the worse one if machines disagree."""
    worst: dict[int, Clean] = {}
    for c in records:
        known = worst.setdefault(c.example, c)
        if known.digest != c.digest:
            raise UserError(
                f"example {c.example} is not the same image in these runs; merge only runs on the same data"
            )
        worst[c.example] = msgspec.structs.replace(
            c,
            correct=known.correct and c.correct,
            margin=max(known.margin, c.margin, key=lambda m: (math.isnan(m), m)),
            tied=known.tied or c.tied,
        )
    return tuple(worst[example] for example in sorted(worst))


def _distinct(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    return tuple(sorted(set(failures), key=msgspec.structs.astuple))


def _added(efforts: Iterable[Effort]) -> tuple[Effort, ...]:
    seconds: dict[tuple[str, str], float] = {}
    for e in sorted(set(efforts), key=msgspec.structs.astuple):
        seconds[e.threat, e.attack] = seconds.get((e.threat, e.attack), 0.0) + e.seconds
    return tuple(Effort(threat, attack, s) for (threat, attack), s in sorted(seconds.items()))


def _nearest(records: Iterable[Nearest]) -> tuple[Nearest, ...]:
    """One record per example and threat: that of the search that came nearest."""
    nearest: dict[tuple[int, str], Nearest] = {}
    for n in records:
        nearest[n.example, n.threat] = min(n, nearest.get((n.example, n.threat), n), key=lambda record: record.left)
    return tuple(nearest[place] for place in sorted(nearest))


def _passed_over(records: Iterable[PassedOver]) -> tuple[PassedOver, ...]:
    """One record per example, threat, attack and rule. What one run has settled stays so: the larger value counts."""
    largest: dict[tuple[int, str, str, str], PassedOver] = {}
    for p in records:
        place = (p.example, p.threat, p.attack, p.rule)
        largest[place] = max(p, largest.get(place, p), key=lambda record: record.value)
    return tuple(largest[place] for place in sorted(largest))


def _alternatives(environments: Sequence[dict[str, str]]) -> dict[str, str]:
    """Every value of any run, by key."""
    values: dict[str, set[str]] = {}
    for environment in environments:
        for key, value in environment.items():
            values.setdefault(key, set()).update(filter(None, value.split(_ALTERNATIVE)))
    joined = {key: _ALTERNATIVE.join(sorted(values[key])) for key in sorted(values)}
    if latest := date_of(joined):
        joined["date"] = latest
    return joined


def date_of(environment: Mapping[str, str]) -> str:
    """The latest date that an environment holds, in the form DATE; empty if it holds none. Other text is no date."""
    return max(filter(_is_date, environment.get("date", "").split(_ALTERNATIVE)), default="")


def _is_date(text: str) -> bool:
    try:
        # Only the text that `strftime` writes: as text, dates then sort by time.
        return time.strftime(DATE, time.strptime(text, DATE)) == text
    except ValueError:
        return False


def searched_in(plan: Plan, environment: Mapping[str, str], *, any_search: bool) -> tuple[str, ...]:
    """The precisions in which a run was searched: the recorded ones, else its plan's; none before its first search."""
    if not any_search or plan.precision == "auto":
        return ()
    return precisions(environment) or (plan.precision,)


def precisions(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The recorded precisions, from a text like `bfloat16: why | float32: why`."""
    texts = environment.get("precision", "").split(_ALTERNATIVE)
    return tuple(sorted({text.partition(":")[0] for text in texts if text}))


def with_precision(environment: Mapping[str, str], precision: str, reason: str) -> str:
    """The record of `precisions` with one more."""
    known = environment.get("precision", "").split(_ALTERNATIVE)
    text = f"{precision}: {reason.replace(_ALTERNATIVE, ', ')}"
    return _ALTERNATIVE.join(sorted({*known, text} - {""}))


def joint_precisions(environment: Mapping[str, str], searched: Iterable[Sequence[str]]) -> str:
    """The record with the precisions of several runs, including those that only their plans name."""
    text = environment.get("precision", "")
    for name in {name for names in searched for name in names}.difference(precisions(environment)):
        text = with_precision({"precision": text}, name, "as its plan says")
    return text


def joint_plan(plans: Sequence[Plan], merged: Evidence) -> Plan:
    """The plan that contains all of theirs: every example, every threat, every attack with its largest number of items.

    Device, threads and the like are those of the first. The caller has checked that model and data are the same.
    """
    digests = {c.example: c.digest for c in merged.clean}
    same = len({plan.examples for plan in plans}) == 1
    examples = plans[0].examples if same else tuple(sorted({e for plan in plans for e in plan.examples}))
    hashed = hashlib.sha256("\n".join(digests.get(e, "") for e in examples).encode()).hexdigest()
    partly = same and all(plan.shards for plan in plans)
    texts = dict.fromkeys(t.threat for plan in plans for t in plan.threats)
    return msgspec.structs.replace(
        plans[0],
        examples=examples,
        data_sha256=hashed,  # as problem.split.Split hashes them
        protocol=MERGED.join(dict.fromkeys(plan.protocol for plan in plans)),
        every_attack=all(plan.every_attack for plan in plans),
        curve=all(plan.curve for plan in plans),  # else some searches ended at their first find
        threats=tuple(PlannedThreat(text, _joint_attacks(plans, text)) for text in texts),
        shards=joint_shards([shard for plan in plans for shard in plan.shards], len(examples)) if partly else (),
    )


def joint_shards(shards: Sequence[Shard], examples: int) -> tuple[Shard, ...]:
    """These shards of so many examples, each once; none, which stands for all examples, if they hold every one."""
    held = {place for shard in shards for place in shard.places(examples)}
    return () if len(held) == examples else tuple(sorted(set(shards), key=msgspec.structs.astuple))


def searched_places(plan: Plan) -> Sequence[int]:
    """The places in the plan of the examples that it searches: those of its shards, or all."""
    total = len(plan.examples)
    return sorted({p for shard in plan.shards for p in shard.places(total)}) if plan.shards else range(total)


N = TypeVar("N", int, float)


def _larger(one: N | None, other: N | None) -> N | None:
    """The larger number; None, which is no restriction, above all."""
    return None if one is None or other is None else max(one, other)


def _joint_attacks(plans: Sequence[Plan], threat: str) -> tuple[PlannedAttack, ...]:
    by_spec: dict[str, PlannedAttack] = {}
    for attack in (a for plan in plans for t in plan.threats if t.threat == threat for a in t.attacks):
        held = by_spec.get(attack.spec, attack)
        by_spec[attack.spec] = msgspec.structs.replace(
            held,
            items=max(held.items, attack.items),
            near=_larger(held.near, attack.near),
            sample=_larger(held.sample, attack.sample),
        )
    joint: dict[str, PlannedAttack] = {}  # by label
    for attack in by_spec.values():
        numbered = (f"{attack.label}-{n}" if n > 1 else attack.label for n in count(1))
        label = next(text for text in numbered if text not in joint)
        joint[label] = msgspec.structs.replace(attack, label=label)
    return tuple(joint.values())
