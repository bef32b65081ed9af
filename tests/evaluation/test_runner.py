"""One question, asked in pieces: what is done is never done again, and every order gives the same answer."""

import contextlib
import functools
import inspect
import random
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import robench
from robench.errors import UserError
from robench.evaluation import conditions, runner
from robench.evaluation.attack_run import RETRY
from robench.evaluation.planning import make_plan
from robench.evaluation.progress import Silence
from robench.evaluation.runner import Evaluation
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.problem.classifier import Classifier
from robench.problem.losses import UNTARGETED
from robench.problem.python_model import own_module
from robench.problem.split import Split
from robench.problem.threats import Ball, parse
from robench.protocols import AttackChoice, Protocol, ThreatChoice
from robench.results.merging import precisions
from robench.search.attack import GradientAttack, LabelAttack, State
from robench.search.attacks.fab import FAB
from robench.search.attacks.pgd import PGD
from robench.search.engine import pilot
from robench.search.engine.engine import Engine
from robench.search.engine.job import Ended
from robench.search.engine.pilot import Choice

from ..exact_distances import SHAPE, Linear, distance, fraction, toy

pytestmark = pytest.mark.precision
CLASSES = 4
QUICK = AttackChoice("quick", PGD(steps=3, step_size=0.25, random_start=False))
RANDOM = AttackChoice("random", PGD(steps=6), restarts=2)
SMALL, LARGE = "linf:0.06", "l2:0.3"


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def as_classifier(module, name="net"):
    return Classifier(module, name=name, architecture="mlp", shape=SHAPE, classes=CLASSES)


def images(n=30, wrong=3):
    """Random images; the model is right on all but the first few."""
    split = toy(as_classifier(net()), n)
    split.y[:wrong] = (split.y[:wrong] + 1) % CLASSES
    return split


def asking(*threats, attacks=(QUICK, RANDOM)):
    """A protocol with the same attacks under every threat."""
    choices = tuple(ThreatChoice(parse(text), attacks) for text in threats)
    return Protocol("tiny", "", "toy", None, 0, choices)


