"""Square against its published schedule, its own definition, and linear models whose distances are known."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.losses import margin
from robench.problem.threats import parse
from robench.search.attack import Batch
from robench.search.attacks import ATTACKS
from robench.search.attacks.square import Square, _pattern
from robench.search.engine.engine import Engine

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .running import broken_rows, items, job, run

N = 10
THREATS = ["linf:0.1", "l2:0.7", "l1:2"]
SHAPES = [(1, 8, 8), (3, 9, 6), (2, 4, 13), (1, 2, 3)]


def search(threat, shape, steps, classes=3, rows=N):
    """The points asked about, one by one, with the state and the margin of each."""
    model = classifier(Linear(classes, shape), classes, shape)
    split = toy(model, rows)
    batch = Batch(split.x, split.y, split.y, torch.arange(rows) * 7919)
    attack = Square(steps=steps)
    state = attack.start(threat, batch)
    for _ in range(attack.max_queries(threat)):
        (x_adv,) = attack.query(threat, batch, state).unbind(1)
        delta = state.delta
        logits = model(x_adv).detach()
        yield batch, state, delta, margin(logits, split.y)
        state = attack.step(threat, batch, state, logits[:, None])


@pytest.mark.costly
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("text", THREATS)
def test_every_query_is_a_member_and_only_the_highest_margin_counts(text, shape):
    threat, highest = parse(text), torch.full((N,), -torch.inf)
    for batch, state, delta, value in search(threat, shape, steps=40):
        assert threat.contains(batch.x + delta, batch.x).all()
        assert torch.equal(state.margin, highest)
        highest = torch.maximum(highest, value)
    assert (highest > value).any(), "some proposals must have been turned down"


def test_a_proposal_under_linf_differs_from_the_best_point_within_one_square_of_the_scheduled_side():
    threat, shape = parse("linf:0.1"), (3, 12, 15)
    sides = Square().sides(12, 15)
    stages = Square(steps=120).stage(torch.arange(120)).tolist()
    for t, (_, state, delta, _) in enumerate(search(threat, shape, steps=120)):
        if t == 0:
            continue
        changed = ((delta - state.best).abs() > 1e-6).any(dim=1)
        for dim in (1, 2):
            span = changed.any(dim=3 - dim).int()
            extent = span.shape[1] - span.argmax(dim=1) - span.flip(1).argmax(dim=1)
            assert (extent <= sides[stages[t - 1]]).all()


def test_no_proposal_under_linf_repeats_the_best_point_and_every_corner_is_reached():
    touched = torch.zeros(1, 5, 7, dtype=torch.bool)
    for t, (_, state, delta, _) in enumerate(search(parse("linf:0.1"), (1, 5, 7), steps=300, rows=4)):
        if t:
            changed = (delta - state.best).abs() > 1e-5
            assert changed.flatten(1).any(dim=1).all()
            if t > 200:  # squares of one pixel
                touched |= changed.any(dim=0)
    assert touched.all()


def test_every_example_has_its_own_random_squares():
    *_, (_, state, delta, _) = search(parse("linf:0.1"), (1, 8, 8), steps=30)
    changed = (delta - state.best).abs() > 1e-6
    assert len(changed.flatten(1).unique(dim=0)) > N / 2


def test_the_schedule_is_the_published_one():
    # Of 5000 proposals, number i stands at 2 i of the 10000 that p = 0.8, 0.4, ... was published for.
    last = [5, 25, 100, 250, 500, 1000, 2000, 3000, 4000]  # of every p
    assert Square().stage(torch.tensor(last)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert Square().stage(torch.tensor(last) + 1).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert Square().stage(torch.tensor([0, 4999])).tolist() == [0, 9]
    assert Square(steps=100).stage(torch.tensor([0, 1, 2, 5, 6, 60, 61, 99])).tolist() == [0, 2, 2, 3, 4, 7, 8, 9]
    # sqrt(0.8 * 28 * 28) = 25.04, then 17.7, 12.5, 8.9, 6.3, 4.4, 3.1, 2.2, 1.6, 1.1
    assert Square().sides(28, 28) == (25, 18, 13, 9, 6, 4, 3, 2, 2, 1)
    assert Square().sides(28, 28, smallest=3) == (25, 19, 13, 9, 7, 5, 3, 3, 3, 3)
    assert Square().sides(6, 40) == (6, 6, 6, 5, 3, 2, 2, 1, 1, 1)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 25])
def test_a_pattern_has_norm_one_and_halves_of_equal_weight_and_opposite_sign(side, p):
    pattern = _pattern(side, p)
    assert pattern.norm(p=p).item() == pytest.approx(1, rel=1e-5)
    upper, lower = pattern[: side // 2], pattern[side // 2 :]
    assert (upper > 0).all()
    assert (lower < 0).all()
    if side > 1:
        assert upper.norm(p=p).item() == pytest.approx(lower.norm(p=p).item(), rel=1e-5)


def test_the_pattern_of_side_three_is_as_worked_by_hand():
    # Rings weigh 1 + 1/4 and 1/4. Upper half: one row centred in the middle; lower half: two rows, centre in the last.
    upper, lower = torch.tensor([[0.25, 1.25, 0.25]]), -torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([upper / upper.norm(), lower / lower.norm()]) / 2**0.5
    torch.testing.assert_close(_pattern(3, p=2), expected)


def soon_broken(model, threat, attack, split, rows):
    """The rows that any of five searches each breaks; the others end with the first find."""
    one, broken = job(threat, attack, items(model, attack, split, rows, restarts=5)), set()
    for some in Engine(model, split, 0, rows=30).work([one]):
        for row in [end.item.row for end in some if end.x_adv is not None]:
            broken.add(row)
            one.drop(row)
    return broken


@pytest.mark.costly
@pytest.mark.parametrize(("classes", "edges"), [(2, False), (3, True), (10, False)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_breaks_a_linear_model_well_beyond_its_distance_and_never_below_it(norm, classes, edges):
    module = Linear(classes)
    model = classifier(module, classes)
    split = toy(model, N, edges=edges)
    distances = [distance(module, split.x[row], int(split.y[row]), norm) for row in range(N)]
    exact = sorted(distances)[N // 2]
    near = [row for row in range(N) if distances[row] <= exact]
    # Under l_1 the nearest example moves one pixel, and squares of three by three are slow to gather there.
    threat = parse(f"{norm}:{fraction((1.75 if norm == 'l1' else 1.5) * exact)}")
    assert soon_broken(model, threat, Square(steps=400), split, near) == set(near)
    threat = parse(f"{norm}:{fraction(0.999 * exact)}")
    assert all(distances[row] < exact for row in broken_rows(model, threat, Square(steps=30), split, range(N), slots=N))


@pytest.mark.costly
@pytest.mark.parametrize("text", ["linf:0.08", "l2:0.3", "l1:0.6"])
def test_results_depend_neither_on_the_batch_nor_on_order(text):
    model = classifier(Linear(3), 3)
    split, threat, attack = toy(model, 10), parse(text), Square(steps=30)
    waiting = items(model, attack, split, range(10))
    found = run(model, threat, attack, split, waiting, slots=5)
    assert 1 < sum(x is not None for x in found.values()) < 9, "both outcomes must occur"
    for order, slots in [(waiting[::-1], 5), (waiting[1::5], 1), (waiting, 30)]:
        again = run(model, threat, attack, split, order, slots)
        for item, x_adv in again.items():
            assert (x_adv is None) == (found[item] is None), item
            if x_adv is not None:
                torch.testing.assert_close(x_adv, found[item], atol=2e-5, rtol=0)


def test_answers_of_nan_move_nothing():
    threat, shape = parse("l2:0.5"), (1, 6, 6)
    batch = Batch(torch.rand(4, *shape), torch.zeros(4).long(), torch.zeros(4).long(), torch.arange(4))
    first = Square().start(threat, batch)
    state = Square().step(threat, batch, first, torch.full((4, 1, 3), torch.nan))
    assert torch.equal(state.best, first.delta)
    assert (state.margin == -torch.inf).all()
    assert state.delta.isfinite().all()


@pytest.mark.parametrize("settings", [{"targets": 3}, {"p_init": 0.0}, {"p_init": 1.5}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(UserError):
        ATTACKS["square"](**settings)
