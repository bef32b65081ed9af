"""A reader that goes away, a full disk behind the output, and encodings without some letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = min((Path(__file__).parents[2] / "reports" / "runs").glob("*.robench"), key=lambda path: path.stat().st_size)


def typed(*words: str, **streams: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "robench", *words]
    return subprocess.run(command, text=True, check=False, timeout=60, **streams)  # type: ignore[call-overload]


@pytest.fixture
def unread():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("list", "attacks"), 0),
        (("--help",), 0),
        (("report", str(RUN)), 0),
        (("report", str(RUN), "--check", __file__), 1),
        (("report", "nix.robench"), 2),
    ],
)
def test_a_reader_that_goes_away_does_not_change_the_exit_code(words, code, unread):
    done = typed(*words, stdout=unread, stderr=subprocess.PIPE)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error") == (code == 2)
    assert typed(*words, stdout=unread, stderr=unread).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_behind_the_output_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = typed("list", "attacks", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == "Error: the output cannot be written: No space left on device; send it elsewhere\n"


def test_signs_that_an_encoding_lacks_are_spelled_and_letters_escaped():
    code = "from robench.cli import output; output.use(); print('\u2264 64.1 of Tram\u00e8r, \u0141')"
    narrow = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=narrow)
    assert (done.returncode, done.stdout) == (0, b"<= 64.1 of Tram\xe8r, \\u0141\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_where_messages_cannot_be_written_the_exit_code_still_tells():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "robench", "list", "atacks"], stderr=full, check=False)
    assert done.returncode == 2


def test_a_very_long_text_is_cut_in_the_middle_of_a_message(refused):
    line = refused("evaluate", "digits-nat", "--attack", f"pgd(steps={'b' * 20_000})")
    assert len(line) < 2000
    assert line.endswith("like its default 100")
