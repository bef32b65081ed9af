"""The page of a reproduced table: ours, ours beside the paper's, and the order of the models in both."""

from collections.abc import Mapping

from tabulate import tabulate

from ..results.summary import Summary
from ..results.tables import Origin, PublishedClaim, render
from ..results.tables.cells import Cell, cells
from ..results.tables.seeds import Row
from .plans import Paper, PaperTable, Size

COLUMNS = ("union", "average")


def page(
    paper: Paper,
    table: PaperTable,
    size: Size,
    summaries: Mapping[str, Summary],
    origins: Mapping[str, Origin],
    command: str,
) -> str:
    """Markdown. `summaries` are by the plan's names of models, `origins` by the names that the summaries have."""
    published = {
        summary.model.name: PublishedClaim(f"{paper.title}, table {table.name}", frozenset(table.threats), numbers)
        for name, summary in summaries.items()
        if (numbers := next(m.published for m in table.models if m.name == name))
    }
    claimed = {
        name: _with_claim(origins.get(name, Origin()), published.get(name))
        for name in (summary.model.name for summary in summaries.values())
    }
    measured = list(summaries.values())
    comparable = bool(published) and {t.threat for t in measured[0].threats} == set(table.threats)
    ours = render(
        measured, "markdown", intervals=True, attacks=True, together=True, origins=claimed, claimed=comparable
    )
    parts = [
        f"# {table.title}",
        f"[{paper.title}]({paper.url}). Command: `{command}`.",
        size.why,
        "" if comparable else "Other data or radii than the paper's: only the order of the models can be compared.",
        ours.strip("\n"),
        *(_order(table, summaries, column) for column in COLUMNS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _with_claim(origin: Origin, claim: PublishedClaim | None) -> Origin:
    claims = (claim,) if claim else ()
    return Origin(origin.threats, origin.hours, origin.method, origin.seed, claims)


def _order(table: PaperTable, summaries: Mapping[str, Summary], column: str) -> str:
    """Models by this column, the paper's beside ours; nothing where the paper prints fewer than two.

    An upper bound may still decrease, so bounds come after all accuracies, and what was not measured comes last.
    """
    theirs = {m.name: m.published[column] for m in table.models if column in m.published and m.name in summaries}
    if len(theirs) < 2:
        return ""
    ours = {name: _cell(summaries[name], column) for name in theirs}
    rows = [
        [place, f"{a} ({100 * theirs[a]:.1f})", f"{b} ({ours[b].text(intervals=False)}{'†' * ours[b].masked})"]
        for place, (a, b) in enumerate(
            zip(
                sorted(theirs, key=lambda name: (-theirs[name], name)),
                sorted(ours, key=lambda name: (not ours[name].measured, ours[name].bound, -ours[name].mean, name)),
                strict=True,
            ),
            1,
        )
    ]
    return f"**Order by {column}**\n\n" + tabulate(rows, headers=["", "published", "measured here"], tablefmt="github")


def _cell(summary: Summary, column: str) -> Cell:
    """Union or average, which both equal the accuracy under the only threat if there is one."""
    found = cells(Row(summary.model.name, (summary,)))
    return found.get(column, found[summary.threats[0].threat])
