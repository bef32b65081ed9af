"""Parameters of images outside of tensors: how claims carry them, and threat models read them."""

import pytest
import torch

from robench.evidence import records
from robench.evidence.rows import blob
from robench.problem.threats import THREATS
from robench.problem.threats.base import MAX_PARAMS, MIN_MANY, N_PARAMS, fitted, packed, stacked


@pytest.mark.parametrize("n", [3, 4, 15, 16, 17, 1536])
def test_parameters_are_the_same_after_they_were_packed(n):
    params = torch.randn(5, n, generator=torch.Generator().manual_seed(0))
    params[1] = 0
    params[2, N_PARAMS:] = 0
    again = stacked([packed(row) for row in params])
    assert torch.equal(fitted(again, params, n), params)
    assert not again[:, n:].any()
    assert packed(params[1]) == ()
    assert packed(params[2]) == tuple(params[2, :3].tolist())


def test_a_run_file_shows_the_form_by_its_length():
    assert blob(()) is None
    assert len(blob((1.0, 2.0, 3.0))) == 24
    assert len(blob(packed(torch.ones(4)))) == 4 * MIN_MANY > 24
    assert len(blob(packed(torch.ones(100)))) == 400


def test_run_files_hold_as_many_parameters_as_threat_models_may_have():
    assert (records.MAX_PARAMS, records.MIN_MANY) == (MAX_PARAMS, MIN_MANY)


def test_parameters_of_no_image_and_of_images_of_different_lengths_can_be_stacked():
    assert stacked([]).shape == (0, 3)
    assert stacked([(), (1.0, 2.0, 3.0)]).tolist() == [[0, 0, 0], [1, 2, 3]]
    assert stacked([packed(torch.ones(20)), ()]).sum(dim=1).tolist() == [20, 0]


@pytest.mark.parametrize("name", THREATS)
def test_every_threat_model_says_how_many_parameters_an_image_has(name):
    n = THREATS[name].n_params((3, 32, 32))
    assert n == N_PARAMS or MIN_MANY <= n <= MAX_PARAMS


def test_a_threat_model_reads_as_many_as_it_has_and_those_that_are_missing_are_0():
    x, params = torch.zeros(2, 1, 4, 4), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
    assert fitted(params, x, 2).tolist() == [[1, 2], [0, 0]]
    assert fitted(params, x, 5).tolist() == [[1, 2, 3, 0, 0], [0, 0, 4, 0, 0]]
    assert fitted(None, x, 4).tolist() == [[0] * 4] * 2
