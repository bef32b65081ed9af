"""Brendel and Bethge's walk: its step against a general solver, and its finds against exact distances."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robench.errors import UserError
from robench.problem.threats import EUCLIDEAN, parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks.boldest_step import Step, _meeting, boldest
from robench.search.attacks.brendel_bethge import SEARCH, START, WALK, BrendelBethge
from robench.search.engine.scheduler import Item

from ..exact_distances import Linear, classifier, distance, toy
from .nearest import check_distances, check_independence_of_the_batch, edgy, linear_models
from .running import ends, job

NORMS = ["linf", "l2", "l1"]
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
FAST = BrendelBethge(steps=40)


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
@linear_models
def test_the_smallest_delta_is_as_large_as_the_distance(norm, module, classes, shape):
    attack = BrendelBethge(steps=40, targets=classes - 1 if classes > 2 else 0)
    check_distances(attack, norm, module, classes, shape, 1.1 if norm == "l1" else 1.05)


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
def test_an_example_has_the_same_result_in_any_batch(norm):
    check_independence_of_the_batch(BrendelBethge(steps=10), norm)


def solved(norm, x, delta, slope, aim, reach):
    """The same step from a general solver, one row, in float64."""
    n = len(x)
    hyperplane = {"type": "eq", "fun": lambda z: slope @ z[:n] - aim}
    region = {"type": "ineq", "fun": lambda z: reach**2 - (z[:n] ** 2).sum()}
    box, rules = [(-a - b, 1 - a - b) for a, b in zip(x, delta, strict=True)], [hyperplane, region]
    if norm == "l2":
        start, cost = np.zeros(n), lambda z: ((delta + z) ** 2).sum()
    else:  # further unknowns above the absolute values: one for all pixels, or one each
        more = 1 if norm == "linf" else n
        rules.append({"type": "ineq", "fun": lambda z: np.concatenate([s * (delta + z[:n]) + z[n:] for s in (1, -1)])})
        start, cost = np.concatenate([np.zeros(n), np.full(more, abs(delta).max())]), lambda z: z[n:].sum()
        box = box + [(0, 2)] * more
    precise = {"maxiter": 500, "ftol": 1e-9}
    answer = minimize(cost, start, bounds=box, constraints=rules, method="SLSQP", options=precise)
    assert answer.success
    return answer.x[:n]


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_is_the_smallest_in_reach_that_meets_the_plane(norm):
    rows, n = 12, 8
    g = torch.Generator().manual_seed(3)
    x = torch.rand(rows, n, generator=g)
    x[:, :2] = x[:, :2].round()
    delta = (x + 0.4 * torch.randn(rows, n, generator=g)).clamp(0, 1) - x
    slope = torch.randn(rows, n, generator=g)
    reach = torch.tensor([0.05, 0.2, 0.5]).repeat(rows // 3)
    aim = 0.3 * reach * slope.norm(dim=1) * torch.tensor([1.0, -1.0]).repeat(rows // 2)
    move = boldest(parse(f"{norm}:1"), x, delta, slope, aim, reach)
    assert (move.norm(dim=1) <= reach * (1 + 1e-5)).all()
    assert ((x + delta + move > -1e-6) & (x + delta + move < 1 + 1e-6)).all()
    torch.testing.assert_close((slope * move).sum(dim=1), aim, rtol=0.03, atol=1e-6)
    close = 0
    for row in range(rows):
        given = [float(v[row]) for v in (aim, reach)]
        best = solved(norm, *(v[row].double().numpy() for v in (x, delta, slope)), *given)
        before, mine, least = (
            np.linalg.norm(delta[row].double().numpy() + z, ORDER[norm]) for z in (0.0, move[row].numpy(), best)
        )
        assert mine >= least - 0.03 * float(reach[row]), "nothing beats the solver by more than the plane is missed"
        close += mine - least < 0.15 * abs(before - least) + 2e-3
    assert close == rows


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_plane_is_out_of_reach_the_step_goes_towards_it_as_far_as_the_reach(norm):
    x = torch.full((1, 4), 0.5)
    delta, slope = torch.tensor([[0.1, -0.1, 0.2, 0.0]]), torch.tensor([[1.0, 2.0, 0.0, -2.0]])
    move = boldest(parse(f"{norm}:1"), x, delta, slope, torch.tensor([9.0]), torch.tensor([0.3]))
    torch.testing.assert_close(move, 0.3 * slope / 3, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_row_steps_the_same_in_a_batch_of_any_size(norm):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 7, 5, generator=g)
    delta = torch.rand(x.shape, generator=g) - x
    given = (x, delta, torch.randn(x.shape, generator=g), torch.rand(40, generator=g), torch.full((40,), 0.7))
    together = boldest(parse(f"{norm}:1"), *given)
    alone = torch.cat([boldest(parse(f"{norm}:1"), *(v[[row]] for v in given)) for row in range(40)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.costly
def test_it_searches_a_start_then_the_boundary_then_walks():
    model = classifier(Linear(2))
    x, y = edgy(model)
    threat, batch = parse("l2:1"), Batch(x, y, y, torch.arange(len(x)))
    state, fooled_before = FAST.start(threat, batch), torch.zeros(len(x), dtype=torch.bool)
    for _ in range(FAST.max_queries(threat)):
        assert ((x + state.delta >= 0) & (x + state.delta <= 1)).all()
        seen = differentiate(model, FAST.objective, x + state.delta, y, y)
        fooled = seen.loss > 0
        fooled_before |= fooled
        before, state = state, FAST.step(threat, batch, state, seen)
        assert ((state.phase > START) == fooled_before).all()
        begins = (before.phase == SEARCH) & (state.phase == WALK)
        start = x + state.far
        if begins.any():
            with torch.no_grad():
                assert (model(start).argmax(dim=1) != y)[begins].all()
                assert (model(x + state.delta).argmax(dim=1) != y)[begins].all(), "it walks from a point that fools"
            gap = (state.high - state.low)[begins]
            torch.testing.assert_close(gap, torch.full_like(gap, 2.0**-FAST.searches))
    assert (state.phase == WALK).sum() > len(x) / 2


def test_where_noise_is_no_start_gradient_steps_find_one():
    module = Linear(2)
    with torch.no_grad():
        module.bias[0] += 0.2 * (module.weight[0] - module.weight[1]).abs().sum()  # noise is of class 0
    model = classifier(module)
    split = toy(model, 24, edges=False)
    rows = [r for r in range(24) if distance(module, split.x[r], int(split.y[r]), "l2") < float("inf")]
    ended = ends(model, split, job(parse("l2:20"), FAST, [Item(row, 0, 0) for row in rows]))
    assert len(rows) > 10
    assert all(split.y[row] == 0 for row in rows)
    assert all(end.x_adv is not None and end.forwards > FAST.starts // 2 for end in ended)


class FlatOrNot(torch.nn.Module):
    """Class 1 if all pixels are nearly equal, else class 0, without a usable gradient: as noise never is flat."""

    def forward(self, x):
        spread = x.flatten(1).var(dim=1)
        return torch.stack([0.5 + 0 * spread, (spread < 1e-3) + 0 * spread], dim=1)


def test_where_noise_and_gradient_steps_are_no_start_images_of_other_kinds_are():
    model = classifier(FlatOrNot())
    split = toy(model, 6)
    assert (split.y == 0).all()
    ended = ends(model, split, job(parse("l2:20"), FAST, [Item(row, 0, 0) for row in range(6)]))
    assert all(end.x_adv is not None and end.forwards > FAST.starts for end in ended)


def test_a_search_without_a_start_is_blind():
    module = Linear(2)
    with torch.no_grad():
        module.bias[0] += 1e3
    model = classifier(module)
    split = toy(model, 4)
    ended = ends(model, split, job(parse("l2:20"), FAST, [Item(row, 0, 0) for row in range(4)]))
    assert all(end.x_adv is None and end.no_query_inside for end in ended)


@pytest.mark.parametrize(
    "settings",
    [{"starts": 1}, {"searches": 0}, {"reach": 0.0}, {"last_reach": 2.0}, {"overshoot": 2.0}, {"momentum": 1.0}],
)
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="brendel-bethge"):
        BrendelBethge(**settings)


@pytest.mark.parametrize("norm", NORMS)
def test_moves_of_any_boldness_meet_the_plane_wherever_the_box_lets_them(norm):
    """Under l1 too, where many coordinates end at 0: rounding must not make them count in the slope."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 300, generator=g)
    delta, slope = (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(0, 1) - x, torch.randn(x.shape, generator=g)
    need, one = 0.1 * slope.norm(dim=1, keepdim=True), torch.ones(40, 1)
    width = delta.abs().amax(dim=1, keepdim=True)
    step = Step(delta, -x - delta, 1 - x - delta, slope, need, 1e-3 * need, one, width, one)
    boldness = 2.0 ** torch.linspace(*((-1, 2.9) if norm == "l1" else (-6, -1)), 40)[:, None]
    shrinkage = parse(f"{norm}:1").shrinkage(delta, boldness, width)
    ahead = need / slope.square().sum(dim=1, keepdim=True)
    met = _meeting(shrinkage, step, *shrinkage.limits(step.low, step.high), ahead)
    torch.testing.assert_close((slope * met.move).sum(dim=1, keepdim=True), need, rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [8, 200])
def test_a_step_is_as_bold_as_the_reach_lets_it_up_to_a_few_per_cent(norm, n):
    """Compared with a bisection in small steps; where a coordinate meets the box or 0, the path bends."""
    g = torch.Generator().manual_seed(1)
    x = torch.rand(200, n, generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.5, x.round(), x)
    delta = (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(0, 1) - x
    slope = torch.randn(x.shape, generator=g)
    reach = delta.norm(dim=1) * 10 ** (-3 * torch.rand(200, generator=g))
    aim = 0.7 * (torch.rand(200, generator=g) - 0.5) * reach * slope.norm(dim=1)
    move = boldest(parse(f"{norm}:1"), x, delta, slope, aim, reach)
    timid, bold = torch.full((200, 1), -20.0), torch.full((200, 1), 3.0 if norm == "l1" else 0.0)
    width = (delta + EUCLIDEAN.to_hyperplane(x + delta, slope, -aim)).abs().amax(dim=1, keepdim=True)
    need, limit = aim[:, None], reach[:, None]
    step = Step(delta, -x - delta, 1 - x - delta, slope, need, 0.02 * need.abs(), limit, width, limit)
    longest = torch.zeros(200, 1)
    for _ in range(20):
        power = (timid + bold) / 2
        shrinkage = parse(f"{norm}:1").shrinkage(delta, 2**power, width)
        ahead = need / slope.square().sum(dim=1, keepdim=True)
        met = _meeting(shrinkage, step, *shrinkage.limits(step.low, step.high), ahead)
        length = met.move.norm(dim=1, keepdim=True)
        fits = (met.missing.abs() <= step.exact) & (length <= limit)
        longest = torch.where(fits, length, longest)
        timid, bold = torch.where(fits, power, timid), torch.where(fits, bold, power)
    assert (longest > 0.9 * limit).float().mean() > 0.9
    long = move.norm(dim=1) >= 0.95 * longest.flatten()
    assert long.float().mean() >= 0.98
    assert (move.norm(dim=1) <= reach * (1 + 1e-5)).all()