BOTH = asking(SMALL, LARGE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.robench"


@pytest.fixture
def searched(monkeypatch):
    """Every search that ended, in order: (threat, attack, example, draw)."""
    log = []

    class Watched(Engine):
        def work(self, jobs, until):
            for ended in super().work(jobs, until):
                log.extend(
                    (str(end.job.threat), end.job.attack.spec, self.split.numbers[end.item.row], end.item.restart)
                    for end in ended
                    if not end.dropped
                )
                yield ended

    monkeypatch.setattr(runner, "Engine", Watched)
    return log


def prepared(
    run,
    split,
    protocol=BOTH,
    *,
    module=None,
    seed=0,
    every_attack=False,
    slots=8,
    progress=None,
    referee=None,
    precision=None,
):
    module = net() if module is None else module
    classifier = as_classifier(module)
    plan = make_plan(
        classifier, split, protocol, seed=seed, every_attack=every_attack, slots=slots, precision=precision
    )
    referee = referee or Referee(classifier)
    return Evaluation(plan, protocol, classifier, referee, split, run, progress=progress or Silence())


def answered(path, split, protocol=BOTH, **more):
    with RunFile.open(path) as run:
        return prepared(run, split, protocol, **more).answer()


def alone(split, protocol=BOTH, **more):
    """The answer of a run that knows nothing else."""
    with RunFile.in_memory() as run:
        return prepared(run, split, protocol, **more).answer()


def letters(summary):
    return [t.outcomes for t in summary.threats]


@functools.cache
def undisturbed():
    """The answer to the question that most tests below ask in pieces."""
    return alone(images())


def evidence(path):
    with RunFile.read(path) as run:
        return run.evidence()


def finished(path):
    """What need not be done again: (threat, attack, example), and the draws of searches that were spent."""
    known = evidence(path)
    broken = {(c.threat, c.example) for c, v in known.judged() if v.accepted}
    exhausted = {(s.threat, s.attack, s.example, i) for s in known.exhausted for i in range(8) if s.done >> i & 1}
    return broken, exhausted


@dataclass
class Pulled(Silence):
    """A plug that is pulled after so many looks."""

    looks: int

    def moved(self, *_):
        self.looks -= 1
        if not self.looks:
            raise KeyboardInterrupt


# The answer


def test_the_test_question_has_every_outcome():
    summary = undisturbed()
    for threat in summary.threats:
        assert (threat.wrong, threat.open) == (3, 0)
        assert threat.broken >= 4
        assert threat.standing >= 4
    assert all(attack.broken for attack in summary.threats[0].attacks)
    assert any(attack.broken for attack in summary.threats[1].attacks)


def test_the_outcomes_are_those_of_attacking_each_image_by_itself():
    """By another road: a plain loop over images, steps and restarts, with nothing shared."""
    split, threat, module = images(), parse(SMALL), net()
    attack = QUICK.attack

    def breaks(x, y):
        delta = torch.zeros_like(x)
        for _ in range(attack.steps + 1):
            x_adv = (x + delta).requires_grad_()
            logits = module(x_adv)
            if logits.argmax() != y:
                return True
            wrong = logits[0, [k for k in range(CLASSES) if k != y]].max()
            (grad,) = torch.autograd.grad(wrong - logits[0, y], x_adv)
            stuck = ((x_adv <= 0) & (grad < 0)) | ((x_adv >= 1) & (grad > 0))
            moved = delta + attack.stride * threat.r * grad.masked_fill(stuck, 0).sign()
            delta = (x + moved.clamp(-threat.r, threat.r)).clamp(0, 1).detach() - x
        return False

    expected = ["WB"[n >= 3] if n < 3 or breaks(split.x[[n]], int(split.y[n])) else "S" for n in range(30)]
    assert letters(alone(split, asking(SMALL, attacks=(QUICK,)))) == ["".join(expected)]


def test_an_exhausted_search_costs_one_pass_per_query(path):
    answered(path, images())
    for exhausted in evidence(path).exhausted:
        steps = {QUICK.attack.spec: 3, RANDOM.attack.spec: 6}[exhausted.attack]
        assert exhausted.forwards == exhausted.backwards == exhausted.restarts * (steps + 1)


def test_every_broken_example_keeps_an_image_that_breaks_it(path):
    split = images()
    summary = answered(path, split)
    referee = Referee(as_classifier(net()))
    with RunFile.read(path) as run:
        known = {c.id: c for c in run.evidence().claims}
        kept = {(known[i].threat, known[i].example): torch.from_numpy(x) for i, x in run.images(SHAPE)}
    for threat in summary.threats:
        for number, letter in enumerate(threat.outcomes):
            assert ((threat.threat, number) in kept) == (letter == "B")
            if letter == "B":
                x, y, x_adv = split.x[[number]], split.y[[number]], kept[threat.threat, number][None]
                assert referee.judge(parse(threat.threat), x, y, x_adv)[0].accepted


@pytest.mark.costly
@pytest.mark.parametrize(("slots", "seed"), [(1, 0), (5, 1), (5, 2), (64, 3)])
def test_outcomes_depend_neither_on_the_order_of_examples_nor_on_the_number_of_slots(slots, seed):
    split = images()
    order = random.Random(seed).sample(range(30), 30)
    straight, stirred = undisturbed(), alone(split.take(order), slots=slots)
    for one, other in zip(letters(straight), letters(stirred), strict=True):
        assert "".join(one[i] for i in order) == other


def test_an_example_keeps_its_number_in_a_slice(path, searched):
    split = images()
    part = answered(path, split.part("5:12"))
    assert [c.example for c in evidence(path).clean] == list(range(5, 12))
    assert {example for _, _, example, _ in searched} <= set(range(5, 12))
    assert [row[5:12] for row in letters(undisturbed())] == letters(part)


@pytest.mark.costly
def test_with_every_attack_each_attack_is_measured_independently():
    split = images()
    together = alone(split, every_attack=True)
    assert letters(together) == letters(undisturbed())
    for choice in (QUICK, RANDOM):
        single = alone(split, asking(SMALL, LARGE, attacks=(choice,)))
        for threat, by_itself in zip(together.threats, single.threats, strict=True):
            (entry,) = (a for a in threat.attacks if a.name == choice.label)
            # An image that another threat's search found may count as well, so it can only be lower.
            assert entry.accuracy <= by_itself.accuracy
            assert entry.tried == 27
            assert entry.alone is not None
    first = alone(split, asking(SMALL, attacks=(QUICK, RANDOM)), every_attack=True).threats[0]
    for entry, choice in zip(first.attacks, (QUICK, RANDOM), strict=True):
        assert entry.accuracy == alone(split, asking(SMALL, attacks=(choice,))).threats[0].accuracy


def test_ties_are_resolved_by_argmax_and_counted():
    class Undecided(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :1] * 0 + torch.tensor([1.0, 1.0, 0.0, 0.0])

    split = images(4, wrong=0)
    split.y.copy_(torch.tensor([0, 1, 2, 0]))
    summary = alone(split, asking(SMALL, attacks=(QUICK,)), module=Undecided())
    assert summary.ties == 3
    assert letters(summary) == ["SWWS"]


# What is done is not done again


def test_a_complete_run_makes_no_queries(path, searched):
    split, module, passes = images(), net(), []
    module.register_forward_hook(lambda *_: passes.append(1))
    with RunFile.open(path) as run:
        once = prepared(run, split, module=module, referee=Referee(as_classifier(net())))
        passes.clear()
        first = once.answer()
    assert len(passes) > 10
    searched.clear()
    with RunFile.open(path) as run:
        again = prepared(run, split, module=module, referee=Referee(as_classifier(net())))
        passes.clear()
        assert again.answer() == first
    assert passes == searched == []


@pytest.mark.costly
@pytest.mark.parametrize("looks", [1, 5, 9, 14, 20, 40])
def test_an_interrupted_run_does_what_is_missing_and_no_more(path, searched, looks):
    split = images()
    with pytest.raises(KeyboardInterrupt):
        answered(path, split, progress=Pulled(looks))
    broken, exhausted = finished(path)
    searched.clear()
    summary = answered(path, split)
    for threat, attack, example, restart in searched:
        assert (threat, example) not in broken
        assert (threat, attack, example, restart) not in exhausted
    assert letters(summary) == letters(undisturbed())
    assert summary.cost.forwards == undisturbed().cost.forwards


@pytest.mark.costly
def test_a_repeatedly_interrupted_run_ends_in_the_same_table(path):
    split, sittings = images(), 0
    while True:
        try:
            summary = answered(path, split, progress=Pulled(9), slots=4)
            break
        except KeyboardInterrupt:
            sittings += 1
    assert sittings > 5
    assert letters(summary) == letters(undisturbed())


@pytest.mark.costly
def test_ctrl_c_right_after_a_commit_loses_nothing(path, monkeypatch):
    """The moment at which the disk is waited for is where Ctrl-C strikes most often."""
    split, real = images(), RunFile.writing
    monkeypatch.setattr(runner, "COMMIT_EVERY", 0)
    for strike in (2, 4, 5, 8):
        left = strike

        @contextlib.contextmanager
        def struck(self):
            nonlocal left
            with real(self):
                yield
            left -= 1
            if not left:
                raise KeyboardInterrupt

        monkeypatch.setattr(RunFile, "writing", struck)
        with pytest.raises(KeyboardInterrupt):
            answered(path, split)
        monkeypatch.setattr(RunFile, "writing", real)
        assert answered(path, split).union == undisturbed().union
        path.unlink()


def test_additional_examples_cost_only_their_own_searches(path, searched):
    split = images()
    answered(path, split.part("20"))
    searched.clear()
    summary = answered(path, split)
    assert {example for _, _, example, _ in searched} == set(range(20, 30))
    assert letters(summary) == letters(undisturbed())


def test_fewer_examples_cost_nothing(path, searched):
    split = images()
    whole = answered(path, split)
    searched.clear()
    assert letters(answered(path, split.part("10"))) == [row[:10] for row in letters(whole)]
    assert searched == []


def test_an_additional_threat_costs_only_its_own_searches(path, searched):
    split = images()
    answered(path, split, asking(SMALL))
    searched.clear()
    summary = answered(path, split)
    assert {threat for threat, _, _, _ in searched} == {LARGE}
    assert letters(summary) == letters(undisturbed())


@pytest.mark.costly
def test_additional_restarts_cost_only_their_own_searches(path, searched):
    split = images()
    answered(path, split)
    standing = {(t, n) for t in (SMALL, LARGE) for n, o in enumerate(letters_of(path, split)[t]) if o == "S"}
    searched.clear()
    more = asking(SMALL, LARGE, attacks=(QUICK, replace(RANDOM, restarts=4)))
    summary = answered(path, split, more)
    assert {(t, n) for t, _, n, _ in searched} == standing
    assert {restart for _, _, _, restart in searched} <= {2, 3}
    assert letters(summary) == letters(alone(split, more))


def letters_of(path, split):
    return {t.threat: t.outcomes for t in answered(path, split).threats}


def test_a_passed_deadline_leaves_the_rest_open_for_a_later_session(path):
    split = images()
    with RunFile.open(path) as run:
        early = prepared(run, split)
        early.deadline = 0.0
        summary = early.answer()
    assert summary.clean.correct == 27
    assert [t.open for t in summary.threats] == [27, 27]
    assert letters(answered(path, split)) == letters(undisturbed())


# An image counts wherever it lies


def test_an_image_found_under_a_small_radius_counts_under_a_larger_one(path, searched):
    split = images()
    summary = answered(path, split, asking("linf:0.06", "linf:0.1"))
    small, large = letters(summary)
    broken = {n for n, letter in enumerate(small) if letter == "B"}
    assert broken
    assert not broken & {n for threat, _, n, _ in searched if threat == "linf:0.1"}
    assert all(large[n] == "B" for n in broken)
    assert large == letters(alone(split, asking("linf:0.1")))[0]


def test_an_l_inf_image_counts_in_an_l2_ball_if_it_lies_in_it(path, searched):
    split = images()
    far = 0.06 * 20**0.5  # the corner of the box of 20 pixels
    wide, narrow = f"l2:{far + 0.001:.6f}", "l2:0.1"
    summary = answered(path, split, asking(SMALL, wide, narrow, attacks=(QUICK,)))
    box, outer, _ = letters(summary)
    broken = {n for n, letter in enumerate(box) if letter == "B"}
    assert not broken & {n for threat, _, n, _ in searched if threat == wide}
    assert all(outer[n] == "B" for n in broken)
    claims = [(c, v) for c, v in evidence(path).judged() if v.accepted]
    reach = {c.example: v.size for c, v in claims if c.threat == wide and c.forwards == 0}  # paid for under linf
    assert reach.keys() == broken
    far_ones = {n for n, size in reach.items() if size > 0.1}
    assert far_ones
    assert far_ones <= {n for threat, _, n, _ in searched if threat == narrow}


def test_an_image_found_for_an_earlier_question_counts_for_a_later_one(path, searched):
    split = images()
    old = letters(answered(path, split, asking("linf:0.06", attacks=(QUICK,))))[0]
    searched.clear()
    new = letters(answered(path, split, asking("linf:0.09", attacks=(RANDOM,))))[0]
    assert not {n for _, _, n, _ in searched} & {n for n, letter in enumerate(old) if letter == "B"}
    assert all(b == "B" for a, b in zip(old, new, strict=True) if a == "B")


# Attacks that fail, and attacks that lie


@dataclass(frozen=True)
class Moody(GradientAttack[Ball, State]):
    """Raises on some days, from its second step on."""

    name: ClassVar[str] = "moody"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)
    fails: ClassVar[bool] = True

    steps: int = 3
    targets: int = 0

    @property
    def objective(self):
        return UNTARGETED["margin"]

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))

    def step(self, threat, batch, state, seen):
        if self.fails and bool((state.delta != 0).any()):
            raise RuntimeError("no gradient today")
        return State(threat.project(state.delta + threat.r * threat.steepest(seen.grad), batch.x))


