"""APGD against the authors' own code, step for step, and against linear models."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robench.problem.threats import L1, L2, Linf, parse, room
from robench.problem.threats.linear import level
from robench.search.attack import Batch, Seen, differentiate, unroll
from robench.search.attacks.apgd import APGD
from robench.search.attacks.apgd_l1 import largest_signs
from robench.search.attacks.frank_wolfe import FrankWolfe
from robench.search.attacks.slide import SLIDE, sparse

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .running import broken_rows

STEPS = 50


def net(classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, classes)).double().eval()


def batch_of(model, n=12, classes=6):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, 4, 4, generator=g, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.3, x.round(), x)
    logits = model(x)
    y = logits.argmax(dim=1)
    target = logits.argsort(dim=1)[:, -2]
    return Batch(x, y, target, keys=torch.arange(n))


def looked(model, attack, batch, state):
    return differentiate(model, attack.objective, batch.x + state.delta, batch.y, batch.target)


def ours(model, threat, attack, batch, start=None):
    """Every visit; returns the state after the last look."""
    state = attack.start(threat, batch)
    if start is not None:
        state = attack.start_at(threat, start)
    for _ in range(attack.max_queries(threat)):
        last = state
        seen = looked(model, attack, batch, state)
        state = attack.step(threat, batch, state, seen)
    return last, seen


@pytest.mark.parametrize("threat", [Linf(Fraction(1, 10)), L2(Fraction(3, 4))], ids=str)
@pytest.mark.parametrize(("loss", "theirs"), [("cross-entropy", "ce"), ("dlr", "dlr")])
def test_apgd_goes_where_the_authors_code_goes(threat, loss, theirs):
    from pyautoattack.autopgd_base import APGDAttack

    model = net(6)
    batch = batch_of(model)
    attack = APGD(steps=STEPS, loss=loss)
    start = attack.start(threat, batch).delta
    reference = APGDAttack(
        model, n_iter=STEPS, norm={"linf": "Linf", "l2": "L2"}[threat.name], eps=threat.r, loss=theirs
    )
    reference.init_hyperparam(batch.x)
    x_best, _, loss_best, _ = reference.attack_single_run(batch.x, batch.y, x_init=batch.x + start)
    last, seen = ours(model, threat, attack, batch, start)
    ours_best = torch.maximum(last.top_loss, seen.loss)
    # Past the boundary the DLR divides by gaps that close: rows that have run away there are chaotic.
    tame = loss_best.abs() < 20
    assert tame.sum() >= 10
    torch.testing.assert_close(ours_best[tame], loss_best[tame], atol=1e-6, rtol=1e-6)
    better = per_row(seen.loss > last.top_loss, last.delta)
    x_top = batch.x + torch.where(better, last.delta, last.top)
    sloped = tame & ((loss_best - 1).abs() > 1e-3)  # the DLR is flat at 1, where the right class ranks third
    torch.testing.assert_close(x_top[sloped], x_best[sloped], atol=1e-6, rtol=0)


def per_row(mask, like):
    return mask.view(-1, *[1] * (like.ndim - 1))


def test_targeted_apgd_goes_where_the_authors_code_goes():
    from pyautoattack.autopgd_base import APGDAttack_targeted

    model, threat = net(6), Linf(Fraction(1, 10))
    batch = batch_of(model)
    attack = APGD(steps=STEPS, loss="dlr", targets=1)
    start = attack.start(threat, batch).delta
    reference = APGDAttack_targeted(model, n_iter=STEPS, norm="Linf", eps=threat.r)
    reference.init_hyperparam(batch.x)
    reference.loss, reference.y_target = "dlr-targeted", batch.target
    _, _, loss_best, _ = reference.attack_single_run(batch.x, batch.y, x_init=batch.x + start)
    last, seen = ours(model, threat, attack, batch, start)
    torch.testing.assert_close(torch.maximum(last.top_loss, seen.loss), loss_best, atol=1e-6, rtol=1e-6)


def test_apgd_l1_reaches_the_loss_of_the_authors_code():
    """Ties and the roundings of two projections part the paths, so the heights are compared, not the points."""
    from pyautoattack.autopgd_base import APGDAttack

    model, threat = net(6), L1(Fraction(3))
    batch = batch_of(model, n=40)
    reference = APGDAttack(model, n_iter=100, norm="L1", eps=threat.r, loss="ce", use_largereps=True, seed=0)
    torch.manual_seed(0)
    reference.init_hyperparam(batch.x)
    theirs = reference.decr_eps_pgd(batch.x, batch.y, [9.0, 6.0, 3.0], [30, 30, 40])
    last, seen = ours(model, threat, APGD(steps=100), batch)
    mine, other = torch.maximum(last.top_loss, seen.loss), theirs[2]
    assert (mine - other).mean() > -0.01 * other.mean().abs()
    assert (mine >= other - 0.02 * other.abs()).float().mean() >= 0.8


def test_stages_cover_all_steps_and_end_at_the_radius():
    stages = APGD(steps=100).stages(parse("l1:3"))
    assert stages == ((30, 3.0), (30, 2.0), (40, 1.0))
    assert APGD(steps=100).max_queries(parse("l1:3")) == 103
    assert APGD(steps=100, staged=False).max_queries(parse("l1:3")) == 101
    assert sum(moves for moves, _ in APGD(steps=37).stages(parse("l1:3"))) == 37
    assert APGD(steps=100).stages(parse("linf:1")) == ((100, 1.0),)


N = 16


@pytest.mark.costly
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_apgd_breaks_a_linear_model_just_beyond_its_distance_and_never_before(norm):
    module = Linear(2)
    model = classifier(module)
    split = toy(model, N)
    distances = [distance(module, split.x[row], int(split.y[row]), norm) for row in range(N)]
    # Under l_1 its stride never falls below a tenth of the radius, so it ends a little short of the corner.
    _check_around(model, split, distances, APGD(steps=100, loss="margin"), norm, beyond=1.05 if norm == "l1" else 1.01)


@pytest.mark.costly
def test_frank_wolfe_breaks_a_linear_model_just_beyond_its_distance_and_never_before():
    module = Linear(2)
    model = classifier(module)
    split = toy(model, N)
    distances = [distance(module, split.x[row], int(split.y[row]), "l1") for row in range(N)]
    _check_around(model, split, distances, FrankWolfe(steps=100, random_start=False), "l1", beyond=1.01)


def _check_around(model, split, distances, attack, norm, beyond):
    reachable = sorted(d for d in distances if not math.isinf(d))
    assert len(reachable) >= N / 2
    for exact in reachable[1::4]:
        for radius in (exact * beyond, exact * 0.999):
            broken = broken_rows(model, parse(f"{norm}:{fraction(radius)}"), attack, split, range(N), slots=N)
            assert {row for row in range(N) if distances[row] * beyond <= radius * 1.000001} <= broken
            assert all(distances[row] <= radius for row in broken)


@pytest.mark.costly
@pytest.mark.parametrize("kept", [1, 4, 10])
def test_slide_breaks_a_half_space_where_its_definition_says(kept):
    """Away from the box, k equal steps gain the mean of the k largest weights per unit; exact for k = 1."""
    module = Linear(2)
    model = classifier(module)
    split = toy(model, 8, spread=0.05, edges=False)
    w = (module.weight[1] - module.weight[0]).detach().abs().sort(descending=True).values
    attack = SLIDE(steps=60, percentile=100 * (1 - kept / 20), random_start=False)
    for row in range(8):
        gap = (module(split.x[[row]])[0, 0] - module(split.x[[row]])[0, 1]).abs().item()
        breaking = gap / w[:kept].mean().item()
        if kept == 1:
            assert breaking == pytest.approx(distance(module, split.x[row], int(split.y[row]), "l1"), rel=1e-4)
        assert broken_rows(model, parse(f"l1:{fraction(breaking * 1.01)}"), attack, split, [row]) == {row}
        assert broken_rows(model, parse(f"l1:{fraction(breaking * 0.99)}"), attack, split, [row]) == set()


def test_the_sparse_step_moves_exactly_k_coordinates_though_gradients_tie():
    grad = torch.ones(2, 1, 10, 10)
    grad[1] = 0
    grad[1, 0, 0, :3] = torch.tensor([2.0, -3.0, 1e-3])
    step = sparse(grad, percentile=95.0)
    assert (step[0] != 0).sum() == 5
    torch.testing.assert_close(step.abs().flatten(1).sum(dim=1), torch.ones(2))
    assert step[1].flatten()[:3].tolist() == pytest.approx([1 / 3, -1 / 3, 1 / 3])  # zeros take no share


def ranked(grad, share):
    """The mask of the authors' l1 step: everything of at least the value at a rank, found by sorting."""
    flat = grad.flatten(1).abs()
    rank = ((1 - share) * flat.shape[1]).clamp(0, flat.shape[1] - 1).long()[:, None]
    return (flat >= flat.sort(dim=1).values.gather(1, rank)).view_as(grad)


