"""The committed tables are what their committed runs give."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from robench.api import load_run
from robench.cli.main import robench
from robench.evaluation.measured_card import write_measured
from robench.evaluation.verification import min_passes, verify
from robench.evidence import refutation
from robench.evidence.refutation import Facts
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.checkpoints.cards import read_card
from robench.reproduction import papers

ROOT = Path(__file__).parents[1]
README = (ROOT / "reports" / "README.md").read_text()
PAGES = re.findall(r"^\| \[([^\]]+)\]\(\1\) \| `robench report ([^`]+)` \|$", README, re.M)
PAPERS = re.findall(r"^\| \[([^\]]+)\]\(\1\) \| `robench (reproduce [^`]+)` \|$", README, re.M)


def words(text):
    """As a shell hands them over: patterns become the files they match, sorted."""
    for word in shlex.split(text):
        found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(word)) if "*" in word else [word]
        assert found, f"nothing fits {word}"
        yield from found


@pytest.mark.costly
@pytest.mark.parametrize(("page", "text"), PAGES, ids=[page for page, _ in PAGES])
def test_a_committed_table_is_what_its_runs_give(page, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    reported = CliRunner().invoke(
        robench, ["report", *words(text), "--check", f"reports/{page}"], standalone_mode=False
    )
    assert reported.return_value == 0, reported.output


@pytest.mark.costly
@pytest.mark.parametrize(("page", "text"), PAPERS, ids=[page for page, _ in PAPERS])
def test_a_committed_page_of_a_paper_is_what_its_runs_give(page, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    checked = CliRunner().invoke(robench, shlex.split(text.replace("--page", "--check")), standalone_mode=False)
    assert checked.return_value == 0, checked.output
    for picture in re.findall(r"^!\[.*\]\((.+)\)$", (ROOT / "reports" / page).read_text(), re.M):
        assert (ROOT / "reports" / picture).is_file()


def test_every_paper_has_a_page():
    assert {page for page, _ in PAPERS} == {f"{paper}.md" for paper in papers()}


@pytest.mark.costly
def test_the_committed_leaderboard_is_what_the_committed_runs_give(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [
        "leaderboard",
        "reports/runs",
        "--submissions",
        "reports/submissions",
        "--search",
        "0",
        "--check",
        "reports/leaderboard",
    ]
    result = CliRunner().invoke(robench, words, standalone_mode=False)
    assert result.return_value == 0, result.output


def test_every_page_names_its_command():
    pages = {path.name for path in (ROOT / "reports").iterdir() if path.suffix in (".md", ".tex", ".html")}
    with_command = set(re.findall(r"^\| \[([^\]]+)\]\(\1\) \| `robench ", README, re.M))
    assert pages - with_command <= {"README.md", "NOTES.md", "theory.md"}  # theory: tests/theory/test_page.py
    assert len(PAGES) > 3


@pytest.mark.costly
@pytest.mark.parametrize("card", sorted((ROOT / "model_zoo").glob("*.toml")), ids=lambda path: path.stem)
def test_a_bundled_model_says_what_its_committed_run_measured(card, tmp_path):
    run = read_card(card).measured["run"]
    again = tmp_path / card.name
    again.write_bytes(card.read_bytes())
    write_measured(again, load_run(ROOT / run), run)
    assert again.read_bytes() == card.read_bytes()
    with RunFile.read(ROOT / run) as file:
        assert file.plan().model.name == card.stem


@pytest.mark.parametrize("card", sorted((ROOT / "model_zoo").glob("*.toml")), ids=lambda path: path.stem)
def test_cards_hold_the_number_of_parameters_of_their_architecture(card):
    stated = read_card(card)
    network = ARCHITECTURES[stated.architecture].build(stated.shape, stated.classes)
    assert stated.parameters == sum(weight.numel() for weight in network.parameters())


@pytest.mark.costly
@pytest.mark.parametrize("model", sorted(path.stem for path in (ROOT / "model_zoo").glob("digits-*.toml")))
def test_committed_runs_hold_but_for_the_images_that_they_leave_out(model, monkeypatch):
    """They were made on another processor: clean margins agree to a hundredth of what verification allows."""
    monkeypatch.setattr(refutation, "NOISE", refutation.NOISE / 100)
    facts = Facts(datasets.load("digits"), load(model).classifier, model, "digits:test", min_passes)
    for path in sorted((ROOT / "reports" / "runs").glob(f"*{model}.robench")):
        with RunFile.read(path) as run:
            found = verify(run.plan(), run.evidence(), run.images((1, 28, 28)), facts)
        assert [fault for fault in found.faults if not fault.endswith("broken by an image that is not kept")] == []
        assert found.clean


@pytest.mark.parametrize("run", sorted((ROOT / "reports" / "runs").glob("*.robench")), ids=lambda path: path.stem)
def test_a_committed_run_names_no_folder_of_the_machine_it_was_made_on(run):
    assert not re.search(rb"/(tmp|home|root|work|Users)/", run.read_bytes())
