"""The site: what its files hold, and that texts from runs stay text."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

import robench
from robench.leaderboard.entries import CardFacts
from robench.leaderboard.scripts import levels_path, outcomes_path, radius_curve
from robench.leaderboard.site import Download, Extras, site

from .full import full_board, full_images
from .made import board, recorded

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}]]>"
ROWS = ["WBBSSOSS", "WSBSBSSO"]
FILE = r"[a-z0-9-]+(/[a-z0-9-]+)*\.(html|js|json|css|xml|svg|csv|sqlite|png|robench)"


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

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture
def files():
    card = CardFacts("pgd_at", ("linf:0.3",), 12.34, "robench train pgd_at --threat linf:0.3")
    runs = [recorded(ROWS, name="one", card=card, environment={"command": "robench evaluate one"})]
    return site([board(*runs, recorded([row[::-1] for row in ROWS], name="two"))])


@pytest.fixture
def full():
    found = full_board()
    model = found.tables[0].models[0].id
    return site([found], Extras(full_images(found), {(found.id, model): Download(b"run", 7)}, "https://x.example/b/"))


@pytest.fixture
def hostile():
    found = full_board(names=(HOSTILE,), text=HOSTILE)
    return site([msgspec.structs.replace(found, data=HOSTILE)], Extras(full_images(found)))


def pages(files):
    return {name: Tags(content.decode()) for name, content in files.items() if name.endswith(".html")}


def page_of(files, name):
    (page,) = (page for path, page in pages(files).items() if path.startswith(f"models/mnist-test/{name}-"))
    return page


def test_equal_boards_give_equal_bytes(full):
    runs = [recorded(ROWS, name="one"), recorded([row[::-1] for row in ROWS], name="two")]
    assert site([board(*runs)]) == site([board(*reversed(runs))])
    found = full_board()
    model = found.tables[0].models[0].id
    runs = {(found.id, model): Download(b"run", 7)}
    assert site([found], Extras(full_images(found), runs, "https://x.example/b/")) == full


def test_every_address_of_a_page_is_a_file_of_the_site_or_an_anchor(full):
    for name, page in pages(full).items():
        for tag, attributes in page.found:
            address = attributes.get("href") or attributes.get("src")
            if not address or address == "data:,":
                continue
            path, _, anchor = address.partition("#")
            folder = name.rpartition("/")[0]
            target = str(Path("/", folder, path).resolve().relative_to("/")) if path else name
            assert target in full, (name, tag, address)
            if anchor:
                ids = {a.get("id") for _, a in pages(full)[target].found}
                assert anchor in ids, address


def test_every_image_of_a_page_is_a_file_of_the_site(full):
    shown = set()
    for name, content in full.items():
        if name.endswith(".html"):
            for address in re.findall(r"url\(([^)]*)\)", content.decode()):
                shown.add(str(Path("/", name, "..", address).resolve().relative_to("/")))
    assert shown == {name for name in full if name.endswith(".png")}


def test_the_script_of_a_page_holds_counts_and_no_outcomes(files):
    text = files["data/mnist-test.js"].decode()
    data = json.loads(re.fullmatch(r"robenchBoard = (.*);\n", text)[1])
    (table,) = data["tables"].values()
    (one, two) = table["models"].values()
    # WBBSSOSS and WSBSBSSO: none withstood 3 times, the first alone 2 and the second alone 2 times, both once.
    assert one["stands"] == two["stands"] == "0 2 1 2 2 2 3 2"
    assert one["held"] == two["held"] == "0 2 1 1 2 1 3 4"
    assert ROWS[0] not in text


def test_outcomes_and_levels_of_each_model_are_in_scripts_of_their_own():
    found = full_board(names=("one",))
    (table,) = found.tables
    (row,) = table.models
    files = site([found])
    text = files[outcomes_path(found, table, row)].decode()
    assert text.startswith(f'robenchOutcomes("{table.id}", "{row.id}", {json.dumps(ROWS, separators=(",", ":"))}, ')
    levels = json.dumps([t.levels for t in row.threats], separators=(",", ":"))
    assert files[levels_path(found, table, row)].decode() == f'robenchLevels("{table.id}", "{row.id}", {levels});\n'


def test_a_threat_without_levels_has_its_outcomes_in_their_place_and_a_model_without_any_has_no_script():
    found = full_board(names=("one",))
    (table,) = found.tables
    (row,) = table.models
    bare = msgspec.structs.replace(row.threats[1], levels="")
    mixed = msgspec.structs.replace(row, threats=(row.threats[0], bare))
    files = site([with_model(found, mixed)])
    assert json.loads(files[levels_path(found, table, row)].decode().split(", ", 2)[2][:-3])[1] == ROWS[1]
    none = msgspec.structs.replace(row, threats=tuple(msgspec.structs.replace(t, levels="") for t in row.threats))
    assert levels_path(found, table, row) not in site([with_model(found, none)])


def with_model(found, row):
    (table,) = found.tables
    return msgspec.structs.replace(found, tables=(msgspec.structs.replace(table, models=(row,)),))


def test_a_curve_counts_what_breaks_within_each_twentieth():
    curve = radius_curve("W0a" + "k" + "SO")
    assert (curve[0], curve[9], curve[10], curve[19], curve[20]) == (4 / 6, 4 / 6, 3 / 6, 3 / 6, 2 / 6)


def test_a_model_has_a_page_with_its_card_command_hash_and_attacks(files):
    text = page_of(files, "one").text
    for wanted in (
        "pgd_at",
        "12 min",
        "robench train pgd_at --threat linf:0.3",
        "robench evaluate one",
        "pgd",
        "by the",
    ):
        assert wanted in text
    assert b"one".hex() in text


def test_a_page_shows_all_that_is_known_of_a_model(full):
    page = page_of(full, "one")
    for wanted in (
        "431,080 parameters", "at least 12.5 %", "90.0 on average, 80.0 at worst; stability 70.0",
        "Gradient masking", "Accuracy against radius", "Accuracy against queries", "Accuracy by class",
        "1 under linf:0.3", "Images under linf:0.3", "robench verify", "@misc{robench-one", "https://x.example/b/models/mnist-test/one-",
        "with 7 adversarial images", "year = {2026}",
    ):  # fmt: skip
        assert wanted in page.text, wanted
    assert "made without them" not in page.text


def test_a_run_file_without_images_is_not_said_to_verify():
    found = full_board(names=("one",))
    model = found.tables[0].models[0].id
    text = page_of(site([found], Extras(runs={(found.id, model): Download(b"run", 0)})), "one").text
    assert "no images: the runs were made without them" in text
    assert "robench verify cannot judge them again" in text


def test_a_run_file_that_lacks_images_is_not_said_to_verify_in_full(full):
    found = full_board(names=("one",))
    model = found.tables[0].models[0].id
    text = page_of(site([found], Extras(runs={(found.id, model): Download(b"run", 7, 1200)})), "one").text
    assert "It exits with 1: the file has no image of 1,200 other breaks" in " ".join(text.split())
    assert "It exits with 1" not in page_of(full, "one").text


def test_claimed_rows_stand_apart_and_have_no_marks(full):
    text = full["mnist-test.html"].decode()
    measured, claimed = re.search(r"<tbody>(.*?)</tbody>\s*<tbody class=\"claimed\">(.*?)</tbody>", text, re.S).groups()
    assert "Published by others, of their own weights; not verified here" in claimed
    assert measured.count("data-model") == 2
    assert not re.search("data-model|data-value|<strong>|compare", claimed)


def test_a_certified_bound_stands_beside_the_upper_one(full):
    assert "≥ 12.5 certified" in full["mnist-test.html"].decode()


def test_every_row_of_the_main_table_has_a_cell_for_every_head(full):
    text = full["mnist-test.html"].decode()
    (table,) = re.findall(r'<div class="scroll main".*?</table>', text, re.S)
    rows = [len(re.findall("<t[hd][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
    rowgroup = rows.pop(3)
    assert rowgroup == 1
    assert set(rows) == {int(re.search(r'colspan="(\d+)"', table)[1])}
    assert len(rows) == 4


def test_every_table_has_a_caption_and_heads_with_a_scope(full):
    for page in pages(full).values():
        tags = [tag for tag, _ in page.found]
        assert tags.count("table") == tags.count("caption") > 0
        assert all(a.get("scope") in ("col", "row", "rowgroup") for tag, a in page.found if tag == "th")


def test_hostile_texts_stay_text(hostile):
    for name, page in pages(hostile).items():
        scripts = [a for tag, a in page.found if tag == "script"]
        assert all(set(a) == {"src", "defer"} for a in scripts), name
        assert not [a for _, a in page.found if any(key.startswith("on") for key in a)]
        images = [a for tag, a in page.found if tag == "img"]
        assert all(a["src"].endswith(".svg") for a in images)
        assert HOSTILE in "".join(page.words), name
    for name, content in hostile.items():
        if re.match("(data|outcomes|levels|models)/.*js$", name):
            assert "<" not in content.decode(), name
        assert re.fullmatch(FILE, name) or name.startswith("vendor/"), name


def test_no_page_names_another_host(files):
    for name, content in files.items():
        if name.startswith("vendor/") or name.endswith((".sqlite", ".svg", ".xml")):
            continue
        assert b"//" not in re.sub(rb"^\s*//.*$|(?<=; )//.*$", b"", content, flags=re.M), name


def test_open_and_unmeasured_numbers_are_marked():
    text = site([board(recorded(ROWS))])["mnist-test.html"].decode()
    assert re.search(r'title="2 open, 0 failed">≤ 50\.0<', text)


def test_the_front_page_has_three_models_of_each_data_set():
    found = board(*(recorded([row], name=f"m{n}") for n, row in enumerate(["SSSS", "SSSB", "SSBB", "SBBB"])))
    page = Tags(site([found])["index.html"].decode())
    assert [word for word in page.words if re.fullmatch(r"m\d", word)] == ["m0", "m1", "m2"]
    assert "4 models, 4 examples" in page.text


def test_a_vendored_part_is_the_file_that_its_list_names():
    folder = Path(robench.__file__).parent / "leaderboard" / "static" / "vendor"
    parts = msgspec.toml.decode((folder / "vendor.toml").read_text())["part"]
    listed = {entry["file"]: entry["sha256"] for part in parts for entry in part["files"]}
    present = {path.name for path in folder.iterdir()} - {"vendor.toml"}
    assert listed.keys() == present
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert all(any("LICENSE" in e["file"] for e in part["files"]) and part["licence"] for part in parts)
