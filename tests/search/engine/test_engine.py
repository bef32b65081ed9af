"""The engine: lanes, order, drops, retries, and mistakes planted in attacks."""

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from torch import nn

from robench.evidence.referee import Referee
from robench.problem.losses import UNTARGETED
from robench.problem.threats import L2, Ball, Linf, parse
from robench.search.attack import GradientAttack, State, unroll
from robench.search.attacks.pgd import PGD
from robench.search.engine.engine import Engine
from robench.search.engine.scheduler import Item
from robench.search.engine.slot_batch import batch_of

from ...exact_distances import Linear, classifier, toy
from ..running import ends, items, job, run


def net(classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, classes))


@pytest.fixture
def model():
    return classifier(net(), 4)


@pytest.fixture
def split(model):
    return toy(model, 23)


SMALL = Linf(Fraction(3, 100))


@pytest.mark.parametrize("slots", [1, 4, 7, 64])
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_a_result_depends_neither_on_order_nor_on_lane_mates(model, split, slots, order):
    attack = PGD(steps=9)
    waiting = items(model, attack, split, range(23), restarts=2)
    if order == "backward":
        waiting.reverse()
    elif order == "shuffled":
        random.Random(slots).shuffle(waiting)
    got = run(model, SMALL, attack, split, waiting, slots)
    alone = run(model, SMALL, attack, split, items(model, attack, split, range(23), restarts=2), slots)
    assert got.keys() == alone.keys()
    for item, x_adv in got.items():
        assert (x_adv is None) == (alone[item] is None)
        if x_adv is not None:
            torch.testing.assert_close(x_adv, alone[item], atol=1e-6, rtol=0)
    assert 3 < sum(x is None for x in alone.values()) < 43, "both outcomes must occur, or the test says nothing"


def test_a_search_in_lanes_finds_what_the_unrolled_attack_finds(model, split):
    attack = PGD(steps=9, random_start=False)
    got = run(model, SMALL, attack, split, items(model, attack, split, range(23)), slots=5)
    batch = batch_of(model, job(SMALL, attack, []), split, list(got), seed=0)
    visited = [torch.zeros_like(batch.x)]
    for steps in range(1, 10):
        visited.append(unroll(model, SMALL, PGD(steps=steps, step_size=attack.stride, random_start=False), batch).delta)
    fooled = torch.stack([model(batch.x + delta).argmax(dim=1) != batch.y for delta in visited]).any(dim=0)
    assert [x is not None for x in got.values()] == fooled.tolist()


def test_restarts_of_an_example_meet_different_noise(model, split):
    attack = PGD(steps=1, step_size=1e-6)
    waiting = [*items(model, attack, split, [0, 0], restarts=2)[:1], Item(0, 1, 1), Item(1, 0, 0)]
    asked = job(SMALL, attack, waiting)
    batch = batch_of(model, asked, split, waiting, seed=0)
    deltas = attack.start(SMALL, batch).delta
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.allclose(deltas[i], deltas[j])
    again = attack.start(SMALL, batch_of(model, asked, split, waiting[::-1], seed=0)).delta
    assert torch.equal(again.flip(0), deltas)
    other = attack.start(SMALL, batch_of(model, asked, split, waiting, seed=1)).delta
    assert not torch.allclose(other, deltas)


def test_items_of_a_dropped_example_are_not_searched(model, split):
    attack = PGD(steps=9)
    big = Linf(Fraction(1, 2))
    asked = job(big, attack, items(model, attack, split, range(23), restarts=10))
    ended = []
    for batch in Engine(model, split, 0, rows=6).work([asked]):
        ended += batch
        for end in batch:
            if end.x_adv is not None:
                asked.drop(end.item.row)
    assert len(ended) < 60
    assert {end.item.row for end in ended if end.x_adv is not None} == set(range(23))
    assert asked.over
    assert asked.steps == sum(end.forwards for end in ended), "searches that were dropped are paid for too"


def test_costs_count_what_was_asked_and_no_padding(model, split):
    tiny = Linf(Fraction(1, 10**6))
    attack = PGD(steps=9)
    for slots in (1, 5, 50):
        for end in ends(model, split, job(tiny, attack, items(model, attack, split, range(7))), slots=slots):
            assert (end.forwards, end.backwards, end.x_adv) == (10, 10, None)


# Mistakes planted in attacks


@dataclass(frozen=True)
class Planted(GradientAttack[Ball, State]):
    """PGD's start, and a step to be spoilt."""

    name: ClassVar[str] = "planted"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = 5
    targets: int = 0

    @property
    def objective(self):
        return UNTARGETED["margin"]

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))


class LeavesTheBall(Planted):
    def step(self, threat, batch, state, seen):
        return State(((batch.x + 10 * threat.r * seen.grad.sign()).clamp(0, 1)) - batch.x)


class LeavesTheBox(Planted):
    def step(self, threat, batch, state, seen):
        return State(threat.r * seen.grad.sign() * (1 - 1e-6))


