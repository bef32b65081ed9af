"""The elastic-net attack against linear models, for which the problem it solves has an exact answer."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks.ead import EAD, shrink

from ..exact_distances import SHAPE, Linear, classifier, distance, fraction, toy
from .running import broken_rows, items, run

N = 12
FAST = EAD(steps=60, rounds=8)
# Twice the default beta: the squared length, the other part of the elastic net, then has less of a say.
NEAR = EAD(steps=60, rounds=9, beta=0.02)
SHORT = EAD(steps=20, rounds=6)
THREAT = parse("l1:1")


def searched(model, attack, x, y, target):
    """The state after every question, all that was asked and whether it fooled: (questions, rows, ...)."""
    batch = Batch(x, y, target, keys=torch.arange(len(x)))
    state, asked, fooled = attack.start(THREAT, batch), [], []
    for _ in range(attack.max_queries(THREAT)):
        asked.append(state.delta)
        seen = differentiate(model, attack.objective, x + asked[-1], y, target)
        fooled.append(seen.logits.argmax(dim=1) != y)
        state = attack.step(THREAT, batch, state, seen)
    return state, torch.stack(asked), torch.stack(fooled)


def smallest(model, attack, x, y):
    """The l1 size of the smallest delta found for every row; where the attack aims at classes, over all of them."""
    if not attack.targets:
        return searched(model, attack, x, y, y)[0].size
    every = [(y + shift) % model.classes for shift in range(1, model.classes)]
    size = searched(model, attack, x.repeat(len(every), 1, 1, 1), y.repeat(len(every)), torch.cat(every))[0].size
    return size.view(len(every), -1).amin(dim=0)


def edgy(model):
    """Images with a third of their pixels at exactly 0 or 1, then as many with all of them."""
    x = toy(model, N).x
    x = torch.cat([x, x.round()])
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def lengths(module, x, y):
    return torch.tensor([distance(module, x[row], int(y[row]), "l1") for row in range(len(x))])


def elastic(delta, weight):
    """Squared l2 plus weight times l1, per row."""
    return delta.flatten(-3).square().sum(dim=-1) + weight * delta.flatten(-3).abs().sum(dim=-1)


def least_elastic(module, x, y, weight):
    """The least of it with which one image crosses the boundary of two classes inside the box; inf if none does.

    Every pixel goes clip((mu |w| - weight) / 2, 0, wall) the useful way, for the least multiplier mu that gets there.
    """
    w, b = module.weight.detach().double(), module.bias.detach().double()
    x, w, b = x.flatten().double(), w[1 - y] - w[y], b[1 - y] - b[y]
    need, wall, w = -float(w @ x + b), torch.where(w > 0, 1 - x, x), w.abs()
    if float(w @ wall) < need:
        return float("inf")
    low, high = 0.0, 1e6
    for _ in range(200):
        mu = (low + high) / 2
        moved = torch.minimum(((mu * w - weight) / 2).clamp(min=0), wall)
        low, high = (mu, high) if float(w @ moved) < need else (low, mu)
    moved = torch.minimum(((high * w - weight) / 2).clamp(min=0), wall)
    return float((moved**2).sum() + weight * moved.sum())


def changed(module, shift=0.0, scale=1.0):
    with torch.no_grad():
        module.weight *= scale
        module.bias *= scale
        module.bias += shift
    return module


def test_it_reaches_the_minimum_of_its_elastic_net():
    module = Linear(2)
    model = classifier(module)
    x, y = edgy(model)
    _, asked, fooled = searched(model, FAST, x, y, y)
    weight = FAST.beta / FAST.step_size  # off with beta in every move, and the gradient times the step
    got = elastic(asked, weight).masked_fill(~fooled, torch.inf).amin(dim=0)
    least = torch.tensor([least_elastic(module, x[row], int(y[row]), weight) for row in range(len(x))])
    reachable = ~least.isinf() & (least > 0.1)  # a move takes off 0.01 a pixel
    assert reachable.sum() >= N / 2
    ratio = (got / least)[reachable]
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.05


@pytest.mark.costly
@pytest.mark.parametrize(
    ("module", "classes", "shape"),
    [
        (Linear(2), 2, SHAPE),
        (Linear(3, (2, 3, 5)), 3, (2, 3, 5)),
        (Linear(10), 10, SHAPE),
        (changed(Linear(2), shift=-1e5, scale=1e3), 2, SHAPE),
    ],
    ids=["2 classes", "3 classes, not square", "10 classes", "logits times 1000, all negative"],
)
def test_the_smallest_delta_is_as_large_as_the_l1_distance(module, classes, shape):
    model = classifier(module, classes, shape)
    x, y = edgy(model)
    exact = lengths(module, x, y)
    reachable = ~exact.isinf() & (exact > 0.2)
    assert reachable.sum() >= N / 2
    attack = EAD(**{**vars(NEAR), "targets": classes - 1 if classes > 2 else 0})
    ratio = (smallest(model, attack, x, y) / exact)[reachable]
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.1


def test_an_example_breaks_beyond_its_distance_and_never_before():
    module = Linear(2)
    model = classifier(module)
    split = toy(model, N)
    exact = lengths(module, split.x, split.y)
    row = 5
    attack = EAD(steps=60, rounds=4, c=0.5, beta=0.02)
    for factor in (1.2, 0.999):
        threat = parse(f"l1:{fraction(float(exact[row]) * factor)}")
        broken = broken_rows(model, threat, attack, split, range(N), slots=N)
        assert (row in broken) is (factor > 1)
        assert all(exact[other] <= threat.r for other in broken)


def test_its_best_image_is_the_smallest_misclassified_query():
    model = classifier(Linear(3), 3)
    x, y = toy(model, N).x, toy(model, N).y
    state, asked, fooled = searched(model, SHORT, x, y, y)
    sizes = asked.flatten(2).abs().sum(dim=2).masked_fill(~fooled, torch.inf)
    torch.testing.assert_close(state.size, sizes.amin(dim=0))
    torch.testing.assert_close(state.best, asked[sizes.argmin(dim=0), torch.arange(N)])
    assert ((x + asked >= 0) & (x + asked <= 1)).all()


def test_shrinking_takes_beta_off_and_stops_at_0():
    delta = torch.tensor([[0.3, -0.3, 0.1, -0.05, 0.0]])
    torch.testing.assert_close(shrink(delta, 0.1), torch.tensor([[0.2, -0.2, 0.0, 0.0, 0.0]]))


def test_it_moves_as_algorithm_1_does():
    """Scalars by hand: one pixel, a linear margin, no box in the way."""
    module = Linear(2, (1, 1, 1))
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0], [4.0]]))
        module.bias.copy_(torch.tensor([0.0, -2.3]))
    x = torch.full((1, 1, 1, 1), 0.1)
    attack = EAD(steps=8, rounds=1, c=2.0, beta=0.01, step_size=0.01)
    _, asked, _ = searched(classifier(module, shape=(1, 1, 1)), attack, x, torch.tensor([0]), torch.tensor([0]))
    point, extrapolated, wanted = 0.0, 0.0, [0.0]
    for t in range(8):
        slope = 2 * extrapolated - 2.0 * (4.0 if 4 * (0.1 + extrapolated) - 2.3 <= 0 else 0.0)
        z = extrapolated - 0.01 * (1 - t / 8) ** 0.5 * slope
        new = max(z - 0.01, 0.0)
        point, extrapolated = new, new + t / (t + 3) * (new - point)
        wanted.append(extrapolated)
    torch.testing.assert_close(asked.flatten(), torch.tensor(wanted), atol=1e-6, rtol=0)


def test_where_nothing_fools_it_finds_nothing():
    model = classifier(changed(Linear(2), shift=torch.tensor([1e3, 0.0])))
    x = toy(model, N).x.round()
    split = Split.whole("toy:test", x, torch.zeros(N, dtype=torch.long), 2)
    assert smallest(model, SHORT, x, split.y).isinf().all()
    assert broken_rows(model, parse("l1:1000"), SHORT, split, range(N), slots=N) == set()


@pytest.mark.costly
@pytest.mark.parametrize("slots", [3, 40])
def test_an_example_has_the_same_result_in_any_batch(slots):
    module = Linear(3)
    model = classifier(module, 3)
    split = toy(model, N)
    threat = parse(f"l1:{fraction(float(lengths(module, split.x, split.y).median()))}")
    every = items(model, SHORT, split, range(2, 10))
    alone = run(model, threat, SHORT, split, every, slots=8)
    other = run(model, threat, SHORT, split, every[::-1], slots=slots)
    assert 2 <= sum(x is not None for x in alone.values()) <= 6
    for item, x_adv in alone.items():
        assert (x_adv is None) == (other[item] is None)
        if x_adv is not None:
            torch.testing.assert_close(x_adv, other[item], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"c": 0.0}, {"c": 1e11}])
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="ead cannot take"):
        EAD(**settings)
