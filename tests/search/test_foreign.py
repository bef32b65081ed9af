"""Attacks that own their loop: what they are asked for, what is believed, what is counted."""

import contextlib
import inspect
import sys
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import robench
from robench.errors import UserError
from robench.evidence.referee import Referee
from robench.problem.threats import BALLS, L2, Ball, Linf
from robench.search.attack import ForeignAttack
from robench.search.attacks import build, parse
from robench.search.attacks.pgd import PGD
from robench.search.engine.engine import Engine
from robench.search.engine.library_runner import IDLE, Watched
from robench.search.engine.scheduler import Item
from robench.search.foreign.library import library

from ..exact_distances import SHAPE, Linear, classifier, distance, fraction, toy
from .running import broken_rows, ends, items, job

foolbox = library("foolbox", install="foolbox")

N = 12


@pytest.fixture
def model():
    return classifier(Linear(3), 3)


@pytest.fixture
def split(model):
    return toy(model, N)


WIDE = Linf(Fraction(1, 2))  # breaks everything
NARROW = Linf(Fraction(1, 10**4))  # breaks nothing


def exact(model, split, row, norm):
    return distance(model.module, split.x[row], int(split.y[row]), norm)


def radius(model, split, row, norm, factor):
    return BALLS[norm](fraction(exact(model, split, row, norm) * factor))


# Foolbox, where the truth is known


@pytest.mark.parametrize(
    ("text", "norm", "beyond"),
    [
        ("foolbox:LinfPGD(steps=15, rel_stepsize=0.1, random_start=False)", "linf", 1.05),
        ("foolbox:L2PGD(steps=15, rel_stepsize=0.1, random_start=False)", "l2", 1.1),
        ("foolbox:LinfFastGradientAttack", "linf", 1.05),
    ],
)
def test_an_attack_of_foolbox_breaks_a_linear_model_beyond_the_exact_distance_and_never_below(text, norm, beyond):
    model = classifier(Linear(2), 2)
    split = toy(model, N, spread=0.2, edges=False)  # at the edge, these spend their radius on pixels that cannot move
    attack = build(*parse(text))
    for row in range(3):
        assert broken_rows(model, radius(model, split, row, norm, beyond), attack, split, [row]) == {row}
        assert broken_rows(model, radius(model, split, row, norm, 0.98), attack, split, [row]) == set()


@pytest.mark.costly
@pytest.mark.parametrize(
    ("text", "norm", "beyond"),
    [
        ("foolbox:L2CarliniWagnerAttack(steps=60, binary_search_steps=7, stepsize=0.05, initial_const=1)", "l2", 1.05),
        ("foolbox:DDNAttack(steps=100)", "l2", 1.05),
        ("foolbox:EADAttack(steps=60, binary_search_steps=5, initial_const=1, decision_rule=L1)", "l1", 1.3),
    ],
)
def test_a_minimum_norm_attack_of_foolbox_continues_to_the_smallest_find_on_request(text, norm, beyond):
    model = classifier(Linear(2), 2)
    split = toy(model, 6, edges=False)  # its C&W cannot move pixels at 0 and 1
    attack = build(*parse(text))
    asked = job(BALLS[norm](Fraction(20)), attack, items(model, attack, split, range(6)))
    asked.smallest = True
    for end in ends(model, split, asked):
        size = asked.threat.measure(end.x_adv[None], split.x[[end.item.row]]).item()
        assert 1 - 1e-5 < size / exact(model, split, end.item.row, norm) < beyond


def test_where_it_ends_outside_the_ball_its_result_counts_as_shrunk_to_the_radius(model, split, monkeypatch):
    """As in Foolbox. Straight towards the boundary, and too far."""

    class Overshoots(foolbox.attacks.base.MinimizationAttack):
        distance = foolbox.distances.l2

        def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
            x = inputs.raw if hasattr(inputs, "raw") else inputs
            weight = Linear(2).weight
            push = (weight[1] - weight[0]).view(1, *SHAPE).detach()
            return (x + torch.where(criterion.labels.raw == 0, 1, -1).view(-1, 1, 1, 1) * push).clamp(0, 1)

    monkeypatch.setattr(foolbox.attacks, "Overshoots", Overshoots, raising=False)
    two = classifier(Linear(2), 2)
    grey = toy(two, N, spread=0.2, edges=False)
    threat = L2(Fraction(3, 10))
    broken = broken_rows(two, threat, build("foolbox:Overshoots", {}), grey, range(N), slots=N)
    assert broken == {row for row in range(N) if exact(two, grey, row, "l2") < 0.25} != set()


