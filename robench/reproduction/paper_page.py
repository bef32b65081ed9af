"""The page of a paper: every published table and figure beside what was measured here, with reasons."""

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence

from ..results.summary import Summary
from ..results.tables import questions
from ..results.tables.breakdown import across
from .comparison import Kind, comparison, orders, times
from .page import COLUMNS
from .plans import Paper, PaperFigure, PaperTable
from .prose import filled

LEGEND = (
    "Published numbers and those measured here, in percent of all examples. Ours are upper bounds on robust accuracy,"
    " with 95 % intervals (Wilson) for the protocol and one seed of training; for true robustness only the upper end"
    " holds. ≠: the published number, which has a sampling error of its own, lies outside the interval of ours. –: not"
    " printed, or lost in the copy of the paper at hand. †: gradients are masked, or may be, so a stronger attack may"
    " find more. Rows that say *untested* were not checked for masking."
)


def paper_page(
    name: str, paper: Paper, found: Mapping[str, Sequence[Kind]], command: str, lacking: Collection[str] = ()
) -> str:
    """Markdown. `name` is that of the paper for commands; `found` holds the kinds of models by table.

    `lacking` are files of summaries that are not there: their figures are named, and not shown.
    """
    blocks = [
        f"# {paper.title}",
        _wrapped(f"[The paper]({paper.url}) beside robench. Command: `{command}`."),
        *map(_wrapped, paper.about),
        _wrapped(LEGEND),
    ]
    for table in paper.table:
        blocks += _table(name, table, found.get(table.name, ()))
    for figure in paper.figure:
        if figure.course in lacking:
            blocks += [f"## {figure.title}", f"Not drawn: the folder of runs has no {figure.course}."]
        else:
            blocks += _figure(figure, paper, found)
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def _table(name: str, table: PaperTable, kinds: Sequence[Kind]) -> Iterator[str]:
    yield f"## {table.title}"
    yield comparison(table, kinds).markdown()
    yield from _missing(kinds)
    yield _wrapped(table.missing)
    for paragraph in table.why:
        yield _wrapped(filled(paragraph, table, {kind.measured.name: kind.summaries for kind in kinds}))
    for column in COLUMNS:
        if (order := orders(table, kinds, column)) is not None:
            yield order.markdown()
    if (time := times(table, kinds)) is not None and any(kind.summaries for kind in kinds):
        yield time.markdown()
    for kind in kinds:
        yield from _attacks(kind)
    if full := table.sizes.get("full"):
        command = f"robench reproduce {name} --table {table.name} --size full --device cuda"
        yield _wrapped(f"With the paper's network, length and attacks, on a GPU: `{command}` ({full.hours}).")


def _missing(kinds: Sequence[Kind]) -> Iterator[str]:
    for kind in kinds:
        lines = [f"- {model}: `{command}`" for model, command in kind.missing.items()]
        if kind.afterwards and any("robench train" in line for line in lines):
            lines.append(f"- then, for each: `{kind.afterwards}`")
        if lines:
            yield f"{kind.measured.title}, what is missing:\n\n" + "\n".join(lines)


def _attacks(kind: Kind) -> Iterator[str]:
    for group in questions(list(kind.summaries.values())):
        table = across(group)
        yield f"**{kind.measured.title}: what each attack leaves standing**"
        yield table.markdown().partition("\n\n")[2]
    if kind.measured.page:
        yield f"More about these models is in [{kind.measured.page}]({kind.measured.page})."


def _figure(figure: PaperFigure, paper: Paper, found: Mapping[str, Sequence[Kind]]) -> Iterator[str]:
    yield f"## {figure.title}"
    if figure.command:
        yield f"```sh\n{figure.command}\n```"
    for file, shown in figure.pictures.items():
        yield f"![{shown}]({file})"
    everything: dict[str, dict[str, Summary]] = {}
    for table in paper.table:
        for kind in found.get(table.name, ()):
            everything.setdefault(f"{table.name}/{kind.measured.name}", {}).update(kind.summaries)
    for paragraph in figure.why:
        yield _wrapped(filled(paragraph, paper.table[0], everything))


def _wrapped(text: str) -> str:
    """The text in lines of at most 120 characters, if it is one paragraph; a list or a block as it is."""
    if "\n" in text.strip():
        return text
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
