"""Poses against brute force, one by one."""

from itertools import product

import numpy as np
import pytest
import torch

from robench.errors import UserError
from robench.evidence.referee import Referee
from robench.problem.threats import parse
from robench.search.attack import Batch
from robench.search.attacks import build
from robench.search.attacks.spatial import Grid, RandomTransforms

from ..exact_distances import Linear, classifier, toy
from .running import ends, items, job

N = 20
SHAPE = (2, 8, 11)
THREAT = parse("rt:0.1px,1deg")
LIMITS = torch.tensor([0.1, 0.1, 1.0])


@pytest.fixture(scope="module")
def model():
    return classifier(Linear(5, SHAPE), 5, SHAPE)


@pytest.fixture(scope="module")
def split(model):
    return toy(model, N, edges=False)


def fallen(model, split, attack, slots=8, threat=THREAT):
    return [
        (end.item.row, end) for end in ends(model, split, job(threat, attack, items(model, attack, split, range(N))),
                                            slots=slots) if end.x_adv is not None
    ]  # fmt: skip


@pytest.mark.costly
@pytest.mark.parametrize("threat", [THREAT, parse("rt-l2:0.1px,1deg+l2:0.03")], ids=str)
def test_the_grid_breaks_exactly_what_one_of_its_transforms_breaks(model, split, threat):
    transforms = LIMITS * torch.tensor(list(product(*(np.linspace(-1, 1, n) for n in (3, 3, 7))))).float()
    expected = set()
    for row in range(N):
        images = threat.apply(split.x[[row]].expand(len(transforms), *SHAPE), transforms)
        if (model(images).argmax(dim=1) != split.y[row]).any():
            expected.add(row)
    attack = Grid(translations=3, rotations=7, steps=9)
    assert 0 < len(expected) < N, "both outcomes must occur"
    for slots in (1, 64):
        assert {row for row, _ in fallen(model, split, attack, slots, threat)} == expected


def test_the_referee_recomputes_a_find_from_its_transform(model, split):
    found = fallen(model, split, Grid(translations=3, rotations=7))
    for row, end in found:
        (decision,) = Referee(model).judge(
            THREAT, split.x[[row]], split.y[[row]], end.x_adv[None], torch.tensor([end.params])
        )
        assert decision.accepted, decision.reason
        assert 0 < decision.size <= 1 + 1e-6
    (decision,) = Referee(model).judge(THREAT, split.x[[row]], split.y[[row]], end.x_adv[None])
    assert (decision.rejection, decision.reason) == ("outside", "is not in rt:0.1px,1deg")


def asked(attack, rows=3):
    """Every pose asked about by each row: (rows, questions, 3)."""
    x = torch.rand(rows, *SHAPE)
    batch = Batch(x, torch.zeros(rows).long(), torch.zeros(rows).long(), torch.arange(rows) * 31)
    state, transforms = attack.start(THREAT, batch), []
    for _ in range(attack.max_queries(THREAT)):
        transforms.append(attack.params(THREAT, batch, state))
        state = attack.step(THREAT, batch, state, torch.zeros(rows, attack.queries_per_step).long())
    return torch.cat(transforms, dim=1)


def test_the_standard_grid_has_the_775_published_transforms_the_farthest_first():
    transforms = asked(Grid()) / LIMITS
    assert transforms.shape == (3, 775, 3)
    expected = {tuple(p) for p in product(range(-2, 3), range(-2, 3), range(-15, 16))}
    whole = (transforms[0] * torch.tensor([2, 2, 15])).round()
    assert {tuple(p) for p in whole.int().tolist()} == expected
    torch.testing.assert_close(whole / torch.tensor([2, 2, 15]), transforms[0], atol=1e-6, rtol=0)
    far = transforms[0].square().sum(dim=1)
    assert (far.diff() <= 1e-5).all()


@pytest.mark.parametrize("steps", [1, 2, 13, 27])
def test_a_grid_that_does_not_divide_evenly_is_queried_completely(steps):
    transforms = asked(Grid(translations=3, rotations=3, steps=steps))
    assert len(transforms[0].unique(dim=0)) == 27


def test_a_grid_of_one_rotation_only_shifts():
    assert (asked(Grid(rotations=1))[..., 2] == 0).all()


def test_random_transforms_fill_the_range_and_differ_between_examples():
    transforms = asked(RandomTransforms(steps=40, transforms=25)) / LIMITS
    assert transforms.abs().max() <= 1 + 1e-6
    assert (transforms.flatten(0, 1).mean(dim=0).abs() < 0.05).all()
    assert (transforms.flatten(0, 1).square().mean(dim=0) - 1 / 3).abs().max() < 0.03
    assert len(transforms.flatten(0, 1).unique(dim=0)) == 3000


def test_random_transforms_find_the_same_in_any_batch(model, split):
    attack = RandomTransforms(steps=3)
    found = {row: end.params for row, end in fallen(model, split, attack)}
    assert 0 < len(found) < N
    assert {row: end.params for row, end in fallen(model, split, attack, slots=64)} == found


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grid", {"targets": 2}),
        ("grid", {"rotations": 0}),
        ("random-transforms", {"transforms": 0}),
        ("random-transforms", {"targets": 1}),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, settings):
    with pytest.raises(UserError):
        build(name, settings)
