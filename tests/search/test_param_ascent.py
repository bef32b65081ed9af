"""Ascent on parameters against the exact maximum of a linear loss."""

import pytest
import torch

from robench.evidence.referee import Referee
from robench.problem.noise import keyed
from robench.problem.threats import parse
from robench.problem.threats.base import stacked
from robench.search.attack import Batch, differentiate
from robench.search.attacks import build
from robench.search.attacks.param_ascent import ParamAscent

from ..exact_distances import Linear, classifier, toy
from .running import ends, items, job

SHAPE, CLASSES, N = (3, 16, 16), 2, 5
SMALL = ["jpeg-linf:0.02", "jpeg-l2:0.4", "jpeg-l1:5"]  # so small that no pixel of a grey image leaves the box


@pytest.fixture(scope="module")
def model():
    return classifier(Linear(CLASSES, SHAPE), CLASSES, SHAPE)


def gain(threat, grad):
    """The most that a linear loss of this gradient for the parameters can gain in the ball."""
    reach, peak = grad.abs(), float(threat.peak)
    if threat.name == "jpeg-l2":
        return threat.r * grad.norm(dim=1)
    if threat.name == "jpeg-l1":
        full, rest = divmod(threat.r, peak)
        top = reach.sort(dim=1, descending=True).values
        return peak * top[:, : int(full)].sum(dim=1) + rest * top[:, int(full)]
    return threat.r * reach.sum(dim=1)


def slope():
    """Images whose brightness is linear in the place, so that a flow changes it linearly."""
    down, across = torch.meshgrid(*[torch.linspace(-0.3, 0.3, 16)] * 2, indexing="ij")
    turn = torch.linspace(0, 3, N)[:, None, None, None]
    return (0.5 + turn.cos() * down + turn.sin() * across).expand(N, *SHAPE)


@pytest.fixture(scope="module")
def middle(model):
    """The model, without the pixels near the edge, which a flow replaces by black."""
    linear = Linear(CLASSES, SHAPE)
    linear.weight.data = model.module.weight.data.clone().view(CLASSES, *SHAPE)
    linear.weight.data[:, :, [0, 1, -2, -1]] = 0
    linear.weight.data[..., [0, 1, -2, -1]] = 0
    linear.weight.data = linear.weight.data.flatten(1)
    return classifier(linear, CLASSES, SHAPE)


@pytest.mark.costly
@pytest.mark.parametrize("by", ["apgd", "pgd", "frank-wolfe"])
@pytest.mark.parametrize("text", [*SMALL, "elastic:0.5"])
def test_on_a_linear_model_the_attack_comes_to_the_exact_maximum(model, middle, text, by):
    threat, attack = parse(text), ParamAscent(by=by, steps=60)
    x = 0.4 + 0.2 * torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    if threat.name == "elastic":
        x, model = slope(), middle
    y = model(x).argmax(dim=1)
    params = torch.zeros(N, threat.n_params(SHAPE), requires_grad=True)
    logits = model(threat.apply(x, params))
    margin = attack.objective(logits, y, y)
    (grad,) = torch.autograd.grad(margin.sum(), params)
    best = margin.detach() + gain(threat, grad)
    batch = Batch(x, y, y, keyed(0, torch.arange(N), restart=0))
    state, top = attack.start(threat, batch), torch.full((N,), -torch.inf)
    for _ in range(attack.max_queries(threat)):
        x_adv, used = attack.query(threat, batch, state), attack.params(threat, batch, state)[:, 0]
        seen = differentiate(model, attack.objective, x_adv, y, y)
        inside = threat.contains(x_adv, x, used)
        top = torch.where(inside, torch.maximum(top, seen.loss), top)
        state = attack.step(threat, batch, state, seen)
    close = 0.05 if by == "pgd" else 0.01  # steps of one length, under l1 shared equally
    reached = (top - margin.detach()) / (best - margin.detach())
    assert (reached > 1 - close).all(), reached
    assert (reached < 1 + 1e-4).all(), "beyond the set"


@pytest.mark.costly
@pytest.mark.parametrize("text", [*SMALL, "elastic:0.5"])
def test_finds_carry_the_parameters_from_which_the_referee_makes_the_image(model, text):
    split = toy(model, 12, edges=False)
    threat = parse(text)
    attack = ParamAscent(steps=10)
    ended = ends(model, split, job(threat, attack, items(model, attack, split, range(12))), slots=5)
    finds = [end for end in ended if end.x_adv is not None]
    assert finds
    for end in finds:
        at = split.x[[end.item.row]], split.y[[end.item.row]], end.x_adv[None]
        assert len(end.params) == 4 * threat.n_params(SHAPE)
        (decision,) = Referee(model).judge(threat, *at, stacked([end.params]))
        assert decision.accepted, decision.reason
        (decision,) = Referee(model).judge(threat, *at)
        assert decision.reason == f"is not in {text}"


def test_jobs_with_parameters_of_different_lengths_run_beside_each_other(model):
    split = toy(model, 12, edges=False)
    grid = build("grid", {"translations": 3, "rotations": 3})
    pgd = build("pgd", {"steps": 5, "random_start": False})
    planned = [(parse(text), ParamAscent(steps=5)) for text in (*SMALL, "elastic:0.5")]
    planned += [(parse("linf:0.01"), pgd), (parse("rt:1px,10deg"), grid)]
    jobs = [job(threat, attack, items(model, attack, split, range(12))) for threat, attack in planned]
    alone = [job(threat, attack, items(model, attack, split, range(12))) for threat, attack in planned]
    together = {(end.job.attack, str(end.job.threat), end.item): end for end in ends(model, split, *jobs, slots=7)}
    assert len(together) == 72
    for one in alone:
        for end in ends(model, split, one, slots=7):
            other = together[end.job.attack, str(end.job.threat), end.item]
            assert (end.x_adv is None) == (other.x_adv is None)
            torch.testing.assert_close(stacked([end.params]), stacked([other.params]), atol=1e-4, rtol=0)
