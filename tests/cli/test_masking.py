"""`robench evaluate --masking` and `robench report --masking`."""

import copy
import json

import pytest
import torch

from robench.evaluation import prepared
from robench.masking import schedule
from robench.problem import checkpoints
from robench.protocols import AttackChoice
from robench.results.masking import comparison
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.square import Square
from robench.testing.masked import masked

pytestmark = pytest.mark.precision
NET = """
from robench.problem.architectures.digits_cnn import DigitsCNN
from robench.testing.masked import masked


def build(shape, classes):
    return masked("staircase", DigitsCNN(shape, classes))
"""
ATTACK = "--threat", "linf:0.2", "--attack", "pgd(steps=8, random_start=False)", "--examples", "12", "--quiet"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorter attacks than in earnest, and no haste."""
    square, ascent = AttackChoice("square", Square(steps=30)), AttackChoice("pgd", PGD(steps=10, random_start=False))
    control = AttackChoice("apgd-margin", APGD(steps=20, loss="margin"))
    monkeypatch.setattr(prepared, "SLOTS", {"cpu": 16, "cuda": 16})
    monkeypatch.setattr(schedule, "MIN", float("inf"))
    monkeypatch.setattr(schedule, "MORE_MIN", float("inf"))
    monkeypatch.setattr(comparison, "CONTROL", 20)
    monkeypatch.setattr(schedule, "control", lambda: [control])
    monkeypatch.setattr(schedule, "first_ascents", lambda: [ascent])
    monkeypatch.setattr(schedule, "ascent_attacks", lambda effort: [ascent])
    monkeypatch.setattr(schedule, "of_another_kind", lambda threat, depth: [square])


@pytest.fixture
def staircase(folder):
    """A checkpoint of a masked model, with the file that makes it."""
    base = copy.deepcopy(checkpoints.load("digits-adv-linf").classifier.module)
    torch.save(masked("staircase", base).state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(NET)
    return "net.pt", "--arch", "net.py:build", "--data", "digits", "--normalise", "none"


@pytest.mark.costly
def test_a_masked_model_is_marked_and_both_commands_print_the_same_panel(robench, staircase, folder):
    looked = robench("evaluate", *staircase, *ATTACK, "--masking", "on", "--run", "r.robench", "--json", "s.json")
    assert looked.code == 0, looked.err
    assert "Gradient masking: masked." in looked.out
    assert "†" in looked.out
    assert "| linf:0.2 | gradient exactly 0 (!)" in looked.out
    assert looked.out.count("Next, for linf:0.2: the same robench evaluate command with --masking deep") == 1
    reported = robench("report", "r.robench", "--masking", "--intervals")
    assert reported.out == looked.out
    assert robench("report", "s.json", "--masking", "--intervals").out == looked.out
    entry = json.loads((folder / "s.json").read_text())["threats"][0]["masking"]
    assert entry["verdict"] == "masked"
    assert "other evidence broke" in entry["evidence"][0]
    assert {"name", "value", "meaning", "suspicious"} <= set(entry["indicators"][0])
    verified = robench("verify", "r.robench", "--arch", "net.py:build")
    assert verified.code == 0, verified.err


@pytest.mark.costly
def test_a_finished_check_announces_no_search_again(robench, staircase):
    command = "evaluate", *staircase, *ATTACK[:-1], "--masking", "on", "--run", "r.robench"
    assert "that first-order attacks left are searched further" in robench(*command).err
    again = robench(*command)
    assert again.code == 0
    assert "searched further" not in again.err


def test_without_the_option_no_masking_check_runs(robench, staircase, folder):
    plain = robench("evaluate", *staircase, *ATTACK, "--run", "r.robench", "--json", "s.json")
    assert "Gradient masking: untested." in plain.out
    assert "indicator" not in plain.out
    result = json.loads((folder / "s.json").read_text())["threats"][0]["masking"]
    assert result == {"verdict": "untested", "evidence": [], "next": ""}


def test_a_run_without_masking_checks_has_an_empty_panel(robench, run):
    result = robench("report", "r.robench", "--masking").out
    assert "linf:0.1 untested: not checked; robench evaluate --masking on checks linf, l2 and l1.\n" in result
    assert "| indicator" not in result


@pytest.mark.costly
def test_runs_with_and_without_masking_checks_merge(robench, staircase):
    robench("evaluate", *staircase, *ATTACK, "--run", "a.robench")
    robench("evaluate", *staircase, *ATTACK, "--masking", "on", "--run", "b.robench")
    assert robench("merge", "a.robench", "b.robench", "--out", "c.robench").code == 0
    result = [robench("report", name, "--masking").out for name in ("b.robench", "c.robench")]
    panels = [text.partition("Gradient masking of")[2] for text in result]
    assert panels[0] == panels[1] != ""


def test_the_panel_is_refused_in_csv(refused, run):
    assert "leave --masking out" in refused("report", "r.robench", "--masking", "--format", "csv")


def test_an_unknown_level_suggests_the_nearest(refused):
    result = refused("evaluate", "digits-nat", "--masking", "depe")
    assert result == "Error: no level of --masking is called 'depe'; did you mean deep?"


SOFT = """
import torch
from robench.problem.architectures.digits_cnn import DigitsCNN


class Soft(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.module = DigitsCNN(shape, classes)

    def forward(self, x):
        return self.module(x).softmax(1)


def build(shape, classes):
    return Soft(shape, classes)
"""
TINY = """
name = "tiny"
examples = 12

[[threat]]
threat = "{threat}"
attacks = [{{ attack = "{attack}" }}]
"""


@pytest.mark.costly
def test_the_default_checks_where_there_is_a_sign_and_names_the_command_that_shows_why(robench, folder):
    (folder / "net.py").write_text(SOFT)
    base = checkpoints.load("digits-adv-linf").classifier.module
    torch.save({f"module.{key}": value for key, value in base.state_dict().items()}, "net.pt")
    (folder / "ball.toml").write_text(TINY.format(threat="linf:0.1", attack="pgd"))
    (folder / "rt.toml").write_text(TINY.format(threat="rt:1px,2deg", attack="grid"))
    words = "evaluate", "net.pt", "--arch", "net.py:build", "--data", "digits", "--normalise", "none", "--protocol"
    found = robench(*words, "ball.toml", "--run", "a run.robench")
    assert found.code == 0, found.err
    assert "note: gradient masking is checked, as the note above points to it" in found.err
    assert "found: robench report 'a run.robench' --masking" in found.err
    assert "indicator" not in found.out
    assert "--masking on" not in found.out, "what has been done is not recommended"
    found = robench(*words, "rt.toml")
    assert "the outputs are probabilities" in found.out
    assert "masking is checked" not in found.err, "no attack is known for what is no ball"
