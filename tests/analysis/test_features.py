"""What the last layer reads is known by construction; neighbours in it are neighbours in the plane."""

import numpy as np
import pytest
import torch
from torch import nn

from robench.analysis.features import penultimate, plane
from robench.errors import UserError
from robench.problem.classifier import Classifier


def classifier(module):
    return Classifier(module, name="net", architecture="a", shape=(1, 4, 4), classes=3)


def groups(*, size=12, seed=0):
    """Three groups of points in ten dimensions, far from one another."""
    noise = torch.randn(3, size, 10, generator=torch.Generator().manual_seed(seed))
    return (noise + 40 * torch.eye(3, 10)[:, None]).flatten(0, 1)


class Twice(nn.Module):
    """Calls its dense layers in another order than they are registered."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(5, 3), nn.Linear(16, 5)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


class Functional(nn.Module):
    """Has no layer that can be observed, as compiled models."""

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), torch.ones(3, 16))


def test_features_are_what_the_last_dense_layer_that_runs_reads():
    torch.manual_seed(0)
    net = Twice()
    images = torch.rand(300, 1, 4, 4)  # more than one batch
    found = penultimate(classifier(net), images, seed=0)
    with torch.no_grad():
        features = net.first(images.flatten(1)).relu()
        torch.testing.assert_close(found.features, features)
        torch.testing.assert_close(found.logits, net.last(features))
    assert not any(m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()),
        nn.Sequential(nn.Flatten(2), nn.Linear(16, 3), nn.Flatten()),
        Functional(),
    ],
    ids=["convolution", "a row per channel", "no module"],
)
def test_a_model_without_a_dense_layer_at_its_end_has_no_features(module):
    with pytest.raises(UserError, match="net shows no dense layer at its end, so no features before it"):
        penultimate(classifier(module), torch.rand(2, 1, 4, 4), seed=0)


def test_groups_stay_together_in_the_plane():
    places = torch.from_numpy(plane(groups(), seed=0)).view(3, 12, 2)
    centres = places.mean(dim=1)
    nearest = torch.cdist(places.flatten(0, 1), centres).argmin(dim=1)
    assert nearest.tolist() == [i for i in range(3) for _ in range(12)]


def test_the_same_features_have_the_same_places():
    rows = groups()
    places = plane(torch.cat([rows, rows[:4]]), seed=3)
    np.testing.assert_array_equal(places[-4:], places[:4])
    np.testing.assert_array_equal(plane(torch.cat([rows, rows[:4]]), seed=3), places)


def test_a_single_feature_has_a_plane():
    assert plane(torch.arange(6.0)[:, None], seed=0).shape == (6, 2)


def test_four_different_images_are_too_few():
    with pytest.raises(UserError, match="only 4 images have different features, too few for a picture of them"):
        plane(torch.eye(4).repeat(3, 1), seed=0)
