"""`robench leaderboard`, as it is typed."""

import json
import os
import re
import shutil
import urllib.request
from dataclasses import replace
from threading import Thread

import msgspec
import numpy as np
import pytest
from PIL import Image

from robench.cli import leaderboard
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.problem.checkpoints.cards import Certificate, Claimed, read_card, write_card
from robench.problem.checkpoints.zoo import zoo_card

from .conftest import files


@pytest.fixture
def runs(run, folder):
    """A folder `runs` with a finished run of a bundled model in a subfolder."""
    (folder / "runs" / "below").mkdir(parents=True)
    shutil.move(run, folder / "runs" / "below" / "a.robench")
    return folder / "runs"


def test_a_folder_of_runs_becomes_a_site(runs, robench, folder):
    result = robench("leaderboard", "runs", "--out", "site")
    assert (result.code, result.out, result.err) == (0, "site/index.html: 1 row\n", "")
    names = set(files(folder / "site"))
    assert {"index.html", "digits-test.html", "data/digits-test.json", "data/digits-test.js", "board.js"} <= names


def test_the_site_of_a_copy_of_the_run_is_the_same(runs, robench, folder):
    robench("leaderboard", "runs", "--out", "one")
    shutil.copy(runs / "below" / "a.robench", folder / "z.robench")
    robench("leaderboard", "z.robench", "runs", "--out", "two")
    assert files(folder / "one") == files(folder / "two")


def test_the_order_of_runs_changes_no_byte_of_the_site(runs, robench, folder):
    a, b = runs / "below" / "a.robench", runs / "b.robench"
    robench("merge", a, "--slim", "--out", b)
    robench("leaderboard", a, b, "--out", "one")
    robench("leaderboard", b, a, "--out", "two")
    assert files(folder / "one") == files(folder / "two")
    assert [name for name in files(folder / "one") if name.startswith("runs/")]


@pytest.mark.costly
def test_a_site_below_the_folder_of_runs_adds_no_run(runs, robench, folder):
    both = runs / "b.robench"
    robench("evaluate", "digits-nat", "--protocol", "tiny.toml", "--examples", 4, "--run", both, "--quiet")
    robench("leaderboard", "runs", "--out", "site")
    (folder / "runs" / "site" / "notes").mkdir(parents=True)
    for _ in range(2):
        assert robench("leaderboard", "runs", "--out", "runs/site").code == 0
        assert files(folder / "runs" / "site") == files(folder / "site")
    shutil.copy(both, folder / "runs" / "site" / "notes" / "copy.robench")
    assert robench("leaderboard", "runs/site/notes", "--json", "data").code == 0


def test_a_site_leaves_no_file_of_an_earlier_one(runs, robench, folder):
    robench("leaderboard", "runs", "--out", "site")
    (folder / "site" / "mine.txt").write_text("mine")
    robench("leaderboard", "runs", "--out", "site", "--no-runs", "--images", 0)
    robench("leaderboard", "runs", "--out", "new", "--no-runs", "--images", 0)
    (folder / "new" / "mine.txt").write_text("mine")
    assert files(folder / "site") == files(folder / "new")


def test_the_images_of_bundled_data_are_shown(runs, robench, folder):
    robench("leaderboard", "runs", "--out", "site", "--images", 5)
    with RunFile.read(runs / "below" / "a.robench") as run:
        images, evidence = dict(run.images((1, 28, 28))), run.evidence()
    sizes = {(c.threat, c.example): v.size for c, v in evidence.judged() if c.id in images}
    (outcomes,) = (folder / "site" / "outcomes").rglob("*.js")
    sheets = json.loads(outcomes.read_text().split("], ", 1)[1].removesuffix(");\n"))
    letters = re.search(r'\["([WBSO]{12})","([WBSO]{12})"\]', outcomes.read_text()).groups()
    assert any(sheets)
    for sheet, row, threat in zip(sheets, letters, ("linf:0.1", "l2:1"), strict=True):
        broken = [place for place in range(5) if row[place] == "B"]
        assert (sheet is None) == (not broken)
        if sheet:
            assert sheet["sizes"] == {str(place): sizes[threat, place] for place in broken}
            picture = np.asarray(Image.open(folder / "site" / sheet["adversarial"]))
            (smallest,) = [
                images[c.id]
                for c, v in evidence.judged()
                if (c.threat, c.example) == (threat, broken[0]) and c.id in images
            ]
            at = slice(28 * broken[0], 28 * broken[0] + 28)
            assert np.array_equal(picture[:28, at], np.round(smallest[0] * 255))


