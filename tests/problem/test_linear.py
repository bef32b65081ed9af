"""The level of a knapsack, and comparisons as numbers, against their definitions."""

import pytest
import torch

from robench.problem.shapes import choose
from robench.problem.threats.base import inward, room
from robench.problem.threats.linear import FEW, level, number

G = torch.Generator().manual_seed(0)
PLAIN = torch.rand(6, 50, generator=G)
CROWDED = 1 + torch.arange(6 * 50).view(6, 50) * 2.0**-20  # more entries than `FEW` between two numbers of few bits
SPARSE = PLAIN * (PLAIN > 0.8)


def level_by_sorting(size, goal, weight):
    """The largest entry that weighs `goal` together with all as large; 0 if there is none."""
    reached = [[(row_w[row >= v].sum() >= goal) * v for v in row] for row, row_w in zip(size, weight, strict=True)]
    return torch.tensor(reached).amax(dim=1, keepdim=True)


@pytest.mark.parametrize("size", [PLAIN, PLAIN.round(), CROWDED, SPARSE, 0 * PLAIN], ids=range(5))
@pytest.mark.parametrize("goal", [1.0, 7.0, 49.5, 60.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_level_is_the_largest_entry_that_weighs_enough_with_all_above(size, goal, weighted):
    weight = (torch.rand(size.shape, generator=G) * 64).round() / 64 if weighted else torch.ones_like(size)
    found = level(size, goal, weight if weighted else None)
    assert torch.equal(found, level_by_sorting(size, goal, weight))
    assert torch.equal(level(size.double(), goal, weight.double() if weighted else None), found.double())


def test_entries_that_share_their_first_bits_are_told_apart_though_they_are_many():
    assert len(CROWDED[0]) > 10 * FEW
    for goal in (1, 2, 25, 50):
        assert torch.equal(level(CROWDED, float(goal)), CROWDED[:, [50 - goal]])


def test_no_entry_is_above_the_level_of_a_goal_of_zero():
    found = level(PLAIN, torch.tensor([[0.0], [1.0]]).repeat(3, 1))
    assert not (PLAIN[::2] >= found[::2]).any()
    assert torch.equal(found[1::2, 0], PLAIN[1::2].amax(dim=1))


def test_a_comparison_as_a_number_is_its_mask():
    assert torch.equal(number(torch.gt, PLAIN, 0.5), (PLAIN > 0.5).float())
    assert torch.equal(number(torch.le, PLAIN, PLAIN[:, :1]), (PLAIN[:, :1] >= PLAIN).float())


def test_the_room_of_a_pixel_ends_at_the_edge_it_moves_towards():
    x, direction = torch.tensor([[0.0, 0.3, 0.3, 0.3, 1.0]]), torch.tensor([[1.0, 1.0, 0.0, -2.0, torch.inf]])
    assert torch.equal(room(direction, x), torch.where(direction > 0, 1 - x, x))


def test_inward_keeps_infinite_gradients_inside_and_drops_them_at_an_edge():
    x, grad = torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]), torch.tensor([[-1.0, 1.0, -1.0, 1.0, -1.0]]) * torch.inf
    assert inward(grad, torch.zeros_like(x), x).tolist() == [[0.0, torch.inf, -torch.inf, 0.0, -torch.inf]]


@pytest.mark.parametrize("rows", [[], [3], [0, 2, 5], list(range(6))])
def test_rows_are_chosen_whole(rows):
    mask = torch.zeros(6, dtype=torch.bool)
    mask[rows] = True
    other = torch.full_like(PLAIN, torch.nan)
    chosen = choose(mask, PLAIN, other)
    assert torch.equal(chosen[mask], PLAIN[mask])
    assert chosen[~mask].isnan().all()
    assert torch.equal(choose(mask, PLAIN[:, 0], PLAIN[:, 1]), torch.where(mask, PLAIN[:, 0], PLAIN[:, 1]))
