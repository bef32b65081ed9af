"""How near a minimum-norm attack comes on linear models: what its tests share."""

import pytest
import torch

from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Waiting

from ..exact_distances import SHAPE, Linear, classifier, distance, fraction, toy
from .running import ends, items

N = 12


def scaled(module: Linear, by: float, shift: float) -> Linear:
    """The same boundaries from logits `by` times as large, all of them shifted."""
    with torch.no_grad():
        module.weight *= by
        module.bias *= by
        module.bias += shift
    return module


linear_models = pytest.mark.parametrize(
    ("module", "classes", "shape"),
    [
        (Linear(2), 2, SHAPE),
        (Linear(3, (3, 6, 2)), 3, (3, 6, 2)),
        (scaled(Linear(2), 1e3, -1e5), 2, SHAPE),
        (scaled(Linear(2), 1e-3, -0.01), 2, SHAPE),
    ],
    ids=["2 classes", "3 classes, not square", "logits times 1000, all negative", "logits over 1000"],
)


def edgy(model):
    """Images with a third of their pixels at exactly 0 or 1, then as many with all of them, and their classes."""
    x = toy(model, N).x
    x = torch.cat([x, x.round()])
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def asked_about(model, attack, threat, x, y, target):
    """Every delta asked about, (questions, rows, ...)."""
    batch = Batch(x, y, target, keys=torch.arange(len(x)))
    state, asked = attack.start(threat, batch), []
    for _ in range(attack.max_queries(threat)):
        x_adv = attack.query(threat, batch, state)
        asked.append(x_adv - x)
        state = attack.step(threat, batch, state, differentiate(model, attack.objective, x_adv, y, target))
    return torch.stack(asked)


def smallest(model, attack, norm, x, y):
    """The size of the smallest find of every row, over all classes if it aims at them; infinite where there is none."""
    shifts = range(1, model.classes) if attack.targets else [0]
    aims = torch.cat([(y + shift) % model.classes for shift in shifts])
    every, right = x.repeat(len(shifts), 1, 1, 1), y.repeat(len(shifts))
    threat = parse(f"{norm}:{x[0].numel()}")
    asked = asked_about(model, attack, threat, every, right, aims)
    with torch.no_grad():
        fools = (model((every + asked).flatten(0, 1)).argmax(dim=1) != right.repeat(len(asked))).view(len(asked), -1)
    inside = ((every + asked >= 0) & (every + asked <= 1)).flatten(2).all(dim=2)
    size = threat.size(asked.double().flatten(0, 1)).view(len(asked), -1)
    return size.masked_fill(~fools | ~inside, torch.inf).amin(dim=0).view(len(shifts), -1).amin(dim=0)


def check_distances(attack, norm, module, classes, shape, within):
    """Finds are never nearer than the exact distance, and at most `within` times as far, wherever it can be reached."""
    model = classifier(module, classes, shape)
    x, y = edgy(model)
    exact = torch.tensor([distance(module, x[row], int(y[row]), norm) for row in range(len(x))], dtype=torch.float64)
    found = smallest(model, attack, norm, x, y)
    assert found[exact.isinf()].isinf().all(), "nothing is found where nothing is"
    reachable = ~exact.isinf() & (exact > 0.01)
    assert reachable.sum() >= N
    ratio = (found / exact)[reachable]
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < within


def check_independence_of_the_batch(attack, norm):
    """The finds are the same in any order and among any lane mates."""
    module = Linear(3)
    model = classifier(module, 3)
    split = toy(model, N)
    exact = sorted(distance(module, split.x[row], int(split.y[row]), norm) for row in range(N))
    radius = int(exact[N // 2]) if norm == "l0" else fraction(1.01 * exact[N // 2])
    threat, waiting = parse(f"{norm}:{radius}"), items(model, attack, split, range(N))

    def found(order, slots):
        ended = ends(model, split, Job(threat, attack, Waiting.of(order)), slots=slots)
        return {end.item: end.x_adv for end in ended}

    together = found(waiting, 8)
    assert any(x is None for x in together.values())
    assert any(x is not None for x in together.values())
    for order, slots in [(waiting[::-1], 5), (waiting[1::6], 1), (waiting, 40)]:
        for item, x_adv in found(order, slots).items():
            assert (x_adv is None) == (together[item] is None), item
            if x_adv is not None:
                torch.testing.assert_close(x_adv, together[item], atol=2e-5, rtol=0)
