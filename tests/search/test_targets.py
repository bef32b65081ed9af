"""The order of target classes: on linear models it is the order of the exact distances."""

import pytest
import torch
from torch import nn

from robench import protocols
from robench.errors import UserError
from robench.problem.threats import parse
from robench.protocols import cost
from robench.search import targets
from robench.search.attacks import build
from robench.search.attacks import parse as parse_attack
from robench.search.attacks.apgd import APGD

from ..exact_distances import Linear, classifier, toy
from ..exact_distances import distance as exact_distance
from .running import items, run

CLASSES, N = 7, 12
NORMS = ["linf", "l2", "l1", "l0"]


def distances(module, x, y, norm):
    """The exact distance of an image to every class; infinite for the correct one."""
    found = []
    for k in range(CLASSES):
        pair = Linear(2)
        with torch.no_grad():
            pair.weight.copy_(module.weight[[y, k]])
            pair.bias.copy_(module.bias[[y, k]])
        found.append(torch.inf if k == y else exact_distance(pair, x, 0, norm))
    return torch.tensor(found)


def ordered(model, threat, split, n=CLASSES - 1, rows=slice(None)):
    logits = model(split.x[rows]).detach()
    return targets.by_first_order(model, threat, split.x[rows], split.y[rows], logits, n)


def freed(grad):
    raise RuntimeError("there is no graph any more")


def lost(grad):
    raise AttributeError("its activations are gone")


class Once(torch.autograd.Function):
    """The identity, whose second backward pass is another one."""

    @staticmethod
    def forward(ctx, x, second):
        ctx.second, ctx.used = second, False
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.used, used = True, ctx.used
        return ctx.second(grad) if used else grad, None


class Counting(nn.Module):
    """A network that counts its forward passes, perhaps with a layer that can be differentiated only once."""

    def __init__(self, second):
        super().__init__()
        self.layer, self.second, self.passes = Linear(CLASSES), second, 0

    def forward(self, x):
        self.passes += 1
        return self.layer(Once.apply(x, self.second) if self.second else x)


@pytest.mark.parametrize(
    ("second", "passes"),
    [(None, 2), (freed, CLASSES - 1), (lost, CLASSES - 1), (torch.zeros_like, CLASSES - 1)],
    ids=["repeats", "raises", "raises another error", "is wrong"],
)
def test_two_forward_passes_order_the_classes_unless_a_layer_can_be_differentiated_only_once(second, passes):
    module = Counting(second)
    model = classifier(module, CLASSES)
    split = toy(model, 5)
    logits = model(split.x).detach()
    expected = targets.by_first_order(classifier(module.layer, CLASSES), parse("l2:1"), split.x, split.y, logits, 6)
    module.passes = 0
    found = targets.by_first_order(model, parse("l2:1"), split.x, split.y, logits, 6)
    assert torch.equal(found, expected)
    assert module.passes == passes
    assert not torch.equal(found, targets.by_logits(logits, split.y, 6))


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("edges", [False, True], ids=["inside the box", "a third of the pixels at its edge"])
def test_classes_come_in_the_order_of_their_exact_distances(norm, radius, edges):
    module = Linear(CLASSES)
    model = classifier(module, CLASSES)
    split = toy(model, N, edges=edges)
    order = ordered(model, parse(f"{norm}:{radius}"), split)
    differs = False
    for row in range(N):
        exact = distances(module, split.x[row], int(split.y[row]), norm)
        along = exact[order[row]]
        assert sorted(order[row].tolist()) == [k for k in range(CLASSES) if k != split.y[row]]
        finite = along[along.isfinite()]
        assert along[: len(finite)].isfinite().all(), "classes out of reach come last"
        assert (finite.diff() >= -1e-3 * finite[:-1]).all()
        differs |= not torch.equal(order[row], targets.by_logits(model(split.x[[row]]), split.y[[row]], 9)[0])
    assert differs, "the order of the logits is another"


