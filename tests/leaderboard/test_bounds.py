"""No page, feed or file of a board shows an upper bound as an accuracy, or a number where nothing was measured."""

import csv
import io
import re
import sqlite3
from dataclasses import replace

import msgspec
import pytest

from robench.evidence.records import Failure
from robench.leaderboard.downloads import csv_file, sqlite_file
from robench.leaderboard.entries import ClassResult
from robench.leaderboard.feed import changes, feed
from robench.leaderboard.site import site

from ..results.made import clean
from .full import replaced
from .made import NAMES, PGD, board, recorded

DATE = "2026-11-26T06:10:00Z"
OPEN = 3  # of ten examples under the first threat
ROWS = ["SSSSOOOBBW", "SSSBBBBBBW"]


def dated(rows, **changes):
    return recorded(rows, environment={"date": DATE}, **changes)


def failed(*threats, n=4):
    """A run whose every attack failed under these of two threats; it stands under the others."""
    run = dated([("O" if t in threats else "S") * n for t in NAMES[:2]], name="failed")
    evidence, card = run.read()
    failures = tuple(Failure(e, t, PGD.spec, "Boom") for t in threats for e in range(n))
    evidence = msgspec.structs.replace(evidence, clean=tuple(map(clean, range(n))), failures=failures)
    return replace(run, read=lambda: (evidence, card))


