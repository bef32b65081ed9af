"""Hardware, network and a fixed pilot decide on the precision of a search; no clock is read."""

import time
import warnings
from fractions import Fraction

import pytest
import torch
from torch import nn

from robench.problem.threats import L2
from robench.search.attacks.apgd import APGD
from robench.search.attacks.hop_skip_jump import HopSkipJump
from robench.search.attacks.pgd import PGD
from robench.search.engine import pilot as pilots
from robench.search.engine.engine import Engine
from robench.search.engine.pilot import AMONG, EXAMPLES, STEPS, Choice, Pilot, choose, named, notes
from robench.search.engine.precision_cache import VARIABLE

from ...exact_distances import classifier, toy
from .test_engine import net
from .test_precision import SMALL, TwoFaced

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return classifier(net(), 4)


@pytest.fixture
def split(model):
    return toy(model, 100)


@pytest.fixture
def hardware(monkeypatch):
    """A device with hardware for bfloat16, on which it pays for small networks too."""
    monkeypatch.setattr(pilots, "has_hardware", lambda precision, device: precision == "bfloat16")
    monkeypatch.setattr(pilots, "saves_too_little", lambda classifier, rows: "")


@pytest.fixture
def tried(monkeypatch):
    """The precisions in which the pilot's attack ran, in order."""
    log, real = [], pilots._broken

    def logged(*arguments):
        log.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(pilots, "_broken", logged)
    return log


def pilot_for(model, split, *attacks, threat=SMALL):
    correct = lambda part: model(part.x).argmax(dim=1) == part.y  # noqa: E731
    return Pilot.of([(threat, attacks or (PGD(steps=10),))], split, correct, "a model")


def chosen(model, split, *attacks):
    return choose(model, pilot_for(model, split, *attacks), slots=8)