def test_an_attack_that_raises_leaves_its_examples_open_and_is_tried_again(path, searched, monkeypatch):
    split = images()
    ask = asking("linf:0.06", attacks=(QUICK, AttackChoice("moody", Moody())))
    quick = letters(alone(split, asking("linf:0.06", attacks=(QUICK,))))[0]
    for _ in range(2):  # on a bad day it fails each time
        summary = answered(path, split, ask)
        (threat,) = summary.threats
        assert threat.outcomes == quick.replace("S", "O")
        assert threat.standing == 0
        (failure,) = threat.failures
        assert (failure.attack, failure.examples) == ("moody", quick.count("S"))
        assert failure.error == "RuntimeError: no gradient today"
    monkeypatch.setattr(Moody, "fails", False)
    searched.clear()
    (threat,) = answered(path, split, ask).threats
    assert {n for _, _, n, _ in searched} == {n for n, letter in enumerate(quick) if letter == "S"}
    assert (threat.open, threat.failures) == (0, ())


@dataclass(frozen=True)
class Stranger(LabelAttack[Ball, State]):
    """Comes from outside: asks about one image far from the example, black or bright by the label."""

    name: ClassVar[str] = "stranger"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)
    comes_from_outside: ClassVar[bool] = True

    steps: int = 1
    targets: int = 0

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))

    def query(self, threat, batch, state):
        return torch.zeros_like(batch.x).unsqueeze(1)

    def step(self, threat, batch, state, labels):
        return state


