"""The run file: what is put in comes out, whatever happens in between."""

import os
import random
import sqlite3

import numpy as np
import pytest

from robench.errors import UserError
from robench.evidence import file_errors, store
from robench.evidence.records import Claim, Clean, Evidence, Plan, Verdict
from robench.evidence.store import RunFile
from robench.results.merging import merge

from .records import EVIDENCE, PLAN, SHAPE, beside, elsewhere, fill, image, killed


@pytest.fixture
def path(tmp_path):
    """Of a whole run file."""
    path = tmp_path / "a run ?#%.robench"
    with RunFile.open(path) as run:
        fill(run)
    return path


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.05)


def contents(path):
    """All that can be read; NaN equals NaN."""
    with RunFile.read(path) as run:
        images = [(claim, pixels.tobytes()) for claim, pixels in run.images(SHAPE)]
        return repr((run.plan(), run.evidence(), images))


def refusal(action, *arguments):
    """What the user is told: one sentence."""
    with pytest.raises(UserError) as error:
        action(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def untouched(before, path):
    """Whether nothing is different, but for the scratch file (-shm) by which SQLite reads a log, and an empty log."""
    old, new = ({k: v for k, v in files.items() if not k.endswith("-shm")} for files in (before, beside(path)))
    return new in (old, old | {f"{path.name}-wal": b""})


# What is put in comes out


def test_every_record_comes_back_as_it_was(path):
    assert all(getattr(EVIDENCE, name) for name in Evidence.__struct_fields__), "one of each kind, or it proves little"
    with RunFile.read(path) as run:
        assert run.plan() == PLAN
        assert repr(run.evidence()) == repr(EVIDENCE)


def test_a_run_in_memory_stores_the_same_records_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunFile.in_memory() as run:
        fill(run)
        assert repr(run.evidence()) == repr(EVIDENCE)
    assert list(tmp_path.iterdir()) == []


def test_a_later_question_replaces_the_plan_and_keeps_the_evidence(path):
    later = Plan(**{f: getattr(PLAN, f) for f in Plan.__struct_fields__} | {"examples": (1, 2), "protocol": "later"})
    with RunFile.open(path) as run, run.writing():
        run.put_plan(later, {"torch": "2.7"})
    with RunFile.read(path) as run:
        assert run.plan() == later
        evidence = run.evidence()
        assert evidence.environment == EVIDENCE.environment | {"torch": "2.7"}
        assert evidence.exhausted == EVIDENCE.exhausted


def test_clearing_failures_affects_one_attack_only(path):
    with RunFile.open(path) as run:
        with run.writing():
            run.clear_failures("l2:2", "another()")
        assert run.evidence().failures == EVIDENCE.failures
        with run.writing():
            run.clear_failures("l2:2", "pgd(steps=4)")
        assert run.evidence().failures == ()


def test_a_transaction_that_fails_leaves_nothing(path):
    before = contents(path)

    def half(run):
        with run.writing():
            run.put_clean([Clean(100, "c", True, -1.0)])
            raise ZeroDivisionError

    with RunFile.open(path) as run, pytest.raises(ZeroDivisionError):
        half(run)
    assert contents(path) == before


# Images


@pytest.mark.parametrize("seed", range(5))
def test_only_the_smallest_accepted_image_of_an_example_under_a_threat_is_stored(tmp_path, seed):
    noise = random.Random(seed)
    found = []  # (example, threat, size, accepted, level)
    with RunFile.open(tmp_path / "r.robench") as run:
        for number in range(1, 61):
            size, level = noise.choice([0.1, 0.2, 0.3, 0.4]), np.float32(number / 64)
            example, threat, accepted = noise.randrange(3), noise.choice(["linf:0.4", "l2:2"]), noise.random() < 0.6
            found.append((example, threat, size, accepted, number, level))
            claim = Claim(number, example, threat, "a()", number, -1, 1, 1)
            with run.writing():
                run.put_judged(
                    claim, Verdict(number, accepted, "" if accepted else "outside", "", size, 1.0), image(level)
                )
        held = list(run.images(SHAPE))
    expected = {}
    for example, threat, size, accepted, number, level in found:
        if accepted and size < expected.get((example, threat), (9,))[0]:
            expected[example, threat] = size, number, level
    assert len(expected) == 6
    assert {number: pixels[0, 0, 0] for number, pixels in held} == {n: level for _, n, level in expected.values()}


def test_an_image_of_8_bits_comes_back_exactly_and_takes_a_byte_per_pixel(tmp_path):
    every = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 16, 16)
    noise = np.random.default_rng(0).random((1, 16, 16), dtype=np.float32)
    edge = np.nextafter(every, np.float32(1), dtype=np.float32)  # one bit beside what 8 bits can hold
    edge[every == 1] = 1
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run, run.writing():
        for number, pixels in enumerate((every, noise, edge)):
            claim = Claim(number, number, "linf:1", "a()", 0, -1, 1, 1)
            run.put_judged(claim, Verdict(number, True, "", "", 0.5, 1.0), pixels)
    with RunFile.read(path) as run:
        back = dict(run.images((1, 16, 16)))
    for number, pixels in enumerate((every, noise, edge)):
        assert back[number].dtype == np.float32
        assert np.array_equal(back[number], pixels)
    rows = sqlite3.connect(path).execute("SELECT encoding, length(image) FROM claim").fetchall()
    assert [encoding for encoding, _ in rows] == ["u8", "f4", "f4"]
    assert rows[0][1] < 300 < 800 < rows[1][1]


