"""`masking="on"`: models of the zoo are seen through, honest ones are not accused, and nothing is done twice."""

import copy
import functools
import warnings
from types import SimpleNamespace

import msgspec
import pytest
import torch
import torch.nn.functional as F

import robench
from robench.errors import UserError
from robench.evaluation.progress import Silence
from robench.evidence.attack_key import AttackKey
from robench.evidence.store import RunFile
from robench.masking import diagnostics, schedule, transfer
from robench.problem import checkpoints, datasets
from robench.problem.threats import parse
from robench.protocols import AttackChoice
from robench.protocols.cost import Rate
from robench.results.masking import comparison
from robench.results.masking.comparison import CONTROL as REAL_CONTROL
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.square import Square
from robench.testing.masked import masked

from ..results.masking import test_verdict as records

pytestmark = pytest.mark.precision
WEAK = {"threats": ["linf:0.2"], "attacks": ["pgd(steps=10, random_start=False)"], "examples": 18}


FEW = schedule.control, schedule.ascent_attacks, schedule.of_another_kind


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorter attacks than in earnest, and no haste: results must not depend on how busy the machine is."""
    monkeypatch.setattr(schedule, "MIN", float("inf"))
    monkeypatch.setattr(schedule, "MORE_MIN", float("inf"))
    monkeypatch.setattr(transfer, "GUIDES", 1)
    monkeypatch.setattr(transfer, "STEPS", 20)
    monkeypatch.setattr(comparison, "CONTROL", 30)
    margin = APGD(steps=30, loss="margin")
    monkeypatch.setattr(schedule, "control", lambda: [AttackChoice("apgd-margin", margin)])
    pgd = AttackChoice("pgd", PGD(steps=10, random_start=False))
    monkeypatch.setattr(schedule, "first_ascents", lambda: [pgd])
    monkeypatch.setattr(schedule, "ascent_attacks", lambda effort: [pgd])
    square = AttackChoice("square", Square(steps=60))
    monkeypatch.setattr(schedule, "of_another_kind", lambda threat, depth: [square])


def base(name="digits-adv-linf"):
    return copy.deepcopy(checkpoints.load(name).classifier.module)


def evaluate(module, masking="on", **changes):
    return robench.evaluate(module, "digits", **{**WEAK, **changes}, masking=masking)


@functools.cache
def honest():
    """The summary of an honest model, after the checks."""
    return evaluate(base())


class Rounded(torch.nn.Module):
    """Logits on whole numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.floor()


def evidence(path):
    with RunFile.read(path) as run:
        return run.evidence()


@pytest.mark.costly
@pytest.mark.parametrize("name", ["staircase", "detached"])
def test_a_masked_model_is_masked_and_its_accuracy_falls(name, tmp_path):
    plain = evaluate(masked(name, base()), "off")
    summary = evaluate(masked(name, base()), run=tmp_path / "r.robench")
    (before,), (after,) = plain.threats, summary.threats
    assert (before.masking.verdict, after.masking.verdict, summary.masking.verdict) == ("untested", "masked", "masked")
    assert after.accuracy <= before.accuracy - 0.1
    reported = evidence(tmp_path / "r.robench")
    finds = [c for c, v in reported.judged() if v.accepted]
    assert "surrogate" in {c.key.kind for c in finds}
    assert after.broken == len({c.example for c in finds})


@pytest.mark.costly
def test_a_model_without_gradients_is_attacked_by_other_means():
    with pytest.raises(robench.NotMeasuredError) as raised:
        evaluate(masked("no-graph", base()), "off")
    plain = raised.value.summary
    assert plain.threats[0].open == plain.clean.correct
    (after,) = evaluate(masked("no-graph", base())).threats
    assert after.masking.verdict == "masked"
    assert after.broken >= 4
    assert any("raises" in sentence for sentence in after.masking.evidence)


@pytest.mark.costly
def test_an_honest_model_is_none_found_and_its_attacks_keep_their_finds():
    plain, looked = evaluate(base(), "off"), honest()
    assert looked.masking.verdict == "none-found"
    assert looked.threats[0].attacks[0].broken == plain.threats[0].attacks[0].broken
    assert not any(i.suspicious for i in looked.threats[0].masking.indicators)


@pytest.mark.costly
def test_a_weak_planned_attack_lowers_the_accuracy_and_never_makes_the_model_masked():
    weak = {"attacks": ["pgd(steps=1, step_size=0.05, random_start=False)"]}
    (plain,), (after,) = evaluate(base(), "off", **weak).threats, evaluate(base(), **weak).threats
    assert after.accuracy < plain.accuracy  # the others found more, and it counts
    assert after.masking.verdict != "masked"


