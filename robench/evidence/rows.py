"""Conversion between records and rows of a run file.

SQLite stores any type in any column, so every row is validated: an invalid row raises msgspec.ValidationError, which
names the table and the column.
"""

import math
import sqlite3
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from .. import radius, renames
from . import probe_rows
from .records import (
    FARTHEST,
    MAX_EXAMPLES,
    MAX_ITEMS,
    MAX_PARAMS,
    MIN_MANY,
    WHOLE,
    Claim,
    Clean,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    Plan,
    Probe,
    Verdict,
)

_FEW = 3 * 8  # bytes of tx, ty and the angle
_MANY = range(4 * MIN_MANY, 4 * MAX_PARAMS + 1, 4)  # bytes of a longer vector
MAX_VALUES = 500  # examples in one query; SQLite may take no more than 999 parameters
MAX_JSON = 2**26  # characters of a plan
MAX_SEARCHES = 10**7  # examples times attacks of a plan: a table iterates over all of them
MANY_THREATS = 100  # of probes: more are not searched one by one
MAX_PASSES = 2**62  # forward and backward passes in total: the limit of a summary file

H = TypeVar("H", bound=Hashable)
R = TypeVar("R")


def plan_of(text: Any) -> Plan:
    """A plan from its JSON. Raises msgspec.ValidationError if it is not one, or is inconsistent."""
    if not isinstance(text, str) or len(text) > MAX_JSON:
        raise msgspec.ValidationError(f"table plan: expected a text of at most {MAX_JSON:,} characters")
    try:
        plan = msgspec.convert(_with_nan(msgspec.json.decode(text)), Plan)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise msgspec.ValidationError(f"table plan: {error}") from None
    plan = _renamed(plan)
    if why := _nonsense(plan):
        raise msgspec.ValidationError(f"table plan: {why}")
    return plan


def plan_text(plan: Plan) -> str:
    """The JSON of a plan. Raises msgspec.ValidationError where `plan_of` would refuse it.

    The numbers of the examples are not read back, as that would take ten times the memory of the text.
    """
    numbers = plan.examples
    if len(numbers) > MAX_EXAMPLES or any(not 0 <= number < 2**31 for number in numbers):
        raise msgspec.ValidationError(f"table plan: expected at most {MAX_EXAMPLES:,} examples from 0 up to 2**31")
    plan_of(msgspec.json.encode(msgspec.structs.replace(plan, examples=numbers[:1])).decode())
    text = msgspec.json.encode(plan).decode()
    if (why := _nonsense(plan)) or len(text) > MAX_JSON:
        raise msgspec.ValidationError(f"table plan: {why or f'expected a text of at most {MAX_JSON:,} characters'}")
    return text


def _renamed(plan: Plan) -> Plan:
    """The plan with the present names of models and attacks."""
    put = msgspec.structs.replace
    threats = (
        put(t, attacks=tuple(put(a, label=renames.attack(a.label), spec=renames.spec(a.spec)) for a in t.attacks))
        for t in plan.threats
    )
    return put(plan, model=put(plan.model, name=renames.model(plan.model.name)), threats=tuple(threats))


def _with_nan(plan: Any) -> Any:
    """The plan with NaN in the fingerprint of a model that answers NaN on noise: JSON holds null instead."""
    model = plan.get("model") if isinstance(plan, dict) else None
    if isinstance(model, dict) and isinstance(model.get("fingerprint"), list):
        model["fingerprint"] = [math.nan if logit is None else logit for logit in model["fingerprint"]]
    return plan


def _nonsense(plan: Plan) -> str:
    """Why this plan is inconsistent; empty if it is not."""
    in_order = np.sort(np.fromiter(plan.examples, np.int32, len(plan.examples)))
    if (in_order[1:] == in_order[:-1]).any():
        return f"it lists example {_repeated(plan.examples)} twice"
    threats = {_canonical(t.threat): t.threat for t in plan.threats}
    if (same := _repeated(_canonical(t.threat) for t in plan.threats)) is not None:
        return f"it names the threat {threats[same]} twice"
    for t in plan.threats:
        if (spec := _repeated(a.spec for a in t.attacks)) is not None:
            return f"it names the attack {spec} twice under {t.threat}"
        if (label := _repeated(a.label for a in t.attacks)) is not None:
            return f"it calls two attacks {label} under {t.threat}"
    if any(shard.index > shard.count for shard in plan.shards):
        return "it names a shard beyond the last"
    if len(plan.examples) * sum(len(t.attacks) for t in plan.threats) > MAX_SEARCHES:
        return f"it plans attacks on more than {MAX_SEARCHES:,} examples"
    return ""


