"""FAB and its projection against linear models, whose exact distances inside the box are known in closed form."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks import ATTACKS
from robench.search.attacks.fab import FAB

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .running import broken_rows, items, run

N = 12
NORMS = ["linf", "l2", "l1"]
EDGES = {"argvalues": [False, True], "ids": ["inside the box", "a third of the pixels at its edge"]}


def skewed(shape, seed=0):
    """Two classes whose weights span six powers of ten."""
    module = Linear(2, shape, seed)
    with torch.no_grad():
        module.weight *= 10 ** (6 * torch.rand(module.weight.shape[1], generator=torch.Generator().manual_seed(seed)))
        module.bias.copy_(-0.5 * module.weight.sum(dim=1))
    return module


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("edges", **EDGES)
@pytest.mark.parametrize("module", [Linear(2), Linear(2, (3, 20, 17)), skewed((1, 4, 5)), skewed((3, 20, 17))])
def test_the_projection_meets_the_hyperplane_inside_the_box_at_the_exact_distance(module, edges, norm):
    shape = {40: (1, 4, 5), 2040: (3, 20, 17)}[module.weight.numel()]
    split = toy(classifier(module, 2, shape), N, edges=edges)
    wrong = 1 - split.y
    slope = (module.weight[wrong] - module.weight[split.y]).detach().view(N, *shape)
    logits = module(split.x).detach()
    value = (logits.gather(1, wrong[:, None]) - logits.gather(1, split.y[:, None])).squeeze(1)
    threat = parse(f"{norm}:1")
    for factor in (1.0, -1.0):  # either sign describes the same hyperplane
        move = threat.to_hyperplane(split.x, factor * slope, factor * value)
        assert ((split.x + move >= -1e-6) & (split.x + move <= 1 + 1e-6)).all()
        size = threat.size(move.double())
        for row in range(4):
            exact = distance(module, split.x[row], int(split.y[row]), norm)
            if exact < float("inf"):
                assert size[row].item() == pytest.approx(exact, rel=1e-3, abs=1e-6)
                gained = (slope[row].double() * move[row].double()).sum().item()
                assert gained == pytest.approx(-value[row].item(), rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_goes_as_far_as_the_box_where_the_hyperplane_lies_beyond_and_stays_where_there_is_none(norm):
    x = torch.tensor([[0.25, 0.0, 1.0, 0.5]]).repeat(3, 1)
    slope = torch.tensor([[1.0, -2.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, -3.0, 1e-38]])
    move = parse(f"{norm}:1").to_hyperplane(x, slope, torch.tensor([-9.0, -9.0, 0.0]))
    assert move.tolist() == [[0.75, 0.0, 0.0, 0.0], [0.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_of_a_point_beyond_the_hyperplane_comes_back_to_it(norm):
    x, slope = torch.tensor([[0.5, 0.5]]), torch.tensor([[2.0, 1.0]])
    expected = {"linf": [-0.2, -0.2], "l2": [-0.24, -0.12], "l1": [-0.3, 0.0]}[norm]
    move = parse(f"{norm}:1").to_hyperplane(x, slope, torch.tensor([0.6]))
    assert move.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("classes", "edges", "random_start"), [(2, False, False), (2, True, True), (3, True, False), (10, True, False)]
)
def test_fab_breaks_a_linear_model_just_beyond_its_distance_and_never_before(norm, classes, edges, random_start):
    module = Linear(classes)
    model = classifier(module, classes)
    split = toy(model, N, edges=edges)
    distances = [distance(module, split.x[row], int(split.y[row]), norm) for row in range(N)]
    exact = sorted(distances)[N // 2]
    attack = FAB(steps=15, random_start=random_start)
    for factor in (1.1 if norm == "l1" else 1.05, 0.999):
        threat = parse(f"{norm}:{fraction(exact * factor)}")
        broken = broken_rows(model, threat, attack, split, range(N), slots=48)
        assert {row for row in range(N) if distances[row] <= min(exact, threat.r / 1.05)} <= broken, (
            "one in reach stands"
        )
        assert all(distances[row] <= threat.r for row in broken), "one out of reach broke"


@pytest.mark.costly
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 9, 6)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_every_query_lies_in_the_box_and_it_comes_ever_closer(norm, shape):
    model = classifier(Linear(3, shape), 3, shape)
    split, attack, threat = toy(model, N), FAB(random_start=True), parse(f"{norm}:0.4")
    batch = Batch(split.x, split.y, (split.y + 1) % 3, torch.arange(N))
    state = attack.start(threat, batch)
    assert (threat.size(state.delta) <= 0.2 + 1e-6).all(), "it starts within half the radius"
    sizes = []
    for _ in range(30):
        x_adv = attack.query(threat, batch, state)
        assert ((x_adv >= 0) & (x_adv <= 1)).all()
        seen = differentiate(model, attack.objective, x_adv, batch.y, batch.target)
        fooled = seen.logits.argmax(dim=1) != split.y
        sizes.append(torch.where(fooled, threat.size(state.delta), torch.inf))
        state = attack.step(threat, batch, state, seen)
    nearest = torch.stack(sizes).amin(dim=0)
    for row in range(N):
        exact = distance(model.module, split.x[row], int(split.y[row]), norm)
        assert nearest[row].item() >= exact * (1 - 1e-5)
    assert (torch.stack(sizes[10:]).amin(dim=0) <= torch.stack(sizes[:5]).amin(dim=0)).all()


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
def test_results_depend_neither_on_the_batch_nor_on_order(norm):
    module = Linear(3)
    model = classifier(module, 3)
    split, attack = toy(model, N), FAB(steps=8, random_start=True)
    radius = sorted(distance(module, split.x[row], int(split.y[row]), norm) for row in range(N))[N // 2]
    threat, waiting = parse(f"{norm}:{fraction(1.01 * radius)}"), items(model, attack, split, range(N))
    found = run(model, threat, attack, split, waiting, slots=8)
    assert any(x is None for x in found.values())
    assert any(x is not None for x in found.values())
    for order, slots in [(waiting[::-1], 8), (waiting[1::6], 1), (waiting, 30)]:
        for item, x_adv in run(model, threat, attack, split, order, slots).items():
            assert (x_adv is None) == (found[item] is None), item
            if x_adv is not None:
                torch.testing.assert_close(x_adv, found[item], atol=2e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"targets": 0}, {"alpha_max": 1.5}, {"beta": 2.0}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(UserError):
        ATTACKS["fab"](**settings)