def test_an_attack_without_a_start_leaves_the_example_open_and_with_one_is_exhausted(path):
    split = images()
    black = as_classifier(net())(torch.zeros(1, *SHAPE)).argmax().item()  # these have no start
    (threat,) = answered(path, split, asking("linf:0.06", attacks=(AttackChoice("stranger", Stranger()),))).threats
    expected = [
        "W" if n < 3 else "O" if y == black else "S" for n, y in zip(split.numbers, split.y.tolist(), strict=True)
    ]
    assert "O" in expected
    assert "S" in expected
    assert threat.outcomes == "".join(expected)
    (failure,) = threat.failures
    assert failure.error == "found no start: none of the images it tried fools the model"


# The curve


def linear_subject(n=20):
    module = Linear(2)
    model = Classifier(module, name="linear", architecture="oracle", shape=SHAPE, classes=2)
    split = toy(model, n, spread=0.3, edges=False)
    return module, model, split, [distance(module, split.x[row], int(split.y[row]), "l2") for row in range(n)]


@pytest.mark.parametrize("every_attack", [False, True])
def test_the_curve_of_a_minimum_norm_attack_is_accuracy_against_radius(every_attack):
    _, model, split, distances = linear_subject()
    radius = 2 * sorted(distances)[10]
    choices = (QUICK, AttackChoice("fab", FAB(steps=20, eta=1.01)))
    ask = Protocol("tiny", "", "toy", None, 0, (ThreatChoice(parse(f"l2:{fraction(radius)}"), choices),))
    plan = make_plan(model, split, ask, seed=0, every_attack=every_attack, curve=True, slots=8)
    with RunFile.in_memory() as run:
        summary = Evaluation(plan, ask, model, Referee(model), split, run).answer()
        sizes = {c.example: v.size for c, v in run.evidence().judged() if c.attack.startswith("fab")}
    within = [n for n, d in enumerate(distances) if d < radius / 1.02]
    assert set(within) <= set(sizes), "also those that another attack had broken"
    assert all(distances[n] * (1 - 1e-5) <= sizes[n] <= 1.02 * distances[n] for n in within)
    curve = summary.threats[0].curve
    assert curve.radius[0] == 0
    assert curve.radius[-1] == pytest.approx(radius)
    assert curve.accuracy[0] == summary.clean.accuracy == 1
    assert curve.accuracy[-1] == summary.threats[0].accuracy
    for r, accuracy in zip(curve.radius, curve.accuracy, strict=True):
        stand = [sum(d > r * slack for d in distances) / len(distances) for slack in (1, 1 / 1.02)]
        assert min(stand) <= accuracy <= max(stand)


def test_without_the_curve_option_searches_end_at_their_first_find():
    (threat,) = alone(images()).threats[:1]
    assert (threat.curve.radius, threat.curve.accuracy) == ((), ())


def test_an_attack_that_raises_does_not_stop_the_next(path):
    split = images()
    ask = asking("linf:0.06", attacks=(AttackChoice("moody", Moody()), QUICK))
    (threat,) = answered(path, split, ask).threats
    quick = letters(alone(split, asking("linf:0.06", attacks=(QUICK,))))[0]
    assert threat.outcomes == quick.replace("S", "O")