def texts(found):
    """The texts of all cells of the page of the only model, and of the page of changes."""
    pages = site([found])
    (row,) = found.tables[0].models
    cells = {}
    for name in (f"models/{found.id}/{row.id}.html", f"history/{found.id}.html", f"{found.id}.html"):
        rows = re.findall(r"<tr[^>]*>.*?</tr>", pages[name].decode(), re.S)
        cells[name.partition("/")[0]] = [
            [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", text, re.S)]
            for text in rows
        ]
    return cells


def test_every_number_of_a_row_with_open_examples_is_a_bound_on_its_pages():
    found = board(dated(ROWS))
    pages = texts(found)
    (threat,) = [row for row in pages["models"] if row[0] == "linf:0.3" and len(row) == 9]
    assert threat[1].startswith("≤ 70.0")
    assert threat[2] == "≤ 70.0", "by the protocol alone"
    (entry,) = [row for row in pages["models"] if row[0] == DATE[:10]]
    assert entry[4:] == ["≤ 70.0", "30.0", "30.0", "≤ 50.0"], "threats, union and average after the run"
    (change,) = [row for row in pages["history"] if row[0] == DATE[:10]]
    assert change[2] == "30.0", "the examples that are open are broken under the other threat"


def test_an_open_union_is_a_bound_on_the_page_of_changes_and_beside_that_of_the_protocol():
    found = board(dated(["SOOB"]))
    pages = texts(found)
    (change,) = [row for row in pages["history"] if row[0] == DATE[:10]]
    assert change[2] == "≤ 75.0"
    (row,) = [cells for cells in pages[f"{found.id}.html"] if cells[1:2] == ["net"]]
    assert (row[2][:6], row[3]) == ("≤ 75.0", "≤ 75.0")
    page = site([found])[f"{found.id}.html"].decode()
    assert len(re.findall(r"<td[^>]* data-bound", page)) == 5, "with the clean accuracy: two have no answer"


def test_a_caption_says_that_open_examples_count_only_if_there_are_some():
    for rows, expected in ((ROWS, True), (["SSBW", "SBBW"], False)):
        found = board(dated(rows))
        (row,) = found.tables[0].models
        filled = replaced(row, classes=full_classes(len(rows)))
        content = replaced(found, tables=(replaced(found.tables[0], models=(filled,)),))
        page = site([content])[f"models/{found.id}/{row.id}.html"].decode()
        assert ("Accuracy by class, in percent; open examples count as standing" in page) is expected


def full_classes(threats):
    return (ClassResult(3, 10, 0.9, (0.5,) * threats, 0.5),)


@pytest.mark.parametrize(("threats", "union"), [(NAMES[:1], "≤ 100.0"), (NAMES[:2], "not measured")])
def test_a_threat_whose_every_attack_failed_has_no_number_after_the_run(threats, union):
    found = board(failed(*threats))
    pages = texts(found)
    (entry,) = [row for row in pages["models"] if row[0] == DATE[:10]]
    assert entry[4:] == ["not measured", "100.0" if len(threats) == 1 else "not measured", union, "not measured"]
    (change,) = [row for row in pages["history"] if row[0] == DATE[:10]]
    assert change[2] == union
    (model,) = found.tables[0].models
    assert model.history[0].unmeasured == threats
    script = site([found])[f"models/{found.id}/{model.id}.js"].decode()
    assert ("null,null,null" in script) is (len(threats) == 2)


def test_files_hold_the_open_examples_of_every_number_and_what_was_not_measured():
    found = board(dated(ROWS))
    (row,) = csv.DictReader(io.StringIO(csv_file(found.tables[0]).decode()))
    assert (row["union by protocol"], row["union by protocol open"], row["average open"]) == ("0.3", "0", "3")
    db = opened(found)
    assert db.execute("SELECT protocol_open FROM result ORDER BY rowid").fetchall() == [(OPEN,), (0,)]
    assert db.execute("SELECT union_open, unmeasured FROM history").fetchall() == [(0, "")]
    columns = "protocol_union_open, clean_open, average_open, union_measured, average_measured"
    assert db.execute(f"SELECT {columns} FROM model").fetchall() == [(0, 0, OPEN, 1, 1)]
    lost = board(failed(*NAMES[:2]))
    (row,) = csv.DictReader(io.StringIO(csv_file(lost.tables[0]).decode()))
    assert (row["union"], row["union by protocol"], row["union by protocol open"]) == ("", "", "")
    assert opened(lost).execute(f"SELECT {columns} FROM model").fetchall() == [(4, 0, 8, 0, 0)]
    assert opened(lost).execute("SELECT union_open, unmeasured FROM history").fetchall() == [(4, " ".join(NAMES[:2]))]


def opened(found):
    db = sqlite3.connect(":memory:")
    db.deserialize(sqlite_file(found))
    return db


def test_the_feed_says_that_gradients_may_be_masked_and_has_an_id_per_change():
    found = board(dated(["SSBB"]))
    (row,) = found.tables[0].models
    masked = replaced(row, union=replaced(row.union, masked=True))
    content = replaced(found, tables=(replaced(found.tables[0], models=(masked,)),))
    assert changes(content)[0].sentence.endswith("stand under linf:0.3; its gradients are masked, or may be.")
    entry = row.history[0]
    twice = replaced(row, history=(entry, replaced(entry, lowered={"linf:0.3": 1})))
    content = replaced(found, tables=(replaced(found.tables[0], models=(twice,)),))
    ids = re.findall(r"<entry>\n<id>([^<]*)</id>", feed([content], "").decode())
    assert len({*ids}) == 2


def test_the_union_by_the_protocol_is_a_bound_by_its_own_open_examples():
    other = msgspec.structs.replace(PGD, spec="pgd(steps=100)")
    found = board(dated(["SOSS"], protocol="quick"), recorded(["SBOO"], protocol="long", attack=other))
    (row,) = found.tables[0].models
    assert (row.protocol, row.union.open, row.protocol_union_open) == ("quick", 0, 1)
    assert (row.threats[0].share.open, row.threats[0].protocol_open) == (0, 1)
    (line,) = csv.DictReader(io.StringIO(csv_file(found.tables[0]).decode()))
    assert (line["union open"], line["union by protocol open"]) == ("0", "1")
    assert opened(found).execute("SELECT protocol_open, open FROM result").fetchall() == [(1, 0)]
    assert opened(found).execute("SELECT protocol_union_open FROM model").fetchall() == [(1,)]
    (cells,) = [cells for cells in texts(found)[f"{found.id}.html"] if cells[1:2] == ["net"]]
    assert (cells[2][:4], cells[3]) == ("75.0", "≤ 100.0")


def test_a_union_is_no_bound_where_all_open_examples_are_broken_under_another_threat():
    (change,) = changes(board(dated(ROWS)))
    assert change.title == "net: union 30.0 % on mnist:test"
    assert "with" not in change.sentence


def test_every_number_of_a_row_with_masked_gradients_has_a_mark_on_its_pages():
    found = board(dated(["SSSB", "SSBB"]))
    (row,) = found.tables[0].models
    first, second = row.threats
    masked = replaced(
        row,
        threats=(replaced(first, share=replaced(first.share, masked=True)), second),
        union=replaced(row.union, masked=True),
        average=replaced(row.average, masked=True),
        beyond=1,
        classes=full_classes(2),
    )
    content = replaced(found, tables=(replaced(found.tables[0], models=(masked,)),))
    pages = texts(content)
    (threat,) = [cells for cells in pages["models"] if cells[0] == "linf:0.3" and len(cells) == 9]
    assert threat[2] == "75.0†", "by the protocol alone"
    assert ["3", "10", "90.0", "50.0†", "50.0", "50.0†"] in pages["models"], "the class"
    (entry,) = [cells for cells in pages["models"] if cells[0] == DATE[:10]]
    assert entry[4:] == ["75.0†", "50.0", "50.0†", "62.5†"]
    (change,) = [cells for cells in pages["history"] if cells[0] == DATE[:10]]
    assert change[2] == "50.0†"
    (line,) = [cells for cells in pages[f"{found.id}.html"] if cells[1:2] == ["net"]]
    assert line[3] == "50.0†", "the union by its protocol"
    assert changes(content)[0].title == "net: union 50.0† % on mnist:test"
    page = site([content])[f"models/{found.id}/{row.id}.html"].decode()
    assert "than the runs by this protocol, whose union is 50.0† %" in page
    assert ("† gradients are masked, or may be" in page, "≤ searches" in page) == (True, False)
    clear = site([found])[f"models/{found.id}/{row.id}.html"].decode()
    assert "† gradients are masked, or may be" not in clear


def test_a_class_has_no_number_where_every_attack_failed():
    found = board(failed(NAMES[0]))
    (row,) = found.tables[0].models
    filled = replaced(row, classes=full_classes(2))
    content = replaced(found, tables=(replaced(found.tables[0], models=(filled,)),))
    assert ["3", "10", "90.0", "not measured", "50.0", "50.0"] in texts(content)["models"]
