"""Rows of strangers' run files: of the right types and within bounds, or refused in a sentence, at once."""

import json
import math
import random
import shutil
import sqlite3
import time
import tracemalloc
import zlib

import msgspec
import pytest

from robench.api import load_run
from robench.errors import UserError
from robench.evidence import images, rows
from robench.evidence.records import MAX_ITEMS, MaskingDepth, MaskingState, Plan
from robench.evidence.store import RunFile
from robench.problem.identity import Identity
from robench.results.summary import Summary
from robench.results.tables import render

from .records import EVIDENCE, PLAN, SHAPE, image


def altered(path, change, *values):
    with sqlite3.connect(path) as db:
        db.execute(change, values)
    db.close()


def refusal(path):
    """The one sentence about this file, and that it comes at once."""
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        load_run(path)
    assert time.monotonic() - began < 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "value", "table"),
    [
        ("clean SET correct = ?", 2, "clean"),
        ("clean SET correct = ?", "yes", "clean"),
        ("clean SET margin = ?", "x", "clean"),
        ("clean SET digest = ?", b"x", "clean"),
        ("clean SET tied = ?", -1, "clean"),
        ("clean SET example = ? WHERE example = 3", -1, "clean"),
        ("clean SET example = ? WHERE example = 3", 2**40, "clean"),
        ("claim SET example = ?", "x", "claim"),
        ("claim SET threat = ?", b"linf:8/255", "claim"),
        ("claim SET threat = ?", "l" * 300, "claim"),
        ("claim SET draw = ?", -1, "claim"),
        ("claim SET target = ?", -2, "claim"),
        ("claim SET target = ?", 0.5, "claim"),
        ("claim SET forwards = ?", -1, "claim"),
        ("claim SET forwards = ?", 2**60, "claim"),
        ("claim SET backwards = ?", "x", "claim"),
        ("claim SET witness = ?", b"\0" * 23, "claim"),
        ("claim SET witness = ?", b"\0" * 32, "claim"),
        ("claim SET witness = ?", "x", "claim"),
        ("claim SET witness = ?", b"\xff" * 24, "claim"),
        ("claim SET witness = ?", b"\0" * 10**6, "claim"),
        ("claim SET witness = ?", b"\0" * 60, "claim"),
        ("claim SET witness = ?", b"\0" * 66, "claim"),
        ("claim SET witness = ?", b"\0" * (4 * 2**17 + 4), "claim"),
        ("claim SET witness = ?", b"\xff" * 400, "claim"),
        ("claim SET witness = ?", b"\x00\x00\x80\x7f" * 100, "claim"),
        ("claim SET witness = ?", b"\x00\x24\x74\x4b" * 100, "claim"),
        ("claim SET id = ? WHERE id = 5", -5, "claim"),
        ("verdict SET accepted = ?", 3, "verdict"),
        ("verdict SET rejection = ?", "because", "verdict"),
        ("verdict SET size = ? WHERE accepted", -0.1, "verdict"),
        ("verdict SET size = ? WHERE accepted", None, "verdict"),
        ("verdict SET size = ? WHERE accepted", float("inf"), "verdict"),
        ("verdict SET margin = ? WHERE accepted", None, "verdict"),
        ("verdict SET passes = ?", 0, "verdict"),
        ("verdict SET passes = ?", 10**9, "verdict"),
        ("spent SET done = ?", 5, "spent"),
        ("spent SET done = ?", "x", "spent"),
        ("spent SET done = ?", b"\xff" * 10**6, "spent"),
        ("spent SET draws = ?", 3, "spent"),
        ("spent SET forwards = ?", "x", "spent"),
        ("spent SET backwards = ?", -1, "spent"),
        ("failure SET error = ?", b"x", "failure"),
        ("failure SET example = ?", "x", "failure"),
        ("effort SET seconds = ?", -1, "effort"),
        ("effort SET seconds = ?", float("inf"), "effort"),
        ("effort SET seconds = ?", "x", "effort"),
        ("probe SET value = ?", float("inf"), "probe"),
        ("probe SET name = 'leads', value = ? WHERE name = 'nan'", 7, "probe"),
        ("probe SET example = ? WHERE name = 'nan'", -7, "probe"),
        ("probe SET value = ? WHERE name = 'begun'", 3, "probe"),
        ("probe SET value = ? WHERE name = 'depth'", None, "probe"),
        ("probe SET value = ? WHERE name LIKE 'shown %'", 0, "probe"),
        ("probe SET example = ? WHERE name = 'depth'", 3, "probe"),
        ("probe SET example = ? WHERE name = 'sampled' AND example = 3", -1, "probe"),
        ("environment SET value = ?", b"x", "environment"),
        ("plan SET json = ?", b"{}", "plan"),
        ("plan SET json = ?", 5, "plan"),
        ("plan SET json = ?", " " * (2**26 + 1), "plan"),
    ],
)
def test_an_invalid_row_is_refused_with_the_name_of_its_table(path, change, value, table):
    altered(path, f"UPDATE {change}", value)
    reported = refusal(path)
    assert reported.startswith(f"{path} is damaged (table {table}")
    assert "it was left as it is" in reported


