"""Collects runs into the boards of their data sets."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from .. import __version__
from ..errors import UserError
from ..evidence.records import Evidence, ModelRecord, Plan
from ..results.merging import date_of, joint_plan, merge
from ..results.stats.comparison import ranks
from ..results.summarising import summarise
from ..results.summary import Summary
from ..results.tables.cells import Cell, cells
from ..results.tables.seeds import Row
from .certified import with_certificates
from .claimed import Publication, claimed_once, claimed_rows
from .competitiveness import scored
from .entries import SCHEMA, Board, CardFacts, Table
from .history import Source, history
from .levels import levels
from .queries import query_curves
from .rows import Answer, model_result

T = TypeVar("T")
SameModel = Callable[[ModelRecord, ModelRecord], bool]
Labels = Callable[[str, Mapping[int, str]], Mapping[int, int] | None]
"""The labels of examples by their numbers, from the name of the data and their digests; None if they are unknown."""

SLUG = 60  # letters of a name in the name of a file


@dataclass(frozen=True)
class RecordedRun:
    """A run file: its plan, and how to read the rest, which is large: its evidence, and the card of its model."""

    plan: Plan
    read: Callable[[], tuple[Evidence, CardFacts | None]]
    path: Path | None = None  # the file; the boards do not depend on it
    submission: str = ""  # its name; empty for a run of the board
    by: str = ""  # who submitted it


@dataclass(frozen=True)
class _Run:
    """A run with its evidence in memory."""

    plan: Plan
    evidence: Evidence
    card: CardFacts | None
    origins: list[RecordedRun]  # several of copies, which may differ in their images
    source: Source


@dataclass(frozen=True)
class Collected:
    """The boards, and the runs of each model by the ids of board and model, with copies."""

    boards: list[Board]
    runs: dict[tuple[str, str], list[RecordedRun]]


def _no_labels(data: str, digests: Mapping[int, str]) -> None:
    """Labels where none are known."""


@dataclass(frozen=True)
class Background:
    """What is known beside the runs: numbers of publications, and labels."""

    publications: Sequence[Publication] = ()
    labels: Labels = _no_labels


def boards(runs: Sequence[RecordedRun], same_model: SameModel, background: Background = Background()) -> list[Board]:
    """A board for each data set, sorted by name. Neither order nor repetition of runs makes a difference.

    Raises as `collected` does.
    """
    return collected(runs, same_model, background).boards


def collected(runs: Sequence[RecordedRun], same_model: SameModel, background: Background = Background()) -> Collected:
    """The boards of these runs, and which runs are about which model.

    Raises UserError if no run has a threat, if runs with one name of data are about different images, or if a card
    certifies more than was measured.
    """
    orders = _threat_orders(runs)
    answers: dict[tuple[str, Hashable], list[Answer]] = {}
    origins: dict[tuple[str, str], list[RecordedRun]] = {}
    for together in _grouped(runs, lambda r: (r.plan.model.weights_sha256, r.plan.model.architecture, r.plan.data)):
        models = _models(together, same_model)
        for model in models:
            plan, name = model[0].plan, _id(model, models)
            origins[slug(plan.data, plan.data), name] = [origin for run in model for origin in run.origins]
            try:
                for key, answer in _answers(model, name, orders, background.labels):
                    answers.setdefault((plan.data, key), []).append(answer)
            except UserError as error:
                raise UserError(f"the runs of {plan.model.name!a} on {plan.data!a}: {error}") from None
    if not answers:
        raise UserError("these runs have no threat, so there is nothing to compare; name runs with a threat")
    by_data: dict[str, list[Table]] = {}
    for (data, _), rows in answers.items():
        by_data.setdefault(data, []).append(_table(rows, data, background.publications))
    found = [
        Board(SCHEMA, slug(data, data), data, claimed_once(sorted(by_data[data], key=_table_order)))
        for data in sorted(by_data)
    ]
    return Collected(found, origins)


def slug(text: str, identity: str) -> str:
    """A name for a file and an anchor: letters and digits of the text, and part of a hash of what distinguishes it."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:SLUG].strip("-")
    if identity == text and len(text) <= SLUG and re.fullmatch(r"[a-z0-9]+:[a-z0-9]+", text):
        return plain  # mnist:test is mnist-test, and nothing else is
    return f"{plain or 'x'}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _threat_orders(runs: Sequence[RecordedRun]) -> dict[Hashable, tuple[str, ...]]:
    """The order of the columns for each set of threats: the commonest among the plans, of equal ones the first."""
    orders: dict[Hashable, Counter[tuple[str, ...]]] = {}
    for plan in {msgspec.json.encode(run.plan): run.plan for run in runs}.values():
        threats = tuple(t.threat for t in plan.threats)
        orders.setdefault(frozenset(threats), Counter())[threats] += 1
    return {key: min(found, key=lambda order: (-found[order], order)) for key, found in orders.items()}


