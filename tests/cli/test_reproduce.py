"""`robench reproduce`: from training to a page, by commands that a user could type."""

import re

import pytest

from robench.cli import reproduce
from robench.reproduction import plans

from ..forked import Command

TINY = """
title = "A paper"
url = "https://example.org/paper"

[[table]]
name = "1"
title = "Table 1: digits"
threats = ["linf:0.1", "l2:1"]
models = [
    { name = "nat", recipe = "nat", published = { clean = 0.9, union = 0.1 } },
    { name = "both", recipe = "avg", train_on = ["linf", "l2"], published = { union = 0.5 } },
]

[table.sizes.tiny]
data = "digits"
threats = ["linf:0.1", "l2:1"]
protocol = "tiny.toml"
examples = 12
settings = ["steps=3", "batch=10"]
options = ["--validation", "0"]
hours = "seconds"
"""


@pytest.fixture
def paper(folder, monkeypatch):
    """The folder of plans, with paper.toml in it."""
    plan = folder / "papers"
    plan.mkdir()
    (plan / "paper.toml").write_text(TINY)
    monkeypatch.setattr(plans, "FOLDER", plan)
    return plan


def test_a_plan_prints_its_commands_and_runs_nothing(paper, folder, robench):
    before = sorted(folder.iterdir())
    done = robench("reproduce", "paper", "--size", "tiny", "--plan")
    assert done.code == 0
    assert len(re.findall(r"^  robench train ", done.out, re.M)) == 2
    assert len(re.findall(r"^  robench evaluate ", done.out, re.M)) == 2
    assert sorted(folder.iterdir()) == before


def test_a_table_goes_from_training_to_a_page_and_continues(paper, folder, robench, monkeypatch):
    monkeypatch.setattr(reproduce, "Popen", Command)  # the next test starts a real process
    words = ["reproduce", "paper", "--size", "tiny", "--out", "made", "--quiet", "--device", "cpu"]
    assert robench(*words).code == 0
    page = (folder / "made" / "table-1.md").read_text()
    assert "Beside the published numbers" in page
    assert "**Order by union**" in page
    models = {path: path.stat().st_mtime_ns for path in (folder / "made" / "1").glob("*.safetensors")}
    assert len(models) == 2

    assert robench(*words).code == 0
    assert (folder / "made" / "table-1.md").read_text() == page
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_a_command_that_fails_ends_the_reproduction_with_its_code(paper, folder, robench):
    (paper / "paper.toml").write_text(TINY.replace("steps=3", "steps=never"))
    done = robench("reproduce", "paper", "--size", "tiny", "--out", "made", "--quiet", "--device", "cpu")
    assert done.code == 2
    assert not (folder / "made" / "table-1.md").exists()


def test_a_size_that_a_table_lacks_is_refused(paper, robench):
    done = robench("reproduce", "paper", "--table", "1", "--size", "full")
    assert done.code == 2
    assert "table 1 has no size full; give --size tiny" in done.err


def test_a_file_in_place_of_the_folder_is_refused(paper, folder, robench):
    (folder / "made").write_text("")
    done = robench("reproduce", "paper", "--size", "tiny", "--out", "made", "--quiet")
    assert done.code == 2
    assert "give another --out" in done.err
