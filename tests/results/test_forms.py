"""The same tables as pages: what is marked, and that the marks and names break nothing."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import msgspec
import pandas as pd
import pytest

from robench.errors import UserError
from robench.results.attack_rows import FailureEntry
from robench.results.summary import ThreatMaskingEntry
from robench.results.tables import main_table, render
from robench.results.tables.latex import escaped, latex
from robench.results.tables.seeds import Origin
from robench.results.tables.table import Table

from .made import EVIDENCE, PLAN
from .tables.test_tables import models, summarise

# Under l2, "b" loses five examples of those that "a" keeps, p = 1/16, and "c" six, p = 1/32. Union and average follow.
LETTERS = {
    "a": ("S" * 50 + "B" * 50, "S" * 50 + "B" * 50),
    "b": ("S" * 80 + "B" * 20, "S" * 45 + "B" * 55),
    "c": ("S" * 10 + "B" * 90, "S" * 44 + "B" * 56),
}
THREATS = ("linf:0.3", "l2:2")
ORIGINS = {"a": Origin(("l2:2",), 1.5), "b": Origin(("linf:0.3",), 0.25), "c": Origin(THREATS)}
NASTY = r"a|b_c & 50% $x$ #1 {y} ~z^2 \w <b>"


def three(**changes):
    return models(LETTERS, THREATS, **changes)


def masked(summary, verdict="masked"):
    first, *rest = summary.threats
    entry = msgspec.structs.replace(first, masking=ThreatMaskingEntry(verdict))
    return msgspec.structs.replace(summary, threats=(entry, *rest))


def column(table, name):
    """By model, the marks in one column."""
    place = table.columns.index(name)
    return [set(table.marks.get((i, place), ())) for i in range(len(table.frame) - table.last)]


# what is marked


def test_best_and_all_not_significantly_worse_are_bold_and_the_best_of_the_rest_is_underlined():
    table = main_table(three())
    assert column(table, "l2:2") == [{"best"}, {"best"}, {"second"}]
    assert column(table, "linf:0.3") == [{"second"}, {"best"}, set()]
    assert column(table, "union") == [{"best"}, {"best"}, {"second"}]
    assert column(table, "clean") == [set(), set(), set()]  # all are equal
    line = render(three()).splitlines()[2]
    assert [cell.strip() for cell in line.split("|")][1:5] == ["a", "100.0", "<ins>50.0</ins>", "**50.0**"]


def test_a_bound_is_never_bold_and_what_is_finished_is_ranked_without_it():
    a, _, c = three()
    open_b = models({"b": ("S" * 78 + "O" * 2 + "B" * 20, LETTERS["b"][1])}, THREATS)[0]
    table = main_table([a, open_b, c])
    assert column(table, "linf:0.3") == [{"best"}, set(), {"second"}]
    assert column(table, "average") == [{"best"}, set(), {"second"}]
    assert "| ≤ 80.0 (2 open) |" in render([a, open_b, c])
    assert any(sentence.endswith("Such bounds are not ranked.") for sentence in table.footer)


def test_a_single_model_is_not_ranked():
    assert main_table(three()[:1]).marks == {}
    assert "Bold" not in render(three()[:1])


@pytest.mark.parametrize("verdict", ["masked", "suspect"])
def test_masking_is_a_dagger_in_markdown_and_red_in_latex_and_html(verdict):
    a, b, c = three()
    runs = [a, masked(b, verdict), c]
    assert column(main_table(runs), "linf:0.3") == [{"second"}, {"best", "masked"}, set()]
    assert "**80.0†**" in render(runs)
    assert f"Gradient masking: {verdict} for b under linf:0.3; untested elsewhere.\n† or red: " in render(runs)
    assert r"\textcolor{red}{\textbf{80.0}}" in render(runs, "latex")
    assert re.search(r'<span class="masked"[^>]*><strong>80.0</strong></span>', render(runs, "html"))


@pytest.mark.parametrize("verdict", ["untested", "none-found"])
def test_other_verdicts_are_a_remark_only(verdict):
    a, b, c = three()
    reported = render([a, masked(b, verdict), c])
    assert "†" not in reported
    apart = "untested." if verdict == "untested" else "none-found for b under linf:0.3; untested elsewhere."
    assert f"Gradient masking: {apart}" in reported


# OPT and hours


def test_opt_is_the_minimum_and_the_mean_over_single_threat_models_on_their_own_threat():
    table = main_table(three(), origins=ORIGINS)
    assert table.frame.iloc[-1].tolist() == ["OPT", "", "80.0", "50.0", "50.0", "65.0", ""]
    assert table.last == 1
    assert any("OPT, without a trade-off: b on linf:0.3, a on l2:2;" in sentence for sentence in table.footer)


def test_of_two_models_trained_on_one_threat_the_better_counts():
    origins = {**ORIGINS, "c": Origin(("linf:0.3",))}
    assert main_table(three(), origins=origins).frame.iloc[-1]["linf:0.3"] == "80.0"


@pytest.mark.parametrize("missing", [{}, {"a": Origin()}, {"a": Origin(("l2:1",))}, {"a": Origin(THREATS)}])
def test_there_is_no_opt_unless_every_threat_has_a_model_trained_on_it_alone(missing):
    origins = {**ORIGINS, **missing} if missing else {}
    assert "OPT" not in render(three(), origins=origins)


def test_the_opt_of_a_bound_is_a_bound():
    a, _, c = three()
    open_b = models({"b": ("O" * 20 + "S" * 60 + "B" * 20, LETTERS["b"][1])}, THREATS)[0]
    last = main_table([a, open_b, c], origins=ORIGINS).frame.iloc[-1]
    assert list(last)[1:-1] == ["", "≤ 80.0", "50.0", "≤ 50.0", "≤ 65.0"]


def test_opt_takes_an_accuracy_before_a_bound_however_high():
    a, b, _ = three()
    open_c = models({"c": ("O" * 90 + "B" * 10, LETTERS["c"][1])}, THREATS)[0]
    last = main_table([a, b, open_c], origins={**ORIGINS, "c": Origin(("linf:0.3",))}).frame.iloc[-1]
    assert list(last)[1:-1] == ["", "80.0", "50.0", "50.0", "65.0"]


def test_there_is_no_opt_of_what_was_not_measured():
    a, _, c = three()
    (open_b,) = models({"b": ("O" * 100, LETTERS["b"][1])}, THREATS)
    first, *rest = open_b.threats
    failures = tuple(FailureEntry(attack.name, 100, "Boom") for attack in first.attacks)
    lost = msgspec.structs.replace(open_b, threats=(msgspec.structs.replace(first, failures=failures), *rest))
    frame = main_table([a, lost, c]).frame
    assert (frame["linf:0.3"][1], frame["average"][1]) == ("not measured", "not measured")
    assert "OPT" not in render([a, lost, c], origins=ORIGINS)


def test_opt_is_as_doubtful_as_its_models():
    a, b, c = three()
    table = main_table([a, masked(b), c], origins=ORIGINS)
    (opt,) = [row for row in table.markdown().splitlines() if row.startswith("| OPT")]
    assert [cell.strip() for cell in opt.split("|")][2:7] == ["", "80.0†", "50.0", "50.0†", "65.0†"]


def test_hours_stand_where_a_card_knows_them():
    frame = main_table(three(), origins=ORIGINS).frame
    assert list(frame["hours"]) == ["1.50", "0.25", "", ""]
    assert "hours" not in main_table(three()).frame
    assert "hours" not in main_table(three()[:1], origins=ORIGINS).frame


# side by side


def two_questions():
    return [*three(), *models({"a": ("SB",), "long": ("BB",)}, ("rt:3px,30deg",))]


def test_two_questions_stand_side_by_side_in_one_table_of_markdown():
    lines = render(two_questions(), side_by_side=True).splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in lines if row.startswith("| ")]
    assert rows[0] == ["model", "clean", *THREATS, "union", "average", "", "model", "clean", "rt:3px,30deg"]
    assert rows[1][0] == rows[1][7] == "a"
    assert rows[2][7] == "long"
    assert rows[3][7:] == ["", "", ""]
    assert lines[0].startswith("**100 examples of mnist:test")
    assert " | 2 examples of mnist:test" in lines[0]


def test_side_by_side_is_two_tabulars_in_latex_and_two_tables_in_one_row_of_html():
    assert render(two_questions(), "latex", side_by_side=True).count(r"\begin{tabular}") == 2
    assert render(two_questions(), "latex", side_by_side=True).count(r"\begin{table}") == 1
    assert render(two_questions(), "html", side_by_side=True).count("<section>") == 1
    assert render(two_questions(), "html", side_by_side=True).count("<table>") == 2


def test_side_by_side_is_refused_for_other_than_two_questions_and_for_numbers():
    with pytest.raises(UserError, match="these runs answer one question"):
        render(three(), side_by_side=True)
    with pytest.raises(UserError, match="these runs answer 3 questions"):
        render([*two_questions(), *models({"a": ("SSS",)})], side_by_side=True)
    with pytest.raises(UserError, match="csv holds numbers and no layout; leave --side-by-side out"):
        render(two_questions(), "csv", side_by_side=True)


# numbers carry no marks


@pytest.mark.parametrize("form", ["csv", "json"])
def test_numeric_formats_carry_no_marks(form):
    runs = [masked(run) for run in three()]
    text = render(runs, form, origins=ORIGINS)
    assert not re.search(r"\*\*|<ins>|†|textbf|OPT", text)
    if form == "csv":
        shares = [float(row["accuracy"]) for row in csv.DictReader(io.StringIO(text)) if row["threat"] == "linf:0.3"]
    else:
        shares = [summary["threats"][0]["accuracy"] for summary in json.loads(text)]
    assert shares == [0.5, 0.8, 0.1]


def test_csv_of_outcomes_over_threats_is_counts_and_csv_of_two_tables_is_refused():
    rows = list(csv.DictReader(io.StringIO(render(three(), "csv", together=True))))
    assert [(r["robust to"], r["examples"]) for r in rows if r["model"] == "a"] == [("all", "50"), ("none", "50")]
    with pytest.raises(UserError, match="csv holds one table; leave --breakdown or --together out"):
        render(three(), "csv", attacks=True, together=True)


# latex


def everything():
    """A page with every kind of table, a name full of signs, open cells and remarks."""
    named = models({NASTY: LETTERS["a"], "b": LETTERS["b"]}, THREATS)
    odd = summarise(PLAN, EVIDENCE, "")
    return [*named, masked(three()[2]), odd, msgspec.structs.replace(odd, model=named[0].model)]


def depth(text):
    """How many groups of TeX are left open; -1 when one is closed that was never opened."""
    level = 0
    for sign in re.sub(r"\\.", "", text):
        level += {"{": 1, "}": -1}.get(sign, 0)
        if level < 0:
            return -1
    return level


@pytest.mark.parametrize("options", [{}, {"intervals": True}, {"attacks": True, "together": True}])
def test_latex_is_balanced_and_every_row_has_the_columns_of_its_table(options):
    text = render(everything(), "latex", origins=ORIGINS, **options)
    assert depth(text) == 0
    body = re.sub(r"(?m)^%.*$", "", text)
    ends = re.findall(r"\\(begin|end)\{(\w+)\}", body)
    open_now = []
    for kind, name in ends:
        assert kind == "begin" or open_now.pop() == name
        open_now += [name] if kind == "begin" else []
    assert open_now == []
    assert len(re.sub(r"\\.", "", body).split("$")) % 2 == 1, "an odd number of dollars"
    found = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", body, re.S)
    assert found
    for layout, rows in found:
        for row in rows.strip().splitlines():
            if row not in (r"\toprule", r"\midrule", r"\bottomrule"):
                assert row.endswith(r" \\")
                assert len(re.findall(r"(?<!\\)&", row)) == len(layout) - 1
    # Whatever is no sign of TeX's is escaped: outside commands and tabulars none is left.
    words = re.sub(r"\\[A-Za-z]+|\\.|\$[^$]*\$|\{[lr]+\}", "", body)
    assert not re.search(r"[%#_^~<>|≤±†]", words), re.search(r".{9}[%#_^~<>|≤±†].{9}", words)
    assert re.sub(r"(?m)^.*(?<!\\)&.*$", "", words).count("&") == 0


def test_latex_says_what_the_preamble_needs_and_writes_norms_by_their_sign():
    text = render(three(), "latex", origins=ORIGINS)
    assert text.startswith(
        "% In the preamble: \\usepackage{booktabs} \\usepackage{graphicx} \\usepackage{xcolor}\n\\begin{table}\n"
    )
    assert r"model & clean & $\ell_{\infty}$ 0.3 & $\ell_{2}$ 2 & union & average & hours \\" in text
    assert "\\midrule\nOPT &  & 80.0 & 50.0 & 50.0 & 65.0 &  \\\\\n\\bottomrule" in text


def test_signs_of_tex_are_escaped():
    assert escaped(r"50% of a_b & {c} #1 \x") == r"50\% of a\_b \& \{c\} \#1 $\backslash$x"
    assert escaped("with --every-attack") == "with -{}-every-attack"
    assert escaped("≤ 1 ± 2†") == r"$\leq$ 1 $\pm$ 2$\dagger$"
    assert depth(escaped(NASTY)) == 0


def test_a_table_without_rows_shows_its_sentences():
    assert "tabular" not in latex([Table(pd.DataFrame(), "None", ("No attack ran.",))])
    assert r"No attack ran.\par" in latex([Table(pd.DataFrame(), "None", ("No attack ran.",))])


# html


class Page(HTMLParser):
    """Counts what opens and closes, and keeps the words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.rows = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("options", [{}, {"intervals": True}, {"attacks": True, "together": True}])
def test_html_is_closed_and_names_are_text(options):
    page = Page(render(everything(), "html", origins=ORIGINS, **options))
    assert page.open == []
    assert "b" not in page.tags, "a name was taken for a tag"
    assert NASTY in page.words
    assert page.rows
    assert "script" not in page.tags


def test_html_marks_the_best_and_shows_every_cell_of_the_table():
    page = Page(render(three(), "html"))
    assert page.tags.count("strong") == 6  # b under linf, a and b under l2 and as union, b on average
    frame = main_table(three()).frame
    assert {str(cell) for row in frame.to_numpy() for cell in row} <= {word.strip() for word in page.words}


@pytest.mark.parametrize("form", ["markdown", "latex", "html", "csv", "json"])
def test_every_form_gives_the_same_bytes_twice_and_ends_with_one_line_break(form):
    texts = {render(everything(), form, origins=ORIGINS, intervals=True) for _ in range(2)}
    (text,) = texts
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