def test_an_error_in_the_progress_display_is_not_attributed_to_the_attack(path):
    class Stammers(Silence):
        def moved(self, *_):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answered(path, images(), progress=Stammers())
    assert evidence(path).failures == ()


@dataclass
class Liar(Engine):
    """A search that brings images far outside the set, each time it is asked."""

    stop_after: int = 10**9
    interrupted: bool = False
    asked: list = None
    rows: int = 0
    notes: tuple = ()

    def __call__(self, classifier, split, seed, rows, precision, *, compact=True):
        self.asked = [] if self.asked is None else self.asked
        self.split, self.rows, self.notes = split, rows, []
        return self

    def work(self, jobs, until):
        for job in jobs:
            while (item := job.waiting.take()) is not None:
                self.asked.append((self.split.numbers[item.row], item.number, item.restart))
                x_adv = torch.where(self.split.x[item.row] > 0.5, 0.0, 1.0)
                yield [Ended(job, item, x_adv, 5, 4, interrupted=self.interrupted)]
                if len(self.asked) == self.stop_after:
                    raise KeyboardInterrupt


def test_a_rejected_claim_is_searched_once_more_and_then_exhausted(path, monkeypatch):
    liar, split = Liar(), images(12)
    monkeypatch.setattr(runner, "Engine", liar)
    ask = asking(SMALL, attacks=(RANDOM,))
    (threat,) = answered(path, split, ask).threats
    assert threat.outcomes == "WWW" + "S" * 9
    tries = [(n, i, restart) for n in range(3, 12) for i in range(2) for restart in (i, i + RETRY)]
    assert sorted(liar.asked) == tries
    assert threat.rejected == {"outside": 36, "outside the box": 0, "does not fool": 0, "not finite": 0}
    (rejection,) = threat.rejections
    assert (rejection.attack, rejection.claims) == ("random", 36)
    assert "outside linf:0.06" in rejection.reason
    (attack,) = threat.attacks
    assert (attack.forwards, attack.backwards) == (36 * 5, 36 * 4)
    liar.asked.clear()
    assert answered(path, split, ask).threats == (threat,)
    assert liar.asked == []


def test_rejected_finds_of_interrupted_searches_leave_their_examples_open(path, monkeypatch):
    split, ask = images(12), asking(SMALL, attacks=(RANDOM,))
    monkeypatch.setattr(runner, "Engine", Liar(interrupted=True))
    for _ in range(3):
        assert answered(path, split, ask).threats[0].outcomes == "WWW" + "O" * 9
    monkeypatch.setattr(runner, "Engine", Liar())
    assert answered(path, split, ask).threats[0].outcomes == "WWW" + "S" * 9


@pytest.mark.parametrize("stop_after", range(1, 9))
def test_a_claim_rejected_before_a_kill_is_not_given_another_first_try(path, monkeypatch, stop_after):
    split, ask = images(7), asking(SMALL, attacks=(RANDOM,))
    first, second = Liar(stop_after), Liar()
    monkeypatch.setattr(runner, "Engine", first)
    with pytest.raises(KeyboardInterrupt):
        answered(path, split, ask, slots=2)
    monkeypatch.setattr(runner, "Engine", second)
    (threat,) = answered(path, split, ask, slots=2).threats
    assert len(first.asked + second.asked) == len(set(first.asked + second.asked)) == 4 * 2 * 2
    assert threat.rejected["outside"] == 16
    assert threat.outcomes == "WWWSSSS"


def test_nan_during_a_search_is_noted_and_breaks_nothing(path):
    class Torn(nn.Module):
        """NaN for everything but clean images, which hold no pixel strictly between 0.4 and 0.6."""

        def forward(self, x):
            torn = ((x > 0.4) & (x < 0.6)).flatten(1).any(dim=1)
            slope = torch.tensor([-0.01, 0.01, 0, 0])
            logits = torch.tensor([2.0, 0, 0, 0]) + x.flatten(1).sum(dim=1, keepdim=True) * slope
            return torch.where(torn[:, None], torch.nan, logits)

    x = torch.full((5, *SHAPE), 0.4)
    split = Split.whole("toy:test", x, torch.zeros(5, dtype=torch.long), CLASSES)
    (threat,) = answered(path, split, asking(SMALL, attacks=(QUICK,)), module=Torn()).threats
    assert threat.outcomes == "SSSSS"
    assert {p.example for p in evidence(path).probes} == set(range(5))
    assert {p.name for p in evidence(path).probes} == {"nan"}


# Runs that are refused, with nothing written


def refused(path, *arguments, **more):
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(UserError) as error:
        answered(path, *arguments, **more)
    assert (path.read_bytes() if path.exists() else None) == before
    return str(error.value)


def test_a_run_file_of_another_model_is_refused_and_unchanged(path):
    split = images()
    answered(path, split, asking(SMALL, attacks=(QUICK,)))
    assert "run of another model (net, weights " in refused(path, split, module=net(seed=1))
    elsewhere = Split(name="other:test", x=split.x, y=split.y, numbers=split.numbers, classes=CLASSES)
    assert "a run on toy:test with seed 0, not on other:test with seed 0" in refused(path, elsewhere)
    assert "not on toy:test with seed 5" in refused(path, split, seed=5)
    x, y = split.x.clone(), split.y.clone()
    x[4, 0, 0, 0] = 1 - x[4, 0, 0, 0]
    assert "another image as example 4 of toy:test" in refused(path, replace(split, x=x))
    y[9] = (y[9] + 1) % CLASSES  # another label is another question
    assert "another image as example 9 of toy:test" in refused(path, replace(split, y=y))


