"""Decisions are cached if possible, and a problem with the cache is no error."""

import os

import pytest

from robench.search.engine.precision_cache import MAX_BYTES, VARIABLE, Decision, read, write

KEY = {"model": "a", "torch": "2.6"}
DECISION = Decision("bfloat16", "a pilot breaks the same")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_decision_is_read_only_under_its_own_key(cache):
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
        b"x" * MAX_BYTES * 2,
    ],
)
def test_a_damaged_file_is_no_decision_and_is_replaced(cache, content):
    write(KEY, DECISION)
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert read(KEY) is None
    write(KEY, DECISION)
    assert read(KEY) == DECISION


def test_only_regular_files_are_opened(cache):
    write(KEY, DECISION)
    (path,) = cache.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert read(KEY) is None


def test_a_folder_that_cannot_be_created_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "kept"))
    write(KEY, DECISION)
    assert read(KEY) is None


def test_an_empty_variable_turns_the_cache_off(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    write(KEY, DECISION)
    assert read(KEY) is None
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    write(KEY, DECISION)
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "robench" / "precision"]
