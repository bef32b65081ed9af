"""The engine: results do not depend on order or batch, dropped examples end, and faulty attacks prove nothing."""

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


@pytest.fixture(scope="module", params=[1, 4, 7, 64])
def in_order(request):
    """A number of slots, and the results of all items on them, one after the other."""
    model, attack = classifier(net(), 4), PGD(steps=9)
    split = toy(model, 23)
    return request.param, run(model, SMALL, attack, split, items(model, attack, split, range(23), 2), request.param)


@pytest.mark.costly
@pytest.mark.parametrize("order", ["backward", "shuffled"])
def test_a_result_depends_neither_on_order_nor_on_the_other_slots(model, split, in_order, order):
    slots, expected = in_order
    attack = PGD(steps=9)
    waiting = items(model, attack, split, range(23), restarts=2)
    if order == "backward":
        waiting.reverse()
    else:
        random.Random(slots).shuffle(waiting)
    got = run(model, SMALL, attack, split, waiting, slots)
    assert got.keys() == expected.keys()
    for item, x_adv in got.items():
        assert (x_adv is None) == (expected[item] is None)
        if x_adv is not None:
            torch.testing.assert_close(x_adv, expected[item], atol=1e-6, rtol=0)
    assert 3 < sum(x is None for x in expected.values()) < 43, "both outcomes must occur, or the test proves nothing"


def test_a_search_on_slots_breaks_the_same_examples_as_the_unrolled_attack(model, split):
    attack = PGD(steps=9, random_start=False)
    got = run(model, SMALL, attack, split, items(model, attack, split, range(23)), slots=5)
    batch = batch_of(model, job(SMALL, attack, []), split, list(got), seed=0)
    visited = [torch.zeros_like(batch.x)]
    for steps in range(1, 10):
        visited.append(unroll(model, SMALL, PGD(steps=steps, step_size=attack.stride, random_start=False), batch).delta)
    fooled = torch.stack([model(batch.x + delta).argmax(dim=1) != batch.y for delta in visited]).any(dim=0)
    assert [x is not None for x in got.values()] == fooled.tolist()


def test_restarts_of_an_example_get_different_noise(model, split):
    attack = PGD(steps=1, step_size=1e-6)
    waiting = [*items(model, attack, split, [0, 0], restarts=2)[:1], Item(0, 1, 1), Item(1, 0, 0)]
    one = job(SMALL, attack, waiting)
    batch = batch_of(model, one, split, waiting, seed=0)
    deltas = attack.start(SMALL, batch).delta
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.allclose(deltas[i], deltas[j])
    again = attack.start(SMALL, batch_of(model, one, split, waiting[::-1], seed=0)).delta
    assert torch.equal(again.flip(0), deltas)
    other = attack.start(SMALL, batch_of(model, one, split, waiting, seed=1)).delta
    assert not torch.allclose(other, deltas)


def test_items_of_a_dropped_example_are_not_searched(model, split):
    attack = PGD(steps=9)
    big = Linf(Fraction(1, 2))
    one = job(big, attack, items(model, attack, split, range(23), restarts=10))
    ended = []
    for batch in Engine(model, split, 0, rows=6).work([one]):
        ended += batch
        for end in batch:
            if end.x_adv is not None:
                one.drop(end.item.row)
    assert len(ended) < 60
    assert {end.item.row for end in ended if end.x_adv is not None} == set(range(23))
    assert one.over
    assert one.steps == sum(end.forwards for end in ended), "dropped searches have a cost too"


def test_costs_count_queries_and_no_padding(model, split):
    tiny = Linf(Fraction(1, 10**6))
    attack = PGD(steps=9)
    for slots in (1, 5, 50):
        for end in ends(model, split, job(tiny, attack, items(model, attack, split, range(7))), slots=slots):
            assert (end.forwards, end.backwards, end.x_adv) == (10, 10, None)


# Faulty attacks


@dataclass(frozen=True)
class Faulty(GradientAttack[Ball, State]):
    """A gradient attack from the clean image, with a step that subclasses define."""

    name: ClassVar[str] = "faulty"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = 5
    targets: int = 0

    @property
    def objective(self):
        return UNTARGETED["margin"]

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))


class LeavesTheBall(Faulty):
    def step(self, threat, batch, state, seen):
        return State(((batch.x + 10 * threat.r * seen.grad.sign()).clamp(0, 1)) - batch.x)


class LeavesTheBox(Faulty):
    def step(self, threat, batch, state, seen):
        return State(threat.r * seen.grad.sign() * (1 - 1e-6))