@pytest.mark.costly
def test_a_finished_check_is_not_repeated(tmp_path, monkeypatch):
    module = masked("flipped", base())
    first = evaluate(module, run=tmp_path / "r.robench")
    known = evidence(tmp_path / "r.robench")

    def asked(*args, **kwargs):
        raise AssertionError("the model was asked again")

    monkeypatch.setattr(diagnostics, "of_threat", asked)
    monkeypatch.setattr(diagnostics, "of_model", asked)
    monkeypatch.setattr("robench.search.engine.model_runner.differentiate", asked)
    assert evaluate(module, run=tmp_path / "r.robench").threats == first.threats
    again = evidence(tmp_path / "r.robench")
    assert msgspec.structs.replace(again, efforts=(), environment={}) == msgspec.structs.replace(
        known, efforts=(), environment={}
    )


@pytest.mark.costly
def test_a_check_that_ran_out_of_time_says_so_and_continues_with_the_same_command(tmp_path, monkeypatch):
    module = base()
    with monkeypatch.context() as hurried:
        hurried.setattr(schedule, "MIN", 0.0)
        hurried.setattr(schedule, "SHARE", 0.0)
        (short,) = evaluate(module, run=tmp_path / "r.robench").threats
    assert short.masking.verdict == "untested"
    assert any("continues the search" in sentence for sentence in short.masking.evidence)
    (whole,) = evaluate(module, run=tmp_path / "r.robench").threats
    assert whole.masking.verdict == "none-found"
    assert whole.outcomes == honest().threats[0].outcomes


def test_a_run_stopped_before_the_second_threat_says_that_its_check_had_not_started(tmp_path, monkeypatch):
    def stop(self, choice, *rest):
        if str(choice.threat) == "l2:1":
            raise KeyboardInterrupt
        yield from ()

    monkeypatch.setattr(schedule.MaskingCheck, "_of_threat", stop)
    two = {"threats": ["linf:0.2", "l2:1"], "examples": 2, "run": tmp_path / "r.robench"}
    with pytest.raises(KeyboardInterrupt):
        evaluate(base(), **two)
    monkeypatch.undo()
    reported = robench.load_run(tmp_path / "r.robench").threats[1].masking
    assert (reported.verdict, reported.evidence) == ("untested", ("the run was stopped before this check started",))
    assert reported.next.endswith("--masking on, to go on")


@pytest.mark.costly
def test_a_threat_is_untested_until_every_assigned_attack_has_searched_the_sample(tmp_path, monkeypatch):
    square, never = AttackChoice("square", Square(steps=60)), AttackChoice("later", Square(steps=61))
    monkeypatch.setattr(schedule, "of_another_kind", lambda threat, depth: [square, never])
    attend = robench.evaluation.runner.Evaluation._search

    def hurried(self, engine, jobs, deadline):  # time runs out when the second attack comes
        return attend(self, engine, (job for job in jobs if self._running[-1].planned.label != "later"), deadline)

    with monkeypatch.context() as late:
        late.setattr(robench.evaluation.runner.Evaluation, "_search", hurried)
        (short,) = evaluate(base(), run=tmp_path / "r.robench").threats
    assert short.masking.verdict == "untested"
    (whole,) = evaluate(base(), run=tmp_path / "r.robench").threats
    assert whole.masking.verdict == "none-found"


@pytest.mark.costly
def test_a_later_run_without_a_check_keeps_the_verdict(tmp_path):
    module = masked("staircase", base())
    looked = evaluate(module, run=tmp_path / "r.robench")
    assert evaluate(module, "off", run=tmp_path / "r.robench").threats == looked.threats


def linear(*after):
    """A ridge regression of the digits, and what comes after it."""
    train = datasets.load("digits:train")
    ridge = train.x.flatten(1).T @ train.x.flatten(1) + 10 * torch.eye(784)
    weights = torch.linalg.solve(ridge, train.x.flatten(1).T @ F.one_hot(train.y, 10).float()).T
    layer = torch.nn.Linear(784, 10, bias=False)
    layer.weight.data.copy_(100 * weights)
    return torch.nn.Sequential(torch.nn.Flatten(), layer.requires_grad_(False), *after)


