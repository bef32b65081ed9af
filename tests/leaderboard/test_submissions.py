"""Folders of submissions: only those of the known form are read, and what they state is harmless text."""

import os

import msgspec
import pytest

from robench.errors import UserError
from robench.evidence.records import Evidence, MaskingDepth, MaskingState, Probe
from robench.leaderboard.submissions import CARD, MAX_BYTES, RUN, STATEMENT, Submission, folders, new_model, read

from ..results.made import clean, plan

HASH = "ab" * 32
STATED = {"name": "one", "by": "Ada Lovelace", "model": "net", "run_sha256": HASH, "weights_sha256": HASH}


@pytest.fixture
def sent(tmp_path):
    """A submission of the known form."""
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / STATEMENT).write_bytes(Submission(**STATED).to_toml())
    (folder / RUN).write_bytes(b"run")
    return folder


def why(folder):
    with pytest.raises(UserError) as refused:
        read(folder)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_a_statement_is_read_as_it_was_written(sent):
    texts = {"by": 'Ada "<b>" Löve\\lace \U0001f600', "note": "a = 'b'", "link": "https://example.org/a?b=c"}
    wanted = Submission(**{**STATED, **texts}, weights="https://example.org:443/net.safetensors")
    (sent / STATEMENT).write_bytes(wanted.to_toml())
    assert read(sent) == wanted
    (sent / CARD).write_text("")
    assert read(sent) == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "robench.submission/2"}, "schema is"),
        ({"name": "../one"}, "no name of a submission"),
        ({"name": "two"}, "calls it two"),
        ({"by": ""}, "by is ''"),
        ({"by": "Ada\nrefused: nothing"}, "by is"),
        ({"by": "Ada\u202eecalevoL"}, "by is"),
        ({"by": "x" * 101}, "by is"),
        ({"by": "\u3164"}, "by is"),
        ({"model": ""}, "model is"),
        ({"run_sha256": HASH.upper()}, "run_sha256 is"),
        ({"weights_sha256": "ab"}, "weights_sha256 is"),
        ({"weights": "http://example.org/net.pt"}, "begins with https://"),
        ({"weights": "file:///etc/passwd"}, "begins with https://"),
        ({"weights": "/etc/passwd"}, "begins with https://"),
        ({"weights": "https://user:word@example.org/net.pt"}, "begins with https://"),
        ({"link": "javascript:alert(1)"}, "begins with https://"),
        ({"link": 'https://example.org/"onclick="x'}, "begins with https://"),
        ({"note": "x" * 501}, "note is"),
        ({"more": "1"}, "unknown field"),
    ],
)
def test_a_statement_that_states_something_else_is_refused(sent, change, message):
    fields = {**msgspec.to_builtins(Submission(**STATED)), **change}
    (sent / STATEMENT).write_text("".join(f"{k} = {msgspec.json.encode(v).decode()}\n" for k, v in fields.items()))
    assert message in why(sent)


@pytest.mark.parametrize("text", [b"", b"\xff", b"name = 1", b"[[[", b"a." * 5000 + b"a = 1", b'name = "one"'])
def test_a_file_that_is_no_statement_is_refused(sent, text):
    (sent / STATEMENT).write_bytes(text)
    assert STATEMENT in why(sent)


@pytest.mark.parametrize("name", ["more.txt", "run.robench-wal", "run.robench-journal", ".git", "CARD.toml"])
def test_a_folder_with_another_file_is_refused(sent, name):
    (sent / name).write_text("")
    assert f"it holds '{name}'" in why(sent)


def test_a_folder_below_is_refused(sent):
    (sent / CARD).mkdir()
    assert "card.toml is a link or no file" in why(sent)


@pytest.mark.parametrize("name", [STATEMENT, RUN, CARD])
def test_a_link_or_a_pipe_is_refused_without_waiting(sent, name, tmp_path):
    (sent / name).unlink(missing_ok=True)
    (tmp_path / "elsewhere").write_text("")
    (sent / name).symlink_to(tmp_path / "elsewhere")
    assert f"its {name} is a link or no file" in why(sent)
    (sent / name).unlink()
    os.mkfifo(sent / name)
    assert f"its {name} is a link or no file" in why(sent)


def test_a_linked_folder_is_refused(sent):
    link = sent.parent / "two"
    link.symlink_to(sent)
    assert "it is no folder" in why(link)


@pytest.mark.parametrize("name", [STATEMENT, RUN, CARD])
def test_a_file_that_is_too_large_is_refused_unread(sent, name):
    with (sent / name).open("wb") as file:
        file.truncate(MAX_BYTES[name] + 1)
    assert f"its {name} has" in why(sent)


@pytest.mark.parametrize("name", [STATEMENT, RUN])
def test_a_folder_without_one_of_its_files_is_refused(sent, name):
    (sent / name).unlink()
    assert f"it has no {name}" in why(sent)


@pytest.mark.parametrize("name", ["One", "a b", "a--b", "-a", "<b>", "é", ".hidden", "x" * 61])
def test_the_name_of_a_folder_is_harmless(sent, name):
    assert "no name of a submission" in why(sent.rename(sent.parent / name))


def test_all_but_a_readme_is_a_submission(sent):
    root = sent.parent
    (root / "README.md").write_text("")
    (root / "stray.txt").write_text("")
    assert [path.name for path in folders(root)] == ["one", "stray.txt"]
    (root / "README.md").unlink()
    (root / "README.md").symlink_to(sent)
    assert [path.name for path in folders(root)] == ["README.md", "one", "stray.txt"]
    with pytest.raises(UserError, match="no folder"):
        list(folders(root / "stray.txt"))


def test_a_new_model_is_untested_for_masking_where_its_run_states_that_none_was_found():
    planned = plan((0, 1))
    threats = [t.threat for t in planned.threats]
    evidence = Evidence(
        clean=tuple(clean(e) for e in planned.examples),
        masking=tuple(MaskingState(t, MaskingDepth.ON, MaskingDepth.ON) for t in threats),
        probes=tuple(Probe(t, -1, "zero", 0.0) for t in threats),
        environment={"checkpoint": "/home/ada/net.pt", "date": "2026-11-26T06:10:00Z", "note model": "odd"},
    )
    known = new_model(planned, evidence, "submitted by Ada as one")
    assert known.masking == known.probes == ()
    assert known.clean == evidence.clean
    assert known.environment == {
        "date": "2026-11-26T06:10:00Z", "note model": "odd", "note submission": "submitted by Ada as one",
    }  # fmt: skip