def test_counts_that_no_summary_holds_are_refused(path):
    many = 2**52
    with RunFile.open(path) as run, run.writing():
        run.put_exhausted(
            msgspec.structs.replace(EVIDENCE.exhausted[0], example=e, forwards=many, backwards=many) for e in range(600)
        )
    assert "no machine makes so many forward and backward passes" in refusal(path)


def test_a_second_plan_is_refused(path):
    altered(path, "INSERT INTO plan SELECT json FROM plan")
    assert "table plan: expected one row" in refusal(path)


# Plans


def plan(**changes):
    reported = json.loads(msgspec.json.encode(PLAN))
    for name, value in changes.items():
        *above, last = name.split("__")
        place = reported
        for step in above:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    return json.dumps(reported)


ATTACK = {"label": "pgd", "spec": "pgd(steps=4)", "items": 3}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"examples": [7, 3, 7]}, "it lists example 7 twice"),
        ({"examples": []}, "length >= 1"),
        ({"examples": [-1]}, ">= 0"),
        ({"examples": [10**12]}, "<= "),
        ({"examples": list(range(10**6 + 1))}, "length <= 1000000"),
        ({"threats__0__attacks__0__items": 0}, ">= 1"),
        ({"threats__0__attacks__0__items": -1}, ">= 1"),
        ({"threats__0__attacks__0__items": MAX_ITEMS + 1}, "<= "),
        ({"threats__0__attacks__0__items": 10**9}, "<= "),
        ({"threats__0__attacks": [ATTACK, {**ATTACK, "label": "b"}]}, "it names the attack pgd(steps=4) twice"),
        ({"threats__0__attacks": [ATTACK, {**ATTACK, "spec": "b()"}]}, "it calls two attacks pgd"),
        ({"threats__1__threat": "linf:8/255"}, "it names the threat linf:8/255 twice"),
        ({"threats__1__threat": "linf: 16/510"}, "it names the threat linf: 16/510 twice"),
        ({"threats__1__threat": "l2:" + "9" * 300}, "length <= 200"),
        ({"seed": -1}, ">= 0"),
        ({"seed": 2**32}, "<= "),
        ({"passes": 0}, ">= 1"),
        ({"passes": 10**9}, "<= "),
        ({"eot": 0}, ">= 1"),
        ({"lanes": 0}, ">= 1"),
        ({"threads": -3}, ">= 1"),
        ({"model__fingerprint": [1e308, "x"]}, "float"),
        ({"model__name": "x" * 10**5}, "length <= 10000"),
    ],
)
def test_an_inconsistent_plan_is_refused_on_reading_and_on_writing(path, changes, why):
    altered(path, "UPDATE plan SET json = ?", plan(**changes))
    assert why in refusal(path)
    with pytest.raises(msgspec.MsgspecError):
        rows.plan_of(plan(**changes))


def test_a_plan_with_too_many_searches_is_refused(path):
    attacks = [{"label": f"a{i}", "spec": f"a(i={i})", "items": 1} for i in range(200)]
    altered(path, "UPDATE plan SET json = ?", plan(threats__0__attacks=attacks, examples=list(range(60_000))))
    assert "it plans attacks on more than 10,000,000 examples" in refusal(path)


def test_a_plan_that_cannot_be_read_back_is_not_written(path):
    before = path.read_bytes()
    twice = msgspec.structs.replace(PLAN, examples=(1, 1))

    def write(run):
        with run.writing():
            run.put_plan(twice, {})

    with RunFile.open(path) as run, pytest.raises(UserError, match="it lists example 1 twice"):
        write(run)
    with RunFile.read(path) as run:
        assert run.plan() == PLAN
    assert len(path.read_bytes()) == len(before)


