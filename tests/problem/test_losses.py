"""Losses by values worked by hand, and the laws that make them useful."""

import pytest
import torch
import torch.nn.functional as F

from robench.problem.losses import TARGETED, UNTARGETED, dlr, dlr_targeted, margin, misclassified

LOGITS = torch.tensor([[4.0, 1.0, 3.0, -2.0], [0.5, 2.0, 1.0, 0.0]])
Y, TARGET = torch.tensor([0, 2]), torch.tensor([1, 3])


def test_margin_by_hand():
    assert margin(LOGITS, Y).tolist() == [-1.0, 1.0]


def test_a_row_is_misclassified_if_another_logit_is_the_highest_and_none_is_nan():
    assert misclassified(LOGITS, Y).tolist() == [False, True]
    for place in range(LOGITS.shape[1]):
        nan = LOGITS.clone()
        nan[:, place] = torch.nan
        assert misclassified(nan, Y).tolist() == [False, False]


def test_every_candidate_of_a_row_may_be_compared_with_a_label_of_its_own():
    labels = torch.stack([Y, 1 - Y.clamp(max=1)], dim=1)
    assert misclassified(LOGITS[:, None], labels).tolist() == [[False, True], [True, True]]


def test_cross_entropy_is_the_log_probability():
    want = -F.log_softmax(LOGITS.double(), dim=1)
    got = UNTARGETED["cross-entropy"](LOGITS.double(), Y, TARGET)
    torch.testing.assert_close(got, want[[0, 1], Y])
    torch.testing.assert_close(TARGETED["cross-entropy"](LOGITS.double(), Y, TARGET), -want[[0, 1], TARGET])


def test_dlr_by_hand():
    # Row 0: margin -1, logits 4 3 1: -1 / (4 - 1). Row 1: margin 1, logits 2 1 0.5: 1 / (2 - 0.5).
    torch.testing.assert_close(dlr(LOGITS, Y, TARGET), torch.tensor([-1 / 3, 1 / 1.5]))


def test_targeted_dlr_by_hand():
    # Row 0: (1 - 4) / (4 - (1 - 2) / 2). Row 1: (0 - 1) / (2 - (0.5 + 0) / 2).
    torch.testing.assert_close(dlr_targeted(LOGITS, Y, TARGET), torch.tensor([-3 / 4.5, -1 / 1.75]))


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("losses", [UNTARGETED, TARGETED], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("name", list(UNTARGETED))
def test_every_loss_is_finite_and_rises_when_the_correct_logit_falls(classes, losses, name):
    logits = torch.randn(20, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    y = torch.arange(20) % classes
    target = (y + 1) % classes
    value = losses[name](logits, y, target)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    right = grad.gather(1, y[:, None])
    if losses is UNTARGETED or name != "cross-entropy":
        assert (right <= 1e-12).all() or name == "dlr"  # a right logit on top also stands in the denominator
    assert (grad != 0).any(dim=1).all()


@pytest.mark.parametrize("loss", [dlr, dlr_targeted])
@pytest.mark.parametrize("classes", [3, 4, 10])
def test_dlr_ignores_shift_and_scale(loss, classes):
    logits = torch.randn(20, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(20) % classes
    target = (y + 1) % classes
    torch.testing.assert_close(loss(1000 * logits - 77, y, target), loss(logits, y, target))


def test_margin_is_positive_exactly_when_argmax_is_wrong():
    logits = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(500) % 5
    assert torch.equal(margin(logits, y) > 0, logits.argmax(dim=1) != y)


def test_nan_logits_make_no_margin():
    logits = torch.tensor([[1.0, float("nan"), 0.0], [float("nan"), 1.0, 0.0]])
    assert margin(logits, torch.tensor([0, 0])).isnan().all()


def probabilities(logits):
    return logits.double().softmax(dim=1)


def test_the_probability_margin_is_the_logarithm_of_1_plus_the_difference():
    p = probabilities(LOGITS)
    want = torch.stack([p[0, 2] - p[0, 0], p[1, 1] - p[1, 2]])
    torch.testing.assert_close(UNTARGETED["probability-margin"](LOGITS.double(), Y, TARGET), want.log1p())
    want = torch.stack([p[0, 1] - p[0, 0], p[1, 3] - p[1, 2]])
    torch.testing.assert_close(TARGETED["probability-margin"](LOGITS.double(), Y, TARGET), want.log1p())


def test_its_gradient_has_the_direction_of_that_of_the_difference():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    y = torch.arange(50) % 6
    (log_form,) = torch.autograd.grad(UNTARGETED["probability-margin"](logits, y, y).sum(), logits)
    p = logits.softmax(dim=1)
    difference = p.scatter(1, y[:, None], 0).amax(dim=1) - p.gather(1, y[:, None]).squeeze(1)
    (plain,) = torch.autograd.grad(difference.sum(), logits)
    torch.testing.assert_close(F.normalize(log_form), F.normalize(plain))


@pytest.mark.parametrize("losses", [UNTARGETED, TARGETED], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e4])
def test_the_probability_margin_has_a_gradient_however_confident_the_model_is(losses, classes, scale):
    g = torch.Generator().manual_seed(0)
    logits = scale * (2 * torch.rand(40, classes, generator=g) - 1)
    y, k = logits.argmax(dim=1), logits.argmin(dim=1)
    logits = logits.scatter(1, y[:, None], scale).requires_grad_()
    value = losses["probability-margin"](logits, y, k)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert (grad.gather(1, y[:, None]) < 0).all()
    assert (value < 0).all()
    wrong = logits.detach().clone().scatter(1, y[:, None], -scale).requires_grad_()
    value = losses["probability-margin"](wrong, y, wrong.argmax(dim=1))
    (grad,) = torch.autograd.grad(value.sum(), wrong)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert (value >= 0).all()
