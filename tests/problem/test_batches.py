"""A network that takes batches of one size alone answers about any number of images, as its free twin does."""

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.batches import InBatchesOf, answering
from robench.problem.python_model import Called

IMAGES = torch.rand(13, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def free() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3))


class Fixed(nn.Module):
    """Its batch is `size`, or fits `fits`; what becomes of another is up to `otherwise`."""

    def __init__(self, fits, otherwise):
        super().__init__()
        self.net, self.fits, self.otherwise = free(), fits, otherwise

    def forward(self, x):
        return self.net(x) if self.fits(len(x)) else self.otherwise(self.net(x))


def raises(_):
    raise AssertionError("another batch")


def exactly(size):
    return lambda n: n == size


FIXED = {
    "one": (exactly(1), raises, "exactly 1 image:"),
    "two": (exactly(2), raises, "exactly 2 images:"),
    "eight": (exactly(8), raises, "exactly 8 images:"),
    "a hundred": (exactly(100), raises, "exactly 100 images:"),
    "as many as the images": (exactly(13), raises, "exactly 13 images:"),
    "a multiple of four": (lambda n: n % 4 == 0, raises, "exactly 4 images:"),
    "at most five": (lambda n: n <= 5, raises, "no batch of 13 images, so it is given 5 images at a time"),
    "rows that are cut off": (exactly(8), lambda logits: logits[:8], "given 8 images at a time"),
    "rows that are repeated": (exactly(8), lambda logits: logits[torch.arange(8) % len(logits)], "exactly 8 images:"),
    "rows that are joined": (exactly(6), lambda logits: logits.reshape(1, -1).expand(6, -1), "exactly 6 images:"),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_size_is_found_and_logits_and_gradients_are_those_of_the_free_network(name):
    fits, otherwise, note = FIXED[name]
    module, notes = answering(Fixed(fits, otherwise), IMAGES, 3)
    assert [note in text for text in notes] == [True]
    for rows in (1, 2, 7, 8, 13):
        x = IMAGES[:rows].clone().requires_grad_()
        own, wanted = module(x), free()(x)
        torch.testing.assert_close(own, wanted)
        weights = torch.randn(wanted.shape)
        gradients = [torch.autograd.grad((logits * weights).sum(), x)[0] for logits in (own, wanted)]
        torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_a_traced_network_names_its_size_itself():
    # What tracing makes of `len(x)`: a constant, here one that no list of usual sizes holds.
    traced = torch.jit.trace(Constant(37), torch.rand(37, 1, 4, 4), check_trace=False)
    module, notes = answering(traced, IMAGES, 3)
    assert notes == ("the model takes batches of exactly 37 images: rows are padded",)
    torch.testing.assert_close(module(IMAGES), free()(IMAGES))


class Constant(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.net, self.size = free(), size

    def forward(self, x):
        return self.net(x.view(self.size, -1))


def test_a_network_of_any_size_is_left_as_it_is():
    net = free()
    module, notes = answering(net, IMAGES, 3)
    assert module is net
    assert not notes


def test_an_image_that_makes_the_network_raise_is_no_question_of_size():
    def net(x):
        assert not torch.isclose(x, IMAGES[3]).flatten(1).all(dim=1).any(), "this image"
        return x.flatten(1)[:, :3]

    with pytest.raises(AssertionError, match="this image"):
        answering(Called(net), IMAGES, 3)


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (lambda x: x.mean(dim=0).flatten()[None, :3], UserError, "takes batches of any size"),
        (lambda x: raises(x), AssertionError, "another batch"),
    ],
)
def test_where_no_size_helps_the_first_error_stands(net, error, message):
    with pytest.raises(error, match=message):
        answering(Called(lambda x: net(x) if len(x) > 1 else raises(x)), IMAGES, 3)


def test_the_parts_of_what_it_returns_are_read_in_its_own_batches():
    net = free()

    def returns(x):
        assert len(x) == 8
        return {"features": x.flatten(1), "logits": net(x)}

    module, notes = answering(Called(returns), IMAGES, 3)
    assert "'logits' is taken as the logits" in notes[0]
    torch.testing.assert_close(module(IMAGES), net(IMAGES))


def test_what_one_number_means_is_read_off_all_images():
    """The first image alone would make a probability of a logit."""
    images = torch.stack([torch.full((1, 2, 2), value) for value in (0.4, 0.9, 0.1)])

    def logit(x):
        assert len(x) == 1
        return x.mean(dim=(1, 2, 3)) * 4 - 1.5

    module, notes = answering(Called(logit), images, 2)
    assert "taken as that of class 1" in notes[0]
    torch.testing.assert_close(module(images).diff()[:, 0], torch.tensor([0.1, 2.1, -1.1]))


def test_weights_keep_their_names():
    net = free()
    assert InBatchesOf(net, 8).state_dict().keys() == net.state_dict().keys()
