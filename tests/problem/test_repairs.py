"""Derivatives near thresholds and of tables, beside closed forms."""

import pytest
import torch
import torch.nn.functional as F

from robench.problem.repairs import repairs

X = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(2))
TABLE = torch.randn(9, 5, generator=torch.Generator().manual_seed(3))
CLASSES = torch.tensor([2, 0, 1, 1, 2, 0, 0, 2, 1])
SHARPNESS = 10.0


def derivative(of, x=X, weights=None, sharpness=0.0):
    """The gradient of a weighted sum of what `of` returns, whose value must be the same with other derivatives."""
    leaf = x.clone().requires_grad_()
    with repairs(sharpness=sharpness):
        out = of(leaf)
    assert torch.equal(out, of(x))
    (found,) = torch.autograd.grad((out * (torch.ones_like(out) if weights is None else weights)).sum(), leaf)
    return found


def near(distance):
    """1 / (1 + sharpness r)^2, where r is the distance over its mean in the row."""
    size = distance.abs()
    return (1 + SHARPNESS * size / size.mean(dim=(1, 2), keepdim=True)) ** -2


STEPS = {
    "sign": (lambda x: (x - 0.5).sign(), lambda x: near(x - 0.5)),
    "comparison": (lambda x: (x > 0.5).float(), lambda x: near(x - 0.5)),
    "turned comparison": (lambda x: (x <= 0.5).to(x.dtype), lambda x: -near(x - 0.5)),
    "steep tanh": (lambda x: (200 * (x - 0.5)).tanh(), lambda x: 200 * near(x - 0.5)),
    "steep sigmoid": (lambda x: torch.sigmoid(200 * (x - 0.5)), lambda x: 200 * near(x - 0.5)),
    "round": (lambda x: (8 * x).round() / 8, lambda x: near(8 * x - (8 * x).floor() - 0.5)),
    "floor": (lambda x: (8 * x).floor() / 8, lambda x: near(8 * x - (8 * x).round())),
    "ceil": (lambda x: (8 * x).ceil() / 8, lambda x: near(8 * x - (8 * x).round())),
    "whole numbers": (lambda x: (8 * x).long().float() / 8, lambda x: near(8 * x - (8 * x).round())),
    "where": (lambda x: torch.where(x > 0.5, 3.0, 1.0), lambda x: 2 * near(x - 0.5)),
    "kept where": (lambda x: torch.where(x > 0.5, x, 0.0), lambda x: (x > 0.5) + x * near(x - 0.5)),
    "product": (lambda x: x * (x > 0.5), lambda x: (x > 0.5) + x * near(x - 0.5)),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_derivative_of_a_step_falls_with_the_distance_from_its_threshold(name):
    of, expected = STEPS[name]
    assert torch.allclose(derivative(of, weights=WEIGHTS, sharpness=SHARPNESS), expected(X) * WEIGHTS, rtol=1e-4)


def test_a_row_does_not_depend_on_its_company():
    of, _ = STEPS["sign"]
    together = derivative(of, weights=WEIGHTS, sharpness=SHARPNESS)
    alone = derivative(of, X[2:3], WEIGHTS[2:3], SHARPNESS)
    assert torch.equal(together[2:3], alone)


@pytest.mark.parametrize("sharpness", [0.0, SHARPNESS])
def test_a_comparison_moves_both_of_its_sides_and_is_repeated_for_many_thresholds(sharpness):
    def against_mean(x):
        return (x > x.mean(dim=2, keepdim=True)).float()

    difference = X - X.mean(dim=2, keepdim=True)
    each = (near(difference) if sharpness else 1.0) * WEIGHTS
    expected = each - each.mean(dim=2, keepdim=True)
    assert torch.allclose(derivative(against_mean, weights=WEIGHTS, sharpness=sharpness), expected, atol=1e-6)

    levels = torch.tensor([0.2, 0.5, 0.8])[:, None, None, None]
    found = derivative(lambda x: (x > levels).float().movedim(0, 1), sharpness=sharpness)
    if not sharpness:
        assert torch.equal(found, torch.full_like(X, 3.0))
    assert (found > 0).all()


def test_a_vector_from_a_table_moves_towards_the_entry_beyond_the_nearer_threshold():
    weights = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(4))
    place = (8 * X).round()
    other = (place + (8 * X - place).sign()).clamp(0, 8)
    rise = (TABLE[other.long()] - TABLE[place.long()]) * (other - place)[..., None]
    for of in (
        lambda x: TABLE[(8 * x).round().clamp(0, 8).long()],
        lambda x: F.embedding((8 * x).round().long(), TABLE),
        lambda x: TABLE[(8 * x + 0.5).long()],
    ):
        found = derivative(of, weights=weights)
        assert torch.allclose(found, 8 * (rise * weights).sum(dim=3), atol=1e-4)