@pytest.mark.parametrize(
    "change",
    [
        "image = zeroblob(length(image))",
        "image = substr(image, 1, length(image) - 3)",
        "image = 'a text'",
        "image = (SELECT image FROM claim WHERE id = 6)",
        "encoding = 'u8'",
        "sha256 = 'forged'",
    ],
)
def test_an_image_whose_bytes_were_changed_is_named(path, change):
    with RunFile.open(path) as run, run.writing():
        claim = Claim(6, 8, "l2:2", "a()", 0, -1, 1, 1)
        run.put_judged(claim, Verdict(6, True, "", "", 0.5, 1.0), image(0.75))
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE claim SET {change} WHERE id = 1")
    db.close()
    with RunFile.read(path) as run:
        assert "the image of example 3 differs from its checksum" in refusal(list, run.images(SHAPE))


def test_a_claim_that_an_interrupted_writer_stores_again_exists_once_with_its_image(tmp_path):
    """Ctrl-C may strike between the commit and the moment at which the caller knows of it."""
    claim, verdict = Claim(1, 0, "l2:2", "a()", 0, -1, 1, 1), Verdict(1, True, "", "", 0.5, 1.0)
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run:
        for _ in range(2):
            with run.writing():
                run.put_judged(claim, verdict, image(0.5))
        evidence, held = run.evidence(), list(run.images(SHAPE))
    assert (evidence.claims, evidence.verdicts) == ((claim,), (verdict,))
    assert [number for number, _ in held] == [1]


# Files that cannot be used are refused, and stay as they are


def test_files_of_other_programs_are_refused_and_stay_as_they_are(tmp_path):
    path = tmp_path / "x.robench"
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE plan (json)")
    db.close()
    for held in (b"hello", b"<html>" * 100, b"SQLite format 3\0", (tmp_path / "other.db").read_bytes()):
        path.write_bytes(held)
        for action in (RunFile.open, RunFile.read):
            assert "is not a robench run file" in refusal(action, path)
            assert path.read_bytes() == held
            assert not list(tmp_path.glob("x.robench-*"))


