"""The doctor's report as Markdown."""

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
class CheckedAttack:
    """An attack under test and its result on every case."""

    tested: AttackUnderTest
    results: tuple[CheckResult, ...]

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that the attack did not pass."""
        return [result for result in self.results if not result.passed]


def markdown(
    checked: Sequence[CheckedAttack],
    cases: Sequence[Case],
    libraries: Iterable[Library],
    data_sets: Mapping[str, bool],
    robench: Library,
) -> str:
    """The whole report: what is installed, the cases, and the result of each attack on each case."""
    parts = [
        "# Conformance of attacks",
        f"Made by `robench doctor` of robench {robench.version}. Every attack runs on linear models, for which the"
        " distance of each image to the nearest other class is known exactly, box included. It must break the images"
        " whose distance, times its reach, is within the radius; it must break none beyond the radius. An image counts"
        " as broken if the referee accepts it, whatever the library reports. An attack without a reach, because no"
        " distance is known or a larger budget would be needed, must not raise an error, and must break the same images"
        " in all cases with the same images and decisions. The settings in a row are the budget, where it differs from"
        " the attack's defaults.",
        _installed(libraries, data_sets),
        "## Cases\n\n" + "\n".join(f"- **{case.name}**: {case.about}" for case in cases),
    ]
    for library, group in groupby(checked, key=lambda one: one.tested.library):
        parts.append(_section(library, list(group)))
    return "\n\n".join(parts) + "\n"


def _installed(libraries: Iterable[Library], data_sets: Mapping[str, bool]) -> str:
    rows = [(one.name, f"{one.package} {one.version}" if one else "not installed") for one in libraries]
    rows += [(name, "here" if here else "not here; downloaded on first use") for name, here in data_sets.items()]
    return "## Installed\n\n" + _table(("library or data set", ""), rows)


def _section(library: str, checked: Sequence[CheckedAttack]) -> str:
    title = {OURS: "robench's own attacks", USERS: "Your own attacks"}.get(library, library)
    rows = [
        (
            f"`{one.tested.name}`",
            one.tested.threat,
            reach_of(one.tested),
            *(PASSED if result.passed else FAILED for result in one.results),
        )
        for one in checked
    ]
    text = f"## {title}\n\n" + _table(
        ("attack", "threat", "reach", *(result.case for result in checked[0].results)), rows
    )
    if failures := [line for one in checked for line in _failures(one)]:
        text += "\n\n" + "\n".join(failures)
    return text


def reach_of(tested: AttackUnderTest) -> str:
    """The reach of an attack as the table shows it; a dash without one."""
    known = tested.threat in BALLS and math.isfinite(tested.reach)
    return f"{tested.reach:g}" if known else "–"


def _failures(one: CheckedAttack) -> Iterable[str]:
    """One line for each kind of failure, with the cases in which it occurs."""
    cases: dict[str, list[str]] = {}
    for result in one.failed:
        cases.setdefault(result.failure, []).append(result.case)
    for failure, names in cases.items():
        where = "every case" if len(names) == len(one.results) else ", ".join(names)
        yield f"- `{one.tested.name}`, {one.tested.threat}, {where}: {failure}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