@pytest.mark.parametrize("offset", [0, 1])  # 0 / 0 is NaN, 1 / 0 is infinite
def test_a_model_without_finite_answers_on_clean_images_is_refused(path, offset):
    class Dark(nn.Module):
        """Divides by 0 on a black image."""

        def forward(self, x):
            return ((x + offset) / x.amax(dim=(1, 2, 3), keepdim=True)).flatten(1)[:, :CLASSES]

    split = images()
    split.x[[7, 11]] = 0
    message = refused(path, split, module=Dark())
    assert "answers NaN or infinite logits on 2 of 30 clean images (first: example 7 of toy:test)" in message
    assert not path.exists()


def test_a_stochastic_model_that_ignores_the_seed_is_refused(path):
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.noise = torch.Generator().manual_seed(0)

        def forward(self, x):
            return self.net(x + torch.randn(x.shape, generator=self.noise))

    assert "different logits for the same images" in refused(path, images(), module=Restless())
    assert not path.exists()


# robench.evaluate

TINY = """
[[threat]]
threat = "linf:0.06"
attacks = [
    { attack = "pgd", label = "quick", steps = 3, step_size = 0.25, random_start = false },
    { attack = "pgd", label = "random", steps = 6, restarts = 2 },
]
[[threat]]
threat = "l2:0.3"
attacks = [
    { attack = "pgd", label = "quick", steps = 3, step_size = 0.25, random_start = false },
    { attack = "pgd", label = "random", steps = 6, restarts = 2 },
]
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_evaluate_takes_a_users_module_and_images(tiny, path):
    split = images()
    summary = robench.evaluate(net(), split, tiny, run=path)
    assert letters(summary) == letters(undisturbed())
    assert (summary.model.name, summary.data.name, summary.protocol) == ("Sequential", "toy:test", "tiny")
    assert robench.evaluate(net(), split, tiny, run=path).union == summary.union
    part = robench.evaluate(net(), split, tiny, examples="5:12", threats=["linf:0.06"], seed=0)
    assert letters(part) == [letters(summary)[0][5:12]]
    only = robench.evaluate(net(), split, tiny, attacks=["pgd(steps=3, random_start=False)"], every_attack=True)
    assert [a.name for a in only.threats[0].attacks] == ["pgd"]


def test_evaluate_does_not_change_the_module(tiny):
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(18, CLASSES)
    ).train()
    module[0].weight.requires_grad_(False)
    module[5].weight.grad = torch.ones_like(module[5].weight)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    strides = [p.stride() for p in module.parameters()]
    robench.evaluate(module, images(), tiny)
    assert all(m.training for m in module.modules())
    assert [p.requires_grad for p in module.parameters()] == [False] + [True] * 5
    assert [p.stride() for p in module.parameters()] == strides
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert bool((module[5].weight.grad == 1).all())
    assert [p.grad is None for p in module.parameters()] == [True] * 4 + [False, True]


def test_evaluate_reads_images_of_other_types_as_float32(tiny):
    split = images()
    for dtype in (torch.float64, torch.float32):
        again = Split.whole("toy:test", split.x.to(dtype), split.y.to(torch.int32), CLASSES)
        assert letters(robench.evaluate(net(), again, tiny)) == letters(undisturbed())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x * 255, y), "pixels from 0 to 255; they go from 0 to 1"),
        (lambda x, y: (x - 0.5, y), "pixels from -0.5 to 0.5"),
        (lambda x, y: (x * torch.nan, y), "pixels from nan to nan"),
        (lambda x, y: (x, y + 1), "labels from 1 to 4; its 4 classes are numbered 0 to 3"),
        (lambda x, y: (x, y - 1), "labels from -1 to 2"),
        (lambda x, y: (x[:0], y[:0]), "toy:test is empty"),
    ],
)
def test_evaluate_refuses_invalid_images_and_labels(tiny, path, spoil, message):
    split = images(wrong=0)
    split.y[:4] = torch.arange(4)
    x, y = spoil(split.x, split.y)
    with pytest.raises(UserError) as error:
        robench.evaluate(net(), Split.whole("toy:test", x, y, CLASSES), tiny, run=path)
    assert message in str(error.value)
    assert isinstance(error.value, ValueError)
    assert not path.exists()


@pytest.mark.parametrize("spoil", [lambda x, y: (x, y[:3]), lambda x, y: (x[:, 0], y)])
def test_evaluate_refuses_a_split_of_other_shapes_as_it_is_without_the_type_checks_of_tests(tiny, monkeypatch, spoil):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    split = images()
    x, y = spoil(split.x, split.y)
    with pytest.raises(UserError, match=r"has images and labels of shapes .*; give \(N, C, H, W\) and \(N,\)"):
        robench.evaluate(net(), Split.whole("toy:test", x, y, CLASSES), tiny)


def test_evaluate_refuses_invalid_requests(tiny):
    split = images()
    with pytest.raises(UserError, match="name the data"):
        robench.evaluate(net(), protocol=tiny)
    with pytest.raises(UserError, match="labels reach 4 but the model Sequential has 4 outputs"):
        robench.evaluate(net(), replace(split, classes=5), tiny)
    with pytest.raises(UserError, match="the seed -1 is out of range"):
        robench.evaluate(net(), split, tiny, seed=-1)
    with pytest.raises(UserError, match="no threat model is called 'linv'; did you mean linf"):
        robench.evaluate(net(), split, tiny, threats=["linv:0.1"])
    with pytest.raises(UserError, match="fails on two images of 1x4x5 with RuntimeError"):
        robench.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(21, 4)), split, tiny)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threats": [0.1]}, "threats holds float; write each threat as a text, such as threats=['linf:8/255']"),
        ({"threats": 0.1}, "threats holds float"),
        ({"threats": [("linf", 0.1)]}, "threats holds tuple"),
        ({"threats": {"linf": 0.1}}, "threats holds dict"),
        ({"seed": "one"}, "seed='one' is no whole number; give one, such as seed=1"),
        ({"seed": 1.5}, "seed=1.5 is no whole number"),
        ({"masking": True}, "masking=True is no text; write one of auto, off, on or deep, in quotes, or leave masking"),
        ({"device": None}, "device=None is no text; write one of cpu or cuda:1"),
        ({"run": 3}, "run=3 is no path; write one as a text, such as run='net.robench'"),
    ],
)
def test_an_argument_of_another_type_is_refused_by_its_name(tiny, wrong, message):
    evaluate = inspect.unwrap(robench.evaluate)  # without the type checks of tests
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        evaluate(net(), images(), tiny, **wrong)


def test_types_that_stand_for_a_seed_and_a_device_are_read():
    evaluate = inspect.unwrap(robench.evaluate)
    question = {"threats": ["linf:0.1"], "attacks": ["pgd(steps=2)"]}
    given = evaluate(net(), images(), seed=np.int64(3), device=torch.device("cpu"), **question)
    plain = evaluate(net(), images(), seed=3, device="cpu", **question)
    assert given.seed == 3
    assert given.threats[0].outcomes == plain.threats[0].outcomes


def test_load_run_and_split_refuse_other_types_by_name(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=r"^path=3 is no path"):
        inspect.unwrap(robench.load_run)(3)
    with pytest.raises(UserError, match=r"^y of toy:test is list, not a tensor; write torch.as_tensor\(y\)"):
        Split.whole("toy:test", torch.zeros(2, 1, 4, 5), [0, 1], 2)


def test_weights_in_place_of_a_model_are_recognised():
    with pytest.raises(UserError, match="OrderedDict is not a model but, it seems, its weights: load them into"):
        inspect.unwrap(own_module)(net().state_dict(), images().x, CLASSES, torch.device("cpu"))


def test_all_public_names_can_be_imported():
    for name in robench.__all__:
        assert getattr(robench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        robench.evalute  # noqa: B018


def test_radii_given_as_fractions_reach_the_summary_unchanged():
    summary = alone(images(6), asking("linf:8/255", "l2:0.5"))
    assert [t.threat for t in summary.threats] == ["linf:8/255", "l2:0.5"]
    assert parse(summary.threats[0].threat).radius == Fraction(8, 255)


# The conditions of a plan


@pytest.fixture
def hardware(monkeypatch):
    """A device with hardware for bfloat16, on which it pays for small networks too; nothing is named."""
    monkeypatch.setenv("ROBENCH_PRECISION", "")
    monkeypatch.setattr(pilot, "has_hardware", lambda precision, device: precision == "bfloat16")
    monkeypatch.setattr(pilot, "saves_too_little", lambda classifier, rows: "")


class Listens(Silence):
    """Keeps what is noted."""

    def __init__(self):
        self.notes = []

    def noted(self, text):
        self.notes.append(text)


def precision_of(path):
    """In which precision a run is searched, and the record of all in which it was."""
    with RunFile.read(path) as run:
        return run.plan().precision, run.evidence().environment["precision"]


def test_a_precision_is_settled_once_per_run_file(path, hardware, monkeypatch):
    asked = []

    def choose(classifier, pilot, slots):
        asked.append((len(pilot.attacks), pilot.examples().numbers))
        return Choice("bfloat16", "it is Saturday")

    monkeypatch.setattr(conditions, "choose", choose)
    split = images()
    first = answered(path, split.part("10"))
    assert asked == [(2, tuple(range(3, 30)))], "under each threat, on what the model gets right of the whole data set"
    second = answered(path, split)
    assert len(asked) == 1
    assert precision_of(path) == ("bfloat16", "bfloat16: it is Saturday")
    assert [a[:10] for a in letters(second)] == letters(first)
    assert letters(second) == letters(undisturbed()), "searching roughly has changed a verdict"


class RoughlyImmune(nn.Module):
    """In bfloat16 nothing that is near this image can be broken."""

    def __init__(self, image):
        super().__init__()
        self.inner = net()
        self.register_buffer("image", image)

    def forward(self, x):
        logits = self.inner(x)
        if not torch.is_autocast_enabled("cpu"):
            return logits
        near = ((x - self.image).abs().amax(dim=(1, 2, 3)) < 0.07)[:, None]
        return torch.where(near, self.inner(self.image[None]).expand(len(x), -1), logits)


@pytest.mark.costly
@pytest.mark.parametrize(("is_odd", "expected"), [(False, "bfloat16"), (True, "float32")])
def test_all_parts_of_a_question_are_searched_in_one_precision(tmp_path, hardware, is_odd, expected):
    """Also where the example on which low precision fails is in one part alone."""
    split = images()
    odd = letters(undisturbed())[0].index("B")
    module = RoughlyImmune(split.x[odd]) if is_odd else net()
    parts = ("0:30", f"0:{odd + 1}", f"{odd + 1}:30", "20:23")
    assert {precision_of_part(tmp_path, split, part, module)[0] for part in parts} == {expected}


def precision_of_part(folder, split, part, module):
    path = folder / f"{part.replace(':', '-')}.robench"
    answered(path, split.part(part), module=module)
    return precision_of(path)


@pytest.mark.costly
def test_halves_shards_and_the_whole_end_in_the_same_table_where_bfloat16_is_chosen(tmp_path, hardware):
    split = images()
    whole = letters(answered(tmp_path / "whole.robench", split))
    for size in (15, 7):
        parts = [split.part(f"{begin}:{min(begin + size, 30)}") for begin in range(0, 30, size)]
        pieces = [letters(answered(tmp_path / f"{size}-{part.numbers[0]}", part)) for part in parts]
        assert ["".join(of) for of in zip(*pieces, strict=True)] == whole
    assert precision_of(tmp_path / "7-28")[0] == "bfloat16"


def notes_of(listens):
    """The notes, but for that on the classes of the few toys."""
    return [note for note in listens.notes if "examples show" not in note]


def test_a_resumed_run_keeps_its_precision_and_another_that_is_named_is_noted(path, hardware):
    split, listens = images(), Listens()
    answered(path, split.part("10"))
    assert precision_of(path)[0] == "bfloat16"
    answered(path, split.part("20"), progress=listens, precision="auto")
    assert (precision_of(path)[0], notes_of(listens)) == ("bfloat16", [])
    answered(path, split, progress=listens, precision="float32")
    precision, record = precision_of(path)
    assert precision == "float32"
    assert notes_of(listens) == ["this run was searched in bfloat16 so far, and goes on in float32"]
    assert precisions({"precision": record}) == ("bfloat16", "float32")
    assert record.endswith(" | float32: as named")


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_the_environment_names_the_precision(path, hardware, monkeypatch, named):
    monkeypatch.setenv("ROBENCH_PRECISION", named)
    monkeypatch.setattr(conditions, "choose", None)
    answered(path, images())
    assert precision_of(path) == (named, f"{named}: as named")


@pytest.mark.parametrize(("scale", "numbers"), [(1, range(3, 30)), (255, range(20, 30))])
def test_the_pilot_of_a_cut_split_uses_the_whole_split_if_it_is_valid(monkeypatch, scale, numbers):
    """A whole that was scaled after the cut was taken is no data for a model that reads [0, 1]."""
    tried = []

    def choose(classifier, pilot, slots):
        tried.append(pilot.examples().numbers)
        return Choice("float32", "")

    monkeypatch.setattr(conditions, "choose", choose)
    split = images()
    own = replace(split, x=split.x * scale).part("20:30")
    robench.evaluate(net(), replace(own, x=own.x / scale), threats=["linf:0.1"], attacks=["pgd"], precision="auto")
    assert tried == [tuple(numbers)]


class Float32Only(nn.Module):
    """Refuses to be searched in bfloat16."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        logits = self.inner(x)
        if torch.is_autocast_enabled("cpu"):
            raise TypeError("float32 only")
        return logits


