"""Carlini and Wagner's attack against linear models, whose exact distances inside the box are known in closed form."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks.carlini_wagner import CarliniWagner

from ..exact_distances import SHAPE, Linear, classifier, distance, fraction, toy
from .running import broken_rows, items, run

N = 12
FAST = CarliniWagner(steps=80, learning_rate=0.02, rounds=7)
SHORT = CarliniWagner(steps=25, learning_rate=0.05, rounds=3)
THREAT = parse("l2:1")


def searched(model, attack, x, y, target):
    """The state after every question, and all that was asked: (questions, rows, ...)."""
    batch = Batch(x, y, target, keys=torch.arange(len(x)))
    state, asked = attack.start(THREAT, batch), []
    for _ in range(attack.max_queries(THREAT)):
        asked.append(state.delta)
        seen = differentiate(model, attack.objective, x + asked[-1], y, target)
        state = attack.step(THREAT, batch, state, seen)
    return state, torch.stack(asked)


def smallest(model, attack, x, y):
    """The length of the smallest delta found for every row; where the attack aims at classes, over all of them."""
    if not attack.targets:
        return searched(model, attack, x, y, y)[0].size
    shifts = range(1, model.classes)
    every = [(y + shift) % model.classes for shift in shifts]
    size = searched(model, attack, x.repeat(len(every), 1, 1, 1), y.repeat(len(every)), torch.cat(every))[0].size
    return size.view(len(every), -1).amin(dim=0)


def edgy(model):
    """Images with a third of their pixels at exactly 0 or 1, then as many with all of them."""
    x = toy(model, N).x
    x = torch.cat([x, x.round()])
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def lengths(module, x, y):
    return torch.tensor([distance(module, x[row], int(y[row]), "l2") for row in range(len(x))])


def shifted(module, by):
    with torch.no_grad():
        module.bias += by
    return module


def scaled(module, by):
    with torch.no_grad():
        module.weight *= by
        module.bias *= by
    return module


@pytest.mark.costly
@pytest.mark.parametrize(
    ("module", "classes", "shape"),
    [
        (Linear(2), 2, SHAPE),
        (Linear(3, (3, 6, 2)), 3, (3, 6, 2)),
        (Linear(10), 10, SHAPE),
        (shifted(scaled(Linear(2), 1e3), -1e5), 2, SHAPE),
    ],
    ids=["2 classes", "3 classes, not square", "10 classes", "logits times 1000, all negative"],
)
def test_the_smallest_delta_is_as_long_as_the_distance(module, classes, shape):
    model = classifier(module, classes, shape)
    x, y = edgy(model)
    exact = lengths(module, x, y)
    reachable = ~exact.isinf() & (exact > 0.05)  # a first move may be 0.02 long
    assert reachable.sum() >= N
    attack = CarliniWagner(**{**vars(FAST), "targets": classes - 1 if classes > 2 else 0})
    ratio = (smallest(model, attack, x, y) / exact)[reachable]
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.05


def test_an_example_breaks_just_beyond_its_distance_and_never_before():
    module = Linear(2)
    model = classifier(module)
    split = toy(model, N)
    exact = lengths(module, split.x, split.y)
    row = 5
    attack = CarliniWagner(steps=60, learning_rate=0.02, rounds=4, c=0.5)
    for factor in (1.05, 0.999):
        threat = parse(f"l2:{fraction(float(exact[row]) * factor)}")
        broken = broken_rows(model, threat, attack, split, range(N), slots=N)
        assert (row in broken) is (factor > 1)
        assert all(exact[other] <= threat.r for other in broken)


def test_its_best_point_is_the_smallest_misclassified_query():
    module = Linear(3)
    model = classifier(module, 3)
    split = toy(model, N)
    state, asked = searched(model, SHORT, split.x, split.y, split.y)
    with torch.no_grad():
        fools = torch.stack([model(split.x + delta).argmax(dim=1) != split.y for delta in asked])
    sizes = asked.flatten(2).norm(dim=2).masked_fill(~fools, torch.inf)
    torch.testing.assert_close(state.size, sizes.amin(dim=0))
    torch.testing.assert_close(state.best, asked[sizes.argmin(dim=0), torch.arange(N)])
    in_box = (split.x + asked >= 0) & (split.x + asked <= 1)
    assert in_box.all()


def test_a_pixel_without_influence_stays_where_it_is():
    module = Linear(2)
    with torch.no_grad():
        module.weight[:, ::2] = 0
        module.bias.copy_(-0.5 * module.weight.sum(dim=1))
    split = toy(classifier(module), N)
    _, asked = searched(classifier(module), SHORT, split.x, split.y, split.y)
    assert asked.flatten(2)[..., ::2].abs().max() < 1e-6
    assert asked.flatten(2)[..., 1::2].abs().max() > 0.1


def test_where_nothing_fools_it_finds_nothing():
    model = classifier(shifted(Linear(2), torch.tensor([1e3, 0.0])))
    x = toy(model, N).x.round()
    split = Split.whole("toy:test", x, torch.zeros(N, dtype=torch.long), 2)
    assert smallest(model, SHORT, x, split.y).isinf().all()
    assert broken_rows(model, parse("l2:100"), SHORT, split, range(N), slots=N) == set()


def test_c_grows_tenfold_until_something_is_found_and_is_then_halved_between_its_bounds():
    model = classifier(scaled(Linear(2), 1e-2))
    split = toy(model, N)
    batch = Batch(split.x, split.y, split.y, torch.arange(N))
    attack = CarliniWagner(steps=60, learning_rate=0.02, rounds=6, abort_early=False)
    state, tried = attack.start(THREAT, batch), []
    for _ in range(attack.rounds):
        for _ in range(attack.steps + 1):
            before = state
            seen = differentiate(model, attack.objective, split.x + state.delta, split.y, split.y)
            state = attack.step(THREAT, batch, state, seen)
        assert (state.moves == 0).all()
        assert (before.moves == attack.steps).all()
        tried.append((before.c, state.high == before.c))
    assert {True, False} == {bool(f) for _, found in tried for f in found}
    for row in range(N):
        low, high, c = 0.0, float("inf"), attack.c
        for tried_c, found in tried:
            assert float(tried_c[row]) == pytest.approx(c)
            low, high = (low, c) if found[row] else (c, high)
            c = 10 * c if high == float("inf") else (low + high) / 2


@pytest.mark.costly
@pytest.mark.parametrize("slots", [3, 40])
def test_an_example_has_the_same_result_in_any_batch(slots):
    module = Linear(3)
    model = classifier(module, 3)
    split = toy(model, N)
    threat = parse(f"l2:{fraction(float(lengths(module, split.x, split.y).median()))}")
    every = items(model, SHORT, split, range(2, 10))
    alone = run(model, threat, SHORT, split, every, slots=8)
    other = run(model, threat, SHORT, split, every[::-1], slots=slots)
    assert 2 <= sum(x is not None for x in alone.values()) <= 6
    for item, x_adv in alone.items():
        assert (x_adv is None) == (other[item] is None)
        if x_adv is not None:
            torch.testing.assert_close(x_adv, other[item], atol=1e-5, rtol=0)


def test_stopping_a_round_early_depends_on_no_other_row_and_leaves_more_rounds():
    model = classifier(Linear(2))
    split = toy(model, N)
    attack = CarliniWagner(steps=60, learning_rate=0.05, rounds=2)
    together = searched(model, attack, split.x, split.y, split.y)[1]
    for row in (0, 7):
        one = slice(row, row + 1)
        alone = searched(model, attack, split.x[one], split.y[one], split.y[one])[1]
        torch.testing.assert_close(together[:, one], alone, atol=1e-4, rtol=0)
    begins = (together.flatten(2).abs().amax(dim=2) == 0).sum(dim=0)
    assert (begins > attack.rounds).any()


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"c": 0.0}, {"c": 1e11}])
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="cw cannot take"):
        CarliniWagner(**settings)
