"""The Atom feed (RFC 4287) and the page of changes."""

import re
import uuid
import xml.etree.ElementTree as ET

import pytest

from robench.leaderboard.feed import changes, feed

from .full import full_board, replaced

ATOM = "{http://www.w3.org/2005/Atom}"
HOSTILE = "]]></name><script>alert(1)</script>&\x00\x0b"
DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def only(parent, name):
    (found,) = parent.findall(f"{ATOM}{name}")
    return found


def valid(content):
    """The feed, after its required elements were counted."""
    root = ET.fromstring(content)
    assert root.tag == f"{ATOM}feed"
    for parent in (root, *root.findall(f"{ATOM}entry")):
        assert uuid.UUID(only(parent, "id").text)
        assert only(parent, "title").text
        assert re.fullmatch(DATE, only(parent, "updated").text)
        assert len([link for link in parent.findall(f"{ATOM}link") if link.get("rel") == "alternate"]) == 1
    assert only(only(root, "author"), "name").text
    entries = root.findall(f"{ATOM}entry")
    assert all(only(entry, "content").get("type") == "text" for entry in entries)
    ids = [only(entry, "id").text for entry in entries]
    assert len({*ids}) == len(ids)
    return root


def test_the_feed_has_the_dated_entries_newest_first():
    root = valid(feed([full_board()], ""))
    dates = [only(entry, "updated").text for entry in root.findall(f"{ATOM}entry")]
    assert dates == ["2026-11-02T06:10:00Z", "2026-11-01T06:10:00Z"]
    assert only(root, "updated").text == dates[0]


def test_the_page_of_changes_has_undated_entries_last():
    assert [change.entry.date[:10] for change in changes(full_board())] == ["2026-11-02", "2026-11-01", "", ""]


def test_the_later_of_two_undated_entries_comes_first():
    found = full_board(names=("one",), date="undated {}")
    assert [change.entry.by for change in changes(found)] == ["text", ""]


def test_a_feed_without_entries_is_valid():
    found = full_board(date="yesterday {}")
    root = valid(feed([found], ""))
    assert root.findall(f"{ATOM}entry") == []
    assert only(root, "updated").text == "1970-01-01T00:00:00Z"


def test_addresses_are_absolute_with_the_address_of_the_site_and_ids_do_not_depend_on_it():
    found = full_board()
    root, absolute = valid(feed([found], "")), valid(feed([found], "https://x.example/b/"))
    assert [e.text for e in root.iter(f"{ATOM}id")] == [e.text for e in absolute.iter(f"{ATOM}id")]
    links = [link.get("href") for link in absolute.iter(f"{ATOM}link")]
    assert all(link.startswith("https://x.example/b/") for link in links)
    assert "https://x.example/b/feed.xml" in links
    assert not any("//" in link.get("href") for link in root.iter(f"{ATOM}link"))


def test_an_entry_names_the_submitter_and_what_was_lowered():
    (entry, _) = valid(feed([full_board()], "")).findall(f"{ATOM}entry")
    assert only(only(entry, "author"), "name").text == "text"
    assert only(entry, "content").text == (
        "text by text first broke these examples: 1 under linf:0.3. Now 50.0 % stand under linf:0.3, l2:2."
    )


@pytest.mark.parametrize("url", ["", "https://x.example/"])
def test_hostile_texts_stay_text(url):
    root = valid(feed([full_board(names=("a<b>",), text=HOSTILE)], url))
    assert {element.tag for element in root.iter()} <= {
        f"{ATOM}{name}" for name in ["feed", "id", "title", "updated", "author", "name", "link", "entry", "content"]
    }
    assert only(root.find(f"{ATOM}entry/{ATOM}author"), "name").text == HOSTILE[:-2] + "\ufffd\ufffd"


def test_another_history_of_another_row_does_not_change_an_id():
    found = full_board()
    (table,) = found.tables
    fewer = replaced(found, tables=(replaced(table, models=table.models[:1]),))
    ids = {e.text for e in valid(feed([fewer], "")).iter(f"{ATOM}id")}
    assert ids < {e.text for e in valid(feed([found], "")).iter(f"{ATOM}id")}
