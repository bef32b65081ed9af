"""A planted breach of the contract is found and named; attacks of robench keep it."""

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from robench.attacks import PGD, ForeignAttack, LabelAttack, State, differentiate, margin, normal
from robench.doctor.checks import USUAL
from robench.doctor.contract import breaches
from robench.errors import UserError
from robench.problem import threats
from robench.problem.threats import THREATS
from robench.search.attacks import build, parse
from robench.testing import check_attack

LINF = threats.parse("linf:0.1")


@pytest.mark.costly
@pytest.mark.parametrize(
    "text",
    [
        *(
            "pgd(steps=9)",
            "pgd(steps=9, targets=3)",
            "apgd(steps=9)",
            "fab(steps=5)",
            "square(steps=30)",
            "fmn(steps=9)",
        ),
        *("hop-skip-jump(steps=1)", "salt-and-pepper(steps=5)", "grid(translations=3, rotations=3)"),
        *("affine-rt(steps=4)", "slide(steps=9)", "pdpgd(steps=9)", "sigma-zero(steps=9)"),
        "pgd(steps=9, schedule=cosine, loss=probability-margin)",
    ],
)
def test_an_attack_of_robench_keeps_it(text):
    attack = build(*parse(text))
    assert breaches(attack, threats.parse(USUAL[attack.threats[0]])) == []


def test_every_threat_model_has_a_usual_size():
    assert USUAL.keys() == THREATS.keys()
    assert all(threats.parse(text).name == name for name, text in USUAL.items())


@dataclass(frozen=True)
class Plain(PGD):
    steps: int = 8


class Mixes(Plain):
    def step(self, threat, batch, state, seen):
        delta = super().step(threat, batch, state, seen).delta
        return State(threat.project(delta - 0.3 * delta.mean(dim=0, keepdim=True), batch.x))


class Counts(Plain):
    def start(self, threat, batch):
        noise = torch.arange(len(batch.y))[:, None, None, None] / 100
        return State(threat.project(noise.expand_as(batch.x), batch.x))


class TorchNoise(Plain):
    def start(self, threat, batch):
        return State(threat.sample(batch.x, torch.randn_like(batch.x)))


class Reseeds(Plain):
    def start(self, threat, batch):
        torch.manual_seed(0)
        return super().start(threat, batch)


class NumpyNoise(Plain):
    def start(self, threat, batch):
        return State(threat.sample(batch.x, torch.from_numpy(np.random.randn(*batch.x.shape)).float()))


class PythonNoise(Plain):
    def start(self, threat, batch):
        return State(threat.project(batch.x * 0 + random.random() / 10, batch.x))


class WritesState(Plain):
    def step(self, threat, batch, state, seen):
        state.delta.mul_(0.9)
        return super().step(threat, batch, state, seen)


class WritesImages(Plain):
    def query(self, threat, batch, state):
        return batch.x.add_(state.delta)


class WritesAnswers(Plain):
    def step(self, threat, batch, state, seen):
        seen.grad.sign_()
        return super().step(threat, batch, state, seen)


@dataclass(frozen=True)
class Total(State):
    total: torch.Tensor


class Shares(Plain):
    """One number for all rows."""

    def start(self, threat, batch):
        return Total(torch.zeros_like(batch.x), torch.zeros(()))


class WrongShape(Plain):
    def query(self, threat, batch, state):
        return super().query(threat, batch, state)[:, None]


class WrongType(Plain):
    def query(self, threat, batch, state):
        return super().query(threat, batch, state).double()


class Outside(Plain):
    def query(self, threat, batch, state):
        return batch.x + 3 * state.delta.sign() * threat.r + 1e-3


class Raises(Plain):
    def step(self, threat, batch, state, seen):
        raise KeyError("oh")


class RaisesAlone(Plain):
    """A row alone, which only the engine tries."""

    def start(self, threat, batch):
        assert len(batch.y) != 1
        return super().start(threat, batch)


