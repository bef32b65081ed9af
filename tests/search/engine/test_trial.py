"""An optimisation is used if it changes nothing, and dropped if it raises or changes answers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robench.search.engine.trial import objection_to_smaller_batches, use_channels_last

from ...exact_distances import classifier

SHAPE = (3, 8, 8)
X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.f = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 4)

    def head(self, maps):
        return self.f(maps.flatten(1))

    def forward(self, x):
        return self.head(F.relu(self.a(x)))


class View(Net):
    def head(self, maps):
        return self.f(maps.view(len(maps), -1))


class ByStrides(Net):
    """A network that returns other logits in another memory layout."""

    def head(self, maps):
        return self.f(torch.as_strided(maps, (len(maps), 256), (256, 1)))


class ViewsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps):
        ctx.save_for_backward(maps)
        return maps.clone()

    @staticmethod
    def backward(ctx, grad):
        (maps,) = ctx.saved_tensors
        maps.view(len(maps), -1)
        return grad


class RaisesBackward(Net):
    def head(self, maps):
        return super().head(ViewsBackward.apply(maps))


class Noisy(Net):
    def head(self, maps):
        return super().head(maps + 0.1 * torch.randn_like(maps))


class Centred(Net):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))


class FixedBatch(Net):
    def head(self, maps):
        return self.f(maps.reshape(16, 256))


def laid_out(net):
    return net.a.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_whose_answers_stay_the_same_is_stored_channels_last():
    net = Net()
    assert not use_channels_last(classifier(net, 4, SHAPE), X)
    assert laid_out(net)


@pytest.mark.parametrize(
    ("kind", "words"), [(View, "view size is not compatible"), (ByStrides, "changes the logits"), (Noisy, "changes")]
)
def test_a_network_that_channels_last_would_change_keeps_its_layout_and_answers(kind, words):
    net = kind()
    torch.manual_seed(0)
    before = net(X)
    assert words in use_channels_last(classifier(net, 4, SHAPE), X)
    assert net.a.weight.is_contiguous()
    torch.manual_seed(0)
    assert torch.equal(net(X), before)


def test_a_network_that_would_fail_only_in_the_backward_pass_keeps_its_layout():
    net = RaisesBackward()
    assert "view size is not compatible" in use_channels_last(classifier(net, 4, SHAPE), X)
    assert net.a.weight.is_contiguous()


def test_an_error_that_also_occurs_without_channels_last_is_no_objection():
    class NoGradient(Net):
        def forward(self, x):
            return super().forward((x * 255).to(torch.uint8).float() / 255)

    assert not use_channels_last(classifier(NoGradient(), 4, SHAPE), X)


def test_smaller_batches_are_used_if_rows_are_independent():
    assert not objection_to_smaller_batches(classifier(Net(), 4, SHAPE), X)
    assert not objection_to_smaller_batches(classifier(Net(), 4, SHAPE), X[:1])


@pytest.mark.parametrize(("kind", "words"), [(Centred, "changes the logits"), (FixedBatch, "makes the model raise")])
def test_a_network_whose_rows_depend_on_each_other_gets_whole_batches(kind, words):
    assert words in objection_to_smaller_batches(classifier(kind(), 4, SHAPE), X)


def test_trying_an_optimisation_does_not_change_the_callers_random_numbers():
    model = classifier(Noisy(), 4, SHAPE)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    use_channels_last(model, X)
    assert torch.equal(torch.rand(4), expected)
