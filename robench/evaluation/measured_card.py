"""What an evaluation measured, on the card of the model."""

from pathlib import Path

import msgspec

from ..problem.checkpoints.cards import read_card, write_card
from ..results.summary import Summary, ThreatEntry


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
    measured = {key: value for key, value in shares.items() if value not in ("", None)}
    write_card(card, msgspec.structs.replace(read_card(card), measured=measured))


def _checked(entry: ThreatEntry) -> bool:
    """Whether the check for gradient masking measured anything under this threat."""
    return entry.masking.verdict != "untested" or isinstance(entry.masking.indicators, tuple)