def _repeated(values: Iterable[H]) -> H | None:
    """The first value that occurs again."""
    seen: set[H] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _canonical(threat: str) -> tuple[str, Hashable]:
    """A value that is equal for two texts of one ball, such as linf:0.3 and linf:3/10."""
    name, _, numbers = threat.replace(" ", "").partition(":")
    try:
        return name, radius.read(numbers)
    except ValueError:
        return name, numbers


def evidence_of(db: sqlite3.Connection) -> Evidence:
    """The content of all tables, except the plan and images."""
    probes = tuple(_read(db, Probe, "probe", _PROBE))
    evidence = Evidence(
        clean=tuple(_read(db, Clean, "clean", _CLEAN)),
        claims=tuple(_read(db, Claim, "claim", _CLAIM)),
        verdicts=tuple(_read(db, Verdict, "verdict", _VERDICT)),
        exhausted=tuple(_read(db, Exhausted, "spent", _EXHAUSTED)),
        failures=tuple(_read(db, Failure, "failure", "example, threat, attack, error")),
        efforts=tuple(_read(db, Effort, "effort", "threat, attack, seconds")),
        probes=tuple(p for p in probes if not (probe_rows.is_state(p) or probe_rows.is_of_round(p))),
        masking=tuple(probe_rows.states(p for p in probes if probe_rows.is_state(p))),
        nearest=tuple(probe_rows.nearest(probes)),
        passed_over=tuple(probe_rows.passed_over(probes)),
        environment=_environment(db),
    )
    _refuse_passes(_passes(evidence))
    return evidence


def _passes(evidence: Evidence) -> int:
    return sum(r.forwards + r.backwards for records in (evidence.claims, evidence.exhausted) for r in records)


def _refuse_passes(total: int) -> None:
    if total > MAX_PASSES:
        raise msgspec.ValidationError("tables claim and spent: no machine makes so many forward and backward passes")


def shared_evidence(db: sqlite3.Connection) -> Evidence:
    """What the tables record about no single example: seconds, states of masking checks, and the environment."""
    states = tuple(
        _read(
            db, Probe, "probe", _PROBE, _IS_STATE, [*probe_rows.STATES, len(probe_rows.ASSIGNED), probe_rows.ASSIGNED]
        )
    )
    return Evidence(
        efforts=tuple(_read(db, Effort, "effort", "threat, attack, seconds")),
        masking=tuple(probe_rows.states(p for p in states if probe_rows.is_state(p))),
        environment=_environment(db),
    )


def evidence_in_parts(db: sqlite3.Connection, firsts: Sequence[int]) -> Iterator[Evidence]:
    """Everything about single examples, a part at a time: the next one begins with each of these example numbers.

    The first part also holds what comes before it, and the last one what comes after. Together they are all rows, and
    each is validated, as in `evidence_of`. The memory that this takes does not depend on the number of parts.
    """
    threats = [threat for (threat,) in db.execute("SELECT DISTINCT threat FROM probe LIMIT ?", [MANY_THREATS + 1])]
    passes = 0
    for place in range(max(1, len(firsts))):
        low = firsts[place] if place else None
        high = firsts[place + 1] if place + 1 < len(firsts) else None
        evidence = _between(db, low, high, threats)
        _refuse_passes(passes := passes + _passes(evidence))
        yield evidence
    for _ in _read(db, Verdict, "verdict", _VERDICT, "claim NOT IN (SELECT id FROM claim)"):  # validated, and no more
        pass


