"""The site: what its files hold, and that names from runs stay text."""

import json
import re
from html.parser import HTMLParser

import pytest

from robench.leaderboard.entries import CardFacts
from robench.leaderboard.site import outcomes_path, site

from .made import board, recorded

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
ROWS = ["WBBSSOSS", "WSBSBSSO"]


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def files():
    card = CardFacts("pgd_at", ("linf:0.3",), 12.34, "robench train pgd_at --threat linf:0.3")
    runs = [recorded(ROWS, name="one", card=card, environment={"command": "robench evaluate one"})]
    return site([board(*runs, recorded([row[::-1] for row in ROWS], name="two"))])


@pytest.fixture
def hostile():
    card = CardFacts(HOSTILE, (HOSTILE,), 1.0, HOSTILE, HOSTILE)
    run = recorded(
        ROWS, name=HOSTILE, data=HOSTILE, protocol=HOSTILE, card=card,
        environment={"command": HOSTILE, "note x": HOSTILE, "randomness": HOSTILE},
    )  # fmt: skip
    return site([board(run)])


def pages(files):
    return {name: Tags(content.decode()) for name, content in files.items() if name.endswith(".html")}


def test_equal_boards_give_equal_bytes(files):
    runs = [recorded(ROWS, name="one"), recorded([row[::-1] for row in ROWS], name="two")]
    assert site([board(*runs)]) == site([board(*reversed(runs))])


def test_every_address_of_a_page_is_a_file_of_the_site_or_an_anchor(files):
    for name, page in pages(files).items():
        for tag, attributes in page.found:
            address = attributes.get("href") or attributes.get("src")
            if not address or address == "data:,":
                continue
            path, _, anchor = address.partition("#")
            target = name
            if path:
                depth = path.count("../")
                assert depth == (name.count("/") if depth else 0), (tag, address)
                target = path.replace("../", "")
            assert target in files, (name, tag, address)
            if anchor:
                ids = {a.get("id") for _, a in pages(files)[target].found}
                assert anchor in ids, address


def test_the_script_of_a_page_holds_counts_and_no_outcomes(files):
    text = files["data/mnist-test.js"].decode()
    data = json.loads(re.fullmatch(r"robenchBoard = (.*);\n", text)[1])
    (table,) = data["tables"].values()
    assert {sum(model["patterns"].values()) for model in table["models"].values()} == {8}
    assert ROWS[0] not in text


def test_the_outcomes_of_each_model_are_in_a_script_of_their_own():
    found = board(recorded(ROWS))
    (table,) = found.tables
    (row,) = table.models
    text = site([found])[outcomes_path(found, table, row)].decode()
    assert text == f'robenchOutcomes("{table.id}", "{row.id}", {json.dumps(ROWS, separators=(",", ":"))});\n'


def test_a_model_has_a_page_with_its_card_command_hash_and_attacks(files):
    (page,) = (page for name, page in pages(files).items() if name.startswith("models/mnist-test/one-"))
    text = " ".join("".join(page.words).split())
    for wanted in ("pgd_at", "12.3", "robench train pgd_at --threat linf:0.3", "robench evaluate one", "pgd", "by the"):
        assert wanted in text
    assert b"one".hex() in text


def test_every_table_has_a_caption_and_heads_with_a_scope(files):
    for page in pages(files).values():
        tags = [tag for tag, _ in page.found]
        assert tags.count("table") == tags.count("caption") > 0
        assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.found if tag == "th")


def test_hostile_names_stay_text(hostile):
    for name, page in pages(hostile).items():
        scripts = [a for tag, a in page.found if tag == "script"]
        assert all(set(a) == {"src", "defer"} for a in scripts), name
        assert not [a for _, a in page.found if any(key.startswith("on") for key in a)]
        assert "img" not in {tag for tag, _ in page.found}
        assert HOSTILE in "".join(page.words) or name == "index.html"
    for name, content in hostile.items():
        if name.endswith(".js") and name != "board.js":
            assert "<" not in content.decode()
        assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)*\.(html|js|json|css)", name)


def test_no_page_names_another_host(files):
    for name, content in files.items():
        assert b"//" not in re.sub(rb"^\s*//.*$|(?<=; )//.*$", b"", content, flags=re.M), name


def test_open_and_unmeasured_numbers_are_marked():
    text = site([board(recorded(ROWS))])["mnist-test.html"].decode()
    assert re.search(r'title="2 open, 0 failed">≤ 50\.0<', text)
