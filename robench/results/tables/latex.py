"""Tables for papers: `booktabs`, and `xcolor` for accuracies that masking may make too high."""

import re
from collections.abc import Sequence

from .table import TEXT, Mark, Table

NEEDS = "% In the preamble: \\usepackage{booktabs} \\usepackage{graphicx} \\usepackage{xcolor}\n"

# Characters that TeX reads as commands, or that its usual fonts lack.
_SIGNS = {
    "\\": r"$\backslash$",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"$\sim$",
    "^": r"\^{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "≤": r"$\leq$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"$\dagger$",
    "ε": r"$\epsilon$",
}
_NORM = re.compile(r"l(inf|\d):(.*)")


def latex(tables: Sequence[Table]) -> str:
    """A `table` environment for each, ready to be pasted or `\\input`.

    Best is bold, second best underlined, masking red.
    """
    return NEEDS + "\n".join(_environment(table) for table in tables)


def escaped(text: str) -> str:
    """The text, escaped so that TeX prints it unchanged."""
    return "".join(_SIGNS.get(sign, sign) for sign in text).replace("--", "-{}-")  # not a dash


def _environment(table: Table) -> str:
    sides = [table] if table.side is None else [table, table.side]
    caption = "; ".join(side.caption for side in sides if side.caption)
    notes = dict.fromkeys(sentence for side in sides for sentence in side.footer)
    parts = [r"\begin{table}", r"\centering"]
    parts += [rf"\caption{{{escaped(caption)}}}"] if caption else []
    tables = [_tabular(side) for side in sides if len(side.frame)]
    parts.append("\n".join(tables) if len(tables) < 2 else _beside(tables))
    parts += [r"\par\medskip", r"\footnotesize\raggedright", *(f"{escaped(note)}\\par" for note in notes)]
    return "\n".join([*(part for part in parts if part), r"\end{table}"]) + "\n"


def _beside(tables: Sequence[str]) -> str:
    """Tables side by side, scaled to the width of the text."""
    return "\\resizebox{\\textwidth}{!}{%\n" + "%\n\\quad\n".join(tables) + "%\n}"


def _tabular(table: Table) -> str:
    layout = "".join("l" if column in TEXT else "r" for column in table.columns)
    rows = [" & ".join(row) + r" \\" for row in table.cells(_marked)]
    apart = len(rows) - table.last
    body = [*rows[:apart], r"\midrule", *rows[apart:]] if table.last else rows
    heads = " & ".join(_head(column) for column in table.columns) + r" \\"
    lines = [
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        heads,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _marked(text: str, marks: frozenset[Mark]) -> str:
    text = _head(text)
    if "best" in marks:
        text = rf"\textbf{{{text}}}"
    elif "second" in marks:
        text = rf"\underline{{{text}}}"
    return rf"\textcolor{{red}}{{{text}}}" if "masked" in marks else text


def _head(text: str) -> str:
    r"""A norm by its sign: `linf:0.3` as $\ell_\infty$ 0.3."""
    norm = _NORM.fullmatch(text)
    if norm is None:
        return escaped(text)
    return rf"$\ell_{{{chr(92) + 'infty' if norm[1] == 'inf' else norm[1]}}}$ {escaped(norm[2])}"
