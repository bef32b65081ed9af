"""sigma-zero against linear models, whose exact distances in pixels are greedy, and against a slower twin."""

import math

import pytest
import torch

from robench.errors import UserError
from robench.problem.threats import parse
from robench.search.attack import Batch, Seen
from robench.search.attacks.sigma_zero import SigmaZero

from ..exact_distances import SHAPE, Linear, classifier, distance
from .nearest import asked_about, check_independence_of_the_batch, edgy, scaled, smallest

EVERY = parse("l0:1000")


@pytest.mark.costly
@pytest.mark.parametrize(
    ("module", "classes"),
    [(Linear(2), 2), (Linear(3), 3), (scaled(Linear(2), 1e3, -1e5), 2), (scaled(Linear(2), 1e-3, -0.01), 2)],
    ids=["2 classes", "3 classes", "logits times 1000, all negative", "logits over 1000"],
)
def test_the_fewest_changed_pixels_are_those_of_the_greedy_solution(module, classes):
    """One channel: the l0 distance of a hyperplane takes the pixels of the largest gains, each to the edge."""
    model = classifier(module, classes)
    x, y = edgy(model)
    exact = torch.tensor([distance(module, x[row], int(y[row]), "l0") for row in range(len(x))])
    found = smallest(model, SigmaZero(steps=300), "l0", x, y)
    reachable = exact.isfinite()
    assert reachable.sum() > len(x) / 2
    assert found[~reachable].isinf().all()
    assert (found >= exact)[reachable].all()
    assert (found == exact)[reachable].float().mean() > 0.8
    assert (found <= exact + 2)[reachable].all()


def test_a_pixel_of_several_channels_counts_once():
    """Two classes and three channels: the pixels whose channels together gain most are the fewest."""
    shape = (3, 4, 5)
    module = Linear(2, shape)
    model = classifier(module, 2, shape)
    x, y = edgy(model)
    found = smallest(model, SigmaZero(steps=300), "l0", x, y)
    weight = module.weight.detach()
    slope = (weight[1 - y] - weight[y]).view(len(x), *shape)
    logits = model(x)
    gap = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    gain = (slope.abs() * torch.where(slope > 0, 1 - x, x)).sum(dim=1).flatten(1)
    reached = gain.sort(dim=1, descending=True).values.cumsum(dim=1) >= gap[:, None]
    exact = torch.where(reached.any(dim=1), reached.int().argmax(dim=1) + 1.0, torch.inf)
    ends = exact.isfinite()
    assert ends.sum() > len(x) / 2
    assert (found >= exact).all()
    assert (found == exact)[ends].float().mean() > 0.8


def twin(model, x, y, steps, sigma=1e-3, threshold=0.3, rate=0.01):
    """Algorithm 1 of the paper for one image of one channel, with torch's own Adam; all points it queries."""
    delta = torch.zeros_like(x, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=1.0)
    queried = []
    for i in range(steps + 1):
        queried.append(delta.detach().clone())
        logits = model((x + delta)[None])[0]
        wrong = torch.cat([logits[:y], logits[y + 1 :]]).max()
        hinge = (logits[y] - wrong).clamp(min=0)
        count = (delta**2 / (delta**2 + sigma)).mean()
        (grad,) = torch.autograd.grad(hinge + count, delta)
        fooled = bool(wrong > logits[y])
        eta = 0.1 + 0.9 * (1 + math.cos(math.pi * i / steps)) / 2
        adam.param_groups[0]["lr"] = eta
        delta.grad = grad / grad.abs().max().clamp(min=1e-12)
        adam.step()
        threshold = min(max(threshold + (rate * eta if fooled else -rate * eta), 0.0), 1.0)
        with torch.no_grad():
            delta.copy_((x + delta).clamp(0, 1) - x)
            delta[delta.abs() < threshold] = 0
    return torch.stack(queried)


@pytest.mark.costly
def test_it_queries_the_points_of_the_papers_algorithm():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    model = classifier(net, 3)
    x, y = edgy(model)
    steps = 40
    asked = asked_about(model, SigmaZero(steps=steps), EVERY, x, y, y)
    assert asked.shape == (steps + 1, len(x), *SHAPE)
    for row in range(len(x)):
        torch.testing.assert_close(asked[:, row], twin(model, x[row], int(y[row]), steps), atol=2e-3, rtol=0)


def test_an_example_has_the_same_result_in_any_batch():
    check_independence_of_the_batch(SigmaZero(steps=40), "l0")


def test_every_query_lies_in_the_box_and_changes_no_pixel_by_less_than_the_threshold():
    model = classifier(Linear(3, (3, 4, 5)), 3, (3, 4, 5))
    x, y = edgy(model)
    asked = asked_about(model, SigmaZero(steps=60), EVERY, x, y, y)
    assert ((x + asked >= 0) & (x + asked <= 1)).all()
    largest = asked.abs().amax(dim=2)
    assert largest[largest > 0].min() > 0.01, "a small change is undone"


@pytest.mark.parametrize(("third", "fooled"), [(-1.0, True), (2.0, False), (torch.nan, False)])
def test_the_threshold_rises_after_a_find_and_falls_otherwise(third, fooled):
    """Logits with a NaN are no find, though another class than the label has the highest of the others."""
    attack, x = SigmaZero(steps=100), torch.full((1, 1, 2, 2), 0.5)
    batch = Batch(x, torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    logits = torch.tensor([[0.0, 1.0, third]]) if third != 2.0 else torch.tensor([[1.0, 0.0, -1.0]])
    seen = Seen(logits, logits[:, 1] - logits[:, 0], torch.ones_like(x))
    after = attack.step(EVERY, batch, attack.start(EVERY, batch), seen)
    assert after.threshold.item() == pytest.approx(0.31 if fooled else 0.29)


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"threshold": 1.5}, {"steps": 0}, {"step_size": 0.0}])
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="sigma-zero cannot take"):
        SigmaZero(**settings)
