"""FMN against linear models, whose exact distances inside the box are known in closed form."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.threats import parse
from robench.search.attacks.fmn import FMN

from ..exact_distances import Linear, classifier
from .nearest import asked_about, check_distances, check_independence_of_the_batch, edgy, linear_models

NORMS = ["linf", "l2", "l1"]


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
@linear_models
def test_the_smallest_delta_is_as_large_as_the_distance(norm, module, classes, shape):
    attack = FMN(steps=100, targets=classes - 1 if classes > 2 else 0)
    check_distances(attack, norm, module, classes, shape, 1.1 if norm == "l1" else 1.05)


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
def test_an_example_has_the_same_result_in_any_batch(norm):
    check_independence_of_the_batch(FMN(steps=40), norm)


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
def test_a_flat_boundary_is_crossed_at_the_second_query(norm):
    """Inside the box the linearised boundary is the boundary, and the first ball reaches gamma beyond it."""
    module = Linear(2)
    model = classifier(module)
    x, y = edgy(model)
    x = 0.4 + 0.2 * x
    y = model(x).argmax(dim=1)
    asked = asked_about(model, FMN(step_size=50.0), parse(f"{norm}:1"), x, y, y)
    assert (asked[0] == 0).all()
    size = parse(f"{norm}:1").size(asked[1])
    near = size < {"linf": 0.2, "l2": 0.3, "l1": 0.3}[norm]  # so that no pixel meets the box
    assert near.sum() > len(x) / 2
    with torch.no_grad():
        assert (model(x + asked[1]).argmax(dim=1) != y)[near].all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_query_lies_in_the_box_and_from_a_find_it_comes_nearer(norm):
    model = classifier(Linear(3, (3, 9, 6)), 3, (3, 9, 6))
    x, y = edgy(model)
    asked = asked_about(model, FMN(steps=60), parse(f"{norm}:1"), x, y, y)
    assert ((x + asked >= 0) & (x + asked <= 1)).all()
    size = parse(f"{norm}:1").size(asked.flatten(0, 1)).view(len(asked), -1)
    with torch.no_grad():
        fooled = model((x + asked).flatten(0, 1)).argmax(dim=1).view(len(asked), -1) != y
    assert fooled.any(dim=0).sum() > len(x) / 2
    after_find = fooled[:-1]
    assert (size[1:] < size[:-1])[after_find].all()


@pytest.mark.parametrize("settings", [{"gamma": 1.0}, {"gamma": 0.0}, {"step_size": 0.0}])
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="fmn cannot take"):
        FMN(**settings)
