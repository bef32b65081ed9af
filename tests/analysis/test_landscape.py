"""The margin of a linear model is a plane with known slopes."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from robench.analysis.landscape import landscape, lines
from robench.errors import UserError
from robench.problem.classifier import Classifier
from robench.problem.threats import L1, L2, Linf

W = torch.tensor([[[[0.9, -2.0], [0.1, 1.4]]]])  # weights of the wrong class minus those of the right one
X, Y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
BIAS = -0.7
DUAL = {Linf: lambda w: w.abs().sum(), L2: lambda w: w.norm(), L1: lambda w: w.abs().max()}


def model():
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([torch.zeros(4), W.flatten()]))
        linear.bias.copy_(torch.tensor([0.0, BIAS]))
    return Classifier(
        nn.Sequential(nn.Flatten(), linear), name="plane", architecture="plane", shape=(1, 2, 2), classes=2
    )


def lines_of(threat, **more):
    return lines(model(), threat, X, Y, **({"number": 5, "seed": 0, "points": 5} | more))


def landscape_of(threat, **more):
    return landscape(model(), threat, X, Y, **({"number": 5, "seed": 0, "points": 5} | more))


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_along_the_gradient_the_margin_rises_by_the_dual_norm_per_radius(kind):
    found = landscape_of(kind(Fraction(1, 10)))
    at = (X * W).sum() + BIAS
    along = torch.tensor([-1, -0.5, 0, 0.5, 1]) * 0.1 * DUAL[kind](W)
    torch.testing.assert_close(found.margin[2], at + along, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_along_a_random_direction_the_margin_changes_at_most_as_fast(kind):
    slopes = []
    for number in range(6):
        margin = landscape_of(kind(Fraction(1, 10)), number=number).margin
        steps = margin.diff(dim=0)
        torch.testing.assert_close(steps, steps[0, 0].expand(4, 5), atol=1e-4, rtol=0)
        slopes.append(steps[0, 0].item() / 0.05)
    assert max(map(abs, slopes)) <= DUAL[kind](W).item() + 1e-3
    assert len({round(slope, 3) for slope in slopes}) > 1


def test_the_loss_is_the_cross_entropy_of_the_margin():
    found = landscape_of(Linf(Fraction(1, 5)))
    torch.testing.assert_close(found.loss, torch.nn.functional.softplus(found.margin))


def test_the_random_direction_depends_on_the_example_and_the_seed():
    threat = L2(Fraction(1, 10))
    assert torch.equal(landscape_of(threat).margin, landscape_of(threat).margin)
    assert not torch.equal(landscape_of(threat).margin, landscape_of(threat, number=6).margin)
    assert not torch.equal(landscape_of(threat).margin, landscape_of(threat, seed=1).margin)


def test_the_model_sees_only_images_in_the_box_even_beyond_the_radius():
    seen = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    recorded = Classifier(Recording(), name="w", architecture="w", shape=(1, 2, 2), classes=2)
    landscape(recorded, Linf(Fraction(9, 10)), X, Y, number=0, seed=0, points=21, reach=3.0)
    images = torch.cat(seen)
    assert len(images) == 1 + 21**2
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_model_without_gradients_is_refused():
    class WithoutGradients(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :2]

    detached = Classifier(WithoutGradients(), name="detached", architecture="b", shape=(1, 2, 2), classes=2)
    with pytest.raises(UserError, match="detached gives no gradients"):
        landscape(detached, L1(Fraction(1)), X, Y, number=0, seed=0)


def test_a_flat_model_has_a_flat_landscape():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.cat([x.flatten(1)[:, :2] * 0 + torch.tensor([0.0, -1.0])])

    flat = Classifier(Flat(), name="f", architecture="f", shape=(1, 2, 2), classes=2)
    found = landscape(flat, L1(Fraction(1)), X, Y, number=0, seed=0, points=3)
    torch.testing.assert_close(found.margin, torch.full((3, 3), -1.0))


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_the_line_along_the_gradient_agrees_with_the_closed_form(kind):
    found = lines_of(kind(Fraction(1, 10)))
    at = (X * W).sum() + BIAS
    margin = at + torch.linspace(0, 1, 5) * 0.1 * DUAL[kind](W)
    torch.testing.assert_close(found.margin[0], margin, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.loss[0], torch.nn.functional.softplus(margin), atol=1e-4, rtol=0)
    # The derivative of softplus is the sigmoid.
    assert found.predicted == pytest.approx(float(torch.sigmoid(at) * 0.1 * DUAL[kind](W)), rel=1e-3)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_on_a_linear_model_no_random_line_rises_above_the_gradients(kind):
    found = lines_of(kind(Fraction(1, 10)), random=12)
    assert found.margin.shape == (13, 5)
    assert (found.margin[1:] <= found.margin[0] + 1e-4).all()
    assert (found.loss[1:] <= found.loss[0] + 1e-4).all()
    assert len({round(float(end), 4) for end in found.margin[1:, -1]}) > 1


def test_the_first_random_line_is_the_random_axis_of_the_landscape():
    threat = L2(Fraction(1, 10))
    torch.testing.assert_close(lines_of(threat).margin[1], landscape_of(threat, points=9).margin[4:, 4])


def test_random_lines_depend_on_the_example_and_the_seed():
    threat = L2(Fraction(1, 10))
    assert torch.equal(lines_of(threat).margin, lines_of(threat).margin)
    assert not torch.equal(lines_of(threat).margin[1:], lines_of(threat, number=6).margin[1:])
    assert not torch.equal(lines_of(threat).margin[1:], lines_of(threat, seed=1).margin[1:])


@pytest.mark.parametrize("threat", [Linf(Fraction(9, 10)), L2(Fraction(3, 2)), L1(Fraction(3, 2))])
def test_all_images_of_the_lines_lie_in_the_set_and_the_last_at_its_edge(threat):
    seen = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    recorded = Classifier(Recording(), name="w", architecture="w", shape=(1, 2, 2), classes=2)
    lines(recorded, threat, X, Y, number=0, seed=0, points=5, random=3)
    images = torch.cat(seen)[1:]
    assert len(images) == 4 * 5
    assert threat.contains(images, X.expand_as(images)).all()
    ends = images.view(4, 5, 1, 2, 2)[:, -1]
    size = torch.minimum(threat.size(ends - X), torch.tensor(float(threat.radius)))
    box = ((ends == 0) | (ends == 1)).flatten(1).all(1)
    assert (box | torch.isclose(size, torch.tensor(float(threat.radius)), rtol=1e-3)).all()


def test_lines_of_a_model_without_gradients_are_refused():
    class WithoutGradients(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :2]

    detached = Classifier(WithoutGradients(), name="detached", architecture="b", shape=(1, 2, 2), classes=2)
    with pytest.raises(UserError, match="detached gives no gradients"):
        lines(detached, L1(Fraction(1)), X, Y, number=0, seed=0)
