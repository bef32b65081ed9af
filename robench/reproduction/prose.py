"""Texts about a table, in which numbers are named and not typed: `{small max union}`.

The names, with the words in capitals replaced:

- `{paper MODEL COLUMN}`: a published number, in percent;
- `{KIND MODEL COLUMN}`: what was measured of a model of this kind, in percent; with `[]` behind it with its interval;
- `{KIND MODEL COLUMN count}`: how many examples stand;
- `{KIND MODEL COLUMN after ATTACK}`: how many stand after this attack; `of` in place of `after`: how many it ran on;
- `{KIND MODEL all COLUMN COLUMN}`: how many stand under each of two threats;
- `{KIND MODEL > MODEL COLUMN}`: how many stand in the first model alone and in the second alone, and the p-value of
  McNemar's exact test; for `average` the p-value alone, of the permutation test that marks the best of a table.
"""

import re
from collections.abc import Mapping, Sequence

from ..errors import UserError
from ..results.outcomes import Outcome
from ..results.stats.comparison import difference, mcnemar
from ..results.summary import Summary
from ..results.tables.cells import cells, percent
from ..results.tables.seeds import Row
from .comparison import restricted
from .plans import PaperTable

NAMED = re.compile(r"\{([^{}]+)\}")

Kinds = Mapping[str, Mapping[str, Summary]]
"""Summaries by the name of their kind and by the plan's name of the model."""


def filled(text: str, table: PaperTable, kinds: Kinds) -> str:
    """The text with its numbers. Raises UserError for a name that the table or its runs lack."""

    def number(match: re.Match[str]) -> str:
        words = match[1].split()
        try:
            if words[0] == "paper":
                return _published(table, words[1:])
            return _measured(_united(kinds[words[0]], table, words[1:]), words[1:])
        except (LookupError, ValueError, StopIteration):
            raise UserError(f"table {table.name}: no run gives {match[0]}; correct the text, or add the run") from None

    return NAMED.sub(number, text)


def _published(table: PaperTable, words: Sequence[str]) -> str:
    name, column = words
    return percent(next(m.published[column] for m in table.models if m.name == name))


def _united(summaries: Mapping[str, Summary], table: PaperTable, words: Sequence[str]) -> Mapping[str, Summary]:
    """The summaries; for union and average, those under the threats of which the paper prints them."""
    if not table.united or not {"union", "average"} & set(words):
        return summaries
    return {name: restricted(summary, table.united) for name, summary in summaries.items()}


def _measured(summaries: Mapping[str, Summary], words: Sequence[str]) -> str:
    if words[1] == ">":
        return _apart(summaries[words[0]], summaries[words[2]], words[3])
    summary, column, rest = summaries[words[0]], words[1], list(words[2:])
    if column == "all":
        rows = [_outcomes(summary, name) for name in rest]
        return str(sum(set(letters) == {Outcome.STANDING.value} for letters in zip(*rows, strict=True)))
    if rest == ["count"]:
        return str(_outcomes(summary, column).count(Outcome.STANDING.value))
    if rest[:1] in (["after"], ["of"]):
        attack = next(a for t in summary.threats if t.threat == column for a in t.attacks if a.name == rest[1])
        return str(attack.standing if rest[0] == "after" else attack.tried)
    if rest not in ([], ["[]"]):
        raise ValueError
    return cells(Row(words[0], (summary,)))[column].text(intervals=bool(rest))


def _outcomes(summary: Summary, column: str) -> str:
    return (
        summary.union.outcomes if column == "union" else next(t.outcomes for t in summary.threats if t.threat == column)
    )


def _apart(one: Summary, other: Summary, column: str) -> str:
    """Both counts and the p-value. Raises ValueError for other examples."""
    if one.data.sha256 != other.data.sha256:
        raise ValueError
    if column == "average":
        scores = [cells(Row(s.model.name, (s,)))[column].scores for s in (one, other)]
        if scores[0] is None or scores[1] is None:
            raise ValueError
        return _p_value(difference(scores[0], scores[1]))
    stands = [[letter == Outcome.STANDING.value for letter in _outcomes(s, column)] for s in (one, other)]
    only = [sum(a and not b for a, b in zip(*pair, strict=True)) for pair in (stands, stands[::-1])]
    return f"{only[0]} and {only[1]}, {_p_value(mcnemar(*only))}"


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
