"""`masking="auto"`, the default: the check runs where there is a sign of masking, and nowhere else."""

import pytest
import torch

import robench
from robench.evaluation.request import EvalRequest
from robench.evidence.records import Shard
from robench.testing.masked import masked

from .test_schedule import base, evidence, quick

__all__ = ["quick"]  # the fixture: short attacks
pytestmark = pytest.mark.precision
TINY = """
name = "tiny"
examples = 12

[[threat]]
threat = "linf:0.2"
attacks = [{ attack = "pgd", steps = 10, random_start = false }, { attack = "square", steps = 30 }]
"""


@pytest.fixture
def evaluate(tmp_path):
    """An evaluation by a short protocol, in which no attack is named."""
    (tmp_path / "tiny.toml").write_text(TINY)

    def call(module, masking="auto", run=None, **changes):
        path = tmp_path / run if run else None
        return robench.evaluate(module, "digits", protocol=tmp_path / "tiny.toml", masking=masking, run=path, **changes)

    return call


@pytest.mark.costly
def test_a_masked_model_is_checked_as_if_the_check_had_been_asked_for(evaluate, tmp_path):
    alone, asked = (evaluate(masked("staircase", base()), level, f"{level}.robench") for level in ("auto", "on"))
    (plain,) = evaluate(masked("staircase", base()), "off").threats
    (found,) = alone.threats
    assert found.masking.verdict == "masked"
    assert found.accuracy < plain.accuracy
    assert (found.outcomes, found.masking) == (asked.threats[0].outcomes, asked.threats[0].masking)
    searched = evidence(tmp_path / "auto.robench").exhausted
    again = evaluate(masked("staircase", base()), run="auto.robench")
    assert again.threats[0] == found
    assert evidence(tmp_path / "auto.robench").exhausted == searched


def test_an_honest_model_is_not_checked_and_nothing_of_it_is_measured(evaluate, tmp_path):
    summary = evaluate(base(), run="r.robench")
    assert summary.union.standing
    assert summary.masking.verdict == "untested"
    found = evidence(tmp_path / "r.robench")
    assert not found.masking
    assert not found.probes


@pytest.mark.costly
def test_many_finds_of_another_kind_are_a_reason(evaluate, tmp_path):
    weak = TINY.replace("steps = 10", "steps = 1, step_size = 0.001").replace("12", "40").replace("30", "200")
    (tmp_path / "tiny.toml").write_text(weak)
    plain = evaluate(base(), "off")
    assert "square broke" in plain.notes[-1]
    assert plain.notes[-1].endswith("add --masking on")
    checked = evaluate(base())
    assert checked.masking.evidence
    assert not any("square broke" in note for note in checked.notes)


def test_a_check_that_was_cut_short_goes_on_without_the_option(evaluate, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr("robench.masking.schedule.MaskingCheck._measure", _stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(base(), "on", "r.robench")
    assert evaluate(base(), run="r.robench").masking.verdict == "none-found"


def _stopped(*_):
    raise KeyboardInterrupt


def test_a_model_that_nothing_is_left_of_is_not_checked(evaluate):
    summary = evaluate(Inverted(base()))
    assert not summary.union.standing
    assert summary.masking.verdict == "untested"


class Inverted(torch.nn.Module):
    """Wrong everywhere, and in probabilities, which is a sign."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (-5 * self.module(x)).softmax(1)


def test_named_attacks_and_shards_are_not_checked_unless_it_is_asked_for():
    assert EvalRequest(masking="auto").masking_level == "auto"
    assert EvalRequest(masking="auto", attacks=["pgd"]).masking_level == "off"
    assert EvalRequest(masking="auto", shard=Shard(1, 2)).masking_level == "off"
    assert EvalRequest(masking="on", attacks=["pgd"]).masking_level == "on"
