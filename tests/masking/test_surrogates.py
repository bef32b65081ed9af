"""Backward passes put right, on functions whose right gradient is known."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robench.masking import surrogates
from robench.masking.script_graph import is_compiled
from robench.problem import checkpoints, datasets
from robench.problem.checkpoints.programs import Program
from robench.problem.classifier import Classifier
from robench.problem.threats import parse
from robench.testing.masked import MASKED, masked

DIGITS = datasets.load("digits").part("60")
WEIGHTS = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
X = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(1))


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Of(nn.Module):
    """A linear model of images to which something is done."""

    def __init__(self, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.linear = nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(WEIGHTS)
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.linear(self.before(x).flatten(1)))


class Doubled(nn.Module):
    """Twice the logits, in float64."""

    def forward(self, z):
        return 2 * z.double()


def classifier(module, shape=(1, 2, 3), classes=3):
    return Classifier(module, name="m", architecture="m", shape=shape, classes=classes)


def hooked(x):
    x = x.clone()
    if x.requires_grad:
        x.register_hook(lambda grad: -grad)
    return x


def without_graph(x):
    with torch.no_grad():
        return x + 0.0


def floor_of_a_part(x):
    x = 1 * x
    x[:, :, 1].mul_(8).floor_().div_(8)
    return x


def clamped_in_place(x):
    x = x + 0.0
    x.clamp_(0.4, 0.6)
    return x


BEFORE = {
    "round": lambda x: (8 * x).round() / 8,
    "floor": lambda x: (8 * x).floor() / 8,
    "round in place": lambda x: x.mul(8).round_().div_(8),
    "floor of a part in place": floor_of_a_part,
    "clamp in place": clamped_in_place,
    "bucketize": lambda x: torch.bucketize(x, torch.arange(0.05, 1.0, 0.1)).float(),
    "comparison": lambda x: (x > 0.5).float(),
    "turned comparison": lambda x: 1 - (x < 0.5).to(x.dtype),
    "clamp": lambda x: x.clamp(0.4, 0.6),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "no_grad": without_graph,
    "hook": hooked,
    "function": lambda x: Turned.apply(x),
    "half": lambda x: x.half().float(),
    "whole numbers": lambda x: (255 * x).int().float() / 255,
    "bits": lambda x: ((255 * x).int() & 240).float() / 255,
    "table": lambda x: torch.arange(256.0)[(255 * x).long()] / 255,
    "fine waves": lambda x: x + 0.1 * torch.sin(900 * x),
    "square root of 0": lambda x: x + (0 * x).sum().sqrt(),
}
AFTER = {
    "argmax": lambda z: F.one_hot(z.argmax(dim=1), 3).float(),
    "softmax": lambda z: F.softmax(1000 * z, dim=1) / 1000,
    "method": lambda z: (1000 * z).sigmoid() / 1000,
}


def gradient(model, k):
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[:, k].sum(), x)
    return grad.flatten(1)


@pytest.mark.parametrize("model", [*(Of(before=f) for f in BEFORE.values()), *(Of(after=f) for f in AFTER.values())],
                         ids=[*BEFORE, *AFTER])  # fmt: skip
def test_a_useless_derivative_becomes_that_of_the_identity_and_values_stay(model):
    whole = surrogates.bpda(classifier(model))
    with torch.no_grad():
        assert torch.equal(whole(X), model(X))
    for k in range(3):
        assert torch.allclose(gradient(whole, k), WEIGHTS[k].expand(4, 6), atol=1e-3)


def test_only_dead_units_leak_and_only_in_a_leaking_surrogate():
    model = classifier(Of(before=lambda x: F.relu(x - 0.5)))
    for leak in (0.0, surrogates.LEAKY_SLOPE):
        slopes = torch.where(X.flatten(1) > 0.5, 1.0, leak)
        assert torch.allclose(gradient(surrogates.bpda(model, leak=leak), 0), slopes * WEIGHTS[0])


@pytest.mark.parametrize(("name", "same"), [("clamp", True), ("hook", True), ("comparison", False), ("floor", False)])
def test_gradients_near_thresholds_differ_where_a_model_has_steps(name, same):
    model = classifier(Of(before=BEFORE[name]))
    near = surrogates.bpda(model, sharpness=surrogates.SHARPNESS)
    assert surrogates.same_gradients(surrogates.bpda(model), near, X) is same


def test_torch_is_restored_even_if_the_model_raises():
    apply = torch.autograd.Function.__dict__["apply"]

    def raises(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        surrogates.bpda(classifier(Of(before=raises)))(X)
    with torch.no_grad():
        surrogates.bpda(classifier(masked("anti-adversary", Of()), classes=3))(X)
        assert not torch.is_grad_enabled()
    assert torch.autograd.Function.__dict__["apply"] is apply
    assert torch.equal((X > 0.5).float(), (X > 0.5).to(torch.float32))
    assert not X.clone().requires_grad_().detach().requires_grad


@pytest.mark.parametrize("name", [n for n, mask in MASKED.items() if n not in ("noise", "dropped", "shifted")])
def test_a_repaired_surrogate_of_every_mask_answers_as_the_model(name):
    base = copy.deepcopy(checkpoints.load("digits-adv-linf").classifier.module)
    model = classifier(masked(name, base), (1, 28, 28), 10)
    with torch.no_grad():
        reported = model(DIGITS.x[:8])
    bpda = surrogates.bpda(model, differentiates=name == "anti-adversary")
    assert torch.equal(bpda(DIGITS.x[:8]).detach(), reported.float())


@pytest.mark.parametrize("name", ["reversed-rivals", "oscillating", "clipped-margin"])
def test_an_inner_layer_that_predicts_the_same_replaces_the_logits(name):
    base = copy.deepcopy(checkpoints.load("digits-adv-linf").classifier.module)
    model = classifier(masked(name, base), (1, 28, 28), 10)
    inner = surrogates.inner_layer(model, DIGITS.x)
    x = DIGITS.x[:8].clone().requires_grad_()
    assert torch.equal(inner(x), base(x))
    (taken,) = torch.autograd.grad(inner(x)[:, 0].sum(), x)
    (honest,) = torch.autograd.grad(base(x)[:, 0].sum(), x)
    assert torch.allclose(taken, honest, atol=1e-6)


def test_if_an_inner_layer_disagrees_the_logits_are_the_models_and_the_gradient_is_the_layers():
    model = classifier(Of(after=lambda z: torch.where(z[:, :1] > z[:, 1:2], z.flip(1) * 2, z * 2)))
    x = torch.rand(400, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        reported, layer = model(x), model.module.linear(x.flatten(1))
    surrogate = surrogates._with(model, surrogates._InnerLayer(model.module, False, 0))
    agrees = reported.argmax(dim=1) == layer.argmax(dim=1)
    assert 0 < agrees.sum() < len(x)
    predictions = surrogate(x).detach()
    assert torch.equal(predictions[agrees], layer[agrees])
    assert torch.allclose(predictions[~agrees], reported[~agrees])
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(surrogate(leaf)[:, 0].sum(), leaf)
    assert torch.allclose(grad.flatten(1), WEIGHTS[0].expand(400, 6), atol=1e-5)


def test_an_honest_model_has_no_such_inner_layer():
    assert surrogates.inner_layer(checkpoints.load("digits-nat").classifier, DIGITS.x) is None


@pytest.mark.parametrize("scale", [1e-36, 1e30])
def test_rescaled_logits_have_a_common_size_and_the_same_predictions(scale):
    model = classifier(Of(after=lambda z: z * scale))
    spread = model(X).double().std(dim=1).median().item()
    whole = surrogates.rescaled(model, spread, probabilities=False)
    assert torch.equal(whole(X).argmax(dim=1), model(X).argmax(dim=1))
    assert whole(X).std(dim=1).median().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(gradient(whole, 1), (WEIGHTS[1] * (scale / spread)).expand(4, 6), rtol=1e-3)


def test_probabilities_become_their_logarithms():
    model = classifier(Of(after=lambda z: z.softmax(dim=1)))
    whole = surrogates.rescaled(model, 0.1, probabilities=True)
    assert torch.allclose(whole(X).float(), (X.flatten(1) @ WEIGHTS.T).log_softmax(dim=1), atol=1e-5)


@pytest.mark.parametrize("surrogate", ["repaired", "inside", "rescaled"])
def test_attacks_are_answered_in_float32_also_by_a_model_that_answers_in_float64(surrogate):
    model = classifier(nn.Sequential(Of(), Doubled()))
    surrogate = {
        "repaired": lambda: surrogates.bpda(model),
        "inside": lambda: surrogates.inner_layer(model, X),
        "rescaled": lambda: surrogates.rescaled(model, 2.0, probabilities=False),
    }[surrogate]()
    assert model(X).dtype == torch.float64
    assert surrogate(X).dtype == torch.float32


class Rippled(nn.Module):
    """Logits with a ripple so fine that the gradient is its own, and so low that it hardly matters."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x) + 2e-3 * (1e4 * x).sin().flatten(1).sum(dim=1, keepdim=True) * torch.arange(3)


