"""Claim 3 and theorem 4 of Tramèr and Boneh 2019 on linear models, whose distances are known."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks import build
from robench.search.attacks.affine import AffineLp, AffineRTAttack
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE
from robench.search.attacks.spatial import Grid

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .running import broken_rows, ends, items, job

N = 16


def judged(model, split, threat, attack, restarts=1):
    """The rows broken, as a referee who is shown the witness has it."""
    found = ends(model, split, job(threat, attack, items(model, attack, split, range(N), restarts)), slots=N)
    rows = set()
    for end in found:
        if end.x_adv is not None:
            x, params = split.x[[end.item.row]], torch.tensor([end.params])
            assert threat.contains(end.x_adv[None], x, params).item()
            rows.add(end.item.row)
    return rows


@pytest.mark.costly
@pytest.mark.parametrize("pair", [("linf", "l1"), ("linf", "l2"), ("l2", "l1")], ids="+".join)
def test_on_linear_models_an_affine_attack_breaks_exactly_what_the_union_does(pair):
    """The most of a linear function over a convex hull is the most over its two parts."""
    module = Linear(2)
    model = classifier(module)
    split = toy(model, N, spread=0.1, edges=False)  # the box is far away
    radii = {}
    for norm in pair:
        sizes = sorted(distance(module, split.x[row], int(split.y[row]), norm) for row in range(N))
        radii[norm] = (sizes[N // 2 - 1] + sizes[N // 2]) / 2
    threat = parse("affine:" + "+".join(f"{norm}:{fraction(r)}" for norm, r in radii.items()))
    reach = {(row, n): distance(module, split.x[row], int(split.y[row]), n) for row in range(N) for n in radii}
    union = {row for (row, norm), least in reach.items() if least < radii[norm]}
    assert 0 < len(union) < N
    pure = set()
    for part in threat.parts:
        attack = PGD(steps=20) if part.name != "l1" else SLIDE(steps=40, percentile=95.0)
        pure |= broken_rows(model, part, attack, split, range(N))
    assert pure == union, "evidence of the pure attacks counts, and there is no other"
    broken = judged(model, split, threat, AffineLp(steps=25, splits=5))
    assert broken <= union, "nobody breaks what cannot be broken"
    assert len(union - broken) <= 1, "and the affine attack finds it by itself"
    assert judged(model, split, threat, AffineLp(steps=15)) <= union


@pytest.mark.costly
def test_rotations_and_a_ball_together_break_what_neither_breaks_alone():
    """Theorem 4, worked by hand on one bright pixel of height a, which the model compares with 0.02.

    Shifted by t along both axes it keeps a (1 - t)^2, and a share s of the limits 0.7 leaves (1 - s) 0.2 of the ball:
    it falls where a < (0.02 + (1 - s) 0.2) / (1 - 0.7 s)^2.
    """
    shape = (1, 9, 9)
    module = Linear(2, shape)
    spot = torch.zeros(shape)
    spot[0, 4, 4] = 1
    with torch.no_grad():
        module.weight.copy_(torch.stack([torch.zeros(81), spot.flatten()]))
        module.bias.copy_(torch.tensor([0, -0.02]))
    model = classifier(module, 2, shape)
    heights = torch.linspace(0.15, 0.35, N)
    split = Split.whole("spots:test", heights.view(N, 1, 1, 1) * spot, torch.ones(N).long(), 2)
    threat = parse("affine:linf:0.2+rt:0.7px,0deg")

    s = torch.linspace(0, 1, 1001)
    falls_at = (0.02 + (1 - s) * 0.2) / (1 - 0.7 * s) ** 2
    alone = judged(model, split, threat.rt, Grid(rotations=1))
    alone |= broken_rows(model, threat.ball, PGD(steps=10), split, range(N))
    assert alone == set((heights < max(falls_at[0], falls_at[-1])).nonzero().flatten().tolist())
    mixed = judged(model, split, threat, AffineRTAttack(steps=4, transforms=30, splits=9))
    assert set((heights < 0.95 * falls_at.max()).nonzero().flatten().tolist()) <= mixed
    assert mixed <= set((heights < falls_at.max()).nonzero().flatten().tolist())
    assert len(mixed) > len(alone) + 3


def test_under_l1_the_ball_of_a_transform_has_the_steps_of_slide():
    """One coordinate per step, the steepest direction, would leave most of the budget to very few pixels."""
    model = classifier(Linear(2, (1, 20, 20)))
    split = Split.whole("grey", torch.full((2, 1, 20, 20), 0.5), torch.zeros(2, dtype=torch.long), 2)
    threat = parse("affine:l1:4+rt:0.01px,0.1deg")
    attack, keys = AffineRTAttack(steps=10, transforms=1), torch.arange(2)
    batch = Batch(x=split.x, y=split.y, target=split.y, keys=keys)
    state = attack.start(threat, batch)
    for _ in range(2):
        x_adv = attack.query(threat, batch, state)
        state = attack.step(threat, batch, state, differentiate(model, attack.objective, x_adv, split.y, split.y))
    assert ((state.change != 0).flatten(1).sum(dim=1) >= 4).all(), "the hundredth part of 400"


def test_splits_reach_from_one_part_alone_to_the_other():
    model = classifier(Linear(2))
    split, attack = toy(model, N, spread=0.1, edges=False), AffineLp(steps=4, splits=3)
    threat = parse("affine:linf:0.05+l1:0.5")
    batch = Batch(split.x, split.y, split.y, torch.arange(N))
    state = attack.start(threat, batch)
    largest = {}
    for move in range(attack.max_queries(threat)):
        beta = move // 9 / 2
        one, two = threat.one.size(state.one).max().item(), threat.two.size(state.two).max().item()
        assert one <= beta * 0.05 + 1e-6
        assert two <= (1 - beta) * 0.5 + 1e-6
        largest[beta] = (max(one, largest.get(beta, (0, 0))[0]), max(two, largest.get(beta, (0, 0))[1]))
        seen = differentiate(model, attack.objective, attack.query(threat, batch, state), batch.y, batch.target)
        state = attack.step(threat, batch, state, seen)
    for beta, (one, two) in largest.items():
        assert one == pytest.approx(beta * 0.05, abs=1e-6)
        assert two == pytest.approx((1 - beta) * 0.5, rel=0.05, abs=1e-5)


@pytest.mark.parametrize("name", ["affine-lp", "affine-rt"])
@pytest.mark.parametrize("settings", [{"splits": 1}, {"targets": 3}, {"loss": "no"}])
def test_settings_that_mean_nothing_are_refused(name, settings):
    with pytest.raises(UserError):
        build(name, settings)