class Strict(nn.Module):
    """A network that raises in any precision but float32."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        logits = self.inner(x)
        if torch.is_autocast_enabled("cpu"):
            raise TypeError("float32 only")
        return logits


def test_a_precision_that_is_faster_here_and_breaks_the_same_examples_is_chosen(model, split, hardware):
    choice = chosen(model, split)
    assert (choice.precision, choice.failed) == ("bfloat16", False)
    assert choice.reason.startswith("a pilot on 64 images breaks the same examples, with ")


def test_without_hardware_nothing_is_tried(model, split, monkeypatch, tried):
    monkeypatch.setattr(pilots, "has_hardware", lambda *_: False)
    assert chosen(model, split) == Choice("float32", "the device has no hardware for a lower precision")
    assert not tried


def test_a_lower_precision_is_not_tried_on_a_network_too_small_to_gain(model, split, monkeypatch, tried):
    monkeypatch.setattr(pilots, "has_hardware", lambda *_: True)
    choice = chosen(model, split)
    assert choice == Choice("float32", "the network is small: 0 million multiply-adds a batch, below 200 million")
    assert not tried


def test_no_clock_is_read(model, split, hardware, monkeypatch):
    def read(*_):
        raise AssertionError("a decision must not depend on the time")

    for clock in ("perf_counter", "process_time", "monotonic", "time", "thread_time", "perf_counter_ns"):
        monkeypatch.setattr(time, clock, read)
    assert chosen(model, split).precision == "bfloat16"


def test_every_part_of_a_data_set_has_the_same_pilot(model, split):
    split.y[:3] = (split.y[:3] + 1) % 4  # wrong before any attack
    whole = pilot_for(model, split).examples()
    assert whole.numbers == tuple(range(3, 3 + EXAMPLES))
    for part in (split.part("50"), split.part("50:100"), split.part("90:91"), split.part("50:100").part("20:30")):
        held = pilot_for(model, part)
        assert held.begin.sha256 == split.sha256
        assert held.examples().numbers == whole.numbers
        assert torch.equal(held.examples().x, whole.x)


def test_a_pilot_predicts_no_more_images_than_it_needs(model):
    split, shown = toy(model, 2 * AMONG), []

    def correct(part):
        shown.extend(part.numbers)
        return torch.tensor([number > 100 for number in part.numbers])

    held = Pilot.of([], split, correct, "")
    assert held.examples().numbers == tuple(range(101, 101 + EXAMPLES))
    assert shown == list(range(192))


def test_the_pilot_takes_the_first_attack_of_low_precision_with_a_bounded_budget(split, model):
    attacks = (APGD(steps=9, targets=3), HopSkipJump(steps=2), PGD(steps=1000), PGD(steps=5))
    ((threat, attack),) = pilot_for(model, split, *attacks).attacks
    assert (threat, attack) == (SMALL, PGD(steps=STEPS))
    assert pilot_for(model, split, HopSkipJump(steps=2)).attacks == []


def test_an_evaluation_without_such_an_attack_is_searched_in_float32(model, split, hardware):
    choice = chosen(model, split, HopSkipJump(steps=2))
    assert choice == Choice("float32", "no attack of this evaluation can search in another precision")


def test_a_precision_that_breaks_other_examples_is_not_chosen(model, split, hardware, monkeypatch):
    real = pilots._broken

    def missing_one(*arguments):
        rows, queries = real(*arguments)
        return (rows - {min(rows)} if arguments[-1] == "bfloat16" else rows), queries

    monkeypatch.setattr(pilots, "_broken", missing_one)
    choice = chosen(model, split)
    assert choice == Choice("float32", f"a pilot in bfloat16 differs from float32 on 1 example under {SMALL}")


def test_a_precision_that_needs_more_queries_is_not_chosen(model, split, hardware, monkeypatch):
    real = pilots._broken

    def slower(*arguments):
        rows, queries = real(*arguments)
        return rows, queries * (1.2 if arguments[-1] == "bfloat16" else 1)

    monkeypatch.setattr(pilots, "_broken", slower)
    choice = chosen(model, split)
    assert choice.precision == "float32"
    assert "times the queries of float32" in choice.reason


def test_a_precision_must_pass_the_pilot_under_every_threat(model, split, hardware, tried):
    held = Pilot.of([(SMALL, [PGD(steps=5)]), (L2(Fraction(1, 3)), [APGD(steps=5)])], split, lambda p: p.y >= 0, "")
    assert choose(model, held, slots=8).precision == "bfloat16"
    assert tried == ["float32", "bfloat16"] * 2


def test_a_model_that_classifies_nothing_correctly_has_no_pilot(model, split, hardware, tried):
    wrong = Pilot.of([(SMALL, [PGD(steps=5)])], split, lambda part: part.y < 0, "")
    assert choose(model, wrong, slots=8) == Choice("float32", "the model classifies no image of the pilot correctly")
    assert not tried


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_error_of_the_pilots_attack_is_reported_and_proves_nothing(model, split, hardware, monkeypatch, precision):
    class Broken(PGD):
        def step(self, *arguments):
            raise RuntimeError("no gradient\n  today")

    class Failing(Engine):
        def work(self, jobs):
            (job,) = jobs
            job.attack = Broken(steps=3) if self.precision == precision else job.attack
            return super().work([job])

    monkeypatch.setattr(pilots, "Engine", Failing)
    choice = chosen(model, split)
    assert (choice.precision, choice.failed) == ("float32", True)
    assert choice.reason.startswith(f"a pilot of pgd under {SMALL} failed (RuntimeError: no gradient)")
    assert notes(choice, "auto", (), CPU) == [f"searching in float32: {choice.reason}"]


def test_an_error_of_the_engine_is_reported_too(model, split, hardware, monkeypatch):
    def raising(*_):
        raise ZeroDivisionError("engine")

    monkeypatch.setattr(pilots, "Engine", raising)
    choice = chosen(model, split)
    assert choice.failed
    assert "failed (ZeroDivisionError: engine)" in choice.reason


def test_a_model_that_fails_in_a_lower_precision_is_searched_in_float32(split, hardware, tried):
    strict = classifier(Strict(), 4)
    reason = "not in bfloat16: the model raises TypeError: float32 only"
    assert chosen(strict, split) == Choice("float32", reason, failed=True)
    assert named(strict, "bfloat16", split.x) == Choice("float32", reason, failed=True)
    assert not tried


@pytest.mark.parametrize("added", [100.0, float("nan")])
def test_a_model_whose_logits_change_in_a_lower_precision_is_searched_in_float32(split, hardware, added):
    other = classifier(TwoFaced(lambda x: torch.zeros(len(x), dtype=torch.long), added), 4)
    choice = named(other, "bfloat16", split.x)
    assert (choice.precision, choice.failed) == ("float32", True)
    assert "it changes the logits by " in choice.reason


def test_a_model_without_gradients_can_be_searched_in_bfloat16(split):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return self.inner(x.detach())

    assert named(classifier(Detached(), 4), "bfloat16", split.x).precision == "bfloat16"


def test_a_torchscript_model_is_searched_in_bfloat16_where_the_pilot_agrees(split, hardware):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself, which is still in use
        script = classifier(torch.jit.trace(net().eval(), split.x[:2]), 4)
    choice = chosen(script, split)
    assert (choice.precision, choice.failed) == ("bfloat16", False)
    assert choice.reason.startswith("a pilot on 64 images breaks the same examples, with ")


def test_a_run_that_resumes_in_another_precision_notes_it():
    changed = notes(Choice("float32", "as named"), "float32", ("bfloat16",), CPU)
    assert changed == ["this run was searched in bfloat16 so far, and goes on in float32"]
    assert notes(Choice("float32", "as named"), "float32", ("float32",), CPU) == []


def test_emulated_bfloat16_is_noted(monkeypatch):
    monkeypatch.setattr(pilots, "has_hardware", lambda *_: False)
    (note,) = notes(Choice("bfloat16", "as named"), "bfloat16", (), CPU)
    assert note.startswith("this device emulates bfloat16")


# The cache of decisions


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_pilot_runs_once_for_all_parts_of_a_data_set(model, split, hardware, tried, cache):
    first = chosen(model, split)
    assert len(tried) == 2
    assert chosen(model, split.part("50:100")) == first
    assert len(tried) == 2
    assert len(list(cache.iterdir())) == 1


def test_another_model_data_set_attack_batch_or_thread_count_needs_another_pilot(
    model, split, hardware, tried, cache, monkeypatch
):
    def times(**changes):
        before = len(tried)
        held = pilot_for(model, changes.get("split", split), PGD(steps=changes.get("steps", 1)))
        choose(model, pilots.replace(held, model=changes.get("model", "a model")), slots=changes.get("slots", 8))
        return len(tried) - before

    assert times() == 2
    assert times() == 0
    for change in ({"split": toy(model, 100, seed=5)}, {"steps": 2}, {"model": "another"}, {"slots": 16}):
        assert times(**change) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert times() == 2


def test_a_refusal_is_cached_and_an_error_is_not(model, split, hardware, monkeypatch, cache):
    monkeypatch.setattr(pilots, "MAX_QUERIES", 0.5)
    refused = chosen(model, split)
    assert refused.precision == "float32"
    monkeypatch.setattr(pilots, "_broken", None)
    assert chosen(model, split) == refused
    for path in cache.iterdir():
        path.unlink()

    def raising(*_):
        raise pilots._PilotError("once")

    monkeypatch.setattr(pilots, "_broken", raising)
    assert chosen(model, split).failed
    assert not list(cache.iterdir())