def test_a_model_that_answers_nan_on_noise_is_recognised(path):
    odd = (math.nan, 1.0, math.inf)
    plan = msgspec.structs.replace(PLAN, model=msgspec.structs.replace(PLAN.model, fingerprint=odd))
    with RunFile.open(path) as run, run.writing():
        run.put_plan(plan, {})
    with RunFile.read(path) as run:
        model = run.plan().model
    recorded, now = (Identity("", "", "", logits) for logits in (model.fingerprint, odd))
    assert recorded.same_as(now)
    assert not recorded.same_as(Identity("", "", "", (math.nan, 1.1, math.inf)))
    assert not recorded.same_as(Identity("", "", "", (0.0, 1.0, math.inf)))


@pytest.mark.parametrize("threat", ["linf:1e999999999", "linf:abc", "theirs:3", "linf:-1", "linf:1e400", "linf:1/0"])
def test_an_unreadable_threat_does_not_hang_the_program(path, threat):
    """It may be a threat model that this robench does not know."""
    began = time.monotonic()
    altered(path, "UPDATE plan SET json = ?", plan(threats__1__threat=threat))
    altered(path, "UPDATE claim SET threat = ?", threat)
    assert load_run(path).threats[1].threat == threat
    assert time.monotonic() - began < 2


# Images


def test_an_image_that_unpacks_to_gigabytes_is_refused_at_once(path):
    bomb = zlib.compress(b"\0" * 10**8, 9)
    assert len(bomb) < 10**5
    altered(path, "UPDATE claim SET image = ?, encoding = 'u8' WHERE id = 1", bomb)
    tracemalloc.start()
    try:
        with RunFile.read(path) as run, pytest.raises(UserError, match="the image of example 3 differs"):
            list(run.images(SHAPE))
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "pixels",
    [
        b"",
        zlib.compress(b"\0" * 5),
        zlib.compress(b"\0" * 7),
        zlib.compress(b"\0" * 6) + b"more",
        zlib.compress(b"\0" * 6)[:-1],
        "text",
        None,
        7,
    ],
)
def test_bytes_of_no_image_are_refused(pixels):
    with pytest.raises(ValueError):
        images.unpacked(pixels, "u8", SHAPE)


def test_every_image_has_exactly_one_valid_encoding():
    eight = images.packed(image(0.2))
    assert eight[1] == "u8"
    wide = zlib.compress(image(0.2).astype("<f4").tobytes())
    with pytest.raises(ValueError, match="8-bit"):
        images.unpacked(wide, "f4", SHAPE)


# Anything at all


NASTY = [
    *(None, 0, 1, -1, 2, 2**31, 2**53, 2**63 - 1, -(2**63), 0.0, 1.5, 1e308, float("inf"), -float("inf"), 1e-320),
    *(
        "",
        "x",
        "linf:1e999999999",
        "linf:0.3",
        "linf:-1",
        "l2:2",
        "rt:1px,2deg",
        "a" * 300,
        "\0",
        "\x1b[31m",
        "outside",
    ),
    *("leads", "depth", "begun", "sampled", "shown square(steps=3)", "zero", "slope", "blind", "agrees", "spread"),
    *(b"", b"\0", b"x" * 8, b"\0" * 24, b"\xff" * 24, b"\xff" * 200, b"x" * 10**5),
]


@pytest.mark.costly
def test_a_file_with_random_cells_is_summarised_or_refused(path, tmp_path):
    """100 times, a few cells each: no other error than the one for the user, and a summary that agrees with itself."""
    with sqlite3.connect(path) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(t, row[1]) for t in tables if t != "plan" for row in db.execute(f"PRAGMA table_info({t})")]
    db.close()
    noise, spoilt, ends = random.Random(0), tmp_path / "m.robench", set()
    for _ in range(100):
        shutil.copy(path, spoilt)
        for _ in range(noise.choice([1, 1, 2, 4])):
            table, column = noise.choice(columns)
            try:
                altered(spoilt, f"UPDATE OR REPLACE {table} SET {column} = ?", noise.choice(NASTY))
            except sqlite3.IntegrityError:
                continue
        began = time.monotonic()
        try:
            summary = load_run(spoilt)
            render([summary], attacks=True, together=True, masking=True)
            assert Summary.from_json(summary.to_json()) == summary
            ends.add("summed up")
        except UserError:
            ends.add("refused")
        assert time.monotonic() - began < 2
    assert ends == {"summed up", "refused"}