def test_l0_attacks_which_foolbox_refuses_to_judge_are_judged_here(model, split):
    attack = build("foolbox:L0FMNAttack", {"steps": 30})
    got = broken_rows(model, BALLS["l0"](Fraction(8)), attack, split, range(N), slots=N)
    assert got <= {row for row in range(N) if exact(model, split, row, "l0") <= 8}
    assert len(got) > N // 2


def test_pointwise_which_foolbox_cannot_call_is_run():
    model = classifier(Linear(2), 2)
    split = toy(model, 3)
    attack = build("foolbox:PointwiseAttack", {"init_attack": "InversionAttack", "l2_binary_search": False})
    assert broken_rows(model, BALLS["l0"](Fraction(14)), attack, split, range(3), slots=3) == {0, 1, 2}


# AutoAttack's own code


@pytest.mark.costly
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_authors_autoattack_breaks_linear_models_of_any_number_of_classes(classes, norm):
    model = classifier(Linear(classes), classes)
    split = toy(model, N)
    attack = build("autoattack-reference", {"steps": 10, "queries": 5})
    assert broken_rows(model, radius(model, split, 0, norm, 1.05), attack, split, [0]) == {0}
    assert broken_rows(model, radius(model, split, 0, norm, 0.95), attack, split, [0]) == set()


def test_the_authors_autoattack_goes_on_with_what_stands(model, split):
    """Where APGD breaks an example, FAB and Square are not asked about it."""
    sizes = [exact(model, split, row, "linf") for row in range(N)]
    middle = sorted(sizes)[N // 2]
    attack = build("autoattack-reference", {"steps": 8, "queries": 100})
    ended = ends(model, split, job(Linf(fraction(middle * 0.99)), attack, items(model, attack, split, range(N))))
    for end in ended:
        if sizes[end.item.row] < 0.9 * middle:
            assert end.forwards < 100
        if sizes[end.item.row] >= middle:
            assert end.forwards > 100


def test_the_authors_autoattack_takes_networks_that_think_in_channels_last():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    colour = classifier(net.to(memory_format=torch.channels_last), 5, (3, 6, 8))
    split = toy(colour, 4)
    attack = build("autoattack-reference", {"steps": 2, "queries": 2})
    for norm in attack.threats:
        assert len(
            ends(colour, split, job(BALLS[norm](Fraction(1, 100)), attack, items(colour, attack, split, [0, 1])))
        )


# What is believed


@dataclass(frozen=True)
class Made(ForeignAttack):
    """To be spoilt."""

    name: ClassVar[str] = "made"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)

    def max_queries(self, threat: Ball):
        return 10


class Shows(Made):
    """Asks about something, once."""

    def run(self, model, threat, batch):
        model(self.image(batch.x))


class ShowsNaN(Shows):
    def image(self, x):
        return x * torch.nan


class LeavesTheBox(Shows):
    def image(self, x):
        return x - 1e-3


class LeavesTheBall(Shows):
    def image(self, x):
        return 1 - x


class ShowsAnotherExample(Shows):
    def image(self, x):
        return x.roll(1, dims=0)


class ShowsBlack(Shows):
    def image(self, x):
        return torch.zeros_like(x)


class ShowsTheWrongShape(Shows):
    def image(self, x):
        return x[:, :, :2]


class SpoilsWhatItIsGiven(Made):
    def run(self, model, threat, batch):
        batch.x.zero_()
        batch.y.add_(1).remainder_(3)
        model(batch.x)


