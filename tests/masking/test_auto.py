"""`masking="auto"`, the default: the check runs where there is a sign of masking, and nowhere else."""

import pytest
import torch

import robench
from robench.evaluation.notes import Notes
from robench.evaluation.request import EvalRequest
from robench.evidence.records import Shard
from robench.masking import schedule
from robench.problem.cautions import LOGARITHMS
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

    def call(module, masking="auto", run=None, protocol=TINY, **changes):
        (tmp_path / "tiny.toml").write_text(protocol)
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
def test_many_finds_of_another_kind_are_a_reason(evaluate):
    weak = TINY.replace("steps = 10", "steps = 1, step_size = 0.001").replace("12", "40").replace("30", "200")
    plain = evaluate(base(), "off", protocol=weak)
    assert "square broke" in plain.notes[-1]
    assert plain.notes[-1].endswith("add --masking on")
    checked = evaluate(base(), protocol=weak)
    assert checked.masking.evidence
    assert not any("square broke" in note for note in checked.notes)


TWO = """
name = "two"
examples = 8

[[threat]]
threat = "linf:0.9"
attacks = [{ attack = "square", steps = 20 }]

[[threat]]
threat = "l2:1"
attacks = [{ attack = "pgd", steps = 10, random_start = false }]
"""


@pytest.mark.costly
def test_a_threat_is_checked_though_another_leaves_nothing_also_after_an_interruption(evaluate, monkeypatch):
    module = masked("staircase", base())
    asked = evaluate(module, "on", protocol=TWO)
    assert not asked.union.standing
    verdicts = [(t.outcomes, t.masking) for t in asked.threats]
    assert [(t.outcomes, t.masking) for t in evaluate(module, protocol=TWO).threats] == verdicts
    with monkeypatch.context() as short:
        short.setattr(schedule.MaskingCheck, "_further", _stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(module, run="r.robench", protocol=TWO)
    again = evaluate(module, run="r.robench", protocol=TWO)
    assert [(t.outcomes, t.masking) for t in again.threats] == verdicts


def _stopped(*_):
    raise KeyboardInterrupt


class Noisy(torch.nn.Module):
    """Answers at random, and without a gradient."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.module(x + 0.01 * torch.randn_like(x))


def test_a_model_that_answers_at_random_is_checked_where_it_has_no_gradients(evaluate, monkeypatch):
    checked = []
    monkeypatch.setattr(schedule.MaskingCheck, "searches", lambda check: iter(checked.append(check.level) or ()))
    with pytest.raises(robench.NotMeasuredError):
        evaluate(Noisy(base()), protocol=TINY.replace(', { attack = "square", steps = 30 }', ""), examples=4)
    assert checked == ["on"]


def test_a_remark_that_older_files_have_among_the_cautions_is_no_sign():
    notes = Notes()
    assert not notes.adopt({"note outputs": LOGARITHMS})
    assert not notes.doubt_gradients
    assert notes.texts == {"logarithms": LOGARITHMS}


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
    assert EvalRequest(masking="auto").masking_check == "auto"
    assert EvalRequest(masking="auto", attacks=["pgd"]).masking_check == "off"
    assert EvalRequest(masking="auto", shard=Shard(1, 2)).masking_check == "off"
    assert EvalRequest(masking="on", attacks=["pgd"]).masking_check == "on"
