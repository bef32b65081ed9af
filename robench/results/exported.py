"""Data of a run for other programs: a row per example and threat, and the image that represents each."""

import ast
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from ..errors import UserError, counted, unknown
from ..evidence.attack_key import CLAIM, AttackKey
from ..evidence.records import Claim, Evidence, Exhausted, Plan, PlannedThreat, Verdict
from .merging import consolidated
from .outcomes import Outcome, breaks, outcomes, planned_threat


@dataclass(frozen=True)
class Selection:
    """The selected examples, threats and attacks of a run; all of them by default."""

    threats: Sequence[str] = ()  # as the plan writes them
    attacks: Sequence[str] = ()  # by label, name or spec: only their finds
    examples: str | None = None  # 100: the first hundred; 20:50: those numbered 20 to 49


class Find(NamedTuple):
    """The claim that represents a broken example: the one with the smallest image in the threat set."""

    threat: str
    claim: Claim
    verdict: Verdict


def finds(
    plan: Plan, evidence: Evidence, selection: Selection, stored: Collection[int] | None = None
) -> tuple[list[Find], int]:
    """The find of each broken example under each threat, in plan order, and the number of those without an image.

    With `stored`, the ids of the claims whose images are stored, only these are finds. Raises UserError if the
    selection names something that the run does not have.
    """
    chosen = frozenset(_examples(plan, selection.examples))
    found, without = [], 0
    for planned in _threats(plan, selection):
        letters = dict(zip(plan.examples, outcomes(plan, evidence, planned.threat), strict=True))
        smallest: dict[int, tuple[Claim, Verdict]] = {}
        missing = set()
        for claim, verdict in breaks(evidence, planned.threat):
            if claim.example not in chosen or letters[claim.example] != Outcome.BROKEN:
                continue
            if selection.attacks and not any(_is(planned, claim.attack, text) for text in selection.attacks):
                continue
            if stored is not None and claim.id not in stored:
                missing.add(claim.example)
            elif claim.example not in smallest or verdict.size < smallest[claim.example][1].size:
                smallest[claim.example] = claim, verdict
        found += [Find(planned.threat, *smallest[example]) for example in plan.examples if example in smallest]
        without += len(missing - smallest.keys())
    return found, without


def frame(plan: Plan, evidence: Evidence, selection: Selection) -> pd.DataFrame:
    """A row per example and threat: the outcome, the find that counts, and what the searches cost.

    `claims` counts accepted images, and `forwards` and `backwards` rows through the network, of all attacks on that
    example under that threat. With attacks selected, only rows of examples that these broke.
    """
    by_place = {(find.threat, find.claim.example): find for find in finds(plan, evidence, selection)[0]}
    costs = _costs(evidence)
    rows = []
    for planned in _threats(plan, selection):
        accepted = Counter(claim.example for claim, _ in breaks(evidence, planned.threat))
        letters = dict(zip(plan.examples, outcomes(plan, evidence, planned.threat), strict=True))
        labels = {attack.spec: attack.label for attack in planned.attacks}
        for example in _examples(plan, selection.examples):
            find = by_place.get((planned.threat, example))
            if selection.attacks and find is None:
                continue
            rows.append(
                {
                    "example": example,
                    "threat": planned.threat,
                    "outcome": Outcome(letters[example]).name.lower(),
                    **_of_find(find, labels),
                    "claims": accepted[example],
                    "forwards": costs[example, planned.threat, "forwards"],
                    "backwards": costs[example, planned.threat, "backwards"],
                }
            )
    whole = ["example", "restart", "target", "claims", "forwards", "backwards"]
    kinds = dict.fromkeys(whole, "Int64") | {"size": "float64", "margin": "float64"}
    return pd.DataFrame(rows, columns=COLUMNS).astype(kinds)


COLUMNS = ["example", "threat", "outcome", "attack", "restart", "target", "size", "margin", "spec", "claims"]
COLUMNS += ["forwards", "backwards"]


def _of_find(find: Find | None, labels: dict[str, str]) -> dict[str, str | float | None]:
    if find is None:
        return dict.fromkeys(("attack", "restart", "target", "size", "margin", "spec"))
    _, claim, verdict = find
    return {
        "attack": labels.get(claim.attack, CLAIM if claim.key.is_claim else claim.attack),
        "restart": claim.restart,
        "target": claim.target if claim.target >= 0 else None,
        "size": verdict.size,
        "margin": verdict.margin,
        "spec": claim.attack,
    }


def _costs(evidence: Evidence) -> Counter[tuple[int, str, str]]:
    costs: Counter[tuple[int, str, str]] = Counter()
    by_id = {claim.id: claim for claim in evidence.claims}
    records: list[Claim | Exhausted] = [*by_id.values(), *consolidated(evidence.exhausted)]
    for record in records:
        costs[record.example, record.threat, "forwards"] += record.forwards
        costs[record.example, record.threat, "backwards"] += record.backwards
    return costs


def _threats(plan: Plan, selection: Selection) -> list[PlannedThreat]:
    """The selected threats in the order of the plan."""
    chosen = {planned_threat(plan, text).threat for text in selection.threats}
    planned = [threat for threat in plan.threats if not chosen or threat.threat in chosen]
    specs = [(threat, attack.spec) for threat in planned for attack in threat.attacks]
    for text in selection.attacks:
        if text != CLAIM and not any(_is(threat, spec, text) for threat, spec in specs):
            known = {name for threat, spec in specs for name in _names(threat, spec)}
            short = {name for name in known if "(" not in name}  # with every number they are long
            raise unknown("planned attack", text, short, known - short)
    return planned


def _is(planned: PlannedThreat, spec: str, text: str) -> bool:
    """Whether an attack is meant by a text: one of its names, or its name with some of its numbers."""
    name, numbers = _parts(text)
    of, every = _parts(spec)
    return text in _names(planned, spec) or (name == of and numbers <= every)


def _parts(spec: str) -> tuple[str, set[str]]:
    """The name of an attack, and its numbers as run files write them: `steps=3`. They hold no restarts."""
    name, _, rest = spec.partition("(")
    try:
        call = ast.parse(f"f({rest.rpartition(')')[0]})", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two: nested too deep
        return spec, set()
    if not isinstance(call, ast.Call) or call.args or (rest and ")" not in rest):
        return spec, set()
    return name, {ast.unparse(keyword) for keyword in call.keywords if keyword.arg != "restarts"}


def _names(planned: PlannedThreat, spec: str) -> set[str]:
    """The names of an attack: its label, its name, its spec."""
    labels = {attack.label for attack in planned.attacks if attack.spec == spec}
    return {spec, AttackKey.parse(spec).name, *labels}


def _examples(plan: Plan, text: str | None) -> Iterator[int]:
    """The selected examples in the order of the plan."""
    if text is None:
        yield from plan.examples
        return
    first, colon, last = text.partition(":")
    try:
        start, stop = (int(first or 0), int(last) if last else None) if colon else (0, int(first))
    except ValueError:
        raise UserError(f"--examples {text}: write a count like 100, or a slice like 20:50") from None
    picked = [
        example
        for place, example in enumerate(plan.examples)
        if start <= (example if colon else place) and (stop is None or (example if colon else place) < stop)
    ]
    if not picked:
        raise UserError(
            f"--examples {text} names none of the {counted(len(plan.examples), 'example')} of this run, numbered"
            f" {min(plan.examples)} to {max(plan.examples)}"
        )
    yield from picked