class Raises(Made):
    def run(self, model, threat, batch):
        raise ZeroDivisionError("not my day")


class DoesNothing(Made):
    def run(self, model, threat, batch):
        model(batch.x)


RUBBISH = [LeavesTheBox, LeavesTheBall, ShowsAnotherExample, ShowsBlack, SpoilsWhatItIsGiven]


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_breaks_nothing(model, split, kind):
    ended = ends(model, split, job(NARROW, kind(), items(model, kind(), split, range(N))), slots=5)
    assert [(end.x_adv, end.nan, end.no_query_inside) for end in ended] == [(None, False, False)] * N
    assert {end.error for end in ended} <= {"", IDLE}


@pytest.mark.parametrize("kind", [DoesNothing, ShowsNaN])
def test_a_library_that_queries_only_the_clean_images_has_not_searched(model, split, kind):
    ended = ends(model, split, job(NARROW, kind(), items(model, kind(), split, range(N))), slots=5)
    assert [(end.x_adv, end.nan, end.error) for end in ended] == [(None, False, IDLE)] * N


def test_a_library_that_raises_leaves_its_examples_unfinished(model, split):
    asked = job(WIDE, Raises(), items(model, Raises(), split, range(N), restarts=3))
    after = job(NARROW, PGD(steps=2), items(model, PGD(), split, range(N)))
    assert {end.job for end in ends(model, split, asked, after, slots=5, may_fail=True)} == {after}
    assert asked.error == "ZeroDivisionError: not my day"
    assert asked.unfinished == set(range(N))
    assert asked.over


def test_images_of_the_wrong_shape_are_an_error(model, split):
    asked = job(WIDE, ShowsTheWrongShape(), items(model, Made, split, range(N)))
    assert ends(model, split, asked, may_fail=True) == []
    assert asked.error.startswith("RuntimeError: ")


def test_one_example_that_makes_the_library_raise_is_left_out_alone(model, split):
    class Picky(Made):
        def run(self, model, threat, batch):
            if (batch.x == split.x[4]).flatten(1).all(dim=1).any():
                raise ValueError("init_attack failed for 1 inputs")
            model(0.98 * batch.x)

    asked = job(Linf(Fraction(1, 20)), Picky(), items(model, Picky(), split, range(N)))
    ended = {end.item.row: end for end in ends(model, split, asked, slots=N)}
    assert {row: end.error for row, end in ended.items() if end.error} == {
        4: "ValueError: init_attack failed for 1 inputs"
    }
    assert all(end.forwards >= 2 for row, end in ended.items() if row != 4)


def test_images_that_are_wrong_already_are_finds_and_never_shown_to_the_library(model, split):
    shown = []

    class Looks(Made):
        def run(self, inner, threat, batch):
            shown.extend(batch.x)

    split.y[3] = (split.y[3] + 1) % 3
    split.y[7] = (split.y[7] + 1) % 3
    ended = ends(model, split, job(NARROW, Looks(), items(model, Looks(), split, range(N))), slots=N)
    finds = {end.item.row: end.x_adv for end in ended if end.x_adv is not None}
    assert finds.keys() == {3, 7}
    assert torch.equal(finds[3], split.x[3])
    assert torch.equal(torch.stack(shown), split.x[[0, 1, 2, 4, 5, 6, 8, 9, 10, 11]])