@st.composite
def gradients(restart):
    """Of many scales down to the smallest floats, with ties and zeros, in both precisions."""
    g = torch.Generator().manual_seed(restart(st.integers(0, 2**31)))
    noise = torch.randn(6, 2, 5, 7, generator=g, dtype=restart(st.sampled_from([torch.float32, torch.float64])))
    kind = restart(st.sampled_from(["noise", "ties", "scales", "tiny", "equal", "sparse"]))
    grad = {
        "noise": noise,
        "ties": noise.round(),
        "scales": noise * (8 * torch.randn(noise.shape, generator=g)).exp(),
        "tiny": noise * 1e-44,
        "equal": noise.sign() * 1e30,
        "sparse": noise * (torch.rand(noise.shape, generator=g) < 0.1),
    }[kind]
    return grad, torch.rand(6, generator=g).to(grad.dtype)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(case=gradients())
def test_the_l1_step_of_apgd_moves_what_ranks_high_enough_and_all_that_ties(case):
    grad, share = case
    share = torch.cat([share[:4], share.new_tensor([0.0, 1.0])])
    signs = grad.sign() * ranked(grad, share)
    count = signs.abs().flatten(1).sum(dim=1).clamp(min=1)
    assert torch.equal(largest_signs(grad, share), signs / count.view(-1, 1, 1, 1))