@pytest.mark.parametrize("threat", ["linf:0.2", "l2:0.4", "l1:0.8"])
def test_smoothing_finds_the_direction_of_a_rippled_model_and_keeps_its_answers(threat, monkeypatch):
    monkeypatch.setattr(surrogates, "NEARBY", 4000)
    model = classifier(Rippled(Of()))
    nearby = surrogates.smoothed(model, parse(threat))
    x = 0.3 + 0.4 * X
    assert torch.equal(nearby(x), model(x))
    for asked, least, most in ((nearby, 0.8, 1.0), (model, -1.0, 0.8)):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(asked(leaf)[:, 2].sum(), leaf)
        alike = F.cosine_similarity(gradient.flatten(1), WEIGHTS[2:3], dim=1)
        assert ((least <= alike) & (alike <= most + 1e-6)).all()


def test_the_neighbours_of_an_image_do_not_depend_on_the_batch_and_lie_in_its_set():
    seen = []

    class Listening(Of):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    nearby = surrogates.smoothed(classifier(Listening()), parse("l2:0.4"))
    nearby(X), nearby(X[[2, 0]])
    among_four, among_two = seen[1].view(8, 4, -1), seen[3].view(8, 2, -1)
    assert torch.equal(among_four[:, [2, 0]], among_two)
    away = (among_four - X.flatten(1)).norm(dim=2)
    assert (away <= 0.2 + 1e-6).all()
    assert (seen[1] >= 0).all()
    assert (seen[1] <= 1).all()