class WandersOff(Planted):
    """Finds at its first step, then forgets and walks home."""

    def step(self, threat, batch, state, seen):
        there = threat.project(threat.r * threat.steepest(seen.grad), batch.x)
        at_home = (state.delta == 0).flatten(1).all(dim=1).view(-1, 1, 1, 1)
        return State(torch.where(at_home, there, torch.zeros_like(there)))


class ReturnsNaN(Planted):
    def step(self, threat, batch, state, seen):
        return State(torch.full_like(batch.x, torch.nan))


class SharesItsNoise(Planted):
    """One draw for the whole batch: what an example gets depends on who rides along."""

    def start(self, threat, batch):
        one_draw = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return State(threat.project(4 * one_draw, batch.x))

    def step(self, threat, batch, state, seen):
        return state


def test_a_point_outside_the_ball_is_never_a_find(model, split):
    assert set(run(model, SMALL, LeavesTheBall(), split, items(model, LeavesTheBall(), split, range(23))).values()) == {
        None
    }


def test_a_point_outside_the_box_is_never_a_find():
    module = Linear(2)
    model = classifier(module)
    split = toy(model, 12)
    split.x.copy_(split.x.round())  # every pixel at the edge: half of all moves leave the box
    split.y.copy_(model(split.x).argmax(dim=1))
    threat = Linf(Fraction(1, 2))
    found = run(model, threat, LeavesTheBox(), split, items(model, LeavesTheBox(), split, range(12)))
    assert set(found.values()) == {None}


def test_a_find_the_attack_walks_away_from_is_kept(model, split):
    threat = Linf(Fraction(1, 2))
    found = run(model, threat, WandersOff(), split, items(model, WandersOff(), split, range(23)))
    assert all(x_adv is not None for x_adv in found.values())


def test_nan_pixels_break_nobody_and_are_told(model, split):
    waiting = items(model, ReturnsNaN(), split, range(5))
    assert all(end.x_adv is None and end.nan for end in ends(model, split, job(SMALL, ReturnsNaN(), waiting), slots=4))


def test_noise_shared_by_the_batch_is_noticed(model, split):
    """The test of order and lane mates fails for it, as it should."""
    attack, threat = SharesItsNoise(), L2(Fraction(1, 1))
    forward = run(model, threat, attack, split, items(model, attack, split, range(23)), slots=23)
    backward = run(model, threat, attack, split, items(model, attack, split, range(23))[::-1], slots=23)
    same = [
        (forward[item] is None) == (x is None) and (x is None or torch.allclose(forward[item], x))
        for item, x in backward.items()
    ]
    assert not all(same)


@pytest.mark.parametrize(
    ("spoil", "rejection", "told"),
    [
        (lambda x, x_adv: x + 2 * (x_adv - x), "outside", "outside linf:0.03"),
        (
            lambda x, x_adv: x_adv - 0.02 * (x_adv == x_adv.amin()) - x_adv.amin(),
            "outside the box",
            "leaves the pixel range",
        ),
        (lambda x, x_adv: x, "does not fool", "does not fool the model: margin -"),
        (lambda x, x_adv: x_adv * torch.nan, "not finite", "not finite"),
    ],
)
def test_the_referee_names_what_it_turns_down(model, split, spoil, rejection, told):
    attack = PGD(steps=20)
    hits = {i.row: x for i, x in run(model, SMALL, attack, split, items(model, attack, split, range(23))).items()}
    row, x_adv = next((row, x) for row, x in hits.items() if x is not None)
    referee = Referee(model)
    x, y = split.x[[row]], split.y[[row]]
    (fair,) = referee.judge(SMALL, x, y, x_adv[None])
    assert fair.accepted
    (decision,) = referee.judge(SMALL, x, y, spoil(x, x_adv[None]))
    assert not decision.accepted
    assert decision.rejection == rejection
    assert told in decision.reason


def test_the_referee_takes_nan_logits_for_no_answer(split):
    class Torn(nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 4)
            logits[:, 1] = torch.nan
            return logits

    (decision,) = Referee(classifier(Torn(), 4)).judge(parse("linf:1"), split.x[:1], torch.tensor([0]), split.x[:1])
    assert (decision.accepted, decision.rejection) == (False, "not finite")


def test_the_referee_says_the_same_in_any_company(model, split):
    referee = Referee(model)
    together = referee.logits(split.x)
    for row in (0, 7, 22):
        assert torch.equal(referee.logits(split.x[[row]])[0], together[row])


def test_a_search_that_never_asked_about_a_member_says_so(model, split):
    for attack, no_query_inside in [(ReturnsNaN(), False), (LeavesTheBall(), False), (AlwaysOutside(), True)]:
        waiting = items(model, attack, split, range(5))
        ended = ends(model, split, job(SMALL, attack, waiting), slots=4)
        assert [end.no_query_inside for end in ended] == [no_query_inside] * 5, (
            attack.name
        )  # the first two begin at the image itself


class AlwaysOutside(Planted):
    def start(self, threat, batch):
        return State(torch.full_like(batch.x, 5.0))

    def step(self, threat, batch, state, seen):
        return state
