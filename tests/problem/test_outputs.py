"""Which part of what a model returns is taken as its logits."""

from collections import namedtuple

import pytest
import torch
from torch import nn

import robench
from robench.problem.outputs import as_logits
from robench.problem.python_model import own_module

X = torch.linspace(0, 1, 6 * 12).view(6, 1, 3, 4)
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
Output = namedtuple("Output", "aux logits")


class Returning(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(NETWORK(x), x.flatten(1))


def taken(form):
    module, notes = as_logits(Returning(form), X, 5)
    assert torch.equal(module(X), NETWORK(X))
    return notes


def test_the_logits_of_a_named_tuple_go_by_their_name():
    assert taken(lambda logits, features: Output(features[:, :5], logits)) == (
        "of what the model returns (Output), 'logits' is taken as the logits",
    )


def test_of_tensors_without_names_one_with_a_column_for_each_class_is_taken():
    (note,) = taken(lambda logits, features: (features, logits))
    assert note.endswith("'1' is taken as the logits; 0 would fit as well")


def test_of_tensors_as_wide_as_the_data_have_classes_the_first_is_taken():
    (note,) = taken(lambda logits, features: [logits, features[:, :5]])
    assert note.endswith("'0' is taken as the logits; 1 would fit as well")


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (lambda logits, _: logits.to_sparse(), "a sparse tensor of 6x5"),
        (lambda logits, _: logits + 0j, "a complex64 tensor of 6x5"),
        (lambda logits, _: logits > 0, "a bool tensor of 6x5"),
    ],
)
def test_what_cannot_be_logits_is_refused_and_named(form, kind):
    with pytest.raises(robench.UserError, match=f"answers 6 images with {kind}, not 6xK logits"):
        as_logits(Returning(form), X, 5)


def test_the_class_of_a_network_is_no_model():
    with pytest.raises(robench.UserError, match="Linear is a class, not a model; give a network of it"):
        own_module(nn.Linear, X, 5, torch.device("cpu"))
