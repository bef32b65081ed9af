"""Whether a summary holds a number at all: where every planned attack failed there is none."""

from ..errors import UserError
from .summary import Summary, ThreatEntry


class NotMeasuredError(UserError):
    """Every planned attack failed, so nothing is known beyond the clean accuracy. `summary` holds what there is."""

    def __init__(self, message: str, summary: Summary):
        super().__init__(message)
        self.summary = summary


def unmeasured(summary: Summary) -> list[ThreatEntry]:
    """The threats under which every planned attack failed: what stands open there is clean accuracy, and no bound."""
    return [t for t in summary.threats if is_unmeasured(t)]


def is_unmeasured(entry: ThreatEntry) -> bool:
    """Whether each planned attack failed, none broke an example, and none was made to its end on any."""
    failed = {f.attack for f in entry.failures}
    vain = all(a.name in failed and not a.broken and not a.standing for a in entry.attacks)
    return bool(failed) and vain and not entry.broken


def failure(entry: ThreatEntry) -> str:
    """What happened under such a threat, and what to do."""
    first = entry.failures[0]
    return (
        f"nothing was measured under {entry.threat}: every planned attack failed ({first.attack}: {first.error}); mend"
        " the model's forward and backward pass, or name other attacks with --attack"
    )


def refuse_unmeasured(summary: Summary) -> None:
    """Raises NotMeasuredError where there is no number under any threat."""
    failed = unmeasured(summary)
    if failed and len(failed) == len(summary.threats):
        raise NotMeasuredError(failure(failed[0]), summary)
