"""What the doctor has found, as Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..problem.threats import BALLS
from .attacks import OURS, USERS, AttackUnderTest
from .cases import Case
from .checks import CheckResult
from .installed import Library

PASSED, FAILED = "✓", "✗"


@dataclass(frozen=True)
class Examined:
    """A patient, and how it did in every case."""

    tested: AttackUnderTest
    findings: tuple[CheckResult, ...]

    @property
    def failed(self) -> list[CheckResult]:
        """The cases it did not do well in."""
        return [finding for finding in self.findings if not finding.passed]


def markdown(
    examined: Sequence[Examined],
    cases: Sequence[Case],
    libraries: Iterable[Library],
    data_sets: Mapping[str, bool],
    robench: Library,
) -> str:
    """Everything: what is installed, what was asked, and what each attack made of it."""
    parts = [
        "# Conformance of attacks",
        f"Made by `robench doctor` of robench {robench.version}. Every attack is put before linear models, on which the"
        " distance of each image to the nearest other class is known exactly, box included. It must break the images"
        " whose distance, times its reach, is within the radius; nothing may fall that lies beyond the radius. What"
        " counts as broken is what the referee accepts, whatever a library says of its images. An attack without a"
        " reach, because no distance is known or more budget would be needed, must raise nothing, and break the same"
        " images wherever it is shown the same. The numbers in a row are the budget, where it is not the attack's own.",
        _installed(libraries, data_sets),
        "## Cases\n\n" + "\n".join(f"- **{case.name}**: {case.question}" for case in cases),
    ]
    for library, group in groupby(examined, key=lambda one: one.tested.library):
        parts.append(_section(library, list(group)))
    return "\n\n".join(parts) + "\n"


def _installed(libraries: Iterable[Library], data_sets: Mapping[str, bool]) -> str:
    rows = [(one.name, f"{one.package} {one.version}" if one else "not installed") for one in libraries]
    rows += [(name, "here" if here else "not here; downloaded when it is named") for name, here in data_sets.items()]
    return "## Installed\n\n" + _table(("library or data set", ""), rows)


def _section(library: str, examined: Sequence[Examined]) -> str:
    title = {OURS: "robench's own attacks", USERS: "Your own attacks"}.get(library, library)
    rows = [
        (
            f"`{one.tested.name}`",
            one.tested.threat,
            reach_of(one.tested),
            *(PASSED if f.passed else FAILED for f in one.findings),
        )
        for one in examined
    ]
    text = f"## {title}\n\n" + _table(("attack", "threat", "reach", *(f.case for f in examined[0].findings)), rows)
    if complaints := [line for one in examined for line in _complaints(one)]:
        text += "\n\n" + "\n".join(complaints)
    return text


def reach_of(tested: AttackUnderTest) -> str:
    """How far it promises to come, as the table says it."""
    known = tested.threat in BALLS and math.isfinite(tested.reach)
    return f"{tested.reach:g}" if known else "–"


def _complaints(one: Examined) -> Iterable[str]:
    """One line for each way of failing, with the cases it occurs in."""
    cases: dict[str, list[str]] = {}
    for finding in one.failed:
        cases.setdefault(finding.complaint, []).append(finding.case)
    for complaint, names in cases.items():
        where = "every case" if len(names) == len(one.findings) else ", ".join(names)
        yield f"- `{one.tested.name}`, {one.tested.threat}, {where}: {complaint}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
