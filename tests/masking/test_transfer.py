"""Other networks whose gradients guide attacks: bundled models, and one that learns from a model's own answers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robench.errors import UserError
from robench.masking import transfer
from robench.problem import checkpoints, datasets
from robench.problem.classifier import Classifier
from robench.problem.threats import parse

DIGITS = datasets.load("digits").part("48")


class OneHot(nn.Module):
    """Classes alone, by the mean brightness of three bands of the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.one_hot(F.adaptive_avg_pool2d(x, (3, 1)).flatten(1).argmax(dim=1), 3).float()


def labels_only(shape=(1, 12, 12)):
    return Classifier(OneHot(), name="m", architecture="m", shape=shape, classes=3)


def test_the_guides_of_a_model_are_other_models_of_its_data_that_predict_most_like_it(monkeypatch):
    nat = checkpoints.load("digits-nat").classifier
    names = [name for name, _ in transfer.guides(nat, "digits", nat.identity().weights_sha256, DIGITS.x)]
    assert len(names) == transfer.GUIDES
    assert "digits-nat" not in names
    monkeypatch.setattr(transfer, "GUIDES", 100)
    found = dict(transfer.guides(nat, "digits", "", DIGITS.x))
    assert "digits-nat" in found
    predicted = nat(DIGITS.x).argmax(dim=1)
    agreement = [float((guide(DIGITS.x).argmax(dim=1) == predicted).double().mean()) for guide in found.values()]
    assert agreement == sorted(agreement, reverse=True)
    assert list(transfer.guides(nat, "mnist-of-another-kind", "", DIGITS.x)) == []


def test_a_bundled_model_that_cannot_be_loaded_is_no_guide(monkeypatch):
    def damaged(*_, **__):
        raise UserError("damaged")

    nat = checkpoints.load("digits-nat").classifier
    monkeypatch.setattr(transfer.checkpoints, "load", damaged)
    assert list(transfer.guides(nat, "digits", "", DIGITS.x)) == []


@pytest.mark.costly
def test_an_imitation_learns_the_classes_that_a_model_without_scores_names_and_the_way_to_others(monkeypatch):
    monkeypatch.setattr(transfer, "STEPS", 150)
    model, threat = labels_only(), parse("linf:0.1")
    bands = torch.rand(64, 1, 3, 1, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    x = bands.repeat_interleave(4, dim=2).expand(-1, -1, -1, 12).contiguous()
    net = transfer.imitation(model, threat, x, seed=0)
    labels = model(x).argmax(dim=1)
    assert (net(x).argmax(dim=1) == labels).double().mean() > 0.8
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels), leaf)
    moved = (x + threat.r * threat.steepest(gradient)).clamp(0, 1)
    at_random = (x + threat.r * torch.randn_like(x).sign()).clamp(0, 1)
    broken, by_chance = ((model(images).argmax(dim=1) != labels).double().mean() for images in (moved, at_random))
    assert broken > by_chance + 0.3


def test_an_imitation_is_the_same_each_time_and_leaves_the_random_numbers_as_they_were(monkeypatch):
    monkeypatch.setattr(transfer, "STEPS", 2)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (transfer.imitation(labels_only(), parse("l2:1"), DIGITS.x[:, :, :12, :12], 3) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_nothing_imitates_a_model_of_images_that_are_too_large_or_too_small():
    assert transfer.imitates(labels_only())
    assert not transfer.imitates(labels_only((3, 224, 224)))
    assert not transfer.imitates(labels_only((1, 4, 12)))