def flipped(held, at):
    return held[:at] + bytes([held[at] ^ 0xFF]) + held[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "reported"),
    [
        (lambda held: flipped(held, 4096), "is damaged"),  # the kind of the second page
        (lambda held: flipped(held, 2 * 4096 + 4), "is damaged"),  # how many cells the third has
        (lambda held: held[: len(held) // 2], "is damaged"),
        (lambda held: held[:5000], "is damaged"),
        (lambda held: held[:150], "is damaged"),
        (lambda held: held[:80], "is damaged"),
        (lambda held: held[:60] + (99).to_bytes(4, "big") + held[64:], "is of format 99"),
    ],
)
def test_a_damaged_a_truncated_or_a_newer_file_is_refused_and_stays_as_it_is(path, damage, reported):
    spoilt = damage(path.read_bytes())
    path.write_bytes(spoilt)
    for action in (RunFile.open, RunFile.read):
        message = refusal(action, path)
        assert reported in message
        assert str(path) in message
        assert beside(path) == {path.name: spoilt}


def test_a_damaged_file_with_a_log_beside_it_stays_as_it_is_too(tmp_path):
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run:
        fill(run)
    killed("run._db.execute('PRAGMA journal_mode = WAL'); run.put_clean([Clean(100, 'c', True, -1.0)])", path)
    path.write_bytes(flipped(path.read_bytes(), 3 * 4096))
    before = beside(path)
    assert len(before) > 1
    for action in (RunFile.open, RunFile.read):
        assert "is damaged" in refusal(action, path)
        assert untouched(before, path)


def test_a_file_with_flipped_bytes_is_read_or_refused(path):
    """200 times, a few bits each: no other error than the one for the user."""
    noise, held, outcomes = random.Random(0), path.read_bytes(), set()
    for _ in range(200):
        spoilt = bytearray(held)
        for _ in range(noise.choice([1, 1, 3, 30])):
            spoilt[noise.randrange(len(held))] ^= 1 << noise.randrange(8)
        path.write_bytes(bytes(spoilt))
        try:
            contents(path)
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_plan_that_is_no_plan_is_called_damaged(path):
    with sqlite3.connect(path) as db:
        db.execute("UPDATE plan SET json = replace(json, '\"seed\"', '\"sead\"')")
    db.close()
    with RunFile.read(path) as run:
        assert "is damaged" in refusal(run.plan)


def test_names_that_are_not_unicode_are_refused_in_a_sentence(tmp_path):
    """As file names can be: Python keeps their bytes as lone surrogates."""

    def write(run):
        with run.writing():
            run.put_plan(PLAN, {"checkpoint": "mod\udce9l.pt"})

    with RunFile.open(tmp_path / "r.robench") as run:
        assert "rename that file" in refusal(write, run)
    assert list(tmp_path.iterdir()) == []


def test_places_that_hold_no_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is not a file" in refusal(RunFile.open, tmp_path)
    assert "is not a file" in refusal(RunFile.read, tmp_path)
    assert "there is no run file" in refusal(RunFile.read, tmp_path / "none.robench")
    assert "name another file with --run" in refusal(RunFile.open, tmp_path / "file" / "r.robench")
    assert "name another file with --run" in refusal(RunFile.open, tmp_path / ("r" * 300))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_places_that_may_not_be_written_are_refused(path):
    before = path.read_bytes()
    path.chmod(0o444)
    assert "name another file with --run" in refusal(RunFile.open, path)
    path.parent.chmod(0o555)
    try:
        assert "with --run" in refusal(RunFile.open, path.parent / "new.robench")
        assert contents(path)
    finally:
        path.parent.chmod(0o755)
    assert beside(path) == {path.name: before}


def test_a_file_in_use_by_another_process_is_refused_and_the_other_goes_on(tmp_path):
    path = tmp_path / "r.robench"
    process = elsewhere("fill(run); print('there', flush=True); input(); fill(run); run.close()", path)
    assert process.stdout.readline() == "there\n"
    before = beside(path)
    for action in (RunFile.open, RunFile.read):
        assert "is in use by another robench" in refusal(action, path)
    assert beside(path) == before
    process.communicate("go on\n")
    assert process.returncode == 0
    assert list(beside(path)) == [path.name]
    assert contents(path)


def test_a_file_just_created_by_another_process_is_in_use(tmp_path):
    path = tmp_path / "r.robench"
    process = elsewhere("print('there', flush=True); input(); fill(run); run.close()", path)
    assert process.stdout.readline() == "there\n"
    assert "is in use" in refusal(RunFile.open, path)
    process.communicate("go on\n")
    assert process.returncode == 0
    assert contents(path)


# Nothing is lost, nothing is left lying about


def test_one_file_remains_even_after_an_error(tmp_path):
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run:
        fill(run)
        assert len(beside(path)) > 1, "a log is kept while it is written"
    assert list(beside(path)) == [path.name]
    with pytest.raises(ZeroDivisionError), RunFile.open(path) as run, run.writing():
        raise ZeroDivisionError
    assert list(beside(path)) == [path.name]


def test_reading_a_file_changes_no_byte(path):
    before = beside(path)
    for action in (RunFile.open, RunFile.read):
        with action(path) as run:
            assert run.evidence().clean
            assert run.plan() == PLAN
    assert beside(path) == before


def test_a_run_without_records_leaves_no_file(tmp_path):
    path = tmp_path / "runs" / "r.robench"
    with RunFile.open(path) as run:
        assert path.exists()
        assert run.plan() is None
        assert run.evidence() == Evidence()
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_becomes_a_new_run(tmp_path):
    path = tmp_path / "r.robench"
    path.touch()
    with RunFile.open(path) as run:
        fill(run)
    assert contents(path)


@pytest.mark.parametrize(
    "later", ["", "fill(run)", "fill(run); run._db.execute('BEGIN'); run.put_clean(EVIDENCE.clean)"]
)
def test_a_run_killed_while_writing_can_be_read_and_resumed(tmp_path, later):
    path = tmp_path / "r.robench"
    killed(later, path)
    before = beside(path)
    with RunFile.read(path) as run:
        seen = run.evidence()
    assert repr(seen) == repr(EVIDENCE if later else Evidence())
    assert untouched(before, path)
    with RunFile.open(path) as run:
        assert repr(run.evidence()) == repr(seen)
        with run.writing():
            run.put_plan(PLAN, {})
            run.put_clean([Clean(100, "c", True, -1.0)])
    assert list(beside(path)) == [path.name]
    with RunFile.read(path) as run:
        assert repr(run.evidence().clean) == repr((*seen.clean, Clean(100, "c", True, -1.0)))


def much(first, n=400):
    return [Clean(first + i, "x" * 100, True, -1.0) for i in range(n)]


def test_a_full_disk_loses_no_commit_and_the_run_can_be_resumed(tmp_path):
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run:
        fill(run)
        (pages,) = run._db.execute("PRAGMA page_count").fetchone()
        run._db.execute(f"PRAGMA max_page_count = {pages + 20}")
        written = 0

        def write_on():
            nonlocal written
            while True:
                with run.writing():
                    run.put_clean(much(1000 * (written + 1)))
                written += 1

        for _ in range(2):  # and it says so again, not something else
            assert "is full: everything up to now is kept" in refusal(write_on)
        assert written > 0
    assert list(beside(path)) == [path.name]
    with RunFile.open(path) as run:
        assert len(run.evidence().clean) == len(EVIDENCE.clean) + 400 * written
        with run.writing():
            run.put_clean(much(10**6))
    with RunFile.read(path) as run:
        assert len(run.evidence().clean) == len(EVIDENCE.clean) + 400 * (written + 1)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (13, "is full"),
        (10 | 3 << 8, "fails"),
        (5 | 1 << 8, "is in use by another robench"),
        (8, "cannot write"),
        (14, "cannot write"),
        (11, "is damaged"),
    ],
)
def test_an_error_of_sqlite_is_explained_by_its_number_whatever_its_text(code, sentence, tmp_path):
    error = sqlite3.OperationalError("a text in another language")
    error.sqlite_errorcode = code
    with pytest.raises(UserError, match=sentence), file_errors.explained(tmp_path / "r.robench"):
        raise error


