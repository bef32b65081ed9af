"""`robench evaluate --shard` and `robench merge` of shards."""

import pytest

from robench.evidence.store import RunFile

from .conftest import files

QUESTION = ("digits-nat", "--threat", "linf:0.1", "--attack", "pgd(steps=2)", "--examples", "stratified:10@3")


@pytest.fixture
def shard(robench):
    def call(text, *more):
        return robench("evaluate", *QUESTION, "--shard", text, *more)

    return call


def table(result):
    """The table with its sentences, without what was printed before."""
    assert result.code == 0, result
    return result.out


def test_shards_of_a_stratified_sample_merge_into_the_table_of_one_run(robench, shard, folder):
    whole = table(robench("evaluate", *QUESTION))
    for text in ("2/3", "3/3", "1/3"):
        shown = shard(text)
        assert shown.code == 0
        assert f"shard {text} is done" in shown.err
        assert "≤" in shown.out
    parts = sorted(folder.glob("runs/*-of-3.robench"))
    assert len(parts) == 3
    result = robench("merge", *parts, "--out", "m.robench")
    assert table(result) == whole
    assert "shard" not in result.err
    assert table(robench("merge", *parts[::-1], "--out", "n.robench")) == whole


def test_merge_names_the_missing_and_the_unfinished_shards_and_goes_on(robench, shard, folder):
    shard("1/4")
    shard("4/4")
    parts = sorted(folder.glob("runs/*"))
    result = robench("merge", *parts, "--out", "m.robench")
    assert result.code == 0
    assert "(5 open)" in result.out
    assert [line for line in result.err.splitlines() if "shard" in line] == [
        "note: shard 2/4 is missing: 3 of 10 examples have no outcome",
        "note: shard 3/4 is missing: 2 of 10 examples have no outcome",
    ]
    shard("2/4", "--minutes", "0.000001")
    parts = sorted(folder.glob("runs/*"))
    result = robench("merge", *parts, "--out", "n.robench")
    assert "shard 2/4 is not finished: 3 of 10 examples are open; type its command again" in result.err
    assert "shard 3/4 is missing" in result.err


def test_other_runs_may_answer_for_a_missing_shard(robench, shard, folder):
    shard("1/2")
    robench("evaluate", *QUESTION, "--run", "whole.robench")
    result = robench("merge", *folder.glob("runs/*"), "whole.robench", "--out", "m.robench")
    assert "shard" not in result.err


def test_the_same_command_finds_a_finished_shard_and_changes_no_record(shard, folder):
    shard("2/2")
    (path,) = folder.glob("runs/*")
    with RunFile.read(path) as run:
        before = run.evidence()
    assert "is done" in shard("2/2").err
    with RunFile.read(path) as run:
        after = run.evidence()
    assert (before.clean, before.claims, before.exhausted) == (after.clean, after.claims, after.exhausted)


@pytest.mark.parametrize("level", ["on", "deep"])
def test_masking_is_not_checked_on_a_shard(refused, level):
    error = refused("evaluate", *QUESTION, "--shard", "1/2", "--masking", level)
    assert "masking is checked on all examples, not on shard 1/2" in error


def test_an_unreadable_shard_is_refused(refused):
    assert "--shard 5/4 cannot be read" in refused("evaluate", *QUESTION, "--shard", "5/4")
    assert "--shard 11/11 holds none of the 10 examples" in refused("evaluate", *QUESTION, "--shard", "11/11")


@pytest.mark.costly
def test_a_merged_run_takes_the_check_for_masking(robench, shard, folder):
    for text in ("1/2", "2/2"):
        shard(text)
    robench("merge", *folder.glob("runs/*"), "--out", "m.robench")
    checked = robench("evaluate", *QUESTION, "--run", "m.robench", "--masking", "on")
    assert checked.code == 0
    with RunFile.read(folder / "m.robench") as run:
        assert run.evidence().masking
        assert run.plan().shards == ()
    assert sorted(files(folder)) == ["m.robench", *sorted(f"runs/{p.name}" for p in folder.glob("runs/*")), "tiny.toml"]