def best_by_sorting(grad, x, r):
    """A fractional knapsack: the most that a linear loss can rise in ball and box."""
    flat, image = grad.flatten(1).double(), x.flatten(1).double()
    worth, order = flat.abs().sort(dim=1, descending=True)
    wall = torch.where(flat > 0, 1 - image, image).gather(1, order)
    exhausted = torch.minimum(wall, (r - (wall.cumsum(dim=1) - wall)).clamp(min=0))
    return (worth * exhausted).sum(dim=1)


@pytest.mark.parametrize("text", ["l1:0.01", "l1:2", "l1:1000000000"])
@settings(deadline=None, max_examples=50, derandomize=True)
@given(case=gradients(), edges=st.booleans())
def test_frank_wolfe_first_goes_all_the_way_to_the_best_member(text, case, edges):
    threat, grad = parse(text), case[0].float()
    x = torch.rand(grad.shape, generator=torch.Generator().manual_seed(0))
    x = torch.where(x < 0.5, x.round(), x) if edges else x
    label = torch.zeros(len(x), dtype=torch.long)
    batch = Batch(x, label, label, keys=label)
    attack = FrankWolfe(random_start=False)
    seen = Seen(torch.zeros(len(x), 2), torch.zeros(len(x)), grad)
    delta = attack.step(threat, batch, attack.start(threat, batch), seen).delta
    assert threat.contains(x + delta, x).all()
    rise = (grad.double() * delta).flatten(1).sum(dim=1)
    best = best_by_sorting(grad, x, threat.r)
    rounding = grad.double().abs().flatten(1).sum(dim=1) * 2.0**-23  # of the pixels and of the radius
    assert (rise >= best * (1 - 1e-6) - rounding).all()
    assert (delta[grad == 0] == 0).all()


def test_tied_gradients_share_what_is_left_of_the_radius():
    grad = torch.tensor([[3.0, -1.0, 1.0, 0.5, 0.0]])
    x = torch.tensor([[0.4, 0.8, 0.6, 0.5, 0.5]])  # so the room is 0.6 | 0.8, 0.4
    last = level(grad.abs(), 1.2, room(grad, x))
    assert last.tolist() == [[1.0]]
    assert level(grad.abs(), 100.0, room(grad, x)).tolist() == [[0.0]]
    label = torch.zeros(1, dtype=torch.long)
    batch, attack = Batch(x, label, label, keys=label), FrankWolfe(random_start=False)
    seen = Seen(torch.zeros(1, 2), torch.zeros(1), grad)
    delta = attack.step(parse("l1:1.2"), batch, attack.start(parse("l1:1.2"), batch), seen).delta
    torch.testing.assert_close(delta, torch.tensor([[0.6, -0.4, 0.2, 0.0, 0.0]]))


@pytest.mark.parametrize("attack", [SLIDE(steps=20), FrankWolfe(steps=20), APGD(steps=20)], ids=lambda a: a.name)
def test_every_l1_attack_stays_in_ball_and_box(attack):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2))
    threat, split = parse("l1:1.5"), toy(classifier(module), 20)
    batch = Batch(split.x, split.y, split.y, keys=torch.arange(20))
    delta = unroll(module, threat, attack, batch).delta
    if attack.name != "apgd":  # whose stages begin in larger balls
        assert threat.contains(split.x + delta, split.x).all()
    state = attack.start(threat, batch)
    for _ in range(attack.max_queries(threat) - 1):
        state = attack.step(threat, batch, state, looked(module, attack, batch, state))
    assert threat.contains(split.x + state.delta, split.x).all()