def test_an_error_of_sqlite_without_a_number_is_reported_with_its_own_text(tmp_path):
    """As in Python 3.10."""
    path = tmp_path / "r.robench"
    with pytest.raises(UserError, match=r"SQLite cannot use .* \(database is locked\)"), file_errors.explained(path):
        raise sqlite3.OperationalError("database is locked")
    with pytest.raises(UserError, match=r"is damaged \(file is not a database\)"), file_errors.explained(path):
        raise sqlite3.DatabaseError("file is not a database")


def test_a_disk_that_refuses_to_write_loses_nothing_that_was_committed(tmp_path):
    """By a limit on the size of files, which any system can set."""
    path = tmp_path / "r.robench"
    process = elsewhere(
        """
import resource
fill(run)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
blocks, errors = 0, []
while len(errors) < 2:  # the second time it must say the same
    try:
        with run.writing():
            run.put_clean([Clean(1000 * (blocks + 1) + i, 'x' * 100, True, -1.0) for i in range(200)])
        blocks += 1
    except ValueError as error:
        errors.append(f'{type(error).__name__}: {error}')
print(blocks, *errors, sep='\\n', flush=True)
run.close()
""",
        path,
    )
    reported, _ = process.communicate()
    blocks, first, second = reported.splitlines()
    assert first.startswith("UserError: the disk of ")
    assert "everything up to now is kept" in first
    assert first == second
    blocks = int(blocks)
    assert blocks > 0
    with RunFile.open(path) as run:
        assert len(run.evidence().clean) == len(EVIDENCE.clean) + 200 * blocks
        fill(run)
    assert list(beside(path)) == [path.name]