def test_the_best_point_is_kept_whatever_the_library_makes_of_it(model, split):
    class Forgets(Made):
        """Walks to the grey image and further, row after row, and returns the image it was given."""

        def run(self, inner, threat, batch):
            weight = model.module.weight
            for row in range(len(batch.x)):
                y = int(batch.y[row])
                for other in range(3):
                    push = (weight[other] - weight[y]).sign().view(1, *SHAPE)
                    inner(batch.x[row : row + 1] + threat.project(threat.r * push, batch.x[row : row + 1]))
            inner(batch.x)

    threat = Linf(fraction(sorted(exact(model, split, row, "linf") for row in range(N))[N // 2] * 1.0001))
    got = broken_rows(model, threat, Forgets(), split, range(N), slots=N)
    assert got == {row for row in range(N) if exact(model, split, row, "linf") <= threat.r}
    assert len(got) == N // 2 + 1


# Which row is whose


def test_rows_are_matched_to_examples_when_the_library_drops_reorders_and_repeats_them(model, split):
    x, y = split.x, split.y
    watched = Watched(model, Linf(Fraction(1, 20)), x, y)
    near = x + 0.05 * (0.5 - x).sign()
    for rows in ([5], [3, 2, 1], list(range(N)), list(range(N))[::-1], [7, 7, 8], [0] * 20):
        watched(near[rows].requires_grad_()).sum().backward()
    wanted = [2] * N
    for row in [5, 3, 2, 1, 7, 7, 8, *[0] * 20]:
        wanted[row] += 1
    assert [(forwards, backwards) for _, forwards, backwards, *_ in watched.seen()] == [(n, n) for n in wanted]


@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_find_goes_to_the_example_it_was_made_from(model, split, all_of_them):
    attack = PGD(steps=20)
    found = {
        end.item.row: end.x_adv for end in ends(model, split, job(WIDE, attack, items(model, attack, split, [2, 9])))
    }
    watched = Watched(model, WIDE, split.x, split.y)
    every = torch.stack([found.get(row, split.x[row]) for row in range(N)])
    with torch.no_grad():
        watched(every.flip(0) if all_of_them else every[[9, 2]])
    seen = [image for image, *_ in watched.seen()]
    assert [row for row, image in enumerate(seen) if image is not None] == [2, 9]
    assert torch.equal(seen[2], found[2])
    assert torch.equal(seen[9], found[9])


def test_of_several_finds_at_once_the_smallest_is_retained_on_request(model, split):
    attack = PGD(steps=20)
    (end,) = ends(model, split, job(WIDE, attack, items(model, attack, split, [2])))
    far = (split.x[2] + 1.5 * (end.x_adv - split.x[2])).clamp(0, 1)
    watched = Watched(model, Linf(Fraction(1)), split.x, split.y, smallest=True)
    with torch.no_grad():
        watched(torch.stack([far, end.x_adv, far]))
    assert torch.equal(next(image for image, *_ in watched.seen() if image is not None), end.x_adv)


def test_what_belongs_to_nobody_is_shared_out_evenly(model, split):
    watched = Watched(model, NARROW, split.x, split.y)
    x = (1 - split.x[:5]).requires_grad_()
    watched(x).sum().backward()
    seen = list(watched.seen())
    assert [(forwards, backwards) for _, forwards, backwards, *_ in seen] == [(1, 1)] * 5 + [(0, 0)] * 7
    assert all(blind for *_, blind, _ in seen)


def test_gradients_are_laid_out_in_the_usual_way(split):
    """Some libraries fail on those of networks that think in channels last."""

    class ChannelsLast(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).reshape(len(x), -1)[:, :3]

    colour = torch.rand(2, 3, 4, 5)
    for model in (
        watched := Watched(classifier(ChannelsLast(), 3, (3, 4, 5)), NARROW, colour, split.y[:2]),
        watched._classifier,
    ):
        x = colour.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).sum(), x)
        assert grad.is_contiguous() == (model is watched)


def test_a_model_that_answers_nan_is_noticed(split):
    class Torn(nn.Module):
        def forward(self, x):
            logits = Linear(3)(x)
            return torch.where((x.flatten(1)[:, :1] == split.x.flatten(1)[4, 0]), torch.nan, logits)

    watched = Watched(classifier(Torn(), 3), NARROW, split.x, split.y)
    with torch.no_grad():
        watched(split.x)
    assert [row for row, (*_, nan, _, _) in enumerate(watched.seen()) if nan] == [4]
    assert [row for row, (*_, blind, _) in enumerate(watched.seen()) if blind] == [4]


# What is counted


class Counting(nn.Module):
    """Counts rows in, and rows of gradients out."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.forwards = self.backwards = 0

    def forward(self, x):
        def back(grad):
            self.backwards += len(grad)

        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(back)
        return self.inner(x)


@pytest.mark.parametrize(
    "text",
    [
        "foolbox:LinfPGD(steps=7)",
        "foolbox:L2CarliniWagnerAttack(steps=9, binary_search_steps=2)",
        "foolbox:L2DeepFoolAttack(steps=5)",
        "foolbox:HopSkipJumpAttack(steps=1, initial_gradient_eval_steps=5)",
        "autoattack-reference(steps=4, queries=9)",
    ],
)
def test_every_row_is_counted_once(text):
    counting = Counting(Linear(3))
    model = classifier(counting, 3)
    split = toy(model, N)
    counting.forwards = 0
    attack = build(*parse(text))
    asked = job(BALLS[attack.threats[0]](Fraction(1, 4)), attack, items(model, attack, split, range(N)))
    ended = ends(model, split, asked, slots=5)
    assert len(ended) == N
    assert sum(end.forwards for end in ended) == counting.forwards == asked.queries
    assert sum(end.backwards for end in ended) == counting.backwards
    assert counting.backwards > 0 or "HopSkipJump" in text


def test_a_row_that_keeps_its_place_is_counted_for_its_example(model, split):
    attack = build("foolbox:LinfPGD", {"steps": 7})
    for end in ends(model, split, job(NARROW, attack, items(model, attack, split, range(N))), slots=5):
        assert (end.forwards, end.backwards) == (1 + 7 + 1, 7)


# The engine


def test_an_image_comes_once_into_a_batch_and_restarts_meet_other_noise(model, split):
    seen = []

    class Draws(Made):
        def run(self, model, threat, batch):
            seen.append((batch.x, torch.rand(1).item(), np.random.rand()))

    ended = ends(model, split, job(NARROW, Draws(), items(model, Draws(), split, range(N), restarts=2)), slots=15)
    assert [len(x) for x, *_ in seen] == [12, 12]
    assert all(len(x.unique(dim=0)) == len(x) for x, *_ in seen)
    assert len({number for _, *numbers in seen for number in numbers}) == 4
    again = seen[:]
    seen.clear()
    ends(model, split, job(NARROW, Draws(), items(model, Draws(), split, range(N), restarts=2)), slots=15)
    assert [numbers for _, *numbers in seen] == [numbers for _, *numbers in again]
    assert len(ended) == 2 * N


def test_the_random_numbers_of_the_process_are_left_alone(model, split):
    class Draws(Made):
        def run(self, model, threat, batch):
            torch.manual_seed(5)
            np.random.seed(5)

    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    ends(model, split, job(NARROW, Draws(), items(model, Draws(), split, range(N))))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_guests_and_attacks_of_ours_take_turns(model, split):
    kinds = (LeavesTheBall(), PGD(steps=3), Raises(), ShowsBlack(), PGD(steps=4), Raises())  # in this order
    jobs = [job(NARROW, attack, items(model, attack, split, range(N))) for attack in kinds]
    ended = ends(model, split, *jobs, slots=7, may_fail=True)
    assert [jobs.index(end.job) for end in ended] == [place for place in (0, 1, 3, 4) for _ in range(N)]
    assert all(one.over for one in jobs)


def test_dropped_examples_are_not_searched(model, split):
    attack = build("foolbox:LinfPGD", {"steps": 20})
    asked = job(WIDE, attack, items(model, attack, split, range(N), restarts=4))
    ended = []
    for some in Engine(model, split, 0, rows=5).work([asked]):
        ended += some
        for end in some:
            if end.x_adv is not None:
                asked.drop(end.item.row)
    assert [end.item.restart for end in ended] == [0] * N


def test_a_batch_that_does_not_fit_is_halved(split):
    class Cramped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Linear(3)

        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(x)

    model = classifier(Cramped(), 3)
    attack = build("foolbox:LinfFastGradientAttack", {})
    engine = Engine(model, split, 0, rows=8)
    ended = [end for some in engine.work([job(WIDE, attack, items(model, attack, split, range(N)))]) for end in some]
    assert engine.rows == 2
    assert sorted(end.item.row for end in ended) == list(range(N))


def test_ctrl_c_stops_it(model, split):
    class Endless(Made):
        def run(self, model, threat, batch):
            while True:
                model(batch.x)
                if len(asked := self.asked) > 3:
                    raise KeyboardInterrupt
                asked.append(0)

        asked: ClassVar[list[int]] = []

    waiting = job(NARROW, Endless(), [Item(0, 0, 0)])
    with pytest.raises(KeyboardInterrupt):
        ends(model, split, waiting)
    assert waiting.error == ""


class Searches(Made):
    """Shows negatives of some examples for an hour, and catches what the model raises."""

    def run(self, model, threat, batch):
        started, shown = time.monotonic(), batch.x.clone()
        shown[: len(shown) // 2] = 1 - batch.x[: len(shown) // 2]
        while time.monotonic() < started + 3600:
            with contextlib.suppress(Exception):
                model(shown)


class Wraps(Searches):
    """Raises an exception of its own for whatever ends a query."""

    def run(self, model, threat, batch):
        try:
            super().run(model, threat, batch)
        except BaseException as error:
            raise RuntimeError("the model failed") from error


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("kind", [Searches, Wraps])
def test_the_end_of_the_time_ends_a_library_and_keeps_its_finds(model, split, kind, smallest):
    asked = replace(job(Linf(Fraction(1)), kind(), [Item(row, 0, 0) for row in range(N)]), smallest=smallest)
    engine = Engine(model, split, 0, rows=N)
    started = time.monotonic()
    ended = next(engine.work([asked], until=started + 0.2))
    assert 0.2 < time.monotonic() - started < 10
    assert not asked.error
    assert all(end.x_adv is not None and end.interrupted for end in ended)
    finds = {end.item.row for end in ended}
    assert not finds if smallest else 0 < len(finds) < N
    assert [item.row for item in iter(asked.waiting.take, None)] == [row for row in range(N) if row not in finds]


# As text


def every_name():
    attacks = vars(foolbox.attacks)
    return sorted(
        name
        for name, value in attacks.items()
        if inspect.isclass(value)
        and issubclass(value, foolbox.attacks.base.AttackWithDistance)
        and not inspect.isabstract(value)
        and not ("BrendelBethge" in name or name == "VirtualAdversarialAttack")  # numba; a setting without default
    )


def test_every_attack_of_foolbox_reads_back_with_all_its_settings():
    names = [name for name in every_name() if name != "DatasetAttack"]  # it is refused: it wants to be fed
    assert len(names) > 60
    for name in names:
        attack = build(f"foolbox:{name}", {})
        assert build(*parse(attack.spec)) == attack
        assert attack.threats
        assert attack.max_queries(Linf(Fraction(1))) > 1


def test_an_alias_and_a_whole_number_give_the_same_evidence():
    one = build("foolbox:LinfPGD", {"abs_stepsize": 1})
    other = build("foolbox:LinfProjectedGradientDescentAttack", {"abs_stepsize": 1.0})
    assert one.spec == other.spec
    assert one.spec.startswith("foolbox:LinfProjectedGradientDescentAttack(abs_stepsize=1.0, random_start=True, ")


@pytest.mark.parametrize(
    ("text", "threats"),
    [
        ("foolbox:LinfPGD", ("linf",)),
        ("foolbox:EADAttack", ("l1",)),
        ("foolbox:L0FMNAttack", ("l0",)),
        ("foolbox:HopSkipJumpAttack", ("l2",)),
        ("foolbox:HopSkipJumpAttack(constraint='linf')", ("linf",)),
        ("foolbox:InversionAttack", ("linf", "l2", "l1", "l0")),
    ],
)
def test_a_threat_is_attacked_where_the_distance_of_foolbox_is_the_same(text, threats):
    assert build(*parse(text)).threats == threats


def test_an_attack_to_begin_with_is_named_by_its_class():
    model = classifier(Linear(2), 2)
    split = toy(model, 2)
    attack = build(*parse("foolbox:BoundaryAttack(steps=3, init_attack=InversionAttack)"))
    assert "init_attack='InversionAttack'" in attack.spec
    (end, _) = ends(model, split, job(L2(Fraction(5)), attack, items(model, attack, split, [0, 1])))
    assert torch.equal(end.x_adv, 1 - split.x[0]) or (end.x_adv - split.x[0]).norm() < (1 - 2 * split.x[0]).norm()


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("foolbox:LinfPGDD", "did you mean .*LinfPGD"),
        ("foolbox:", "no attack of Foolbox is called 'foolbox:'"),
        ("foolbox:linfpgd", "did you mean foolbox:LinfPGD\\?$"),
        ("foolbox:Attack", "no attack of Foolbox is called 'foolbox:Attack'"),
        ("foolbox:SpatialAttack", "measures no distance"),
        ("foolbox:LinfPGD(stepz=3)", "did you mean steps"),
        ("foolbox:LinfPGD(steps='many')", "cannot take steps='many'; its default is 40"),
        ("foolbox:LinfPGD(steps=True)", "cannot take steps=True"),
        ("foolbox:LinfPGD(steps=0)", "cannot take steps=0: it must be at least 1"),
        ("foolbox:LinfPGD(random_start=1)", "cannot take random_start=1"),
        ("foolbox:EADAttack(decision_rule=L3)", "cannot take decision_rule='L3'"),
        ("foolbox:DDNAttack(distance=3)", "no setting of foolbox:DDNAttack is called 'distance'"),
        ("foolbox:VirtualAdversarialAttack", "needs steps"),
        ("foolbox:BoundaryAttack(init_attack=Nonsense)", "no attack of Foolbox is called 'Nonsense'"),
        ("autoattack-reference(queries=0)", "at least 1"),
        ("autoattack-reference(steps=0)", "at least 1"),
        ("autoattack-refrence", "did you mean autoattack-reference"),
    ],
)
def test_an_unknown_attack_of_foolbox_is_refused_in_one_sentence(text, reported):
    with pytest.raises(UserError, match=reported):
        build(*parse(text))


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("foolbox:LinfPGD", ["foolbox"]),
        ("autoattack-reference", ["autoattack.autopgd_base", "pyautoattack.autopgd_base"]),
    ],
)
def test_a_library_that_is_missing_is_named_with_how_to_get_it(monkeypatch, text, modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"cannot be imported .* pip install '(foolbox|pyautoattack)>="):
        build(text, {})


# An evaluation


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Linear(3)).eval()


def test_a_library_that_raises_leaves_examples_open_with_the_error(net, split, monkeypatch, tmp_path):
    class Explodes(foolbox.attacks.base.FixedEpsilonAttack):
        distance = foolbox.distances.linf

        def run(self, model, inputs, criterion, *, epsilon, **kwargs):
            raise OSError("the disk is full")

    monkeypatch.setattr(foolbox.attacks, "Explodes", Explodes, raising=False)
    ask = {"protocol": "quick", "threats": ["linf:0.1"], "run": tmp_path / "r.robench"}
    attacks = ["foolbox:LinfFastGradientAttack", "foolbox:Explodes"]
    summary = robench.evaluate(net, split, attacks=attacks, **ask)
    (threat,) = summary.threats
    assert set(threat.outcomes) == {"B", "O"}
    assert any("OSError: the disk is full" in failure.error for failure in threat.failures), threat.failures
    without = robench.evaluate(net, split, attacks=attacks[:1], **ask)
    assert set(without.threats[0].outcomes) == {"B", "S"}
    assert without.threats[0].broken == threat.broken


def test_the_referee_has_the_last_word(model, split):
    """A library's find is judged like any other."""
    attack = build("foolbox:LinfPGD", {})
    ended = ends(model, split, job(WIDE, attack, items(model, attack, split, range(N))), slots=N)
    rows = [end.item.row for end in ended]
    images = torch.stack([end.x_adv for end in ended])
    assert all(decision.accepted for decision in Referee(model).judge(WIDE, split.x[rows], split.y[rows], images))
