"""What was measured about gradient masking, a row per indicator: its value, what it means, what to do about it."""

from collections.abc import Iterator

import msgspec
import pandas as pd

from ..summary import Summary, ThreatEntry
from .table import Table

NO_CLEARANCE = "Evidence, never a clearance: docs/masking.md says what each indicator rests on and what it misses."

NOT_CHECKED = "not checked; robench evaluate --masking on checks linf, l2 and l1"


def panel(summary: Summary, of: str) -> Table:
    """The indicators of every threat, suspicious ones marked; under it the verdicts, why, and the next command.

    `of` says in the title whose they are.
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
    """With all that it rests on, but for the probes: these are marked in the table."""
    told, shown = threat.masking, threat.masking.indicators
    probes = () if isinstance(shown, msgspec.UnsetType) else tuple(f"{i.name}: " for i in shown)
    why = "; ".join(sentence for sentence in told.evidence if not sentence.startswith(probes))
    return f"{threat.threat} {told.verdict}: {why or NOT_CHECKED}."
