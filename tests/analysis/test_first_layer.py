"""Layers with known thresholds, and a model whose loss as pixels rise is known in closed form."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from robench.analysis.first_layer import filters, rise
from robench.errors import UserError
from robench.problem.architectures.normalise import Normalise
from robench.problem.classifier import Classifier

THRESHOLD, WEIGHTS, BIAS = 0.3, torch.tensor([[0.5, 3.0, 1.0], [2.0, 0.0, -1.0], [4.0, 1.5, 2.5]]), -2.0


def conv(rows, biases, **more):
    """A convolution with these filters and biases."""
    weight = torch.tensor(rows)
    layer = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2:], **more)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.tensor(biases))
    return layer


def model(*layers, shape=(1, 6, 6)):
    return Classifier(nn.Sequential(*layers, nn.Flatten()), name="known", architecture="k", shape=shape, classes=2)


def spike(value, at=4, away=0.0):
    return [[[away if i != at else value for i in range(3 * j, 3 * j + 3)] for j in range(3)]]


class Thresholds(nn.Module):
    """Correct by 2 logits on black; each pixel counts from 0.3 on, with its own weight."""

    def __init__(self, threshold=THRESHOLD):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        above = torch.relu(x.sum(1) - self.threshold) if self.threshold else x.sum(1)
        return torch.stack([torch.zeros(len(x)), BIAS + (above * WEIGHTS).sum((1, 2))], dim=1)


def rise_of(image, module=None, **more):
    known = Classifier(module or Thresholds(), name="t", architecture="t", shape=tuple(image.shape[1:]), classes=2)
    return rise(known, image, torch.tensor([0]), seed=0, **({"points": 11} | more))


def test_a_threshold_is_the_value_at_which_one_pixel_makes_the_output_positive():
    rows = [spike(2.0), spike(0.5, at=8, away=-3.0), spike(1.0), spike(1.0), spike(-1.0), spike(-1.0)]
    layer = conv(rows, [-0.6, -0.2, 0.1, -1.5, -0.1, 0.1], padding=1)
    found = filters(model(layer, nn.ReLU()), seed=0)
    torch.testing.assert_close(found.thresholds, torch.tensor([0.3, 0.4, 0.0, torch.inf, torch.inf, 0.0]))
    assert torch.equal(found.weight, torch.tensor(rows))


def test_thresholds_account_for_a_normalisation_before_the_layer():
    found = filters(model(Normalise((0.5,), (0.25,)), conv([spike(1.0)], [0.8], padding=1)), seed=0)
    torch.testing.assert_close(found.thresholds, torch.tensor([0.3]))


@pytest.mark.parametrize("at", range(9))
def test_with_a_stride_every_weight_of_the_filter_is_measured(at):
    found = filters(model(conv([spike(2.0, at)], [-0.5], stride=3)), seed=0)
    torch.testing.assert_close(found.thresholds, torch.tensor([0.25]))


def test_thresholds_are_for_all_channels_of_a_pixel_at_once():
    layer = conv([spike(1.0) + spike(2.0) + spike(1.0)], [-1.0], padding=1)
    torch.testing.assert_close(filters(model(layer, shape=(3, 6, 6)), seed=0).thresholds, torch.tensor([0.25]))


def test_the_first_layer_is_the_first_that_runs_not_the_first_that_is_registered():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second = conv([spike(1.0)], [0.0], padding=1)
            self.first = conv([spike(1.0)], [-0.7], padding=1)
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x):
            return self.second(self.first(self.norm(x))).flatten(1)

    found = filters(Classifier(Backwards(), name="b", architecture="b", shape=(1, 6, 6), classes=36), seed=0)
    torch.testing.assert_close(found.thresholds, torch.tensor([0.7]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("layers", [(nn.Flatten(), nn.Linear(36, 2)), (nn.Flatten(),)])
def test_a_model_whose_first_layer_is_no_convolution_is_refused(layers):
    with pytest.raises(UserError, match="known shows no convolution as its first layer, so no filters; leave it out"):
        filters(model(*layers), seed=0)


def test_the_model_is_left_without_hooks():
    known = model(conv([spike(1.0)], [0.0]))
    filters(known, seed=0)
    assert not any(m._forward_hooks for m in known.module.modules())


def test_the_black_pixels_that_raise_the_loss_most_are_chosen():
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 2, 0] = 0.01  # would raise the loss most, but is not black
    assert rise_of(image, pixels=3).pixels == ((0, 1), (2, 2), (1, 0))


def test_the_loss_is_flat_up_to_the_threshold_and_rises_from_there():
    found = rise_of(torch.zeros(1, 1, 3, 3), pixels=2)
    assert found.pixels == ((2, 0), (0, 1))
    above = torch.relu(torch.linspace(0, 1, 11) - THRESHOLD)
    torch.testing.assert_close(found.loss, torch.stack([softplus(BIAS + c * above) for c in (4.0, 3.0)]))
    torch.testing.assert_close(found.together, softplus(BIAS + 7 * above))
    assert torch.equal(found.predicted, torch.zeros(2))


def test_the_prediction_is_the_gradient_at_the_image():
    found = rise_of(torch.zeros(1, 1, 3, 3), Thresholds(threshold=0), pixels=2)
    sure = torch.sigmoid(torch.tensor(BIAS))
    torch.testing.assert_close(found.predicted, sure * torch.tensor([4.0, 3.0]))


def test_a_colour_pixel_rises_in_all_channels_and_is_black_only_in_all():
    image = torch.zeros(1, 3, 3, 3)
    image[0, 1, 2, 0] = 0.01
    found = rise_of(image, Thresholds(threshold=0), pixels=1)
    assert found.pixels == ((0, 1),)
    at = BIAS + 0.04 + 3 * 3.0 * torch.linspace(0, 1, 11)
    torch.testing.assert_close(found.loss[0], softplus(at))
    torch.testing.assert_close(found.predicted, torch.sigmoid(at[:1]) * 9)


def test_an_image_with_fewer_black_pixels_raises_those_it_has():
    image = torch.full((1, 1, 3, 3), 0.5)
    image[0, 0, 1, 1] = 0
    assert rise_of(image).pixels == ((1, 1),)


def test_a_model_without_gradients_is_refused():
    class WithoutGradients(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :2]

    with pytest.raises(UserError, match="t gives no gradients"):
        rise_of(torch.zeros(1, 1, 3, 3), WithoutGradients())