def _models(runs: Sequence[RecordedRun], same_model: SameModel) -> list[list[_Run]]:
    """The distinct runs of each model, in an order that depends on their content alone."""
    distinct: dict[str, _Run] = {}
    for run in runs:
        evidence, card = run.read()
        digest = hashlib.sha256(msgspec.json.encode((run.plan, evidence, run.submission, run.by))).hexdigest()
        name, date = run.submission or run.plan.protocol, date_of(evidence.environment)
        source = Source(name, run.by, bool(run.submission), date, digest)
        distinct.setdefault(digest, _Run(run.plan, evidence, card, [], source)).origins.append(run)
    models: list[list[_Run]] = []
    for _, found in sorted(distinct.items()):
        known = next((model for model in models if same_model(model[0].plan.model, found.plan.model)), None)
        if known is None:
            models.append([found])
        else:
            known.append(found)
    return models


def _answers(
    model: Sequence[_Run], name: str, orders: Mapping[Hashable, tuple[str, ...]], labels: Labels
) -> Iterable[tuple[Hashable, Answer]]:
    """The rows of one model, with the key of the table of each.

    All evidence of the model on the data set counts in every table. What stands is what the attacks of one question
    left: of several questions about the same examples and threats that with the fewest open examples.
    """
    everything = merge([run.evidence for run in model]).evidence if len(model) > 1 else model[0].evidence
    searches = [(run.plan, run.evidence) for run in model]
    for runs in _grouped((run for run in model if run.plan.threats), lambda run: _table_key(run.plan)):
        key = _table_key(runs[0].plan)
        order = orders[frozenset(t.threat for t in runs[0].plan.threats)]
        found = [_answer(same, order, everything) for same in _grouped(runs, lambda run: _question(run.plan))]
        best = min(found, key=lambda a: (a.summary.union.open, -a.summary.cost.backwards, a.summary.to_json()))
        others = sorted({a.summary.protocol for a in found} - {best.summary.protocol})
        cards = [run.card for run in model if run.card is not None]
        commands = sorted({c for run in runs for c in _commands(run.evidence)})
        seeds = sorted({run.plan.seed for run in runs})
        card = cards[0] if cards else None
        sources = [(run.source, run.evidence, any(run is own for own in runs)) for run in model]
        yield (
            key,
            Answer(
                id=name,
                summary=best.summary,
                own=best.own,
                card=card,
                other_protocols=tuple(others),
                seeds=tuple(seeds),
                commands=tuple(commands),
                levels=tuple(
                    levels(best.plan, everything, t.threat, t.outcomes, searches) for t in best.summary.threats
                ),
                queries=tuple(query_curves(best.plan, best.evidence, t.threat) for t in best.plan.threats),
                labels=_labels(best.plan, everything, labels),
                history=history(best.plan, everything, sources),
            ),
        )


@dataclass(frozen=True)
class _Found:
    """The summary of one question, from all evidence of the model and from the question's own runs."""

    plan: Plan  # with the threats in the order of the table
    runs: Sequence[_Run]  # of the question
    evidence: Evidence  # of these runs
    summary: Summary
    own: Summary