class Memory(Plain):
    """Something that searches share, in steps later than those made by hand."""

    steps: int = 8
    calls: ClassVar[list[int]] = []

    def start(self, threat, batch):
        self.calls.append(1)
        shift = 0.02 * (len(self.calls) > 5) * (len(self.calls) % 3)
        return State(threat.project(super().start(threat, batch).delta + shift, batch.x))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Mixes, "the field delta of the state after step 1 depends on the other rows of the batch"),
        (Counts, "the field delta of the state after start depends on the other rows of the batch"),
        (TorchNoise, "uses global random numbers; take its noise from batch.keys"),
        (Reseeds, "uses global random numbers"),
        (NumpyNoise, "uses global random numbers"),
        (PythonNoise, "the field delta of the state after start differs when the same search is made again"),
        (WritesState, "step writes into the tensors it is given; it must return new ones"),
        (WritesImages, "query writes into the tensors it is given"),
        (WritesAnswers, "step writes into the tensors it is given"),
        (Shares, "start: the field total of the state must be a tensor with one row per row of the batch"),
        (WrongShape, "query returns (9, 1, 1, 5, 5) for a batch of (9, 1, 5, 5); it must be a tensor of (9, 1, 5, 5)"),
        (WrongType, "query returns torch.float64; images are torch.float32"),
        (Outside, "searches query no image inside the threat set, so they can find nothing"),
        (Raises, "it raises KeyError: 'oh'"),
        (RaisesAlone, "it raises when images are searched one at a time"),
        (Memory, "searches end differently when images are searched"),
    ],
)
def test_a_planted_breach_is_named(kind, sentence):
    assert breaches(Plain(), LINF) == []
    assert any(sentence in breach for breach in breaches(kind(), LINF))


@dataclass(frozen=True)
class Tries(LabelAttack):
    """Random members, from labels alone."""

    name: ClassVar[str] = "tries"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)
    steps: int = 6

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))

    def query(self, threat, batch, state):
        return (batch.x + threat.project(state.delta + normal(batch.keys, 1, like=batch.x), batch.x))[:, None]

    def step(self, threat, batch, state, labels):
        return State(state.delta + 1)


def margin_of(logits, y, target):
    return margin(logits, y)


def test_an_attack_that_reads_labels_keeps_it():
    assert breaches(Tries(), LINF) == []


@dataclass(frozen=True)
class Loop(ForeignAttack):
    """One step of the gradient's sign, in a loop of its own."""

    name: ClassVar[str] = "loop"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)
    queries: ClassVar[int] = 2

    def max_queries(self, threat):
        return self.queries

    def run(self, model, threat, batch):
        grad = differentiate(model, margin_of, batch.x, batch.y, batch.target).grad
        model((batch.x + threat.r * grad.sign()).clamp(0, 1))


class Overdraws(Loop):
    queries: ClassVar[int] = 1

    def run(self, model, threat, batch):
        super().run(model, threat, batch)
        super().run(model, threat, batch)


class Forgets(Loop):
    """Another search each time it is called."""

    calls: ClassVar[list[int]] = []

    def run(self, model, threat, batch):
        self.calls.append(1)
        model((batch.x + threat.r * (-1) ** len(self.calls) * (batch.x * 99).sin().sign()).clamp(0, 1))


def test_an_attack_with_a_loop_of_its_own_keeps_it():
    assert breaches(Loop(), LINF) == []


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Overdraws, "queries, and max_queries allows 1"),
        (Forgets, "searches end differently when the same batch is searched again"),
    ],
)
def test_a_breach_of_a_loop_is_named(kind, sentence):
    assert any(sentence in breach for breach in breaches(kind(), threats.parse("linf:0.3")))


# `robench.testing.check_attack`


def test_check_attack_takes_an_instance_a_class_and_text(tmp_path, monkeypatch):
    check_attack(Plain(), threat="linf:0.1")
    check_attack(Plain, threat="l2:0.5")
    (tmp_path / "mine.py").write_text("from robench.attacks import PGD\n")
    monkeypatch.chdir(tmp_path)
    check_attack("mine.py:PGD(steps=3)", threat="linf:0.1")

    class Inner(Plain):
        pass

    check_attack(Inner(steps=3), threat="linf:0.1")


def test_check_attack_tries_every_threat_model_and_names_each_breach():
    with pytest.raises(AssertionError) as raised:
        check_attack(Mixes(steps=3))
    lines = str(raised.value).splitlines()
    assert {line.split(": ")[0].rpartition(" under ")[2] for line in lines} == {USUAL[name] for name in Plain.threats}
    assert all("test_contract.py:Mixes under" in line for line in lines)


@pytest.mark.parametrize(
    ("attack", "threat", "sentence"),
    [
        (Plain(), "l0:2", "test_contract.py:Plain does not attack l0; it attacks linf, l2, l1"),
        (Plain(), "linf", "has no readable radius"),
        ("nowhere.py:Mine", "linf:0.1", "there is no file nowhere.py"),
    ],
)
def test_check_attack_refuses_what_cannot_be_checked(attack, threat, sentence):
    with pytest.raises(UserError, match=sentence):
        check_attack(attack, threat=threat)
