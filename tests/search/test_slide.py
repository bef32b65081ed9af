"""SLIDE and Frank-Wolfe under l1, against what their definitions promise."""

from fractions import Fraction

import pytest
import torch

from robench.errors import UserError
from robench.problem.losses import margin
from robench.problem.threats import L1
from robench.search.attack import Batch, Seen, unroll
from robench.search.attacks.frank_wolfe import FrankWolfe
from robench.search.attacks.slide import SLIDE, sparse

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .running import broken_rows

N = 12
PIXELS = 20


@pytest.fixture(scope="module")
def half_space():
    """Two classes parted by a hyperplane, and images that stay clear of the edges of the box."""
    module = Linear(2)
    return module, toy(classifier(module), N, spread=0.02, edges=False)


def reach(module, split, k):
    """The radius at which each image falls: SLIDE goes along the signs of the k largest weights, equally."""
    weight, bias = module.weight.detach().double(), module.bias.detach().double()
    gain = (weight[1] - weight[0]).abs().topk(k).values.mean()  # of the margin per unit of l1
    return (-margin(split.x.flatten(1).double() @ weight.T + bias, split.y) / gain).tolist()


@pytest.mark.costly
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_on_a_half_space_it_breaks_at_the_radius_over_the_mean_of_the_k_largest_weights(half_space, k):
    module, split = half_space
    attack = SLIDE(steps=30, step_size=0.1, percentile=100 * (1 - k / PIXELS), random_start=False)
    for row, radius in enumerate(reach(module, split, k)):
        for factor, breaks in ((1.01, {row}), (0.99, set())):
            threat = L1(fraction(radius * factor))
            assert broken_rows(classifier(module), threat, attack, split, [row]) == breaks


def test_with_one_coordinate_it_breaks_exactly_at_the_distance(half_space):
    module, split = half_space
    wanted = [distance(module, split.x[row], int(split.y[row]), "l1") for row in range(N)]
    assert reach(module, split, 1) == pytest.approx(wanted, rel=1e-5)


def test_a_step_moves_exactly_the_share_of_coordinates_above_the_percentile_and_equally():
    g = torch.Generator().manual_seed(0)
    grad = torch.randn(5, 1, 28, 28, generator=g)
    for percentile, kept in ((99.0, 8), (95.0, 40), (0.0, 784), (99.9, 1)):
        step = sparse(grad, percentile).flatten(1)
        assert step.ne(0).sum(dim=1).tolist() == [kept] * 5
        assert torch.allclose(step.abs().sum(dim=1), torch.ones(5))
        largest = grad.flatten(1).abs().topk(kept, dim=1).indices
        assert step.gather(1, largest).ne(0).all()


def test_ties_are_cut_and_a_flat_gradient_takes_no_step():
    """More than 99 % zeros: the published percentile is then 0, and most of the step is lost (P-04)."""
    grad = torch.zeros(2, 1, 28, 28)
    grad[0, 0, 3, 4], grad[0, 0, 5, 5] = 2.0, -1.0
    step = sparse(grad, 99.0)
    assert (step[0].sum(), step[0, 0, 3, 4], step[0, 0, 5, 5]) == (0.0, 0.5, -0.5)
    assert not step[1].any()
    assert sparse(torch.ones(1, 1, 28, 28), 99.0).ne(0).sum() == 8


def test_no_step_is_wasted_on_pixels_that_the_box_stops():
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]]).view(1, 1, 1, 4)
    grad = torch.tensor([[9.0, -8.0, 1.0, 0.5]]).view(1, 1, 1, 4)  # the strongest push outwards
    batch = Batch(x, torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    attack = SLIDE(step_size=0.1, percentile=75.0, random_start=False)
    threat = L1(Fraction(1))
    seen = Seen(torch.zeros(1, 2), torch.zeros(1), grad)
    moved = attack.step(threat, batch, attack.start(threat, batch), seen).delta.flatten().tolist()
    assert moved == pytest.approx([0, 0, 0.1, 0])


@pytest.mark.costly
@pytest.mark.parametrize("classes", [2, 10])
def test_frank_wolfe_breaks_a_linear_model_just_beyond_its_distance_and_never_before(classes):
    module = Linear(classes)
    model = classifier(module, classes)
    split = toy(model, N)
    attack = FrankWolfe(steps=60, random_start=False)
    for row in range(N):
        exact = distance(module, split.x[row], int(split.y[row]), "l1")
        if exact == float("inf"):
            continue
        assert broken_rows(model, L1(fraction(exact * 0.999)), attack, split, [row]) == set()
        if classes == 2:  # with more, the margin has several summits
            assert broken_rows(model, L1(fraction(exact * 1.01)), attack, split, [row]) == {row}


def test_frank_wolfe_never_leaves_the_set():
    module = Linear(3)
    split = toy(classifier(module, 3), N)
    batch = Batch(split.x, split.y, split.y, torch.arange(N))
    threat = L1(Fraction(2))
    for steps in (1, 2, 7, 30):
        delta = unroll(module, threat, FrankWolfe(steps=steps), batch).delta
        assert threat.contains(split.x + delta, split.x).all()


@pytest.mark.parametrize("percentile", [-1.0, 100.0, 250.0])
def test_a_percentile_that_is_none_is_refused(percentile):
    with pytest.raises(UserError, match="at least 0 and below 100"):
        SLIDE(percentile=percentile)