def test_data_that_are_not_at_hand_are_named_and_not_fetched(runs, robench, folder, monkeypatch):
    data = replace(datasets.DATASETS["digits"], here=lambda part: False, read=lambda part: 1 / 0)
    monkeypatch.setitem(datasets.DATASETS, "digits", data)
    result = robench("leaderboard", "runs", "--out", "site")
    assert (result.code, result.err) == (0, "note: no images of digits:test: its examples are not on this machine\n")
    assert not (folder / "site" / "images").exists()
    assert robench("leaderboard", "runs", "--out", "site", "--images", 0).err == ""


def test_the_run_file_of_a_site_is_verified(runs, robench, folder):
    robench("leaderboard", "runs", "--out", "site")
    (run,) = (folder / "site" / "runs").rglob("*.robench")
    assert str(folder).encode() not in run.read_bytes()
    result = robench("verify", run)
    assert (result.code, result.err) == (0, "")
    assert "all hold" in result.out


def test_the_address_of_the_site_stands_in_feed_and_badge_alone(runs, robench, folder):
    robench("leaderboard", "runs", "--out", "plain")
    robench("leaderboard", "runs", "--out", "site", "--url", "https://x.example/b")
    plain, absolute = files(folder / "plain"), files(folder / "site")
    different = {name for name in plain if plain[name] != absolute[name]} - {"manifest.json"}
    assert different == {"feed.xml", *(name for name in plain if re.match("models/.*html", name))}
    assert b'href="https://x.example/b/feed.xml"' in absolute["feed.xml"]


def test_a_row_has_the_facts_of_the_bundled_card_and_the_numbers_of_the_summary(runs, robench, folder):
    robench("leaderboard", "runs", "--json", "data")
    (row,) = json.loads((folder / "data" / "digits-test.json").read_text())["tables"][0]["models"]
    summary = json.loads((folder / "s.json").read_text())
    card = read_card(zoo_card("digits-nat"))
    assert (row["card"]["recipe"], row["card"]["minutes"]) == ("nat", card.minutes)
    assert row["card"]["command"] == card.command
    assert row["weights_sha256"] == summary["model"]["weights_sha256"]
    assert [t["outcomes"] for t in row["threats"]] == [t["outcomes"] for t in summary["threats"]]
    assert (row["union"]["accuracy"], row["union"]["ci95"]) == (
        summary["union"]["accuracy"],
        summary["union"]["ci95"],
    )
    assert row["average"]["accuracy"] == summary["average"]["accuracy"]
    assert row["commands"] == ["robench evaluate digits-nat --protocol tiny.toml --quiet --run r.robench --json s.json"]


def test_a_row_of_a_bundled_model_that_was_named_by_its_path_has_the_facts_of_its_card(robench, folder):
    weights = zoo_card("digits-nat").with_suffix(".safetensors")
    assert robench("evaluate", weights, "--protocol", "tiny.toml", "--run", "r.robench", "--quiet").code == 0
    robench("leaderboard", "r.robench", "--json", "data")
    (row,) = json.loads((folder / "data" / "digits-test.json").read_text())["tables"][0]["models"]
    assert row["card"]["recipe"] == "nat"


