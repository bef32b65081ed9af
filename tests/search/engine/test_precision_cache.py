"""Decisions are kept where they can be, and no trouble with the cache is anybody's."""

import os

import pytest

from robench.search.engine.precision_cache import LARGEST, VARIABLE, Decision, read, write

KEY = {"model": "a", "torch": "2.6"}
DECISION = Decision("bfloat16", "a pilot breaks the same")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_what_was_written_is_read_under_its_key_alone(cache):
    assert read(KEY) is None
    write(KEY, DECISION)
    assert read(dict(reversed(KEY.items()))) == DECISION
    assert read({**KEY, "torch": "2.7"}) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"key": {}, "decision": {"precision": "bfloat16", "reason": ""}}',
        b"x" * LARGEST * 2,
    ],
)
def test_a_damaged_file_is_no_decision_and_is_written_anew(cache, content):
    write(KEY, DECISION)
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert read(KEY) is None
    write(KEY, DECISION)
    assert read(KEY) == DECISION


def test_what_is_no_file_is_not_opened(cache):
    write(KEY, DECISION)
    (path,) = cache.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert read(KEY) is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "kept"))
    write(KEY, DECISION)
    assert read(KEY) is None


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    write(KEY, DECISION)
    assert read(KEY) is None
    assert not list(tmp_path.iterdir())


def test_the_usual_folder_is_the_accounts_cache(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    write(KEY, DECISION)
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "robench" / "precision"]
