"""`robench.testing.assert_robust`, as a test of somebody else's would call it."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import robench
from robench.errors import UserError
from robench.evaluation import runner
from robench.problem.checkpoints import load, locate
from robench.testing import assert_robust

pytestmark = pytest.mark.precision
ASKED = {"threats": ["linf:0.1"], "attacks": ["pgd(steps=3)"], "examples": 30}


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """digits-adv-linf as it was measured."""
    path = tmp_path_factory.mktemp("baseline") / "baseline.json"
    path.write_text(robench.evaluate("digits-adv-linf", **ASKED).to_json())
    return path


class Darker(nn.Module):
    """The network of digits-adv-linf, on what is left of its images."""

    def __init__(self, light: float):
        super().__init__()
        self.net = load("digits-adv-linf").classifier.module
        self.light = light

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.light * x)


def test_a_model_as_robust_as_required_passes_and_its_summary_is_returned():
    summary = assert_robust("digits-adv-linf", at_least={"linf:0.1": 0.5, "clean": 0.9, "union": 0.5}, **ASKED)
    assert summary.threats[0].accuracy > 0.5


def test_a_less_robust_module_fails_with_the_row_and_a_table():
    with pytest.raises(AssertionError) as failed:
        assert_robust(Darker(0.2), "digits", at_least={"linf:0.1": 0.5, "clean": 0.0}, **ASKED)
    result = str(failed.value)
    assert result.startswith("linf:0.1: ")
    assert "at least 50 % are required" in result
    assert "| Darker " in result
    assert "\nclean: " not in result


def test_where_every_attack_failed_nothing_was_measured(monkeypatch):
    from robench.search.attacks.pgd import PGD

    def broken(*arguments):
        raise RuntimeError("no gradient today")

    monkeypatch.setattr(PGD, "step", broken)
    with pytest.raises(UserError, match=r"nothing was measured under linf:0\.1: .*no gradient today"):
        assert_robust("digits-adv-linf", at_least={"linf:0.1": 0.1}, **ASKED)


def test_the_baseline_itself_passes_and_is_not_attacked(baseline, monkeypatch):
    monkeypatch.setattr(runner, "Engine", None)
    assert_robust("digits-adv-linf", baseline=baseline, max_drop="0pp")


def test_a_module_that_became_worse_fails_with_the_comment(baseline):
    with pytest.raises(AssertionError) as failed:
        assert_robust(Darker(0.3), baseline=baseline, max_drop=["linf:0.1=1pp"])
    result = str(failed.value)
    assert result.startswith("### robench check: regression\n")
    assert "| linf:0.1 |" in result
    assert "Held in the baseline and do not now:" in result


def test_a_similar_module_passes_within_its_allowance(baseline):
    summary = assert_robust(Darker(0.999), baseline=baseline, max_drop="10pp", at_least={"linf:0.1": 0.5})
    assert summary.model.name == "Darker"
    assert summary.union.open == 0


def test_an_undecided_verdict_fails_with_the_number_of_further_examples(baseline):
    with pytest.raises(AssertionError, match=r"robench check: undecided[\s\S]*further examples would decide"):
        assert_robust(Darker(0.65), baseline=baseline, max_drop="linf:0.1=0.1pp")


def test_evidence_is_kept_in_the_requested_run_file(baseline, tmp_path, monkeypatch):
    again = {"baseline": baseline, "max_drop": "99pp", "at_least": {"linf:0.1": 0.0}, "run": tmp_path / "r.robench"}
    first = assert_robust(Darker(0.9), **again)
    monkeypatch.setattr(runner, "Engine", None)
    assert assert_robust(Darker(0.9), **again).threats == first.threats


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "state how robust the model must be"),
        ({"at_least": {"union": 0.5}, "max_drop": "1pp"}, "max_drop needs a baseline"),
        ({"baseline": "missing.json"}, "there is no baseline missing.json"),
        ({"baseline": "missing.json", "threats": ["linf:0.1"]}, "the baseline determines the question"),
        ({"at_least": {"unoin": 0.5}, **ASKED}, "did you mean union"),
        ({"at_least": {"union": 50.0}, **ASKED}, "goes from 0 to 1"),
    ],
)
def test_invalid_arguments_are_refused_in_a_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        assert_robust("digits-adv-linf", **arguments)


@pytest.mark.costly
def test_the_documented_example_passes_and_fails_for_another_model(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "how-to" / "ci.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    asked = {"threats": ["linf:0.1", "l2:1"], "attacks": ["pgd(steps=2)"], "examples": 20}
    Path("baseline.json").write_text(robench.evaluate("digits-adv-linf", **asked).to_json())
    for model, passes in (("digits-adv-linf", True), ("digits-nat", False)):
        shutil.copy(locate(model)[0], "model.safetensors")
        names = {}
        exec(block, names)
        tests = [names[name] for name in names if name.startswith("test_")]
        assert len(tests) == 2
        for test in tests:
            if passes:
                test()
            else:
                with pytest.raises(AssertionError):
                    test()