@pytest.mark.parametrize("named", ["bfloat16", "auto"])
def test_a_model_that_loses_finds_in_bfloat16_is_searched_in_float32_with_a_note(path, hardware, named):
    listens = Listens()
    summary = answered(path, images(), module=Float32Only(), progress=listens, precision=named)
    reason = "not in bfloat16: the model raises TypeError: float32 only"
    assert notes_of(listens) == [f"searching in float32: {reason}"]
    assert precision_of(path) == ("float32", f"float32: {reason}")
    assert (letters(summary), summary.union.open) == (letters(undisturbed()), 0)


def test_a_complete_run_needs_no_pilot(path, monkeypatch):
    answered(path, images())
    monkeypatch.setattr(conditions, "choose", None)
    assert letters(answered(path, images())) == letters(undisturbed())


class Cramped(torch.nn.Module):
    """Fits five images."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        if len(x) > 5 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(x)


def test_a_batch_that_does_not_fit_the_memory_is_halved_in_the_plan(path):
    listens = Listens()
    summary = answered(path, images(), module=Cramped(), slots=16, progress=listens)
    assert letters(summary) == letters(undisturbed())
    assert listens.notes[-1] == "the batch did not fit the memory; going on with 4 images at once"
    with RunFile.read(path) as run:
        assert run.plan().slots == 4
    listens.notes.clear()
    assert letters(answered(path, images(), module=Cramped(), slots=16, progress=listens)) == letters(summary)
    assert notes_of(listens) == [], "the file remembers what fitted"