def compiled(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.mark.costly
def test_a_compiled_model_is_masked_and_brought_down_by_the_surrogates_of_its_operators(tmp_path):
    weak = {"threats": ["linf:0.03"]}
    (honest,) = evaluate(linear(), "off", **weak).threats
    path = compiled(linear(Rounded()), tmp_path / "compiled.pt")
    (before,) = evaluate(path, "off", **weak).threats
    (after,) = evaluate(path, run=tmp_path / "r.robench", **weak).threats
    assert before.accuracy > honest.accuracy + 0.1
    assert after.masking.verdict == "masked"
    assert after.accuracy <= honest.accuracy + 0.06
    assert "repaired" in {s.key.surrogate for s in evidence(tmp_path / "r.robench").exhausted}
    (reported,) = [i for i in after.masking.indicators if i.name == "compiled or exported"]
    assert reported.value == "1"


@pytest.mark.costly
def test_a_further_search_is_announced_with_its_reason_and_its_limit(monkeypatch):
    noted = []
    monkeypatch.setattr(schedule, "MORE_MIN", 60.0)
    monkeypatch.setattr(Silence, "noted", lambda self, text: noted.append(text))
    evaluate(masked("staircase", base()))
    (note,) = [text for text in noted if "searched further" in text]
    assert note.startswith("linf:0.2: ")
    assert "the answer lies" not in note
    assert "steps change no logit" in note
    assert note.endswith("that first-order attacks left are searched further, for up to 60 seconds")


@pytest.mark.costly
def test_nothing_is_searched_further_in_an_honest_model_or_one_that_gives_everything_the_same_logits(tmp_path):
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x.flatten(1)[:, :10] + torch.eye(10)[3]

    for number, module in enumerate((base(), Constant())):
        (reported,) = evaluate(module, run=tmp_path / f"{number}.robench").threats
        assert reported.masking.verdict == "none-found"
        assert "surrogate" not in {s.key.kind for s in evidence(tmp_path / f"{number}.robench").exhausted}


@pytest.mark.parametrize(
    ("odd", "smoothed"),
    [({"blind": 0.5}, True), ({"slope": 30.0}, True), ({"slope": 0.0, "zero": 1.0}, False), ({"same": 1.0}, False)],
)
def test_gradients_are_smoothed_if_they_exist_and_differ_from_those_nearby(odd, smoothed):
    suspicious = schedule.suspicious_indicators(records.PLAN, records.evidence(probes=odd), records.THREAT)
    assert schedule.jumps(suspicious) is smoothed


def test_a_threat_that_is_no_ball_is_untested():
    summary = robench.evaluate("digits-nat", threats=["rt:1px,5deg"], attacks=["grid"], examples=3, masking="on")
    assert [t.masking.verdict for t in summary.threats] == ["untested"]


def test_the_control_uses_more_gradients_than_the_verdict_requires():
    max_queries = [c.attack.max_queries(parse("linf:0.1")) * c.restarts * max(1, c.attack.targets) for c in FEW[0]()]
    assert sum(max_queries) > REAL_CONTROL


def test_an_unknown_level_is_refused():
    with pytest.raises(UserError, match="did you mean deep"):
        evaluate(base(), "depe")


@pytest.mark.parametrize("threat", ["linf", "l2", "l1"])
@pytest.mark.parametrize("depth", ["on", "more", "deep"])
def test_the_chosen_attacks_are_of_the_expected_kinds(threat, depth):
    control, ascent_attacks, of_another_kind = FEW
    for choice in of_another_kind(threat, depth):
        assert threat in choice.attack.threats
        assert AttackKey.parse(choice.attack.spec).kind in ("scores", "labels", "outside")
    for choice in (*ascent_attacks(depth), *control()):
        assert threat in choice.attack.threats
        assert AttackKey.parse(choice.attack.spec).kind == "first-order"


def test_a_check_that_runs_out_of_memory_is_an_error_and_leaves_no_measurement(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(diagnostics, "of_threat", full)
    with pytest.raises(UserError, match="too small to measure the model's gradient on one image"):
        evaluate(base(), run=tmp_path / "r.robench")
    assert {p.name for p in evidence(tmp_path / "r.robench").probes}.isdisjoint({"zero", "leads"})


def test_the_rate_is_measured_in_a_batch_that_fits_the_memory(monkeypatch):
    rows = []

    def rate(classifier, n):
        rows.append(n)
        if n > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Rate(gradients=2.0, forwards=3.0)

    monkeypatch.setattr(schedule, "measured_rate", rate)
    assert schedule.MaskingCheck._rate(SimpleNamespace(classifier=None)) == Rate(2.0, 3.0)
    assert rows == [64, 32, 16]
