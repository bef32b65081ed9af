"""Steps of some rows of a batch."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from robench.search.attack import State
from robench.search.some_rows import rows_where, some, step_where


@dataclass(frozen=True)
class Counted(State):
    """A state with one more field."""

    count: Tensor


STATE = Counted(torch.arange(12.0).view(4, 3), torch.arange(4))
MASKS = [[], [2], [0, 3], [0, 1, 2, 3]]


def mask_of(rows):
    mask = torch.zeros(4, dtype=torch.bool)
    mask[rows] = True
    return mask


@pytest.mark.parametrize("rows", MASKS)
def test_rows_of_the_mask_make_a_step_and_the_others_stay(rows):
    sizes, mask = [], mask_of(rows)

    def step(state, weight):
        sizes.append(len(weight))
        return replace(state, delta=state.delta * weight[:, None])

    weight = torch.tensor([2.0, 3.0, 4.0, 5.0])
    after = step_where(mask, step, STATE, weight)
    assert torch.equal(after.delta, torch.where(mask[:, None], STATE.delta * weight[:, None], STATE.delta))
    assert torch.equal(after.count, STATE.count)
    assert sizes == ([max(len(rows), 2)] if rows else []), "a lone row comes twice, other rows are not computed"


def test_a_mask_of_all_rows_names_none_and_a_lone_row_is_named_twice():
    assert rows_where(mask_of([0, 1, 2, 3])) is None
    assert rows_where(mask_of([2])).tolist() == [2, 2]
    assert rows_where(mask_of([1, 3])).tolist() == [1, 3]


def test_rows_of_a_dataclass_are_rows_of_every_tensor():
    taken = some(STATE, torch.tensor([3, 0]))
    assert torch.equal(taken.delta, STATE.delta[[3, 0]])
    assert taken.count.tolist() == [3, 0]