def test_an_exported_model_takes_surrogate_gradients():
    class Rounding(nn.Sequential):
        def forward(self, x):
            return super().forward((8 * x).round() / 8)

    module = Rounding(nn.Flatten(), nn.Linear(6, 3)).eval()
    exported = classifier(Program(torch.export.export(module, (X,)).module()))
    assert not is_compiled(exported.module)
    assert torch.allclose(gradient(surrogates.bpda(exported), 2), module[1].weight[2].expand(4, 6), atol=1e-6)


def test_a_torchscript_model_is_recognised_as_compiled():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is on its way out; people's files are not
        script = Program(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(6, 3))))
    assert is_compiled(script)
    assert not is_compiled(Of())
    assert surrogates.inner_layer(classifier(script), X) is None
    assert surrogates.inner_layer(surrogates.opened(classifier(script), X), X) is None


def test_a_dead_branch_of_where_leaks_only_in_a_leaking_surrogate():
    model = classifier(Of(before=lambda x: torch.where(x < 0.5, torch.zeros_like(x), x)))
    for leak in (0.0, surrogates.LEAKY_SLOPE):
        slopes = torch.where(X.flatten(1) < 0.5, leak, 1.0)
        assert torch.allclose(gradient(surrogates.bpda(model, leak=leak), 0), slopes * WEIGHTS[0])


def test_another_networks_gradient_guides_and_its_logits_stand_where_they_agree():
    model, guide = classifier(Of(after=lambda z: F.one_hot(z.argmax(dim=1), 3).float())), Of(after=lambda z: 3 * z)
    guided = surrogates.guided(model, guide)
    assert torch.equal(guided(X).argmax(dim=1), model(X).argmax(dim=1))
    assert torch.allclose(guided(X), guide(X))
    assert torch.allclose(gradient(guided, 1), 3 * WEIGHTS[1].expand(4, 6), atol=1e-5)
