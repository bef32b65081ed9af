"""Run files and summaries that come from somebody else, through the commands: nothing in them is obeyed."""

import json
import os
import shlex
import sqlite3
import struct
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from robench.evidence.store import RunFile
from robench.problem import datasets

from .conftest import files

JOURNAL = bytes.fromhex("d9d505f920a163d7")


def altered(path, change, *values):
    with sqlite3.connect(path) as db:
        db.execute(change, values)
    db.close()


def plan_of(path):
    with RunFile.read(path) as run:
        return json.loads(msgspec.json.encode(run.plan()))


def replan(path, change):
    """The run file with another plan; `change` alters it."""
    plan = plan_of(path)
    change(plan)
    altered(path, "UPDATE plan SET json = ?", json.dumps(plan))


READERS = (
    "report r.robench",
    "verify r.robench",
    "merge r.robench --out m.robench",
    "figures r.robench --out pictures --kind gallery",
    "check digits-nat --baseline r.robench",
)


@pytest.fixture
def victim(run, folder):
    """A file that a journal beside the run has deleted, if anybody obeys it."""
    path = folder / "victim.txt"
    path.write_text("precious")
    size = int.from_bytes(run.read_bytes()[16:18], "big")
    header = JOURNAL + struct.pack(">IIIII", 0, 0, len(run.read_bytes()) // size, 512, size)
    name = str(path).encode()
    tail = struct.pack(">I", 0x40000000 // size + 1) + name + struct.pack(">II", len(name), sum(name)) + JOURNAL
    (folder / "r.robench-journal").write_bytes(header + b"\0" * (512 - len(header)) + tail)
    return path


@pytest.mark.parametrize("words", READERS)
def test_a_planted_journal_deletes_nothing_when_a_run_is_read(victim, run, robench, words):
    before = run.read_bytes(), (run.parent / "r.robench-journal").read_bytes()
    assert robench(*shlex.split(words)).code == 0
    assert victim.read_text() == "precious"
    assert (run.read_bytes(), (run.parent / "r.robench-journal").read_bytes()) == before


def test_a_planted_journal_deletes_nothing_when_a_run_continues(victim, run, refused):
    result = refused("evaluate", "digits-nat", "--protocol", "tiny.toml", "--run", "r.robench")
    assert "r.robench-journal lies beside r.robench" in result
    assert "move it away" in result
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("words", [*READERS, "evaluate digits-nat --protocol tiny.toml --run r.robench"])
def test_a_view_in_a_run_file_is_not_executed(run, folder, refused, words):
    altered(run, "ALTER TABLE failure RENAME TO f")
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    altered(run, f"CREATE VIEW failure AS {endless} SELECT x example, 'linf:0.1' threat, 'a' attack, 'e' error FROM c")
    began = time.monotonic()
    assert "is not laid out as a robench run file" in refused(*shlex.split(words))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("words", READERS)
def test_pipes_devices_and_links_are_refused_without_waiting(run, folder, refused, words):
    other = folder / "other"
    run.rename(other)
    began = time.monotonic()
    for target in ("other", "/dev/zero", None):
        os.mkfifo(run) if target is None else run.symlink_to(target)
        refused(*shlex.split(words))
        run.unlink()
    assert time.monotonic() - began < 5


def test_a_huge_radius_does_not_hang_a_command(run, robench, refused):
    began = time.monotonic()
    assert "has no readable radius" in refused("evaluate", "digits-nat", "--threat", "linf:1e999999999")
    assert "has no readable limits" in refused("evaluate", "digits-nat", "--threat", "rt:1e999999999px,1deg")
    altered(run, "UPDATE claim SET threat = 'linf:1e999999999'")
    assert robench("report", "r.robench").code == 0
    assert robench("verify", "r.robench").code == 1
    assert time.monotonic() - began < 10


# verify


def forge(run, name):
    """Other members of the kinds that an attack on this software found."""
    with RunFile.read(run) as file:
        evidence = file.evidence()
    broken = next(c for c, v in evidence.judged() if v.accepted)
    if name == "the examples listed twice":
        replan(run, lambda p: p.update(examples=[0, 0, 1], data_sha256=datasets.load("digits").take([0, 0, 1]).sha256))
    if name == "no item planned":
        replan(run, lambda p: p["threats"][0]["attacks"][0].update(items=0))
    if name == "the data renamed":
        replan(run, lambda p: p.update(data="mnist:test"))
    if name == "the model renamed":
        replan(run, lambda p: p["model"].update(name="digits-adv-linf"))
    if name == "the protocol renamed":
        replan(run, lambda p: p.update(protocol="quick"))
    if name == "the architecture renamed":
        replan(run, lambda p: p["model"].update(architecture="lenet"))
    if name == "clean rows deleted":
        altered(run, "DELETE FROM clean WHERE example IN (3, 4)")
    if name == "a size made smaller":
        altered(run, "UPDATE verdict SET size = size / 2 WHERE claim = ?", broken.id)
    if name == "margins made 0":
        altered(run, "UPDATE verdict SET margin = 0 WHERE accepted")
    if name == "a verdict turned round":
        altered(run, "UPDATE verdict SET accepted = 0, rejection = 'outside' WHERE claim = ?", broken.id)
    if name == "verdicts deleted":
        altered(run, "DELETE FROM verdict")
    if name == "claims deleted":
        altered(run, "DELETE FROM claim")
    if name == "searches for nothing":
        altered(run, "UPDATE spent SET forwards = 0, backwards = 0")
    if name == "images deleted":
        altered(run, "UPDATE claim SET image = NULL, encoding = NULL")


FORGERIES = (
    "the examples listed twice",
    "no item planned",
    "the data renamed",
    "the model renamed",
    "the protocol renamed",
    "the architecture renamed",
    "clean rows deleted",
    "a size made smaller",
    "margins made 0",
    "a verdict turned round",
    "verdicts deleted",
    "claims deleted",
    "searches for nothing",
    "images deleted",
)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_run_is_not_verified(run, robench, name):
    assert robench("verify", "r.robench").code == 0
    before = run.read_bytes()
    forge(run, name)
    assert run.read_bytes() != before, "the forgery is known"
    result = robench("verify", "r.robench")
    assert result.code in (1, 2)
    assert result.err
    assert "this is a bug" not in result.err
    assert "all hold" not in result.out


def test_verify_states_what_it_proves_and_what_it_does_not(run, robench):
    result = robench("verify", "r.robench")
    assert result.out.splitlines()[-2].endswith("judged again: all hold")
    assert result.out.splitlines()[-1] == (
        "this proves what is broken; that the rest stands is only claimed (--search N searches N of them again)"
    )


def test_standing_examples_are_searched_again(run, robench, folder):
    before = files(folder)
    result = robench("verify", "r.robench", "--search", "2", "--seed", "5")
    last = result.out.splitlines()[-1]
    assert "standing examples searched again with seed 5: " in last
    assert last.startswith("2 of ")
    assert result.code == (0 if ": 0 were broken" in last else 1)
    assert result.out == robench("verify", "r.robench", "--search", "2", "--seed", "5").out
    assert files(folder) == before


def test_deleted_breaks_are_found_only_by_searching_again(run, robench):
    with RunFile.read(run) as file:
        plan, evidence = file.plan(), file.evidence()
    gone = next(c.example for c, v in evidence.judged() if v.accepted and c.threat == "linf:0.1")
    for table, column in (("verdict", "claim"), ("claim", "id")):
        altered(run, f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM claim WHERE example = ?)", gone)
    altered(run, "DELETE FROM claim WHERE example = ?", gone)
    for t in plan.threats:
        for a in t.attacks:
            done = ((1 << a.items) - 1).to_bytes(1, "little")
            row = [gone, t.threat, a.spec, a.items, 10**4, 10**4, done]
            altered(run, "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
    assert robench("verify", "r.robench").code == 0
    result = robench("verify", "r.robench", "--search", "100", "--seed", "5")
    assert result.code == 1
    assert f"example {gone} under linf:0.1: recorded as standing, and broken by " in result.err


def test_a_forged_run_is_not_searched_again(run, robench):
    altered(run, "UPDATE clean SET correct = 1 - correct WHERE example = 5")
    result = robench("verify", "r.robench", "--search", "2")
    assert result.code == 1
    assert "searched again with seed" not in result.out


def test_a_run_on_a_named_data_set_is_not_verified_with_a_file(run, folder, refused):
    split = datasets.load("digits")
    np.savez(folder / "digits.npz", x=split.x.numpy(), y=split.y.numpy())
    result = refused("verify", "r.robench", "--data", "digits.npz")
    assert "the run is about digits:test, a data set of that name; use that name with --data" in result


# Summaries


@pytest.mark.parametrize("words", ["report lie.json", "check digits-adv-linf --baseline lie.json"])
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("clean.accuracy", 0.5),
        ("clean.ci95", [0.1, 0.9]),
        ("clean.correct", 3),
        ("threats.0.accuracy", 0.99),
        ("threats.1.ci95", [0.98, 1]),
        ("threats.0.outcomes", "S" * 12),
        ("threats.0.attacks.0.broken", 0),
        ("threats.0.attacks.0.forwards", 1),
        ("union.accuracy", 0.97),
        ("union.outcomes", "S" * 12),
        ("average.accuracy", 0.97),
        ("average.ci95", [0, 1]),
        ("cost.forwards", 1),
        ("data.examples", 13),
        ("data.numbers", "0:6 0:6"),
        ("seed", -1),
    ],
)
def test_a_summary_that_contradicts_itself_is_refused(run, folder, refused, words, where, value):
    result = json.loads((folder / "s.json").read_text())
    *above, last = where.split(".")
    place = result
    for step in above:
        place = place[int(step) if step.isdigit() else step]
    assert place[last] != value
    place[last] = value
    Path("lie.json").write_text(json.dumps(result))
    assert "this summary file is damaged" in refused(*shlex.split(words))


def test_a_summary_of_unreasonable_size_is_refused(folder, refused, monkeypatch):
    for module in ("robench.cli.report", "robench.evaluation.regression"):
        monkeypatch.setattr(f"{module}.MAX_BYTES", 1000)
    (folder / "large.json").write_text("{" + " " * 2000 + "}")
    assert "has more than 1,000 bytes" in refused("report", "large.json")
    assert "has more than 1,000 bytes" in refused("check", "digits-nat", "--baseline", "large.json")
