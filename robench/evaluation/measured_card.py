"""What an evaluation measured, on the card of the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..problem.checkpoints.cards import read_card, write_card
from ..results.summary import Summary, ThreatEntry
from ..results.tables.cells import MASKED


def write_measured(card: Path, summary: Summary, run: str = "") -> None:
    """Writes the measured accuracies onto the card in this file; `run` names the file with the evidence.

    With open or failed examples there is no accuracy, only a bound, which the card leaves out.
    """
    known = all(not entry.open for entry in summary.threats)
    shares = {
        "run": run,
        "protocol": summary.protocol,
        "masking_check": any(_checked(entry) for entry in summary.threats) or None,  # its finds count
        "examples": summary.data.examples,
        "clean": None if summary.clean.open else summary.clean.accuracy,
        **{t.threat: t.accuracy for t in summary.threats if not t.open},
        "union": summary.union.accuracy if summary.threats and not summary.union.open else None,
        "average": summary.average.accuracy if known else None,
    }
    measured: dict[str, Any] = {key: value for key, value in shares.items() if value not in ("", None)}
    if masked := [name for name in _masked(summary) if name in measured]:
        measured["masked"] = masked  # too high perhaps: a stronger attack may find more
    write_card(card, msgspec.structs.replace(read_card(card), measured=measured))


def _checked(entry: ThreatEntry) -> bool:
    """Whether the check for gradient masking measured anything under this threat."""
    return entry.masking.verdict != "untested" or isinstance(entry.masking.indicators, tuple)


def _masked(summary: Summary) -> Iterator[str]:
    """The names of the accuracies that masked gradients may make too high."""
    yield from (entry.threat for entry in summary.threats if entry.masking.verdict in MASKED)
    if summary.masking.verdict in MASKED:
        yield from ("union", "average")