RANKED = {
    "topk": (3, lambda s: TABLE[s.topk(3, dim=1, largest=False).indices]),
    "sort": (3, lambda s: TABLE[s.sort(dim=1)[1][:, :3]]),
    "argsort": (3, lambda s: TABLE[(-s).argsort(dim=1, descending=True)[:, :3]]),
    "argmin": (1, lambda s: TABLE[s.argmin(dim=1)][:, None]),
    "minimum": (1, lambda s: TABLE[s.min(dim=1).indices][:, None]),
    "argmax": (1, lambda s: TABLE[(-s).argmax(-1)][:, None]),
    "first of sorted": (1, lambda s: TABLE[s.argsort(dim=-1)[:, 0]][:, None]),
}


@pytest.mark.parametrize("name", RANKED)
def test_entries_that_scores_choose_have_the_derivative_of_their_mean_by_a_softmax(name):
    k, of = RANKED[name]
    s = torch.randn(4, 9, generator=torch.Generator().manual_seed(5))
    weights = torch.randn(4, k, 5, generator=torch.Generator().manual_seed(6))
    first = s.sort(dim=1).values[:, : 2 * k]
    leaf = s.clone().requires_grad_()
    mean = (-leaf / (first[:, -1:] - first[:, :1])).softmax(dim=1) @ TABLE
    (expected,) = torch.autograd.grad((mean[:, None] * weights).sum(), leaf)
    assert torch.allclose(derivative(of, s, weights), expected, atol=1e-5)


def test_the_classes_of_the_nearest_neighbours_have_a_derivative_too():
    s = torch.randn(4, 9, generator=torch.Generator().manual_seed(5))
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(6))
    votes = [
        derivative(lambda s: F.one_hot(CLASSES[s.topk(3, 1, False)[1]], 3).float().sum(dim=1), s, weights),
        derivative(lambda s: F.one_hot(CLASSES, 3).float()[s.topk(3, 1, False)[1]].sum(dim=1), s, weights),
    ]
    assert torch.allclose(*votes, atol=1e-6)
    assert (votes[0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("svd", [lambda x: torch.linalg.svd(x, full_matrices=False), torch.linalg.svd, torch.svd])
def test_a_product_of_low_rank_has_a_finite_derivative_where_singular_values_are_equal(svd):
    weights = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(7))

    def first_two(x):
        left, values, right = svd(x)
        right = right.mT if svd is torch.svd else right
        return (left[..., :2] * values[..., None, :2]) @ right[..., :2, :]

    x = torch.cat([torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(8)), torch.eye(6, 5)[None]])
    right = torch.linalg.svd(x)[2][..., :2, :]
    through_left = weights @ right.mT @ right
    left = torch.linalg.svd(x)[0][..., :2]
    through_values = left * (left.mT @ weights @ right.mT).diagonal(dim1=1, dim2=2)[:, None] @ right
    assert torch.allclose(derivative(first_two, x, weights), through_left + through_values, atol=1e-5)


@pytest.mark.parametrize(
    "of",
    [
        lambda s: TABLE[s.topk(3, dim=0).indices[:, 0] % 9],  # along another dimension
        lambda s: TABLE[s.argmin() % 9],  # of everything
        lambda s: TABLE[:4][s[:, :5].argmin(dim=1) % 4],  # places that were changed
        lambda s: TABLE[:1][s.argmin(dim=1) * 0],
    ],
)
def test_other_places_change_no_value_and_raise_nothing(of):
    s = torch.randn(4, 9, generator=torch.Generator().manual_seed(5)).requires_grad_()
    with repairs(sharpness=SHARPNESS):
        out = of(s)
    assert torch.equal(out, of(s.detach()))
