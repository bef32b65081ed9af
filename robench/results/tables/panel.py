"""The panel on gradient masking: a row per indicator, with its value, its meaning, and the next step."""

from collections.abc import Iterator

import msgspec
import pandas as pd

from ..summary import Summary, ThreatEntry
from .table import Table

NO_CLEARANCE = (
    "No verdict rules masking out: docs/concepts/masking.md says what each indicator rests on and what it misses."
)

NOT_CHECKED = "not checked; robench evaluate --masking on checks linf, l2 and l1"


def panel(summary: Summary, of: str) -> Table:
    """The indicators of every threat, suspicious ones marked; in the footer the verdicts, reasons and next commands.

    `of` names the model in the title.
    """
    rows = list(dict.fromkeys(row for threat in summary.threats for row in _rows(threat)))  # the model's own once
    frame = pd.DataFrame(rows, columns=["threat", "indicator", "value", "meaning", "what to do"])
    footer = [_verdict(threat) for threat in summary.threats]
    advice: dict[str, list[str]] = {}
    for threat in summary.threats:
        if threat.masking.next:
            advice.setdefault(threat.masking.next, []).append(threat.threat)
    footer += [f"Next, for {', '.join(names)}: {what}" for what, names in advice.items()]
    return Table(frame, f"Gradient masking of {of}", (*footer, NO_CLEARANCE))


def _rows(threat: ThreatEntry) -> Iterator[tuple[str, ...]]:
    shown = threat.masking.indicators
    for i in () if isinstance(shown, msgspec.UnsetType) else shown:
        name = f"{i.name} (!)" if i.suspicious else i.name
        yield "any" if i.whole else threat.threat, name, i.value, i.meaning, i.next


def _verdict(threat: ThreatEntry) -> str:
    """The verdict with its reasons, except suspicious indicators: these are marked in the table."""
    finding, shown = threat.masking, threat.masking.indicators
    names = () if isinstance(shown, msgspec.UnsetType) else tuple(f"{i.name}: " for i in shown)
    why = "; ".join(sentence for sentence in finding.evidence if not sentence.startswith(names))
    return f"{threat.threat} {finding.verdict}: {why or NOT_CHECKED}."
