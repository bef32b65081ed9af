"""Run files of strangers: nothing in or beside them is obeyed, and each is read or refused, at once."""

import ctypes
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from robench.errors import UserError
from robench.evidence import opening, store
from robench.evidence.layout import APPLICATION_ID
from robench.evidence.store import RunFile

from .records import EVIDENCE, PLAN, beside, elsewhere, fill, killed

JOURNAL = bytes.fromhex("d9d505f920a163d7")  # how SQLite's rollback journals begin, and end where they name another


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.05)


def refusal(action, *arguments):
    """The one sentence."""
    with pytest.raises(UserError) as error:
        action(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def altered(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def everything(path):
    with RunFile.read(path) as run:
        return repr((run.plan(), run.evidence()))


# Journals


def journal(path, *, deletes=None, pages=()):
    """A rollback journal beside the file: it puts `pages` back, and has a file deleted that lies anywhere."""
    held = path.read_bytes()
    size = int.from_bytes(held[16:18], "big")
    header = JOURNAL + struct.pack(">IIIII", len(pages), 0, len(held) // size, 512, size)
    text = header + b"\0" * (512 - len(header))
    for number, page in pages:
        total = sum(page[i] for i in range(size - 200, 0, -200)) & 0xFFFFFFFF
        text += struct.pack(">I", number) + page + struct.pack(">I", total)
    if deletes is not None:
        name = str(deletes).encode()
        text += struct.pack(">I", 0x40000000 // size + 1) + name + struct.pack(">II", len(name), sum(name)) + JOURNAL
    path.with_name(f"{path.name}-journal").write_bytes(text)


def test_a_journal_beside_a_file_is_not_obeyed_by_readers_and_refused_by_writers(path, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    whole = everything(path)
    journal(path, deletes=victim)
    before = beside(path)
    assert everything(path) == whole
    assert f"{path}-journal lies beside {path}" in refusal(RunFile.open, path)
    assert beside(path) == before
    with sqlite3.connect(path) as db:
        db.execute("SELECT * FROM plan").fetchall()
    db.close()
    assert not victim.exists(), "this is what SQLite does by itself"


def test_a_journal_cannot_replace_pages(path):
    old = path.read_bytes()
    altered(path, "DELETE FROM claim", "DELETE FROM verdict", "DELETE FROM spent")
    now = everything(path)
    size = int.from_bytes(old[16:18], "big")
    pages = [(n + 1, old[n * size : (n + 1) * size]) for n in range(len(old) // size)]
    journal(path, pages=pages)
    before = beside(path)
    assert everything(path) == now
    assert "-journal lies beside" in refusal(RunFile.open, path)
    assert beside(path) == before


@pytest.mark.parametrize("there", [False, True], ids=["absent", "empty"])
def test_a_journal_of_a_file_that_does_not_exist_yet_is_refused(tmp_path, there):
    path, victim = tmp_path / "r.robench", tmp_path / "victim.txt"
    victim.write_text("precious")
    if there:
        path.touch()
    header = JOURNAL + struct.pack(">IIIII", 0, 0, 1, 512, 4096)
    path.with_name("r.robench-journal").write_bytes(header + b"\0" * 484 + str(victim).encode() + JOURNAL)
    before = beside(path)
    assert "-journal lies beside" in refusal(RunFile.open, path)
    assert beside(path) == before


def test_a_link_in_place_of_a_journal_is_not_followed(path, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    path.with_name("r.robench-journal").symlink_to(victim)
    assert everything(path)
    assert "-journal lies beside" in refusal(RunFile.open, path)
    assert victim.read_text() == "precious"


@contextmanager
def created(folder):
    """The names of all files that come into being in a folder, however short their life."""
    libc, names = ctypes.CDLL(None, use_errno=True), []
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, str(folder).encode(), 0x100) >= 0  # IN_CREATE
    try:
        yield names
        events = os.read(watch, 2**16)
        while events:
            length = int.from_bytes(events[12:16], "little")
            names.append(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
    finally:
        os.close(watch)


@pytest.mark.skipif(sys.platform != "linux", reason="by inotify, which is Linux's")
def test_robench_writes_no_journal_itself(tmp_path):
    """Not while a file is begun, nor when its log is switched on and off."""
    path = tmp_path / "r.robench"
    with created(tmp_path) as names:
        for _ in range(2):
            with RunFile.open(path) as run:
                fill(run)
        with RunFile.whole(tmp_path / "w.robench") as run:
            fill(run)
    assert {"r.robench", "r.robench-wal", ".w.robench.part-wal"} <= set(names)
    assert [name for name in names if "journal" in name] == []
    assert path.read_bytes()[18:20] == b"\1\1", "and the file does not ask for a log any more"


# Logs


def test_a_log_is_read_from_a_copy_and_nothing_beside_the_file_changes(tmp_path):
    path = tmp_path / "r.robench"
    killed("fill(run)", path)
    before = beside(path)
    assert sorted(before) == ["r.robench", "r.robench-wal"]
    assert everything(path) == repr((PLAN, EVIDENCE))
    assert beside(path) == before


def test_a_log_with_foreign_pages_is_refused(tmp_path):
    path = tmp_path / "r.robench"
    killed("run._db.execute('DROP TABLE failure'); run._db.execute('CREATE VIEW failure AS SELECT 1')", path)
    killed("fill(run)", tmp_path / "other.robench")
    code = """
import sqlite3
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA journal_mode = WAL')
db.execute('DROP TABLE failure')
db.execute("CREATE VIEW failure AS SELECT 1 AS example, 't' AS threat, 'a' AS attack, 'e' AS error")
os.kill(os.getpid(), 9)
"""
    with RunFile.open(tmp_path / "whole.robench") as run:
        fill(run)
    program = f"import os, sys\n{code}"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "whole.robench")], check=False)
    before = beside(path)
    assert before["whole.robench-wal"]
    for action in (RunFile.read, RunFile.open):
        assert "is not laid out as a robench run file" in refusal(action, tmp_path / "whole.robench")
        now = {k: v for k, v in beside(path).items() if not k.endswith("-shm")}
        assert now == {k: v for k, v in before.items() if not k.endswith("-shm")}


def test_a_log_that_is_no_file_is_refused(path, tmp_path):
    log = path.with_name("r.robench-wal")
    for make in (lambda: log.symlink_to("/dev/zero"), lambda: os.mkfifo(log), log.mkdir):
        make()
        for action in (RunFile.read, RunFile.open):
            assert f"{log} lies beside {path} and is no log" in refusal(action, path)
        log.rmdir() if log.is_dir() and not log.is_symlink() else log.unlink()
    assert everything(path)


def test_the_log_of_a_deleted_file_is_not_replayed(tmp_path):
    path = tmp_path / "r.robench"
    killed("fill(run)", path)
    path.unlink()
    with RunFile.open(path) as run:
        assert run.plan() is None
        assert run.evidence().claims == ()


# What is no file


@pytest.mark.parametrize("action", [RunFile.read, RunFile.open])
def test_pipes_devices_links_and_files_without_end_are_refused_at_once(path, tmp_path, action):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    with (tmp_path / "huge").open("wb") as file:
        file.write(path.read_bytes())
        file.truncate(2**40)
    began = time.monotonic()
    assert "is not a file" in refusal(action, tmp_path / "pipe")
    assert "is a link" in refusal(action, tmp_path / "link")
    assert "is a link" in refusal(action, tmp_path / "nowhere")
    assert "is not a file" in refusal(action, type(path)("/dev/zero"))
    assert "more than any run file" in refusal(action, tmp_path / "huge")
    assert time.monotonic() - began < 2


# Schemas


TWICE = "(example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, error TEXT NOT NULL"


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE failure RENAME TO f", "CREATE VIEW failure AS SELECT * FROM f"],
        [
            "ALTER TABLE failure RENAME TO f",
            "CREATE VIEW failure AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
            " SELECT x AS example, 'l2:2' AS threat, 'a' AS attack, 'e' AS error FROM c",
        ],
        ["CREATE TRIGGER t AFTER INSERT ON clean BEGIN DELETE FROM claim; END"],
        ["CREATE TABLE more (x)"],
        ["CREATE VIEW more AS SELECT 1"],
        ["CREATE INDEX more ON verdict (accepted)"],
        ["CREATE INDEX more ON claim (example) WHERE length(hex(zeroblob(example))) > 3"],
        ["CREATE UNIQUE INDEX more ON claim (abs(example) * id)"],
        ["DROP TABLE probe"],
        ["DROP TABLE failure", f"CREATE TABLE failure {TWICE}, PRIMARY KEY (example, threat, attack))"],
        ["DROP TABLE failure", f"CREATE TABLE failure {TWICE} DEFAULT (hex(zeroblob(10))))"],
        ["DROP TABLE failure", f"CREATE TABLE failure {TWICE} CHECK (length(error) > 0))"],
        ["DROP TABLE failure", f"CREATE TABLE failure {TWICE}, x AS (zeroblob(1000000000)))"],
        ["ALTER TABLE claim ADD COLUMN more"],
        ["ALTER TABLE clean RENAME COLUMN tied TO bound"],
        ["DROP INDEX claim_place", "CREATE INDEX claim_place ON claim (threat, example)"],
        ["DROP TABLE environment", "CREATE VIRTUAL TABLE environment USING fts5(key, value)"],
        ["PRAGMA user_version = 0"],
    ],
)
def test_a_file_with_another_layout_is_refused_and_left_as_it_is(path, statements):
    altered(path, *statements)
    before = beside(path)
    for action in (RunFile.read, RunFile.open):
        assert "is not laid out as a robench run file; it was left as it is" in refusal(action, path)
        assert beside(path) == before


def test_a_schema_without_end_is_refused_at_once(path):
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("BEGIN")
        rows = ((f"t{i}", f"t{i}", i + 100, f"CREATE TABLE t{i} (x)") for i in range(200_000))
        db.executemany("INSERT INTO sqlite_master VALUES ('table', ?, ?, ?, ?)", rows)
        db.execute("COMMIT")
    db.close()
    began = time.monotonic()
    for action in (RunFile.read, RunFile.open):
        assert "is damaged" in (reported := refusal(action, path)) or "is not laid out" in reported
    assert time.monotonic() - began < 3


def test_the_first_layout_without_an_index_is_read_and_written_as_it_is(path):
    altered(path, "DROP INDEX claim_place")
    whole = everything(path)
    with RunFile.open(path) as run:
        fill(run)
    assert everything(path) == whole


def test_a_file_created_by_the_same_statements_is_a_run_file(tmp_path, path):
    with sqlite3.connect(path) as db:
        words = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master")]
    db.close()
    again = tmp_path / "again.robench"
    spaced = [sql.replace(" ", "\n  ") for sql in words]
    altered(again, *spaced, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1")
    with RunFile.read(again) as run:
        assert run.plan() is None


# Kills, and others at the same time


def at(moment):
    """Code that kills the process when it comes to this call."""
    module, _, name = moment.rpartition(".")
    return f"""
import {module}
real, left = {moment}, [int(sys.argv[2])]
def struck(*arguments, **more):
    if left[0] == 0:
        os.kill(os.getpid(), {signal.SIGKILL:d})
    left[0] -= 1
    return real(*arguments, **more)
{module}.{name} = struck
"""


@pytest.mark.processes
@pytest.mark.parametrize("moment", ["os.replace", "os.unlink", "robench.evidence.opening.lay_out", "sqlite3.connect"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_the_same_command_works_after_a_kill_during_file_creation(tmp_path, moment, calls):
    path = tmp_path / "r.robench"
    program = f"""
import os, sys
from pathlib import Path
from robench.evidence.store import RunFile
from tests.evidence.records import *
{at(moment)}
with RunFile.open(Path(sys.argv[1])) as run:
    fill(run)
"""
    subprocess.run([sys.executable, "-c", program, str(path), str(calls)], check=False)
    with RunFile.open(path) as run:
        assert run.plan() in (None, PLAN)
        fill(run)
    assert list(beside(path)) == ["r.robench"], "and what it left is cleared away"
    assert everything(path) == repr((PLAN, EVIDENCE))


@pytest.mark.parametrize("calls", [0, 1])
def test_a_new_file_appears_complete_or_not_at_all(tmp_path, calls):
    path = tmp_path / "m.robench"
    program = f"""
import os, sys
from pathlib import Path
from robench.evidence.store import RunFile
from tests.evidence.records import *
{at("os.replace")}
with RunFile.whole(Path(sys.argv[1])) as run:
    fill(run)
"""
    subprocess.run([sys.executable, "-c", program, str(path), str(calls)], check=False)
    assert not path.exists()

    def half():
        with RunFile.whole(path) as run:
            fill(run)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert beside(path) == {}
    with RunFile.whole(path) as run:
        fill(run)
        assert not path.exists()
    assert list(beside(path)) == ["m.robench"]
    assert everything(path) == repr((PLAN, EVIDENCE))
    assert "exists already" in refusal(lambda: RunFile.whole(path).__enter__())


def test_a_new_file_that_does_not_fit_the_disk_does_not_appear(tmp_path):
    """By a limit on the size of files, set when all is committed to the log and has yet to be folded in."""
    path = tmp_path / "m.robench"
    program = """
import resource, sys
from pathlib import Path
from robench.evidence.store import RunFile
from tests.evidence.records import *
try:
    with RunFile.whole(Path(sys.argv[1])) as run:
        fill(run)
        with run.writing():
            run.put_clean([Clean(1000 + i, 'x' * 100, True, -1.0) for i in range(2000)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
except ValueError as error:
    print(f'{type(error).__name__}: {error}')
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"UserError: cannot use {path}: No space left on device")
    assert beside(path) == {}


def test_two_writers_of_the_same_new_file_do_not_interfere(tmp_path):
    path = tmp_path / "m.robench"
    code = """
import os, sys
from pathlib import Path
from robench.evidence.store import RunFile
with RunFile.whole(Path(sys.argv[1])) as run, run.writing():
    print('there', flush=True); input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    assert "is in use by another robench" in refusal(lambda: RunFile.whole(path).__enter__())
    process.communicate("go on\n")
    assert process.returncode == 0


@pytest.mark.costly
def test_a_file_that_this_process_writes_to_is_not_opened_again(path):
    """To close another handle of it would let go of the lock, and a second writer come in."""
    with RunFile.open(path) as run:
        for action in (RunFile.read, RunFile.open):
            assert "is in use by another robench" in refusal(action, path)
        process = elsewhere("", path)
        process.communicate()
        assert process.returncode == 1, "the lock is still held"
        fill(run)
    assert everything(path)


def test_a_reader_excludes_writers_and_admits_other_readers(path):
    code = """
import sys
from pathlib import Path
from robench.evidence.store import RunFile
with RunFile.read(Path(sys.argv[1])):
    print('there', flush=True); input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    assert everything(path)
    assert "is in use by another robench" in refusal(RunFile.open, path)
    process.communicate("go on\n")
    with RunFile.open(path) as run:
        fill(run)


def test_a_run_is_followed_while_another_process_writes_it_and_stays_as_it_is(tmp_path):
    path = tmp_path / "r.robench"
    process = elsewhere("fill(run); print('there', flush=True); input(); run.close()", path)
    assert process.stdout.readline() == "there\n"
    before = beside(path)
    assert f"{path.name}-wal" in before
    with RunFile.follow(path) as run:
        assert run.in_progress
        assert (run.plan(), len(run.evidence().claims)) == (PLAN, len(EVIDENCE.claims))
    assert beside(path) == before
    process.communicate("go on\n")
    assert process.returncode == 0
    with RunFile.follow(path) as run:
        assert not run.in_progress
        assert run.plan() == PLAN


def test_what_is_followed_is_a_state_after_a_commit_however_often_the_log_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 20.0)
    path = tmp_path / "r.robench"
    code = """
from robench.evidence.records import Clean
fill(run)
run._db.execute("PRAGMA wal_autocheckpoint = 8")
print('there', flush=True)
for i in range(100_000):
    with run.writing():
        run.put_clean([Clean(1000 + 50 * i + j, 'x' * 200, True, -1.0) for j in range(50)])
    import time; time.sleep(0.15)
"""
    process = elsewhere(code, path)
    assert process.stdout.readline() == "there\n"
    seen = []
    for _ in range(6):
        with RunFile.follow(path) as run:
            assert run.in_progress
            seen.append(sum(clean.example >= 1000 for clean in run.evidence().clean))
    process.kill()
    process.communicate()
    assert all(count % 50 == 0 for count in seen)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_file_that_never_rests_is_in_use(tmp_path, monkeypatch):
    path = tmp_path / "r.robench"
    process = elsewhere("fill(run); print('there', flush=True); input(); run.close()", path)
    assert process.stdout.readline() == "there\n"
    monkeypatch.setattr(opening, "_copied_between_changes", lambda path, copy: False)
    assert "is in use by another robench" in refusal(RunFile.follow, path)
    process.communicate("go on\n")


@pytest.mark.parametrize("change", ["file", "log", "folded"])
def test_a_copy_of_a_file_that_changed_meanwhile_is_not_used(tmp_path, monkeypatch, change):
    path, copied = tmp_path / "r.robench", opening._copy
    process = elsewhere("fill(run); print('there', flush=True); input(); run.close()", path)
    assert process.stdout.readline() == "there\n"
    log = path.with_name(f"{path.name}-wal")

    def slow(file, to):
        copied(file, to)
        if to.name == "run":
            if change == "file":
                os.utime(path, ns=(1, 1))
            elif change == "log":
                log.write_bytes(b"another" + log.read_bytes()[7:])
            else:
                log.unlink()

    monkeypatch.setattr(opening, "_copy", slow)
    assert not opening._copied_between_changes(path, tmp_path / "run")
    process.kill()
    process.communicate()