@pytest.mark.parametrize("norm", NORMS)
def test_the_share_of_the_radius_is_at_most_1_exactly_where_the_distance_is_within_it(norm):
    module = Linear(2)
    model = classifier(module, 2)
    split = toy(model, 24)
    slope = (module.weight[1 - split.y] - module.weight[split.y]).detach().view_as(split.x)
    logits = model(split.x).detach()
    gap = logits.gather(1, split.y[:, None]) - logits.gather(1, 1 - split.y[:, None])
    exact = torch.tensor([exact_distance(module, split.x[r], int(split.y[r]), norm) for r in range(24)])
    for radius in {"linf": ["0.05", "0.1"], "l2": ["0.2", "0.5"], "l1": ["0.5", "1"], "l0": ["1", "2"]}[norm]:
        threat = parse(f"{norm}:{radius}")
        distance, need = targets.estimates(threat, split.x, slope, -gap.squeeze(1))
        torch.testing.assert_close(distance.double(), exact.double(), rtol=1e-3, atol=1e-4)
        clear = ((exact / threat.r - 1).abs() > 1e-3) | (norm == "l0")
        assert torch.equal((need <= 1)[clear], (exact <= threat.r)[clear])
        assert 0 < (need <= 1).sum() < 24


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_has_the_same_order_in_any_batch(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    model = classifier(net, CLASSES)
    split = toy(model, N)
    together = ordered(model, parse(f"{norm}:1"), split)
    for rows in ([3], [5, 3, 1], list(range(6, 12))):
        assert torch.equal(ordered(model, parse(f"{norm}:1"), split, rows=rows), together[rows])


def test_fewer_targets_are_the_first_of_the_order():
    model = classifier(Linear(CLASSES), CLASSES)
    split = toy(model, N)
    assert torch.equal(ordered(model, parse("l2:1"), split, n=2), ordered(model, parse("l2:1"), split)[:, :2])


def test_without_a_gradient_the_order_is_that_of_the_logits():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.arange(float(CLASSES)) + 0 * x.flatten(1).sum(dim=1, keepdim=True)

    model = classifier(Flat(), CLASSES)
    x, y = torch.rand(3, 1, 4, 5), torch.full((3,), CLASSES - 1)
    logits = model(x).detach()
    order = targets.by_first_order(model, parse("linf:0.1"), x, y, logits, 4)
    assert torch.equal(order, targets.by_logits(logits, y, 4))


def test_the_order_is_named_in_the_key_only_where_it_is_not_that_of_the_logits():
    assert APGD(targets=9).spec == "apgd(loss='cross-entropy', staged=True, steps=100, targets=9)"
    new = APGD(targets=9, target_order="first-order")
    assert new.spec == "apgd(loss='cross-entropy', staged=True, steps=100, target_order='first-order', targets=9)"
    assert build(*parse_attack(new.spec)) == new


def test_the_search_for_a_class_is_the_same_in_either_order():
    """All wrong classes together break the same images, whatever their order: only what comes first changes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    model = classifier(net, CLASSES)
    split, threat = toy(model, N), parse("linf:0.05")
    settings = {"steps": 6, "targets": CLASSES - 1}
    found = [
        run(model, threat, APGD(**settings, target_order=order), split, items(model, APGD(**settings), split, range(N)))
        for order in ("logits", "first-order")
    ]
    assert {item: x is None for item, x in found[0].items()} == {item: x is None for item, x in found[1].items()}
    for item, x_adv in found[0].items():
        if x_adv is not None:
            assert torch.equal(x_adv, found[1][item])


@pytest.mark.parametrize("text", ["pgd(target_order=first-order)", "square(target_order=first-order)"])
def test_an_attack_that_aims_at_no_class_has_no_order(text):
    with pytest.raises(UserError, match="aims at no class here; set targets, such as targets=9"):
        build(*parse_attack(text))


def test_the_cost_of_the_order_counts():
    plain, ordered = (
        protocols.load("quick", "digits").with_attacks([f"apgd(targets=3{more})"]).threats[0]
        for more in ("", ", target_order=first-order")
    )
    one = cost.of_attack(plain, plain.attacks[0], 10)
    assert cost.of_attack(ordered, ordered.attacks[0], 10) == one + cost.Cost(9, 0)
