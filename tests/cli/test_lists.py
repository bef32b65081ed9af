"""`robench list` and `robench show`."""

import json
import re

import pytest

from robench.catalogue import catalogue
from robench.cli import columns
from robench.cli.columns import aligned
from robench.cli.offered import KINDS, entries, protocol_file
from robench.problem.checkpoints.zoo import zoo_names
from robench.protocols import HERE, names


def on_terminal(monkeypatch, width: int) -> None:
    monkeypatch.setattr(columns, "width", lambda: width)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_on_a_terminal_has_headings_and_fits(robench, monkeypatch, kind, width):
    on_terminal(monkeypatch, width)
    lines = robench("list", kind).out.splitlines()
    assert lines[0].split()[0] == KINDS[kind].one.split()[0]
    too_long = [line for line in lines if len(line) > width]
    assert all(len(line.split()) == 1 or "  " in line.strip() for line in too_long), "only words alone may be longer"
    assert sum(len(line) > width for line in lines) <= 0.1 * len(lines)
    whole = " ".join(" ".join(lines).split())
    assert all(address in whole for entry in entries(kind) for address in re.findall(r"https?://\S+", entry.summary))


def test_columns_are_aligned_and_the_last_one_is_wrapped():
    rows = [["a", "bb", "one two three four five six seven eight nine"], ["ccc", "d", "ten"]]
    assert aligned(rows, 40).splitlines() == [
        "a    bb  one two three four five six",
        "         seven eight nine",
        "ccc  d   ten",
    ]


def test_where_the_last_column_would_be_too_narrow_it_stands_below():
    rows = [["a long name of twenty", "one two three four five"]]
    assert aligned(rows, 30).splitlines() == ["a long name of twenty", "    one two three four five"]


def test_elsewhere_a_row_is_one_line():
    assert aligned([["a", "word " * 50 + "end"]], None).count("\n") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_as_json_holds_whole_entries(robench, kind):
    listed = json.loads(robench("list", kind, "--format", "json").out)
    assert [entry["name"] for entry in listed] == [entry.name for entry in entries(kind)]
    assert all(
        {"name", "summary", "facts", "about", "settings", "details", "example", "also"} == entry.keys()
        for entry in listed
    )


def test_an_unknown_format_or_kind_or_name_is_refused_with_the_nearest(robench):
    for words, hint in (
        (("list", "attacks", "--format", "jsn"), "did you mean json?"),
        (("list", "attack"), "did you mean attacks"),
        (("list", "recipes", "pgd-at"), "did you mean pgd_at?"),
        (("show", "pdg"), "did you mean pdpgd or pgd or apgd?"),
        (("show", "pgd", "--format", "jsn"), "did you mean json?"),
        (("show", "zzzzzzz"), "robench list attacks|threats|protocols|recipes|data|models|architectures"),
    ):
        result = robench(*words)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), words
        assert hint in result.err


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_listed_can_be_shown(robench, kind):
    for entry in entries(kind):
        out = robench("show", entry.name).out
        assert f"{entry.name} ({KINDS[kind].one})" in out
        assert entry.example in out
        assert all(setting.name in out and setting.values in out for setting in entry.settings)


def test_an_architecture_is_shown_with_its_images_its_weights_and_how_its_relatives_are_called(robench):
    out = robench("show", "vit-base-16").out
    assert "at least 16x16 pixels, sides that are multiples of 16" in out
    assert "weights      85,658,890 for images of 3x32x32 and 10 classes" in out
    assert "other names  vit-SIZE-P for patches of PxP pixels" in out
    assert "arXiv:2010.11929" in out
    assert "other names" not in robench("show", "lenet").out


def test_an_architecture_that_no_list_has_is_shown_by_the_name_of_its_family(robench):
    assert "wrn-40-4 " not in robench("list", "architectures").out
    out = robench("show", "wrn-40-4").out
    assert "wrn-40-4 (architecture)" in out
    assert "weights      8,949,210 for images of 3x32x32 and 10 classes" in out
    assert "did you mean wrn-" in robench("show", "wrn-41-4").err


@pytest.mark.parametrize("kind", ["attacks", "recipes"])
def test_a_source_is_shown_once(robench, kind):
    for entry in entries(kind):
        if named := re.findall(r"https?://\S*[^\s.,;:)]", entry.summary):
            out = robench("show", entry.name).out
            assert [out.count(link) for link in named] == [1] * len(named), entry.name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("linf", "Every pixel moves by at most `radius`."),
        ("l1", "The absolute changes of all pixels add up to at most `radius`."),
        ("l2", "The Euclidean length of the change is at most `radius`."),
    ],
)
def test_a_threat_says_what_it_is_once(robench, name, said):
    _, first, second, *_ = robench("show", name).out.splitlines()
    assert (first.strip(), second) == (said, "")
    assert "change" in robench("show", "l0").out.splitlines()[1]  # a line that says more stays


def test_a_name_that_several_kinds_share_shows_all_of_them(robench, monkeypatch):
    assert "mnist (data set)" in robench("show", "mnist").out
    shared = dict(catalogue())
    shared["recipes"] = (*shared["recipes"], shared["attacks"][0])
    monkeypatch.setattr("robench.cli.offered.catalogue", lambda: shared)
    out = robench("show", "pgd").out
    assert "pgd (attack)" in out
    assert "pgd (recipe)" in out
    assert [thing["kind"] for thing in json.loads(robench("show", "pgd", "--format", "json").out)] == [
        "attack",
        "recipe",
    ]


def test_former_names_and_names_of_threats_are_found(robench):
    assert "random-transforms (attack)" in robench("show", "random-poses").out
    assert "linf:8/255 (threat)" in robench("show", "linf").out


def test_a_protocol_is_shown_with_every_attack_and_its_cost(robench):
    out = robench("show", "tramer2019-mnist-rt").out
    assert "pgd is pgd(loss='margin', random_start=True, step_size=None, steps=100, targets=0), 40 restarts" in out
    assert "An example of 10 classes that no attack breaks costs" in out


def test_a_model_is_shown_with_what_its_card_states(robench):
    out = robench("show", "digits-sat").out
    assert "robench train sat" in out
    assert re.search(r"SHA-256 +[0-9a-f]{64}", out)


def test_the_files_of_listed_protocols_are_those_that_are_read():
    assert all(protocol_file(name) == HERE / f"{name}.toml" for name in names())
    assert zoo_names() == tuple(entry.name for entry in entries("models"))


def test_a_list_fits_the_width_of_the_terminal_it_is_printed_on(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert columns.width() == 72
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert columns.width() is None
