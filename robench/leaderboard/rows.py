"""One row of a table, from the summaries of one model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ..results.outcomes import Outcome
from ..results.summary import Summary
from ..results.tables import remarks
from ..results.tables.cells import Cell
from .classes import class_results
from .entries import AttackCost, CardFacts, HistoryEntry, ModelResult, QueryCurve, Rank, Share, ThreatResult
from .patterns import count_patterns


@dataclass(frozen=True)
class Answer:
    """One model's answer to the question of a table."""

    id: str
    summary: Summary  # from all evidence of the model on this data set
    own: Summary  # from the runs that answer this question alone
    card: CardFacts | None
    other_protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    commands: tuple[str, ...]
    levels: tuple[str, ...]  # by threat, in the order of the summary
    queries: tuple[tuple[QueryCurve, ...], ...]  # by threat
    labels: tuple[int, ...]  # by example; empty if unknown
    history: tuple[HistoryEntry, ...] = ()


def model_result(answer: Answer, row: Mapping[str, Cell], marks: Mapping[str, str]) -> ModelResult:
    """The row, with the cells of its columns and their marks."""
    summary, own = answer.summary, answer.own

    def share(column: str) -> Share:
        cell = row[column]
        # A bound has open examples; those of the average are open under a threat, whose own cells count them.
        left = (cell.open + cell.failed, cell.failed)
        if column == "average":
            left = sum(t.open for t in summary.threats), sum(t.failed for t in summary.threats)
        return Share(cell.mean, cell.ci95, *left, cell.measured, cell.masked, cast(Rank, marks[column]))

    return ModelResult(
        id=answer.id,
        name=summary.model.name,
        weights_sha256=summary.model.weights_sha256,
        architecture=summary.model.architecture,
        normalisation=summary.model.normalisation,
        card=answer.card,
        protocol=summary.protocol,
        other_protocols=answer.other_protocols,
        seeds=answer.seeds,
        commands=answer.commands,
        clean=share("clean"),
        threats=tuple(_threat(answer, place, share(t.threat)) for place, t in enumerate(summary.threats)),
        union=share("union"),
        average=share("average"),
        protocol_union=own.union.accuracy,
        protocol_union_open=own.union.open,
        beyond=_beyond(summary.union.outcomes, own.union.outcomes),
        masking=summary.masking.verdict,
        backwards=own.cost.backwards,
        forwards=own.cost.forwards,
        seconds=own.cost.seconds,
        patterns=count_patterns([t.outcomes for t in summary.threats]),
        notes=tuple(dict.fromkeys(remarks(summary))),
        history=answer.history,
        parameters=_parameters(answer),
        classes=class_results(answer.labels, [t.outcomes for t in summary.threats]),
    )


def _parameters(answer: Answer) -> int | None:
    """The recorded number, else that on the card; None if runs disagree or neither has one."""
    text = answer.own.environment.get("parameters", "")
    if text:
        return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None
    return answer.card.parameters if answer.card else None


def _beyond(known: str, alone: str) -> int:
    """The number of examples that are broken by all evidence, and not by that of the question's own runs."""
    lost = {Outcome.BROKEN.value, Outcome.WRONG.value}
    return sum(a in lost and b not in lost for a, b in zip(known, alone, strict=True))


def _threat(answer: Answer, place: int, share: Share) -> ThreatResult:
    entry, alone = answer.summary.threats[place], answer.own.threats[place]
    return ThreatResult(
        threat=entry.threat,
        share=share,
        wrong=entry.wrong,
        broken=entry.broken,
        standing=entry.standing,
        elsewhere=_beyond(entry.outcomes, alone.outcomes),
        protocol_accuracy=alone.accuracy,
        protocol_open=alone.open,
        masking=entry.masking.verdict,
        masking_evidence=entry.masking.evidence,
        attacks=tuple(
            AttackCost(a.name, a.spec, a.tried, a.broken, a.standing, a.forwards, a.backwards, a.seconds)
            for a in alone.attacks
        ),
        outcomes=entry.outcomes,
        levels=answer.levels[place],
        queries=answer.queries[place],
    )
