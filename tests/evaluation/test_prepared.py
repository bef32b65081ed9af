"""From a request to an evaluation: one path for the command line, Python and the CI gate."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import robench
from robench.errors import UserError
from robench.evaluation import prepared
from robench.evaluation.model_source import CheckpointSource, PythonSource, source_of
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest, choose
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.problem.classifier import Classifier
from robench.results.summary import Summary

REQUEST = EvalRequest(data="digits", threats=("linf:0.1",), attacks=("pgd(steps=2)",), examples="8")


@pytest.fixture
def hashed(monkeypatch):
    """The names of the models whose weights were hashed."""
    names = []
    identity = Classifier.identity
    monkeypatch.setattr(Classifier, "identity", lambda self: names.append(self.name) or identity(self))
    return names


def test_an_evaluation_hashes_the_model_once(hashed):
    evaluation = prepare(REQUEST, CheckpointSource("digits-nat"))
    assert evaluation.default_run.name.startswith("digits-nat-")
    evaluation.answer()
    assert hashed == ["digits-nat"]


def test_the_referee_has_weights_of_its_own():
    for source in (CheckpointSource("digits-nat"), PythonSource(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))):
        evaluation = prepare(EvalRequest(data="digits", protocol="quick", examples="4"), source)
        searched, judged = evaluation.classifier.module, evaluation.referee.classifier.module
        shared = {p.data_ptr() for p in searched.parameters()} & {p.data_ptr() for p in judged.parameters()}
        assert not shared


def test_evaluate_gives_the_summary_of_the_same_request():
    summary = robench.evaluate("digits-nat", "digits", threats="linf:0.1", attacks="pgd(steps=2)", examples=8)
    result = prepare(REQUEST, source_of("digits-nat")).answer()
    assert result.finished
    assert outcomes(result.summary) == outcomes(summary)


def test_an_evaluation_in_a_run_file_continues_there(tmp_path):
    path = tmp_path / "r.robench"
    first = prepare(REQUEST, CheckpointSource("digits-nat")).answer(path)
    again = prepare(REQUEST, CheckpointSource("digits-nat")).answer(path)
    assert again.evidence.claims == first.evidence.claims
    with RunFile.read(path) as run:
        assert run.plan() == again.plan


def test_a_met_stop_criterion_leaves_examples_open():
    result = prepare(REQUEST, CheckpointSource("digits-nat")).answer(stop_when=lambda summary: True)
    assert result.summary.union.open > 0
    assert not result.evidence.claims


def test_notes_on_loading_are_kept_with_the_run():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double()
    result = prepare(REQUEST, PythonSource(net)).answer()
    assert any("float32 copy" in note or "double" in note for note in result.summary.notes), result.summary.notes


def test_chosen_examples_and_protocol_replace_the_requested_ones():
    split, protocol = choose(EvalRequest(data="digits", protocol="quick", examples="3:5"))
    evaluation = prepare(REQUEST, CheckpointSource("digits-nat"), (split, protocol))
    assert evaluation.plan.examples == (3, 4)
    assert evaluation.plan.protocol == "quick"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": prepared.SEEDS}, "the seed 4294967296 is out of range"),
        ({"masking": "dep"}, "did you mean deep"),
        ({"precision": "float8"}, "float8"),
        ({"examples": "5000"}, "5000"),
    ],
)
def test_an_invalid_request_is_refused_before_a_run_file_is_opened(change, message):
    fields = {name: getattr(REQUEST, name) for name in ("data", "threats", "attacks", "examples")}
    with pytest.raises(UserError, match=message):
        prepare(EvalRequest(**{**fields, **change}), CheckpointSource("digits-nat"))


def test_a_python_model_without_data_is_refused():
    with pytest.raises(UserError, match="name the data with data="):
        prepare(EvalRequest(), PythonSource(nn.Identity()))


def test_a_request_leaves_the_settings_of_torch_unchanged():
    torch.set_default_dtype(torch.float64)
    try:
        prepare(REQUEST, CheckpointSource("digits-nat"))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def outcomes(summary: Summary) -> list[str]:
    return [t.outcomes for t in summary.threats]


def test_what_the_data_caution_of_is_a_note_in_the_run():
    split = replace(datasets.load("digits").part("8"), caution="the files have no published checksum")
    request = EvalRequest(data=split, threats=("linf:0.1",), attacks=("pgd(steps=2)",))
    summary = prepare(request, CheckpointSource("digits-nat")).answer().summary
    assert "the files have no published checksum" in summary.notes