def _between(db: sqlite3.Connection, low: int | None, high: int | None, threats: Sequence[object]) -> Evidence:
    """The rows about examples from one number up to another, which is not among them."""
    ends = [("example >= ?", low), ("example < ?", high)]
    these = " AND ".join(text for text, end in ends if end is not None) or "TRUE"
    between = [end for _, end in ends if end is not None]
    if len(threats) > MANY_THREATS:
        probes = tuple(_read(db, Probe, "probe", _PROBE, these, between))
    else:  # by their keys
        under = f"threat = ? AND {these}"
        probes = tuple(p for t in threats for p in _read(db, Probe, "probe", _PROBE, under, [t, *between]))
    return Evidence(
        clean=tuple(_read(db, Clean, "clean", _CLEAN, these, between)),
        claims=tuple(_read(db, Claim, "claim", _CLAIM, these, between)),
        verdicts=tuple(
            _read(db, Verdict, "verdict", _VERDICT, f"claim IN (SELECT id FROM claim WHERE {these})", between)
        ),
        exhausted=tuple(_read(db, Exhausted, "spent", _EXHAUSTED, these, between)),
        failures=tuple(_read(db, Failure, "failure", "example, threat, attack, error", these, between)),
        probes=tuple(p for p in probes if not (probe_rows.is_state(p) or probe_rows.is_of_round(p))),
        nearest=tuple(probe_rows.nearest(probes)),
        passed_over=tuple(probe_rows.passed_over(probes)),
    )


def claim_of(db: sqlite3.Connection, number: int) -> Claim | None:
    """The claim with this number."""
    return next(_read(db, Claim, "claim", _CLAIM, "id = ?", [number]), None)


def verdict_of(db: sqlite3.Connection, number: int) -> Verdict | None:
    """The verdict on the claim with this number."""
    return next(_read(db, Verdict, "verdict", _VERDICT, "claim = ?", [number]), None)


def evidence_about(db: sqlite3.Connection, examples: Iterable[int], threats: Sequence[str]) -> Evidence:
    """What the tables record about these examples under these threats, and decides which of them are searched.

    The tables are searched by their keys, so the time does not depend on how many other examples there are.
    """
    numbers, found = sorted(examples), Evidence()
    for first in range(0, len(numbers), MAX_VALUES):
        some = numbers[first : first + MAX_VALUES]
        these = f"example IN ({_places(some)})"
        claims = tuple(_read(db, Claim, "claim", _CLAIM, these, some))
        verdict_of = f"claim IN (SELECT id FROM claim WHERE {these})"
        under = f"threat IN ({_places(threats)}) AND {these}"
        probes = tuple(_read(db, Probe, "probe", _PROBE, under, [*threats, *some]))
        found = Evidence(
            clean=(*found.clean, *_read(db, Clean, "clean", _CLEAN, these, some)),
            claims=(*found.claims, *claims),
            verdicts=(*found.verdicts, *_read(db, Verdict, "verdict", _VERDICT, verdict_of, some)),
            exhausted=(*found.exhausted, *_read(db, Exhausted, "spent", _EXHAUSTED, these, some)),
            nearest=(*found.nearest, *probe_rows.nearest(probes)),
            passed_over=(*found.passed_over, *probe_rows.passed_over(probes)),
        )
    return found


