"""`robench claim`: from files of any program to the numbers of a run file."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest

import robench as package
from robench.errors import counted
from robench.evidence.store import RunFile
from robench.problem import datasets

MODEL = "digits-nat"


def saved(name, x_adv, **arrays):
    np.savez(name, x_adv=np.asarray(x_adv), **{key: np.asarray(array) for key, array in arrays.items()})
    return name


def outcomes(path):
    summary = package.load_run(path)
    return {t.threat: t.outcomes.replace("S", "O") for t in summary.threats}


@pytest.fixture
def exported(robench, run):
    assert robench("export", "r.robench", "--out", "adv.npz", "--quiet").code == 0
    return Path("adv.npz")


def test_exported_images_claimed_into_a_new_run_give_the_same_numbers(robench, exported):
    result = robench("claim", MODEL, exported, "--examples", "12", "--run", "new.robench")
    assert result.code == 0, result
    before, after = package.load_run("r.robench"), package.load_run("new.robench")
    assert outcomes("new.robench") == outcomes("r.robench")
    assert [t.accuracy for t in after.threats] == [t.accuracy for t in before.threats]
    assert after.union.accuracy == before.union.accuracy
    assert after.union.standing == 0
    for t in after.threats:
        assert f"{t.threat}: {t.broken} accepted, {counted(t.broken, 'example')} newly broken\n" in result.out
        assert (
            f"{t.threat}: {counted(t.broken, 'example')} broken by images from files alone (robench claim).\n"
            in result.out
        )
    assert "protocol claims" in result.out
    assert "evidence in new.robench" in result.err
    assert robench("verify", "new.robench").code == 0


def test_moved_images_are_exported_with_their_parameters_and_accepted_again(robench, folder):
    asked = ["--threat", "rt:3px,30deg", "--threat", "affine:linf:0.1+rt:3px,30deg", "--examples", "8"]
    assert robench("evaluate", MODEL, *asked, "--run", "moved.robench", "--quiet").code == 0
    assert robench("export", "moved.robench", "--out", "moved.npz").code == 0
    with np.load("moved.npz") as held:
        assert (held["params"] != 0).any(axis=1).any()
    result = robench("claim", MODEL, "moved.npz", "--examples", "8", "--run", "new.robench")
    assert result.code == 0
    assert outcomes("new.robench") == outcomes("moved.robench")
    assert robench("verify", "new.robench").code == 0


def test_a_claim_adds_to_the_run_of_the_same_evaluation(robench, folder):
    asked = ["--threat", "linf:0.1", "--attack", "pgd(steps=1, step_size=0.01)", "--examples", "12"]
    assert robench("evaluate", MODEL, *asked, "--quiet").code == 0
    (run,) = Path("runs").glob("*.robench")
    before = package.load_run(run)
    found = package.evaluate(
        MODEL, "digits", threats=["linf:0.1"], attacks=["pgd(steps=10)"], examples=12, run="strong"
    )
    images = package.load_images("strong")
    assert found.union.broken > before.union.broken
    result = robench("claim", MODEL, saved("adv.npz", images["x_adv"], example=images["example"]))
    assert result.code == 0
    after = package.load_run(run)
    assert after.union.accuracy == found.union.accuracy < before.union.accuracy
    assert after.union.open == 0
    assert f"{after.union.broken - before.union.broken} examples newly broken" in result.out
    assert list(Path("runs").glob("*.robench")) == [run]
    assert robench("verify", run).code == 0
    robench("export", run, "--out", "rows.csv")
    by = [row["attack"] for row in csv.DictReader(Path("rows.csv").read_text().splitlines())]
    assert by.count("claim") >= after.union.broken - before.union.broken
    assert robench("export", run, "--out", "claimed.npz", "--attack", "claim").code == 0


def test_the_same_file_twice_leaves_the_run_file_as_it_is_byte_for_byte(robench, exported):
    first = robench("claim", MODEL, exported, "--examples", "12", "--run", "new.robench")
    content = Path("new.robench").read_bytes()
    again = robench("claim", MODEL, exported, "--run", "new.robench")
    assert again.code == first.code == 0
    assert "linf:0.1: 7 accepted, 0 examples newly broken\n" in again.out
    assert Path("new.robench").read_bytes() == content


def test_the_breakdown_has_a_row_for_claims(robench, exported):
    robench("claim", MODEL, exported, "--examples", "12", "--run", "new.robench")
    (linf, _) = package.load_run("new.robench").threats
    table = robench("report", "new.robench", "--breakdown").out
    assert f"| linf:0.1 | claim    |       {linf.broken:2} |" in table
    assert "another threat" not in table


def test_runs_with_claims_merge_and_the_attacks_keep_their_credit(robench, exported):
    robench("claim", MODEL, exported, "--examples", "12", "--run", "new.robench")
    for order in (["r.robench", "new.robench"], ["new.robench", "r.robench"]):
        merged = f"{order[0]}-first.robench"
        assert robench("merge", *order, "--out", merged).code == 0
        before, after = package.load_run("r.robench"), package.load_run(merged)
        assert [t.outcomes for t in after.threats] == [t.outcomes for t in before.threats]
        assert [t.by_claim for t in after.threats] == [0, 0]
        assert robench("verify", merged).code == 0


def test_images_that_are_all_rejected_end_with_code_1(robench, run):
    digits = datasets.load("digits")
    result = robench("claim", MODEL, saved("clean.npz", digits.x[:12].numpy()), "--run", "r.robench")
    assert result.code == 1
    assert "0 of 12 images accepted" in result.out
    assert "rejected, does not fool (first: example " in result.out
    assert robench("verify", "r.robench").code == 0


def test_several_files_count_together(robench, exported):
    with np.load(exported) as held:
        arrays = dict(held)
    halves = [{key: array[rows] for key, array in arrays.items()} for rows in (slice(0, 5), slice(5, None))]
    names = [saved(f"{i}.npz", **half) for i, half in enumerate(halves)]
    assert robench("claim", MODEL, *names, "--examples", "12", "--run", "new.robench").code == 0
    assert outcomes("new.robench") == outcomes("r.robench")


def test_images_made_by_another_program_are_accepted_where_they_break_the_model(robench, run):
    digits = datasets.load("digits")
    rng = np.random.default_rng(0)
    noise = rng.choice([-0.1, 0.1], size=(20, 12, *digits.shape)).astype(np.float32)
    x_adv = np.clip(digits.x[:12].numpy() + noise, 0, 1).reshape(-1, *digits.shape)
    name = saved("noise.npz", x_adv.transpose(0, 2, 3, 1), example=np.tile(np.arange(12), 20))
    result = robench("claim", MODEL, name, "--threat", "linf:0.1", "--run", "r.robench", "--quiet")
    assert "linf:0.1: " in result.out
    assert "outside" not in result.out
    assert result.err == ""
    assert robench("verify", "r.robench").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.npz"], "there is no file missing.npz"),
        (["tiny.toml"], "tiny.toml is no .npz file, or is cut off; write one with numpy.savez"),
        (["."], ". is a folder; name an .npz file with an array x_adv"),
        (
            ["adv.npz", "--threat", "linf:0.3", "--run", "r.robench"],
            "r.robench is about linf:0.1, l2:1, and not linf:0.3",
        ),
        (["adv.npz", "--threat", "linf"], "has no readable radius"),
        (["adv.npz", "--examples", "5", "--run", "r.robench"], "r.robench is about 12 examples"),
        (["adv.npz", "--run", "adv.npz"], "adv.npz"),
        (["adv.npz", "--data", "mnist:what"], "what"),
        ([], "FILE.npz"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(refused, exported, words, message):
    assert message in refused("claim", MODEL, *words)


def test_the_run_of_another_model_is_refused(refused, exported):
    assert "holds a run of another model" in refused("claim", "digits-adv-linf", exported, "--run", "r.robench")


def test_a_new_run_needs_a_threat(refused, folder):
    saved("bare.npz", datasets.load("digits").x[:2].numpy())
    assert "name one, as in --threat linf:8/255" in refused("claim", MODEL, "bare.npz")


class Planted:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_file_is_executed(refused, exported):
    planted = np.empty(1, dtype=object)
    planted[0] = Planted()
    np.savez("evil.npz", x_adv=planted, example=[0])
    assert "never unpickles" in refused("claim", MODEL, "evil.npz")
    Path("evil.npz").write_bytes(pickle.dumps(Planted()))
    assert "is no .npz file" in refused("claim", MODEL, "evil.npz")
    assert not Path("executed").exists()


def test_a_run_file_has_the_date_at_which_evidence_was_last_added(robench, folder, exported, monkeypatch):
    def dated(seconds, *words):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(seconds))
        robench(*words, "--run", "d.robench", "--quiet")
        with RunFile.read(Path("d.robench")) as run:
            return run.evidence().environment["date"]

    question = ("evaluate", MODEL, "--threat", "linf:0.01", "--attack", "pgd(steps=2)", "--examples", "12")
    longer = (*question, "--attack", "pgd(steps=3)")
    claimed = ("claim", MODEL, exported, "--threat", "linf:0.01")
    assert [dated(n, *words) for n, words in enumerate((question, question, longer, longer, claimed, claimed))] == [
        f"1970-01-01T00:00:0{n}Z" for n in (0, 0, 2, 2, 4, 4)
    ]


def test_a_source_date_that_is_no_time_stops_before_anything_is_written(refused, folder, exported, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    words = ("--threat", "linf:0.1", "--examples", "4", "--run", "d.robench")
    assert "SOURCE_DATE_EPOCH is 'soon'" in refused("evaluate", MODEL, *words)
    assert "SOURCE_DATE_EPOCH is 'soon'" in refused("claim", MODEL, exported, *words)
