"""Why a model looks no better than chance: each usual mistake is planted in a good model, and named."""

import pytest
import torch
from torch import nn

from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.datasets import DATASETS
from robench.problem.diagnosis import likely_cause, near_guessing
from robench.problem.split import Split


@pytest.fixture(scope="module")
def net():
    return load("digits-nat").classifier.module


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits").part("200")


class Fed(nn.Module):
    """A network behind something that is done to its images and its answers."""

    def __init__(self, net, images=lambda x: x, answers=lambda z: z):
        super().__init__()
        self.net, self.images, self.answers = net, images, answers

    def forward(self, x):
        return self.answers(self.net(self.images(x)))


def cause(module, split, classes=10):
    classifier = Classifier(module, name="m", architecture="m", shape=split.shape, classes=classes)
    return likely_cause(classifier, split)


def right(module, split):
    with torch.no_grad():
        return (module(split.x).argmax(dim=1) == split.y).float().mean().item()


def test_a_good_model_has_nothing_to_explain(net, digits):
    assert right(net, digits) > 0.9
    assert cause(net, digits) is None


def undo(mean, std):
    """What a network does that was trained on (x - mean) / std: here, one that turns it back first."""
    shape = (-1, 1, 1)
    mean, std = torch.tensor(mean).view(shape), torch.tensor(std).view(shape)
    return lambda x: x * std + mean


@pytest.mark.parametrize(
    ("wants", "message"),
    [
        (lambda x: x / 255, "pixels from 0 to 255: add --normalise 0/0.003921569"),
        (lambda x: 1 - x, "inverted brightness: add --normalise 1/-1"),
        (lambda x: x.transpose(2, 3), "rows and columns swapped"),
    ],
)
def test_the_missing_preprocessing_is_named(net, digits, wants, message):
    module = Fed(net, images=wants)
    assert right(module, digits) < 0.5
    assert message in cause(module, digits)


def test_normalisation_is_named_by_the_data_set():
    """A nearest-mean classifier of flat grey images is right at every brightness, and wrong behind a shift."""
    levels = torch.linspace(0.05, 0.95, 10)
    noise = 0.02 * torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(200) % 10
    split = Split.whole("grey", (levels[y].view(-1, 1, 1, 1) + noise).clamp(0, 1), y, 10)

    class Nearest(nn.Module):
        def forward(self, x):
            return -(x.mean(dim=(1, 2, 3))[:, None] - levels).abs()

    assert right(Nearest(), split) == 1
    for name in ("mnist", "fashion-mnist"):
        data = DATASETS[name]
        module = Fed(Nearest(), images=undo(data.mean, data.std))
        assert right(module, split) < 0.5
        assert f"add --normalise {name} (this changes the accuracy on the first 200 images from" in cause(module, split)
    module = Fed(Nearest(), images=undo((0.5,), (0.5,)))
    assert "add --normalise 0.5/0.5" in cause(module, split)


@pytest.mark.parametrize(
    ("data", "named"), [("fashion-mnist:test", "fashion-mnist"), ("mnist:test", "mnist"), ("mine.npz", "mnist")]
)
def test_of_normalisations_that_explain_as_much_the_one_of_the_data_is_named(data, named):
    y = torch.arange(200) % 2
    split = Split.whole(data, torch.where(y == 1, 0.8, 0.2).view(-1, 1, 1, 1).expand(200, 1, 4, 4), y, 2)

    class BrighterThanOne(nn.Module):
        def forward(self, x):
            level = x.mean(dim=(1, 2, 3))
            return torch.stack([1 - level, level - 1], dim=1)

    assert right(BrighterThanOne(), split) == 0.5
    assert f"add --normalise {named} (" in cause(BrighterThanOne(), split)


@pytest.fixture(scope="module")
def coloured(digits):
    """Digits in the first channel; other digits, that mean nothing, in the last."""
    other = digits.x.flip(0)
    return Split("coloured:test", torch.cat([digits.x, other / 2, other], dim=1), digits.y, digits.numbers, 10)


def test_the_order_of_channels_is_named(net, coloured):
    assert right(Fed(net, images=lambda x: x[:, :1]), coloured) > 0.9
    module = Fed(net, images=lambda x: x[:, 2:])  # made for BGR
    assert right(module, coloured) < 0.3
    assert "expect colour channels in the order BGR" in cause(module, coloured)


@pytest.mark.parametrize("shift", [1, 4])
def test_the_order_of_labels_is_named(net, digits, shift):
    module = Fed(net, answers=lambda z: z.roll(shift, dims=1))
    assert right(module, digits) < 0.2
    assert f"its classes seem to be in another order: it predicts {shift} for 0, " in cause(module, digits)


def test_labels_that_start_at_one_in_a_model_with_more_outputs_are_named(net, digits):
    module = Fed(net, answers=lambda z: torch.cat([z[:, :1] * 0 - 100, z], dim=1))
    assert "it predicts 1 for 0, 2 for 1" in cause(module, digits, classes=11)


@pytest.mark.parametrize("n", [5, 10, 20, 50, 200])
@pytest.mark.parametrize("seed", range(4))
def test_a_random_model_gets_no_explanation(digits, n, seed):
    """With few images some order of ten labels always fits guesses well."""
    table = torch.randint(10, (1000,), generator=torch.Generator().manual_seed(seed))

    class Guesses(nn.Module):
        def forward(self, x):
            place = (x.flatten(1) * torch.arange(784) ** 1.5).sum(dim=1).long() % 1000
            return nn.functional.one_hot(table[place], 10).float()

    assert cause(Guesses(), digits.part(str(n))) is None


def test_chance_accuracy_is_distinguished_from_better_accuracy():
    assert near_guessing(10, 100, 10)
    assert near_guessing(0, 100, 10)
    assert near_guessing(18, 100, 10)  # three standard deviations of 3
    assert not near_guessing(20, 100, 10)
    assert near_guessing(1, 2, 10)
    assert near_guessing(50, 100, 2)
    assert not near_guessing(70, 100, 2)