# Merged


def test_the_merged_run_has_an_image_for_equal_finds(tmp_path):
    """Two restarts may find images of one size at once: the first is kept, and the merged run may take the second."""
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run, run.writing():
        for number, gap in enumerate((0.1, 0.9, 0.5), start=1):
            claim = Claim(number, 0, "linf:0.5", "a()", number, -1, 1, 1)
            run.put_judged(claim, Verdict(number, True, "", "", 0.5, gap), image(number / 8))
    with RunFile.read(path) as run, RunFile.open(tmp_path / "m.robench") as result:
        merged = merge([run.evidence()])
        with result.writing():
            result.adopt(merged.evidence, merged.sources, [run])
        assert len(merged.evidence.claims) == 1
        ((_, pixels),) = result.images(SHAPE)
        assert np.array_equal(pixels, image(1 / 8))
        ((claim, verdict),) = result.evidence().judged()
        assert (claim.restart, verdict.margin) == (1, 0.1), "and the numbers are those of this image"


def test_a_merged_run_keeps_the_smallest_image_of_all_files_and_every_hash(tmp_path):
    files, sizes = [], {"a()": 0.3, "b()": 0.2, "c()": 0.4}
    for number, (attack, size) in enumerate(sizes.items()):
        run = RunFile.open(tmp_path / f"{number}.robench")
        with run.writing():
            claim = Claim(1, 0, "linf:0.5", attack, 0, -1, 1, 1)
            run.put_judged(claim, Verdict(1, True, "", "", size, 1.0), image(size))
        files.append(run)
    merged = merge([run.evidence() for run in files])
    with RunFile.open(tmp_path / "m.robench") as result:
        with result.writing():
            result.adopt(merged.evidence, merged.sources, files)
        assert result.evidence().claims == merged.evidence.claims
        ((number, pixels),) = result.images(SHAPE)
        assert merged.evidence.claims[number - 1].attack == "b()"
        assert np.array_equal(pixels, image(0.2))
    db = sqlite3.connect(tmp_path / "m.robench")
    assert db.execute("SELECT count(DISTINCT sha256) FROM claim").fetchone() == (3,)
    db.close()
    for run in files:
        run.close()
