"""What was measured about gradient masking, a row per indicator: its value, what it means, what to do about it."""

from collections.abc import Iterator

import msgspec
import pandas as pd

from .summary import Summary, ThreatEntry
from .table import Table

NO_CLEARANCE = "Evidence, never a clearance: docs/masking.md says what each indicator rests on and what it misses."

UNSEEN = "nobody has looked; robench evaluate --masking on does, under linf, l2 and l1"


def panel(summary: Summary) -> Table:
    """The indicators of every threat, suspicious ones marked; under it the verdicts, why, and the next command."""
    rows = list(dict.fromkeys(row for threat in summary.threats for row in _rows(threat)))  # the model's own once
    frame = pd.DataFrame(rows, columns=["threat", "indicator", "value", "meaning", "what to do"])
    footer = [sentence for threat in summary.threats for sentence in _verdict(threat)]
    return Table(frame, f"Gradient masking of {summary.model.name}", (*footer, NO_CLEARANCE))


def _rows(threat: ThreatEntry) -> Iterator[tuple[str, ...]]:
    shown = threat.masking.indicators
    for i in () if isinstance(shown, msgspec.UnsetType) else shown:
        name = f"{i.name} (!)" if i.suspicious else i.name
        yield "any" if i.whole else threat.threat, name, i.value, i.meaning, i.next


def _verdict(threat: ThreatEntry) -> Iterator[str]:
    told = threat.masking
    why = f": {told.evidence[0] if told.evidence else UNSEEN}"
    yield f"{threat.threat} {told.verdict}{why}."
    if told.next:
        yield f"Next: {told.next}"
