"""The hash of a model's weights: it depends on every value, and on nothing else."""

import pytest
import torch
from torch import nn

from robench.problem.classifier import weights_sha256


class Packed(nn.Module):
    """A layer whose state is what a quantised layer has: a tuple, and a type."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.quantize_per_tensor(torch.tensor(values), 0.5, 0, torch.qint8)

    def get_extra_state(self):
        return (self.values, None), torch.qint8

    def set_extra_state(self, state):
        (self.values, _), _ = state


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of quantised tensors
def test_values_in_tuples_count():
    one, same, other = (weights_sha256(Packed(values)) for values in ([1.0, 2.0], [1.0, 2.0], [1.0, 2.5]))
    assert one == same != other


def test_every_value_name_and_type_counts():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    before = weights_sha256(layer)
    assert weights_sha256(nn.Sequential(layer)) != before
    assert weights_sha256(layer.double()) != before
    assert weights_sha256(layer.float()) == before
    with torch.no_grad():
        layer.bias[1] += 1
    assert weights_sha256(layer) != before