class ReturnsToTheStart(Faulty):
    """Finds an example at its first step, then returns to the clean image."""

    def step(self, threat, batch, state, seen):
        away = threat.project(threat.r * threat.steepest(seen.grad), batch.x)
        at_start = (state.delta == 0).flatten(1).all(dim=1).view(-1, 1, 1, 1)
        return State(torch.where(at_start, away, torch.zeros_like(away)))


class ReturnsNaN(Faulty):
    def step(self, threat, batch, state, seen):
        return State(torch.full_like(batch.x, torch.nan))


class SharesItsNoise(Faulty):
    """One noise for the whole batch: that of an example depends on the rest of the batch."""

    def start(self, threat, batch):
        noise = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return State(threat.project(4 * noise, batch.x))

    def step(self, threat, batch, state, seen):
        return state


def test_an_image_outside_the_ball_is_never_an_adversarial_example(model, split):
    assert set(run(model, SMALL, LeavesTheBall(), split, items(model, LeavesTheBall(), split, range(23))).values()) == {
        None
    }


def test_an_image_outside_the_pixel_range_is_never_an_adversarial_example():
    module = Linear(2)
    model = classifier(module)
    split = toy(model, 12)
    split.x.copy_(split.x.round())  # every pixel is at a bound: half of all changes leave the range
    split.y.copy_(model(split.x).argmax(dim=1))
    threat = Linf(Fraction(1, 2))
    found = run(model, threat, LeavesTheBox(), split, items(model, LeavesTheBox(), split, range(12)))
    assert set(found.values()) == {None}


def test_an_adversarial_example_is_retained_if_the_attack_moves_on(model, split):
    threat = Linf(Fraction(1, 2))
    found = run(model, threat, ReturnsToTheStart(), split, items(model, ReturnsToTheStart(), split, range(23)))
    assert all(x_adv is not None for x_adv in found.values())


def test_nan_pixels_break_no_example_and_are_recorded(model, split):
    waiting = items(model, ReturnsNaN(), split, range(5))
    assert all(end.x_adv is None and end.nan for end in ends(model, split, job(SMALL, ReturnsNaN(), waiting), slots=4))


def test_noise_shared_by_the_batch_is_detected(model, split):
    """The test of order and other slots fails for it, as it should."""
    attack, threat = SharesItsNoise(), L2(Fraction(1, 1))
    forward = run(model, threat, attack, split, items(model, attack, split, range(23)), slots=23)
    backward = run(model, threat, attack, split, items(model, attack, split, range(23))[::-1], slots=23)
    same = [
        (forward[item] is None) == (x is None) and (x is None or torch.allclose(forward[item], x))
        for item, x in backward.items()
    ]
    assert not all(same)


@pytest.mark.parametrize(
    ("spoil", "rejection", "reason"),
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
def test_the_referee_names_the_reason_of_a_rejection(model, split, spoil, rejection, reason):
    attack = PGD(steps=20)
    hits = {i.row: x for i, x in run(model, SMALL, attack, split, items(model, attack, split, range(23))).items()}
    row, x_adv = next((row, x) for row, x in hits.items() if x is not None)
    referee = Referee(model)
    x, y = split.x[[row]], split.y[[row]]
    (valid,) = referee.judge(SMALL, x, y, x_adv[None])
    assert valid.accepted
    (decision,) = referee.judge(SMALL, x, y, spoil(x, x_adv[None]))
    assert not decision.accepted
    assert decision.rejection == rejection
    assert reason in decision.reason


def test_the_referee_rejects_nan_logits(split):
    class Torn(nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 4)
            logits[:, 1] = torch.nan
            return logits

    (decision,) = Referee(classifier(Torn(), 4)).judge(parse("linf:1"), split.x[:1], torch.tensor([0]), split.x[:1])
    assert (decision.accepted, decision.rejection) == (False, "not finite")


def test_the_referees_logits_do_not_depend_on_the_batch(model, split):
    referee = Referee(model)
    together = referee.logits(split.x)
    for row in (0, 7, 22):
        assert torch.equal(referee.logits(split.x[[row]])[0], together[row])


def test_a_search_that_queried_no_member_is_marked(model, split):
    for attack, no_query_inside in [(ReturnsNaN(), False), (LeavesTheBall(), False), (AlwaysOutside(), True)]:
        waiting = items(model, attack, split, range(5))
        ended = ends(model, split, job(SMALL, attack, waiting), slots=4)
        assert [end.no_query_inside for end in ended] == [no_query_inside] * 5, (
            attack.name
        )  # the first two start at the clean image


class AlwaysOutside(Faulty):
    def start(self, threat, batch):
        return State(torch.full_like(batch.x, 5.0))

    def step(self, threat, batch, state, seen):
        return state