def test_a_named_card_is_the_one_that_is_shown(runs, robench, folder):
    write_card(folder / "mine.toml", read_card(zoo_card("digits-nat")).__class__(
        name="digits-nat", data="digits", architecture="x", shape=(1, 8, 8), classes=10, weights="x.safetensors",
        sha256="0" * 64, recipe="mine",
    ))  # fmt: skip
    assert robench("leaderboard", "runs", "--json", "data", "--card", "mine.toml").code == 0
    assert '"recipe": "mine"' in (folder / "data" / "digits-test.json").read_text()


def named_card(path, **fields):
    """The card of the model of the runs with other fields."""
    write_card(path, msgspec.structs.replace(read_card(zoo_card("digits-nat")), **fields))


def test_a_named_card_states_published_and_certified_numbers(runs, robench, folder):
    threats = [t["threat"] for t in json.loads((folder / "s.json").read_text())["threats"]]
    published = Claimed(source="A 2020, Table 1", threats=tuple(threats), accuracy={"union": 0.25, "other": 1.0})
    certified = {threats[0]: Certificate(accuracy=0.0, source="nothing is certified")}
    named_card(folder / "mine.toml", claimed={"a": published}, certified=certified)
    assert robench("leaderboard", "runs", "--json", "data", "--card", "mine.toml").code == 0
    (table,) = json.loads((folder / "data" / "digits-test.json").read_text())["tables"]
    assert table["claimed"] == [{"name": "digits-nat", "source": "A 2020, Table 1", "accuracy": {"union": 0.25}}]
    assert table["models"][0]["card"]["certified"] == [
        {"threat": threats[0], "accuracy": 0.0, "source": "nothing is certified"}
    ]
    assert table["models"][0]["parameters"] == 54822


def test_classes_need_no_data(runs, robench, folder, monkeypatch):
    def unread(*of):
        raise AssertionError("no data set is read")

    monkeypatch.setattr("robench.problem.datasets.load", unread)
    monkeypatch.setattr("robench.problem.datasets.digits.read", unread)
    assert robench("leaderboard", "runs", "--json", "data").code == 0
    (row,) = json.loads((folder / "data" / "digits-test.json").read_text())["tables"][0]["models"]
    assert sum(c["examples"] for c in row["classes"]) == sum(row["patterns"].values()) == 12
    assert len(row["classes"]) > 1


def test_numbers_of_a_card_about_other_data_are_left_out(runs, robench, folder):
    published = Claimed(source="A", threats=("linf:0.2", "l2:2", "l1:10"), accuracy={"union": 0.25})
    certified = {"linf:0.2": Certificate(accuracy=1.0, source="about other images")}
    named_card(folder / "mine.toml", data="mnist", claimed={"a": published}, certified=certified)
    assert robench("leaderboard", "runs", "--json", "data", "--card", "mine.toml").code == 0
    (table,) = json.loads((folder / "data" / "digits-test.json").read_text())["tables"]
    assert (table["claimed"], table["models"][0]["card"]["certified"]) == ([], [])


def test_a_certificate_that_images_contradict_is_refused(runs, refused, folder):
    threat = json.loads((folder / "s.json").read_text())["threats"][0]["threat"]
    named_card(folder / "mine.toml", certified={threat: Certificate(accuracy=1.0, source="hope")})
    message = refused("leaderboard", "runs", "--json", "data", "--card", "mine.toml")
    assert f"the card of digits-nat certifies an accuracy of 1 under {threat}, but at most" in message
    assert not (folder / "data").exists()


def test_check_is_silent_until_a_byte_differs(runs, robench, folder):
    robench("leaderboard", "runs", "--json", "data")
    result = robench("leaderboard", "runs", "--check", "data")
    assert (result.code, result.out, result.err) == (0, "", "")
    path = folder / "data" / "digits-test.json"
    path.write_bytes(path.read_bytes() + b"\n")
    (folder / "data" / "other.json").write_text("{}")
    result = robench("leaderboard", "runs", "--check", "data")
    assert result.code == 1
    assert [line.partition(";")[0] for line in result.err.splitlines()] == [
        "data: other.json is about data that no run is about",
        "data: digits-test.json differs from what the runs give",
    ]
    path.unlink()
    result = robench("leaderboard", "runs", "--check", "data")
    assert "digits-test.json is missing" in result.err


