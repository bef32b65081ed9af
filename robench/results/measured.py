"""Whether a summary holds a measurement at all: it does not if every planned attack failed."""

from ..errors import UserError
from .summary import Summary, ThreatEntry


class NotMeasuredError(UserError):
    """Every planned attack failed, so only the clean accuracy is known. `summary` holds the incomplete results."""

    def __init__(self, message: str, summary: Summary):
        super().__init__(message)
        self.summary = summary


def unmeasured(summary: Summary) -> list[ThreatEntry]:
    """The threats under which every planned attack failed. Their open examples give no bound on robust accuracy."""
    return [t for t in summary.threats if not t.measured]


def failure(entry: ThreatEntry) -> str:
    """A sentence on a threat without measurements, and what to do."""
    first = entry.failures[0]
    return (
        f"nothing was measured under {entry.threat}: every planned attack failed ({first.attack}: {first.error});"
        " repair the model's forward and backward pass, or name other attacks with --attack"
    )


def refuse_unmeasured(summary: Summary) -> None:
    """Raises NotMeasuredError if nothing was measured under any threat."""
    failed = unmeasured(summary)
    if failed and len(failed) == len(summary.threats):
        raise NotMeasuredError(failure(failed[0]), summary)
