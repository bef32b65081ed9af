"""The content of a leaderboard's JSON files. docs/how-to/leaderboard.md has all fields; they are only added."""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from ..evidence.records import Count, Seconds, Total
from ..results.masking.verdict import MaskingVerdict
from ..results.stats.intervals import Interval

SCHEMA = "robench.leaderboard/1"
_INNERMOST = re.compile(rb"[\[{]\n[^\[\]{}]*[\]}]")

Rank = Literal["best", "second", ""]
"""The mark of a column, by paired tests: the best and all not significantly worse, and the best of the rest."""


class Certified(msgspec.Struct, frozen=True):
    """A certified lower bound of the accuracy under one threat, as a card states it."""

    threat: str
    accuracy: float
    source: str  # the method, and where it is published or computed


class CardFacts(msgspec.Struct, frozen=True):
    """What a model's card states about its training."""

    recipe: str = ""
    trained_on: tuple[str, ...] = ()  # threats
    minutes: float | None = None  # of training, including that of models it started from
    command: str = ""
    notes: str = ""
    certified: tuple[Certified, ...] = ()
    parameters: Count | None = None  # numbers that training sets


class Share(msgspec.Struct, frozen=True):
    """An accuracy as a fraction. While examples are open it is an upper bound and has no rank."""

    accuracy: float
    ci95: Interval
    open: Count
    failed: Count  # of the open examples, those on which an attack raised
    measured: bool  # false: every planned attack failed, so the accuracy means nothing
    masked: bool  # the verdict on gradient masking is masked or suspect
    rank: Rank


class AttackCost(msgspec.Struct, frozen=True):
    """One attack of the protocol under one threat, in the runs that answer the question of the table."""

    name: str
    spec: str
    tried: Count
    broken: Count
    standing: Count
    forwards: Total
    backwards: Total
    seconds: Seconds


class QueryCurve(msgspec.Struct, frozen=True):
    """Accuracy by the forward passes that one attack spends on each example; a step function.

    `standing[i]`, a share of all examples, holds from `queries[i]` on.
    """

    attack: str
    queries: tuple[Count, ...]
    standing: tuple[float, ...]


class ThreatResult(msgspec.Struct, frozen=True):
    """One model under one threat."""

    threat: str
    share: Share
    wrong: Count
    broken: Count
    standing: Count
    elsewhere: Count  # of the broken, those that only evidence from outside the protocol breaks
    protocol_accuracy: float  # from the runs that answer the question of the table alone
    masking: MaskingVerdict
    masking_evidence: tuple[str, ...]
    attacks: tuple[AttackCost, ...]
    outcomes: str  # a letter per example: W wrong before any attack, B broken, S standing, O open
    levels: str = ""  # a letter per example: W, S, O, or the smallest twentieth of the radius that breaks it (below)
    queries: tuple[QueryCurve, ...] = ()
    protocol_open: Count = 0  # while any are, `protocol_accuracy` is an upper bound


LEVELS = "0123456789abcdefghijk"
"""Twentieths of a threat's radius: an image found at distance d has the letter of the smallest k with d <= k/20 r.

Levels are there only for threats whose runs searched for the smallest perturbation (`evaluate --curve`).
"""


class ClassResult(msgspec.Struct, frozen=True):
    """The examples of one class."""

    label: Count
    examples: Count
    clean: float
    threats: tuple[float, ...]  # accuracies, in the order of the table
    union: float


class HistoryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run that set or lowered numbers of a row, in the order of dates; runs without a date come first."""

    date: str  # of the run, UTC: 2026-11-26T06:10:00Z; empty if the run file holds none
    source: str  # the protocol of a run of the board, or the name of a submission
    by: str  # who submitted it; empty for a run of the board
    lowered: dict[str, Count]  # examples that this run broke first, by threat, and under `union`
    threats: tuple[float, ...]  # accuracies after it, in the order of the table; upper bounds while examples are open
    union: float
    average: float
    open: tuple[Count, ...] = ()  # examples still open after it, by threat; absent if none are, as the next two
    union_open: Count = 0
    unmeasured: tuple[str, ...] = ()  # threats under which every planned attack had failed until then


class ModelResult(msgspec.Struct, frozen=True):
    """One row of a table."""

    id: str  # of the model, in names of files
    name: str
    weights_sha256: str
    architecture: str
    normalisation: str
    card: CardFacts | None
    protocol: str
    other_protocols: tuple[str, ...]  # of runs under the same threats, whose evidence counts too
    seeds: tuple[int, ...]
    commands: tuple[str, ...]  # that made the runs
    clean: Share
    threats: tuple[ThreatResult, ...]
    union: Share
    average: Share
    protocol_union: float  # from the runs that answer the question of the table alone
    beyond: Count  # examples broken under some threat by evidence of other runs alone
    masking: MaskingVerdict
    backwards: Total  # gradients: rows through the network and back
    forwards: Total
    seconds: Seconds
    patterns: dict[str, Count]  # examples by their outcomes, a letter per threat
    notes: tuple[str, ...]
    parameters: Count | None = None  # numbers that training sets; None if the runs do not hold it
    classes: tuple[ClassResult, ...] = ()  # empty if the labels are not at hand
    history: tuple[HistoryEntry, ...] = ()
    competitiveness: float | None = None  # CR_ind-avg of MultiRobustBench over the threats and models of the table
    competitiveness_worst: float | None = None  # CR_ind-worst
    protocol_union_open: Count = 0  # while any are, `protocol_union` is an upper bound
    stability: float | None = None  # SC of MultiRobustBench


class ClaimedRow(msgspec.Struct, frozen=True):
    """Numbers that a publication reports, which nothing here has verified."""

    name: str  # of the model, as the board or the publication names it
    source: str  # the paper and its table
    accuracy: dict[str, float]  # fractions; the keys are clean, a threat of the table, union, average


class Table(msgspec.Struct, frozen=True):
    """The models with results on the same examples under the same threats."""

    id: str
    examples: Count
    sha256: str
    numbers: str  # of the examples in the data set, as slices
    threats: tuple[str, ...]
    models: tuple[ModelResult, ...]
    claimed: tuple[ClaimedRow, ...] = ()


class Board(msgspec.Struct, frozen=True):
    """All tables of one data set."""

    schema: str
    id: str
    data: str
    tables: tuple[Table, ...]

    def to_json(self) -> bytes:
        """The JSON file: indented by one space, the innermost lists and objects on one line, a newline at the end."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        return _INNERMOST.sub(_on_one_line, text) + b"\n"


def _on_one_line(found: re.Match[bytes]) -> bytes:
    """The text without its line breaks, which lie between values: no string of JSON holds one."""
    opening, *values, closing = (line.strip() for line in found[0].splitlines())
    return opening + b" ".join(values) + closing


def json_files(boards: Sequence[Board]) -> dict[str, bytes]:
    """A JSON file for each data set, by name."""
    return {f"{board.id}.json": board.to_json() for board in boards}