def test_every_field_of_a_plan_has_bounds():
    """A field without would be one that a stranger's file can fill with anything."""
    schema = msgspec.json.schema(Plan)
    for name, definition in schema["$defs"].items():
        for key, value in definition["properties"].items():
            kinds = value.get("type")
            if kinds == "integer":
                assert "minimum" in value or "exclusiveMinimum" in value, (name, key)
                assert "maximum" in value or "exclusiveMaximum" in value, (name, key)
            if kinds == "string":
                assert "maxLength" in value, (name, key)
            if kinds == "array":
                assert "maxItems" in value, (name, key)


# The state of a masking check


def test_a_masking_state_is_read_from_the_rows_that_older_versions_wrote(tmp_path):
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run, run.writing():
        run.put_plan(PLAN, {})
    pointwise = "pointwise(steps=40, targets=0, wide=4)"  # the setting has another name today
    written = [(-1, "begun", 2), (-1, "depth", 1), (-1, f"shown {pointwise}", 1), (7, "sampled", 1), (3, "sampled", 1)]
    for row in written:
        altered(path, "INSERT INTO probe VALUES ('l2:2', ?, ?, ?)", *row)
    with RunFile.read(path) as run:
        evidence = run.evidence()
    renamed = "pointwise(queries_per_step=4, steps=40, targets=0)"
    expected = MaskingState("l2:2", MaskingDepth.DEEP, MaskingDepth.ON, (3, 7), ((renamed, MaskingDepth.ON),))
    assert evidence.masking == (expected,)
    assert evidence.probes == ()


def test_a_masking_state_replaces_the_row_of_a_former_attack_name(path):
    former, present = (f"pointwise({name}=4)" for name in ("wide", "queries_per_step"))
    altered(path, "UPDATE probe SET name = ? WHERE name LIKE 'shown pointwise%'", f"shown {former}")
    with RunFile.open(path) as run, run.writing():
        run.put_masking([MaskingState("l2:2", assigned=((present, MaskingDepth.DEEP),))])
    with sqlite3.connect(path) as db:
        names = [name for (name,) in db.execute("SELECT name FROM probe WHERE name LIKE 'shown pointwise%'")]
    db.close()
    assert names == [f"shown {present}"]


def test_parts_of_a_masking_state_that_are_not_written_stay_as_they_are(path):
    (before,) = EVIDENCE.masking
    with RunFile.open(path) as run:
        with run.writing():
            run.put_masking([MaskingState("l2:2", started=MaskingDepth.ON, sampled=(9,))])
        assert run.evidence().masking_state("l2:2") == msgspec.structs.replace(
            before, started=MaskingDepth.ON, sampled=(3, 7, 9)
        )


def test_the_checkpoint_of_an_older_run_has_the_present_name_of_its_model(path):
    altered(path, "INSERT INTO environment VALUES ('checkpoint', 'mnist-eat-wide')")
    with RunFile.read(path) as run:
        assert run.evidence().environment["checkpoint"] == "mnist-eat-l1r13"


@pytest.mark.parametrize("at_once", [1, 500])
def test_evidence_about_some_examples_is_that_part_of_all_evidence(path, monkeypatch, at_once):
    monkeypatch.setattr(rows, "MAX_VALUES", at_once)
    with RunFile.read(path) as run:
        everything = run.evidence()
        numbers = {c.example for c in (*everything.clean, *everything.claims, *everything.exhausted)}
        for some in ([], *([number] for number in numbers), numbers):
            found = run.evidence_about(some, [t.threat for t in PLAN.threats])
            for field in ("clean", "claims", "exhausted", "nearest", "passed_over"):
                assert {*getattr(found, field)} == {r for r in getattr(everything, field) if r.example in some}, field
            ids = {claim.id for claim in found.claims}
            assert {*found.verdicts} == {v for v in everything.verdicts if v.claim in ids}


def test_reading_about_one_example_does_not_read_the_others(path):
    with sqlite3.connect(path) as db:
        for table, column in (("clean", "example"), ("spent", "example"), ("claim", "example"), ("verdict", "claim")):
            where = f"{column} = 1"
            (_, _, _, plan), *_ = db.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE {where}").fetchall()
            assert plan.startswith("SEARCH"), table