def _places(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


_IS_STATE = f"name IN ({_places(probe_rows.STATES)}) OR substr(name, 1, ?) = ?"  # with ASSIGNED and its length


def _environment(db: sqlite3.Connection) -> dict[str, str]:
    record = dict(db.execute("SELECT key, value FROM environment").fetchall())
    if not all(isinstance(text, str) for item in record.items() for text in item):
        raise msgspec.ValidationError("table environment: expected texts")
    return renames.environment(record)


def _read(
    db: sqlite3.Connection,
    kind: type[R],
    table: str,
    columns: str,
    where: str = "",
    parameters: Sequence[object] = (),
) -> Iterator[R]:
    """The rows of a table, or some of them, in the order of its key."""
    names = columns.split(", ")
    convert = [(name, _CONVERT[name]) for name in names if name in _CONVERT]
    some = f"WHERE {where}" if where else "NOT INDEXED"
    for values in db.execute(f"SELECT {columns} FROM {table} {some} ORDER BY {_KEYS[table]}", parameters):
        row = dict(zip(names, values, strict=True))
        try:
            for name, into in convert:
                row[name] = into(row[name])
            if "draws" in row and row.pop("draws") != row["done"].bit_count():
                raise ValueError("as many draws as done has bits")
            record = msgspec.convert(row, kind)
            if kind in (Verdict, Probe):
                _refuse_nonsense(record)
        except (msgspec.ValidationError, ValueError) as error:
            raise msgspec.ValidationError(f"table {table}: {error}") from None
        yield record


_CLEAN = "example, digest, correct, margin, tied"
_CLAIM = "id, example, threat, attack, draw, target, forwards, backwards, witness"
_VERDICT = "claim, accepted, rejection, reason, size, margin, passes"
_EXHAUSTED = "example, threat, attack, done, forwards, backwards, draws"
_PROBE = "threat, example, name, value"

_KEYS = {
    "clean": "example",
    "claim": "id",
    "verdict": "claim",
    "spent": "example, threat, attack",
    "failure": "example, threat, attack",
    "effort": "threat, attack",
    "probe": "threat, example, name",
}


def _refuse_nonsense(record: object) -> None:
    """Raises ValueError for values that contradict each other, or their meaning."""
    if isinstance(record, Verdict) and record.size < 0:
        raise ValueError("size: expected no number below 0")
    if (
        isinstance(record, Verdict)
        and record.accepted
        and not (record.size < math.inf and record.margin == record.margin)
    ):
        raise ValueError("size, margin: an accepted claim has both")
    if isinstance(record, Probe) and record.name == "leads" and record.value not in (0, 1):
        raise ValueError("value: expected 0 or 1")
    if isinstance(record, Probe) and math.isinf(record.value):
        raise ValueError("value: expected a finite number")
    if isinstance(record, Probe) and probe_rows.is_state(record):
        probe_rows.refuse_no_state(record)
    if (
        isinstance(record, Probe)
        and probe_rows.is_of_round(record)
        and (record.example == WHOLE or not record.value >= 0)
    ):
        raise ValueError(f"{record.name}: expected an example, with no number below 0")


def _flag(value: Any) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError("expected 0 or 1")
    return bool(value)


def _number(value: Any) -> Any:
    return math.nan if value is None else value  # SQLite has no NaN


def _numbers(params: Any) -> tuple[float, ...] | bytes:
    if params is None:
        return ()
    if not isinstance(params, bytes) or not (len(params) == _FEW or len(params) in _MANY):
        raise ValueError(f"witness: expected three numbers of eight bytes, or {MIN_MANY} or more of four")
    numbers = np.frombuffer(params, "<f8" if len(params) == _FEW else "<f4")
    if not (np.abs(numbers) <= FARTHEST).all():
        raise ValueError(f"witness: expected numbers of at most {FARTHEST:g}")
    return tuple(numbers.tolist()) if len(params) == _FEW else params


def _attack(text: Any) -> Any:
    return renames.spec(text) if isinstance(text, str) else text


def _threat(text: Any) -> Any:
    return sys.intern(text) if isinstance(text, str) else text  # else a million rows have as many texts


def _items(done: Any) -> int:
    if not isinstance(done, bytes) or len(done) > MAX_ITEMS // 8:
        raise ValueError(f"done: expected the bits of at most {MAX_ITEMS:,} items")
    return int.from_bytes(done, "little")


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "correct": _flag,
    "tied": _flag,
    "accepted": _flag,
    "margin": _number,
    "size": _number,
    "value": _number,
    "witness": _numbers,
    "done": _items,
    "attack": _attack,
    "threat": _threat,
}


# Writing


def real(value: float) -> float | None:
    """A number for SQLite, which has no NaN."""
    return None if value != value else value


def blob(params: tuple[float, ...] | bytes) -> bytes | None:
    """The parameters of an image as bytes; None if there are none."""
    return params if isinstance(params, bytes) else np.array(params, "<f8").tobytes() or None


def bits(done: int) -> bytes:
    """A set of item numbers, as bytes."""
    return done.to_bytes((done.bit_length() + 7) // 8 or 1, "little")