def test_serve_shows_the_site_to_this_machine(runs, robench, folder, monkeypatch):
    pages = []

    class Served(leaderboard.ThreadingHTTPServer):
        def serve_forever(self):
            Thread(target=super().serve_forever).start()
            address = f"http://{self.server_address[0]}:{self.server_address[1]}/"
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as answer:
                pages.append(answer.read())
            self.shutdown()

    monkeypatch.setattr(leaderboard, "ThreadingHTTPServer", Served)
    result = robench("leaderboard", "runs", "--out", "site", "--serve", "--port", 0)
    assert result.code == 0
    assert result.out.splitlines()[1].startswith("http://127.0.0.1:")
    assert pages == [(folder / "site" / "index.html").read_bytes()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs",), "--out"),
        (("runs", "--json", "data", "--serve"), "--out"),
        (("missing", "--out", "site"), "missing"),
        (("empty", "--out", "site"), "holds no run file"),
        (("tiny.toml", "--out", "site"), "tiny.toml"),
        (("damaged.robench", "--out", "site"), "damaged.robench"),
        (("runs", "--out", "tiny.toml"), "is a file"),
        (("runs", "--json", "tiny.toml"), "is a file"),
        (("runs", "--check", "nowhere"), "write it first"),
        (("runs", "--out", "site", "--card", "missing.toml"), "missing.toml"),
        (("runs", "--out", "site", "--card", "pipe.toml"), "pipe.toml is not a file"),
        (("runs", "--out", "site", "--card", "settings.toml"), "and no list"),
        (("runs", "--out", "n" * 300), "is too long for the name of a file"),
        (("n" * 300, "--out", "site"), "is too long for the name of a file"),
        (("runs", "--out", "site", "--card", "other.toml"), "none of these runs is about digits-sat"),
        (("runs", "--out", "tiny.toml/site"), "cannot be created"),
        (("runs", "--out", "site", "--seed", "1"), "name their folder with --submissions"),
        (("runs", "--out", "site", "--submissions", "tiny.toml"), "name the folder of the submissions"),
        (("runs", "--out", "site", "--submissions", "empty", "--weights", "no.pt"), "there is no file no.pt"),
        (("runs", "--out", "site", "--url", "x.example"), "--url"),
        (("runs", "--out", "site", "--url", 'https://x.example/"><script>'), "--url"),
        (("runs", "--out", "site", "--url", "javascript:alert(1)"), "--url"),
        (("runs", "--out", "site", "--url", "http://["), "--url"),
        (("runs", "--out", "site", "--submissions", "empty", "--found", "tiny.toml"), "name one with --found"),
        (("runs", "--out", "site", "--submissions", "empty", "--device", "warp"), "there is no device 'warp'"),
        (("runs", "--out", "site", "--images", "-1"), "--images"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(runs, refused, folder, words, message):
    (folder / "empty").mkdir()
    (folder / "damaged.robench").write_bytes((runs / "below" / "a.robench").read_bytes()[:5000])
    shutil.copy(zoo_card("digits-sat"), folder / "other.toml")
    os.mkfifo(folder / "pipe.toml")
    nat = read_card(zoo_card("digits-nat"))
    write_card(folder / "settings.toml", msgspec.structs.replace(nat, settings={"threats": 5}))
    assert message in refused("leaderboard", *words)
    assert not (folder / "site").exists()


@pytest.mark.parametrize("words", [("board", "--out", ""), ("board", "--json", ""), ("", "--out", "site")])
def test_an_empty_name_does_not_stand_for_the_current_folder(refused, words):
    """A variable of the shell that is not set would scatter a site there."""
    assert "it is empty; name a file or folder, or . for this folder" in refused("leaderboard", *words)
