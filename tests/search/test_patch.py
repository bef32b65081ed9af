"""Patches on a linear model against the best patch of all places."""

import pytest
import torch

from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks.patch import PatchPGD, cut, pasted

from ..exact_distances import Linear, classifier, toy
from .running import broken_rows

SHAPE, N = (2, 8, 11), 24


@pytest.fixture(scope="module")
def model():
    return classifier(Linear(2, SHAPE), 2, SHAPE)


@pytest.fixture(scope="module")
def split(model):
    return toy(model, N, edges=False)


def best_margins(model, split, side):
    """The highest margin that a patch of this side can reach, of each image: every place is tried."""
    x, y = split.x, split.y
    seen = differentiate(model, PatchPGD().objective, x, y, y)
    gain = torch.maximum(seen.grad * (1 - x), -seen.grad * x).sum(dim=1)
    height, width = min(side, SHAPE[1]), min(side, SHAPE[2])
    places = [
        gain[:, row : row + height, column : column + width].sum(dim=(1, 2))
        for row in range(SHAPE[1] - height + 1)
        for column in range(SHAPE[2] - width + 1)
    ]
    return seen.loss + torch.stack(places).amax(dim=0)


@pytest.mark.parametrize("side", [1, 2, 20])
def test_on_a_linear_model_the_second_query_is_the_best_patch_of_all(model, split, side):
    threat, attack = parse(f"patch:{side}px"), PatchPGD()
    batch = Batch(split.x, split.y, split.y, torch.arange(N))
    state = attack.start(threat, batch)
    for _ in range(2):
        x_adv = attack.query(threat, batch, state)
        assert threat.contains(x_adv, split.x).all()
        seen = differentiate(model, attack.objective, x_adv, split.y, split.y)
        state = attack.step(threat, batch, state, seen)
    torch.testing.assert_close(seen.loss, best_margins(model, split, side), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_it_breaks_exactly_the_images_that_some_patch_breaks(model, split, slots):
    best = best_margins(model, split, 1)
    expected = {row for row in range(N) if best[row] > 0}
    assert 0 < len(expected) < N, "both outcomes must occur"
    attack = PatchPGD(steps=3)
    assert broken_rows(model, parse("patch:1px"), attack, split, range(N), slots=slots) == expected


def test_from_a_random_place_the_patch_walks_to_where_the_loss_is_higher():
    """The gain grows towards one corner, so every move towards it is accepted."""
    linear = Linear(2, (1, 12, 12))
    slope = torch.arange(12.0)[:, None] + torch.arange(12.0)
    linear.weight.data = torch.stack([torch.zeros(144), slope.flatten()])
    linear.bias.data = torch.tensor([1e4, 0.0])
    model = classifier(linear, 2, (1, 12, 12))
    x, y = torch.full((6, 1, 12, 12), 0.5), torch.zeros(6).long()
    threat, attack = parse("patch:3px"), PatchPGD(begin="random", stride=1, steps=160)
    batch = Batch(x, y, y, torch.arange(6) * 7919)
    state = attack.start(threat, batch)
    losses = []
    assert len({tuple(place) for place in state.place.tolist()}) > 3
    for move in range(160):
        x_adv = attack.query(threat, batch, state)
        assert threat.contains(x_adv, x).all()
        seen = differentiate(model, attack.objective, x_adv, y, y)
        losses += [seen.loss] if move % 2 == 0 else []
        state = attack.step(threat, batch, state, seen)
    assert (torch.stack(losses).diff(dim=0) >= -1e-2).all(), "the accepted patch never becomes worse"
    assert state.place.tolist() == [[9, 9]] * 6
    torch.testing.assert_close(state.delta, torch.ones(6, 1, 3, 3))


def test_a_patch_is_pasted_at_its_place_and_cut_out_again():
    x, content = torch.rand(3, 2, 5, 6), torch.rand(3, 2, 2, 3)
    places = torch.tensor([[0, 0], [3, 3], [1, 2]])
    pasted_images = pasted(x, content, places)
    for number, (row, column) in enumerate(places.tolist()):
        wanted = x[number].clone()
        wanted[:, row : row + 2, column : column + 3] = content[number]
        assert torch.equal(pasted_images[number], wanted)
    assert torch.equal(cut(pasted_images, places, content), content)
