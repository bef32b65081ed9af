"""Images and run files of a site."""

import msgspec
import pytest

from robench.cli import site_extras
from robench.cli.site_extras import site_address, site_images, site_runs
from robench.errors import UserError
from robench.evaluation.recorded import recorded_plan
from robench.evidence.store import RunFile
from robench.leaderboard.collect import RecordedRun, collected


@pytest.fixture
def recorded():
    """The run in a file, as the command reads it."""

    def recorded(path):
        with RunFile.read(path) as run:
            plan, evidence = recorded_plan(run), run.evidence()
        return RecordedRun(plan, lambda: (evidence, None), path)

    return recorded


@pytest.fixture
def found(run, recorded):
    return collected([recorded(run)], lambda *_: True)


def images_of(found, count=12):
    (images,) = site_images(found, count, pytest.fail).values()
    return images


def changed(found, **changes):
    """What was found, with another table."""
    (board,) = found.boards
    (table,) = board.tables
    board = msgspec.structs.replace(board, tables=(msgspec.structs.replace(table, **changes),))
    return type(found)([board], found.runs)


def test_images_are_those_of_broken_examples(found):
    images = images_of(found)
    (row,) = found.boards[0].tables[0].models
    broken = {t.threat: {place for place, letter in enumerate(t.outcomes) if letter == "B"} for t in row.threats}
    assert {threat: places.keys() for (_, threat), places in images.adversarial.items()} == broken
    assert len(images.clean) == len(images.labels) == 12


def test_an_example_that_does_not_count_as_broken_has_no_image(found):
    (row,) = found.boards[0].tables[0].models
    wrong = tuple(msgspec.structs.replace(t, outcomes="W" * 12) for t in row.threats)
    images = images_of(changed(found, models=(msgspec.structs.replace(row, threats=wrong),)))
    assert not any(images.adversarial.values())


def test_images_of_other_data_are_not_shown(found):
    notes = []
    assert site_images(changed(found, sha256="0" * 64), 5, notes.append) == {}
    assert site_images(changed(found, numbers="5000:5012"), 5, notes.append) == {}
    assert notes == ["no images of some tables of digits:test: its examples are other images here"] * 2


def test_a_data_set_of_ones_own_is_never_read(found):
    (board,) = found.boards
    notes = []
    board = msgspec.structs.replace(board, data="/etc/passwd:test")
    assert site_images(type(found)([board], found.runs), 5, notes.append) == {}
    assert notes == ["no images of /etc/passwd:test: its examples are not on this machine"]


@pytest.mark.parametrize("first", ["full", "slim"])
def test_a_run_file_has_the_images_whichever_copy_comes_first(run, robench, folder, recorded, monkeypatch, first):
    robench("merge", run, "--slim", "--out", "slim.robench")
    slim = folder / "slim.robench"
    monkeypatch.setattr(site_extras.durable, "sha256", lambda path: str((path == slim) == (first == "full")))
    both = collected([recorded(slim), recorded(run)], lambda *_: True)
    (download,) = site_runs(both, pytest.fail).values()
    with RunFile.read(run) as file:
        assert download.images == file.image_count() > 0
    assert download.missing == 0


def test_a_run_file_without_images_has_the_number_of_breaks_that_lack_one(run, robench, folder, recorded):
    robench("merge", run, "--slim", "--out", "slim.robench")
    (download,) = site_runs(collected([recorded(folder / "slim.robench")], lambda *_: True), pytest.fail).values()
    with RunFile.read(run) as file:
        assert (download.images, download.missing) == (0, file.image_count())


def test_a_run_that_cannot_be_joined_is_named(found, monkeypatch):
    def refuse(*_, **__):
        raise UserError("it cannot be joined")

    monkeypatch.setattr(site_extras, "write_joint", refuse)
    notes = []
    assert site_runs(found, notes.append) == {}
    assert notes == [f"no run file of {next(iter(found.runs))[1]}: it cannot be joined"]


@pytest.mark.parametrize("text", ["https://x.example", "https://x.example/", "https://x.example//"])
def test_an_address_ends_with_one_slash(text):
    assert site_address(text) == "https://x.example/"


@pytest.mark.parametrize("text", ["x", "ftp://x.example", "https://", "https://x.example/?q", "https://x.example/#a"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UserError, match="--url"):
        site_address(text)
