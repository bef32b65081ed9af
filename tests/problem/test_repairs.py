"""Derivatives near thresholds and of tables, beside closed forms."""

import copy

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
    with repairs(sharpness=sharpness, rows=len(x)):
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
    worse = s.sort(dim=1).values - s.min(dim=1, keepdim=True).values
    temperature = torch.maximum(worse[:, 2 * k - 1], worse.mean(dim=1) / 100)[:, None]
    leaf = s.clone().requires_grad_()
    mean = (-leaf / temperature).softmax(dim=1) @ TABLE
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
    through_right = left @ left.mT @ weights
    expected = through_left + through_values + through_right
    assert torch.allclose(derivative(first_two, x, weights), expected, atol=1e-5)


def stacked(x):
    return torch.stack([TABLE[x.flatten(1).argmax(1)[j]] for j in range(len(x))])


def turned(x):
    x = x.flatten(1).argmax(1)
    return TABLE[x.unsqueeze_(1)]


ODD = {  # forms of calls that have no other derivative, or that must not be mistaken for ones that have
    "along another dimension": lambda x: TABLE[x.flatten(1).topk(3, dim=0).indices[:, 0] % 9],
    "of everything": lambda x: TABLE[x.argmin() % 9],
    "of a number": lambda x: TABLE[x.sum().argmax(-1)],
    "places that were changed": lambda x: TABLE[:4][x.flatten(1).argmin(dim=1) % 4],
    "a table of one": lambda x: TABLE[:1][x.flatten(1).argmin(dim=1) * 0],
    "a table of numbers": lambda x: TABLE[:6, 0][x.flatten(1).argmax(1)],
    "one place at a time": stacked,
    "some of the images": lambda x: TABLE[x.flatten(1).argmax(1)[:1]],
    "places of another shape": lambda x: TABLE[x.flatten(1).topk(2).indices[:, :, None]],
    "reshaped in place": turned,
    "images by a mask": lambda x: x[x.mean(dim=(1, 2)) > 0.01],
    "a table with infinities": lambda x: torch.full((6, 2), -torch.inf)[x.flatten(1).argmax(1)].clamp(min=-1),
    "scores without some": lambda x: TABLE[x.flatten(1).masked_fill(torch.arange(6) > 0, -torch.inf).argmax(1)],
    "tied scores": lambda x: TABLE[(3 * x).round().flatten(1).argmax(1)],
    "equal scores": lambda x: TABLE[(0 * x).flatten(1).argmax(1)],
    "half scores": lambda x: TABLE[x.half().flatten(1).argmax(1)],
    "a table in half": lambda x: TABLE.half()[(8 * x).round().long()],
    "places in double": lambda x: TABLE[(8 * x.double()).round().long()],
    "labels without a number": lambda x: F.one_hot(torch.tensor([0, 1, 2, 2, 1, 9])[x.flatten(1).argmin(1) * 0]),
    "gather": lambda x: x.flatten(1).gather(1, x.flatten(1).argmax(1, keepdim=True)),
    "truth values": lambda x: x * x.to(torch.bool),
    "a named factor": lambda x: x.mul(other=2.0),
    "where as a method": lambda x: x.where(x > 0.5, -x),
    "where with truth": lambda x: torch.where(x > 0.5, x, True),
    "greater than truth": lambda x: (x > False).float(),
    "a named side": lambda x: x.gt(other=0.5).float(),
    "negative zero": lambda x: torch.where(x > 0.5, x, -0.0),
    "an infinite threshold": lambda x: torch.where(x > torch.tensor([torch.inf, 0.5, 0.2]), x, -x),
    "an additive mask": lambda x: (x + torch.tensor([-torch.inf, 0.0, 0.0])).sigmoid(),
    "singular values alone": lambda x: torch.linalg.svdvals(x),
    "no vectors": lambda x: x.svd(compute_uv=False)[1],
    "complex matrices": lambda x: torch.linalg.svd(torch.complex(x, 1 - x)).S,
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("sharpness", [0.0, SHARPNESS])
def test_other_forms_of_a_call_keep_their_values_and_have_finite_derivatives(name, sharpness):
    expected = ODD[name](X.clone().requires_grad_() * 1).detach()
    leaf = X.clone().requires_grad_()
    with repairs(sharpness=sharpness, rows=4):
        out = ODD[name](leaf * 1)
    assert (out.dtype, out.shape) == (expected.dtype, expected.shape)
    assert out.detach().numpy().tobytes() == expected.numpy().tobytes()
    if out.requires_grad:
        (found,) = torch.autograd.grad(out.double().nan_to_num(0, 0, 0).sum(), leaf)
        assert found.isfinite().all()
        assert found.abs().max() < 1e4


def test_the_right_singular_vectors_have_a_derivative_of_their_own():
    for svd in (torch.linalg.svd, torch.svd):
        leaf = X.clone().requires_grad_()
        with repairs():
            vectors = svd(leaf)[2]
        (found,) = torch.autograd.grad((vectors * torch.rand(vectors.shape)).sum(), leaf)
        assert found.abs().sum() > 0


def test_tensors_with_other_rows_than_the_images_have_the_derivative_of_the_identity():
    def stacked_first(x):
        return (torch.stack([0.5 * x, x, 1.5 * x]) > 0.5).float().sum(dim=0)

    together = derivative(stacked_first, sharpness=SHARPNESS)
    assert torch.equal(together, torch.full_like(X, 3.0))


def test_marked_tensors_can_be_copied_and_are_forgotten():
    leaf = X.clone().requires_grad_()
    with repairs(sharpness=SHARPNESS, rows=4):
        places = leaf.flatten(1).topk(2).indices
        chosen = leaf > 0.5
    assert torch.equal(copy.deepcopy(places), places)
    assert torch.equal(copy.deepcopy(chosen), chosen)