def _answer(runs: Sequence[_Run], order: Sequence[str], everything: Evidence) -> _Found:
    evidence = merge([run.evidence for run in runs]).evidence if len(runs) > 1 else runs[0].evidence
    plan = runs[0].plan
    if len(runs) > 1:
        joint = joint_plan([run.plan for run in runs], evidence)
        # The runs are about the same examples in the same order, which the joint plan would sort.
        plan = msgspec.structs.replace(
            joint, examples=plan.examples, data_sha256=plan.data_sha256, protocol=plan.protocol
        )
    by_text = {t.threat: t for t in plan.threats}
    plan = msgspec.structs.replace(plan, threats=tuple(by_text[threat] for threat in order))
    own = summarise(plan, evidence, __version__)
    own.refuse_unreadable()
    summary = own if everything is evidence else summarise(plan, everything, __version__)
    return _Found(plan, runs, evidence, summary, own)


def _labels(plan: Plan, evidence: Evidence, labels: Labels) -> tuple[int, ...]:
    """The labels of the planned examples, in their order; empty if they are unknown."""
    digests = dict.fromkeys(plan.examples, "") | {c.example: c.digest for c in evidence.clean}
    found = labels(plan.data, {example: digests[example] for example in plan.examples})
    return tuple(found[example] for example in plan.examples) if found is not None else ()


def _commands(evidence: Evidence) -> list[str]:
    """The commands that made a run: several of a merged one, which a slim run holds with quotes around the bar."""
    return [c for c in re.split(r" (?:\||'\|') ", evidence.environment.get("command", "")) if c]


def _table_key(plan: Plan) -> Hashable:
    return plan.data_sha256, plan.examples, frozenset(t.threat for t in plan.threats)


def _question(plan: Plan) -> Hashable:
    return plan.protocol, frozenset(plan.threats)


def _id(model: Sequence[_Run], models: Sequence[Sequence[_Run]]) -> str:
    """The name of a model's files: of its name and a hash of its weights, which more runs do not change.

    Logits distinguish functions with the same weights, or none. A submitted one never renames the files of a model of
    the board.
    """
    record = model[0].plan.model
    submitted = _is_submitted(model)
    twins = (
        other
        for other in models
        if other is not model
        and other[0].plan.model.normalisation == record.normalisation
        and (submitted or not _is_submitted(other))
    )
    logits = record.fingerprint if any(twins) else ()
    identity = msgspec.json.encode((record.weights_sha256, record.architecture, record.normalisation, logits))
    return slug(min(run.plan.model.name for run in model), identity.decode())


def _is_submitted(model: Sequence[_Run]) -> bool:
    """Whether no run of the board is about the model."""
    return all(run.source.submitted for run in model)


def _table(rows: Sequence[Answer], data: str, publications: Sequence[Publication]) -> Table:
    """The rows by falling union, bounds last as they may still decrease, with the marks of each column; published rows
    apart.
    """
    ordered = sorted(rows, key=_row_order)
    table = [_columns(answer.summary) for answer in ordered]
    marks = {column: ranks([row[column].scores for row in table]) for column in table[0]}
    first = ordered[0].summary
    threats = tuple(t.threat for t in first.threats)
    models = [
        with_certificates(model_result(answer, row, {column: found[place] for column, found in marks.items()}))
        for place, (answer, row) in enumerate(zip(ordered, table, strict=True))
    ]
    identity = "\n".join((first.data.sha256, first.data.numbers, *sorted(threats)))
    name = f"{first.data.examples} {' '.join(threats)}"
    return Table(
        id=slug(name, identity),
        examples=first.data.examples,
        sha256=first.data.sha256,
        numbers=first.data.numbers,
        threats=threats,
        models=scored(models),
        claimed=claimed_rows(publications, data, threats),
    )


def _row_order(answer: Answer) -> tuple[object, ...]:
    summary = answer.summary
    measured = any(t.measured for t in summary.threats)
    return not measured, summary.union.open > 0, -summary.union.accuracy, summary.model.name, answer.id


def _columns(summary: Summary) -> dict[str, Cell]:
    """The cells of a row, with union and average also where there is one threat, which both equal."""
    found = cells(Row(summary.model.name, (summary,)))
    only = summary.threats[0].threat
    return {**found, "union": found.get("union", found[only]), "average": found.get("average", found[only])}


def _table_order(table: Table) -> tuple[object, ...]:
    """Tables with more models first, then those with more examples."""
    return -len(table.models), -table.examples, table.threats, table.id
