"""The content of a leaderboard's JSON files. docs/leaderboard.md describes every field; fields are only ever added."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from ..evidence.records import Count, Seconds, Total
from ..results.masking.verdict import MaskingVerdict
from ..results.stats.intervals import Interval

SCHEMA = "robench.leaderboard/1"

Rank = Literal["best", "second", ""]
"""The mark of a column, by paired tests: the best and all not significantly worse, and the best of the rest."""


class CardFacts(msgspec.Struct, frozen=True):
    """What a model's card states about its training."""

    recipe: str = ""
    trained_on: tuple[str, ...] = ()  # threats
    minutes: float | None = None  # of training, including that of models it started from
    command: str = ""
    notes: str = ""


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


class ThreatResult(msgspec.Struct, frozen=True):
    """One model under one threat."""

    threat: str
    share: Share
    wrong: Count
    broken: Count
    standing: Count
    elsewhere: Count  # broken by evidence from outside the protocol
    protocol_accuracy: float  # from the runs that answer the question of the table alone
    masking: MaskingVerdict
    masking_evidence: tuple[str, ...]
    attacks: tuple[AttackCost, ...]
    outcomes: str  # a letter per example: W wrong before any attack, B broken, S standing, O open


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


class Table(msgspec.Struct, frozen=True):
    """The models with results on the same examples under the same threats."""

    id: str
    examples: Count
    sha256: str
    numbers: str  # of the examples in the data set, as slices
    threats: tuple[str, ...]
    models: tuple[ModelResult, ...]


class Board(msgspec.Struct, frozen=True):
    """All tables of one data set."""

    schema: str
    id: str
    data: str
    tables: tuple[Table, ...]

    def to_json(self) -> bytes:
        """The JSON file: indented by two spaces, a newline at the end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def json_files(boards: Sequence[Board]) -> dict[str, bytes]:
    """A JSON file for each data set, by name."""
    return {f"{board.id}.json": board.to_json() for board in boards}
