"""Common corruptions as an attack: against brute force, and from a run to its verification."""

import pytest
import torch

from robench.evidence.referee import Referee
from robench.problem.threats import parse
from robench.problem.threats.base import stacked
from robench.search.attack import Batch
from robench.search.attacks.corruptions import Corruptions

from ..exact_distances import Linear, classifier, toy
from .running import ends, items, job

N, SHAPE = 24, (3, 8, 11)
THREAT = parse("corruption:gaussian_noise+fog+contrast@1-3")


@pytest.fixture(scope="module")
def model():
    return classifier(Linear(5, SHAPE), 5, SHAPE)


@pytest.fixture(scope="module")
def split(model):
    return toy(model, N, edges=False)


@pytest.mark.costly
@pytest.mark.parametrize(("steps", "slots"), [(70, 1), (70, 64), (14, 8), (1, 8)])
def test_the_attack_breaks_exactly_what_one_of_the_corruptions_breaks(model, split, steps, slots):
    expected = set()
    for row in range(N):
        params = torch.tensor([[number, severity, 0.0] for number, severity in THREAT.images])
        x_adv = THREAT.apply(split.x[[row]].expand(len(params), *SHAPE), params)
        if (model(x_adv).argmax(dim=1) != split.y[row]).any():
            expected.add(row)
    assert 0 < len(expected) < N, "both outcomes must occur"
    attack = Corruptions(steps=steps)
    ended = ends(model, split, job(THREAT, attack, items(model, attack, split, range(N))), slots=slots)
    finds = {end.item.row: end for end in ended if end.x_adv is not None}
    assert finds.keys() == expected
    for row, end in finds.items():
        at = split.x[[row]], split.y[[row]], end.x_adv[None]
        (decision,) = Referee(model).judge(THREAT, *at, stacked([end.params]))
        assert decision.accepted, decision.reason
        (decision,) = Referee(model).judge(THREAT, *at)
        assert decision.reason == f"is not in {THREAT}"


@pytest.mark.parametrize("steps", [70, 14, 9, 1])
def test_each_image_of_the_set_is_queried_and_the_severest_come_first(steps):
    attack, batch = Corruptions(steps=steps), Batch(torch.rand(2, *SHAPE), *torch.zeros(3, 2).long())
    state, queried = attack.start(THREAT, batch), []
    for _ in range(attack.max_queries(THREAT)):
        queried += attack.params(THREAT, batch, state)[1].tolist()
        state = attack.step(THREAT, batch, state, torch.zeros(2, attack.queries_per_step).long())
    assert list(dict.fromkeys((n, severity) for n, severity, _ in queried)) == list(THREAT.images)
    assert len(queried) < len(THREAT.images) + attack.queries_per_step
