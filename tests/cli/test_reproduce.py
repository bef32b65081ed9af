"""`robench reproduce`: from training to a page, by commands that a user could type."""

import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.costly
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


@pytest.mark.processes
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


PAGED = """
title = "A paper"
url = "https://example.org/paper"

[[table]]
name = "1"
title = "Table 1: digits"
threats = ["linf:0.2", "l2:2", "l1:10"]
models = [
    { name = "nat", recipe = "nat", published = { clean = 0.5 } },
    { name = "other", recipe = "avg", train_on = ["linf", "l2"], published = { union = 0.5 } },
]
why = ["Ours is {digits nat clean} for {paper nat clean}."]

[table.sizes.tiny]
data = "digits"
threats = ["linf:0.2", "l2:2"]
protocol = "quick"
examples = 12
hours = "seconds"

[[table.measured]]
name = "digits"
title = "digits network"
zoo = "digits-{model}"
runs = "digits-{model}.robench"
size = "tiny"
"""
RUNS = Path(__file__).parents[2] / "reports" / "runs"


def test_the_page_of_a_paper_is_made_from_runs_and_checked(paper, folder, robench):
    (paper / "paper.toml").write_text(PAGED)
    words = ["reproduce", "paper", "--runs", str(RUNS)]
    assert robench(*words, "--page", "paper.md").code == 0
    page = (folder / "paper.md").read_text()
    assert re.search(r"^\|\s+\| digits network, 200 images", page, re.M)
    assert "- other: `robench train avg --data digits --threat linf:0.2 --threat l2:2 " in page
    assert re.search(r"^Ours is [\d.]+ for 50\.0\.$", page, re.M)
    assert "robench reproduce paper --runs" in page
    assert robench(*words, "--check", "paper.md").code == 0
    (folder / "paper.md").write_text(page.replace("50.0", "50.1"))
    changed = robench(*words, "--check", "paper.md")
    assert changed.code == 1
    assert "+Ours is" in changed.out


def test_a_figure_without_its_summaries_is_named_and_not_shown(paper, folder, robench):
    figure = '[[figure]]\ntitle = "Figure 1"\npictures = { "one.svg" = "a course" }\ncourse = "none.json"\n'
    (paper / "paper.toml").write_text(f"{PAGED}\n{figure}")
    assert robench("reproduce", "paper", "--runs", str(RUNS), "--page", "paper.md").code == 0
    page = (folder / "paper.md").read_text()
    assert "Not drawn: the folder of runs has no none.json." in page
    assert "one.svg" not in page


def test_a_run_of_another_model_is_refused(paper, folder, robench):
    (paper / "paper.toml").write_text(PAGED.replace("digits-{model}.robench", "digits-sat.robench"))
    done = robench("reproduce", "paper", "--runs", str(RUNS), "--page", "paper.md")
    assert done.code == 2
    assert "is about digits-sat, not digits-nat" in done.err
    assert not (folder / "paper.md").exists()


def test_a_run_without_a_threat_of_the_table_is_refused(paper, folder, robench):
    (paper / "paper.toml").write_text(PAGED.replace('"l1:10"]', '"l1:9"]'))
    done = robench("reproduce", "paper", "--runs", str(RUNS), "--page", "paper.md")
    assert done.code == 2
    assert "has no result under l1:9" in done.err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--page", "p.md"], "give --runs and --page"),
        (["--runs", "."], "give --runs and --page"),
        (["--runs", ".", "--page", "p.md", "--check", "p.md"], "give one of them"),
        (["--runs", ".", "--page", "p.md", "--size", "small"], "--size is about training"),
        (["--runs", ".", "--page", "p.md", "--plan"], "--plan is about training"),
        (["--runs", "nowhere", "--page", "p.md"], "nowhere is no folder"),
        (["--runs", ".", "--check", "p.md"], "cannot be compared"),
    ],
)
def test_options_that_do_not_go_together_are_refused(paper, folder, robench, words, wanted):
    done = robench("reproduce", "paper", *words)
    assert done.code == 2
    assert wanted in done.err
    assert not (folder / "p.md").exists()


def test_the_check_of_ci_finds_a_missing_row_and_a_model_that_learned_nothing(paper, folder, monkeypatch):
    script = Path(__file__).parents[2] / "scripts" / "check_tables.py"
    check = runpy.run_path(str(script))["faults"]
    (paper / "paper.toml").write_text(PAGED)
    assert check("paper", "tiny", folder) == [f"{folder} holds no table"]
    (folder / "1").mkdir()
    for model in ("nat", "other"):
        shutil.copy(RUNS / "digits-nat.robench", folder / "1" / f"{model}.robench")
    (folder / "table-1.md").write_text("| nat | 98.0 |\n")
    assert check("paper", "tiny", folder) == ["table 1 has no row other"]
    (folder / "table-1.md").write_text("| nat | 98.0 |\n| other | 98.0 |\n")
    assert check("paper", "tiny", folder) == []
    monkeypatch.setitem(check.__globals__, "load_run", lambda run: SimpleNamespace(clean=SimpleNamespace(accuracy=0.1)))
    assert check("paper", "tiny", folder)[0] == "nat of table 1 has a clean accuracy of 10%"
