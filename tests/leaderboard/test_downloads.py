"""CSV, SQLite, badges and citations."""

import csv
import io
import sqlite3
import xml.etree.ElementTree as ET

import pytest

from robench.leaderboard.badge import badge, badge_value, markdown
from robench.leaderboard.citation import bibtex, paragraph
from robench.leaderboard.downloads import csv_file, sqlite_file
from robench.leaderboard.texts import compact, duration

from .full import full_board, replaced

HOSTILE = '=HYPERLINK("x")</title><script>\'; DROP TABLE model; --,\n{}\\'


@pytest.fixture
def found():
    return full_board()


@pytest.fixture
def opened(tmp_path):
    def opened(content):
        path = tmp_path / "board.sqlite"
        path.write_bytes(content)
        return sqlite3.connect(path)

    return opened


def rows_of(found):
    return list(csv.DictReader(io.StringIO(csv_file(found.tables[0]).decode(), newline="")))


def test_a_csv_file_has_the_numbers_of_its_table(found):
    one, *_, claimed = rows_of(found)
    (table,) = found.tables
    row = next(row for row in table.models if row.name == one["model"])
    assert float(one["union"]) == row.union.accuracy
    assert float(one["linf:0.3 low"]) == row.threats[0].share.ci95[0]
    assert (one["parameters"], one["training minutes"], one["id"]) == ("431080", "75.0", row.id)
    assert (claimed["source"], claimed["union"], claimed["l2:2"]) == ("claimed: text", "0.4", "")


def test_numbers_that_mean_nothing_are_empty_in_csv(found):
    (table,) = found.tables
    row = replaced(table.models[0], union=replaced(table.models[0].union, measured=False))
    assert rows_of(replaced(found, tables=(replaced(table, models=(row,)),)))[0]["union"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx"])
def test_a_text_that_a_spreadsheet_would_compute_begins_with_a_quote(text):
    (row, _) = rows_of(full_board(names=("one",), text=text))
    assert (row["recipe"], row["trained on"]) == (f"'{text}", f"'{text}")


def test_an_sqlite_file_holds_the_board(found, opened):
    db = opened(sqlite_file(found))
    (table,) = found.tables
    row = table.models[0]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    query = "SELECT accuracy, certified, outcomes, levels FROM result WHERE model_id = ? AND threat = 'linf:0.3'"
    threat = row.threats[0]
    assert db.execute(query, [row.id]).fetchone() == (threat.share.accuracy, 0.125, threat.outcomes, threat.levels)
    assert db.execute("SELECT name FROM model ORDER BY place").fetchall() == [(r.name,) for r in table.models]
    assert db.execute("SELECT count(*) FROM history").fetchone() == (4,)
    assert db.execute("SELECT accuracy FROM claimed WHERE column_name = 'union'").fetchone() == (0.4,)


def test_equal_boards_give_equal_sqlite_files(found):
    assert sqlite_file(found) == sqlite_file(full_board())


def test_hostile_texts_are_values_in_sqlite(opened):
    db = opened(sqlite_file(full_board(text=HOSTILE)))
    assert db.execute("SELECT DISTINCT recipe FROM model").fetchall() == [(HOSTILE,)]


def test_a_badge_is_an_svg_with_a_title(found):
    (table,) = found.tables
    row = table.models[0]
    root = ET.fromstring(badge(found, table, row))
    space = "{http://www.w3.org/2000/svg}"
    title = f"{row.name} on mnist:test under linf:0.3, l2:2: robust union {badge_value(row)}"
    assert (root.tag, root.get("role"), root.find(f"{space}title").text) == (f"{space}svg", "img", title)
    assert [text.text for text in root.iter(f"{space}text")] == ["robust union", badge_value(row)]


def test_a_hostile_name_stays_in_the_title_of_a_badge(found):
    (table,) = found.tables
    root = ET.fromstring(badge(found, table, replaced(table.models[0], name=f"{HOSTILE}\x00\ud800")))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {"svg", "title", "rect", "path", "g", "text"}


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"open": 0}, "50.0 %"),
        ({"open": 2}, "≤ 50.0 %"),
        ({"open": 0, "masked": True}, "≤ 50.0 %"),
        ({"measured": False}, "not measured"),
    ],
)
def test_a_badge_does_not_promise_more_than_was_measured(found, changes, value):
    row = found.tables[0].models[0]
    assert badge_value(replaced(row, union=replaced(row.union, **{"masked": False, **changes}))) == value


def test_the_markdown_of_a_badge_leads_to_the_page(found):
    (table,) = found.tables
    row = table.models[0]
    text = markdown(found, table, row, "https://x.example/")
    assert text == (
        f"[![robust union {badge_value(row)}](https://x.example/badge/mnist-test/{table.id}/{row.id}.svg)]"
        f"(https://x.example/models/mnist-test/{row.id}.html)"
    )


def test_a_citation_names_model_data_number_and_last_run(found):
    (table,) = found.tables
    row = next(row for row in table.models if row.name == "one")
    text = paragraph(found, table, row)
    assert text.startswith("one on mnist:test. Robust accuracy at most 50.0 % (95 % interval ")
    assert f"last run of 2026-11-0{1 + table.models.index(row)}" in text
    assert "url" not in bibtex(found, table, row, "")
    undated = replaced(row, history=())
    assert "year" not in bibtex(found, table, undated, "")
    assert "last run" not in paragraph(found, table, undated)


def test_hostile_names_cannot_end_a_bibtex_field(found):
    (table,) = found.tables
    text = bibtex(found, table, replaced(table.models[0], name="a}\n@evil{$&#_%^~\\"), "")
    assert r"title = {{a\} @evil\{\$\&\#\_\%\^{}\~{}\textbackslash{} on mnist:test}}," in text
    assert text.count("\n@") == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (1000, "1 k"), (431_080, "431 k"), (999_600, "1000 k"), (36_479_194, "36.5 M"), (2 * 10**9, "2 G")],
)
def test_counts_are_shown_with_three_digits(number, text):
    assert compact(number) == text


@pytest.mark.parametrize(("minutes", "text"), [(3.46, "3.5 min"), (75, "75 min"), (120, "2.0 h"), (1900, "31.7 h")])
def test_times_are_shown_in_a_unit_that_fits(minutes, text):
    assert duration(minutes) == text
