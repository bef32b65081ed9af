"""A search in low precision breaks the same examples as one in float32, and float32 verifies its every result."""

import copy
import threading
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.evaluation.prepared import SLOTS
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier, arithmetic
from robench.problem.threats import L2, Linf
from robench.search.attacks.apgd import APGD
from robench.search.attacks.brendel_bethge import BrendelBethge
from robench.search.attacks.ddn import DDN
from robench.search.attacks.fab import FAB
from robench.search.attacks.pgd import PGD
from robench.search.engine import precision as precisions
from robench.search.engine.precision import (
    SHARE,
    VARIABLE,
    WORTH,
    checked,
    has_hardware,
    multiply_adds,
    saves_too_little,
)
from robench.search.engine.rounded_gradient import exact_outputs, is_worth
from robench.search.engine.rounding import rounded, with_rounded_gradients

from ...exact_distances import classifier, toy
from ..running import ends, items, job
from .test_engine import net

N = 40
SMALL = Linf(Fraction(7, 100))
CPU = torch.device("cpu")


@pytest.fixture
def model():
    return classifier(net(), 4)


@pytest.fixture
def split(model):
    return toy(model, N)


def broken(model, split, threat, attack, precision):
    ended = ends(model, split, job(threat, attack, items(model, attack, split, range(N))), precision=precision)
    for end in ended:
        if end.x_adv is not None:
            with torch.no_grad():
                assert model(end.x_adv[None]).argmax(dim=1) != split.y[end.item.row], (
                    "an example that fools only in low precision"
                )
    return {end.item.row for end in ended if end.x_adv is not None}


@pytest.mark.costly
@pytest.mark.parametrize(
    ("threat", "attack"),
    [
        (SMALL, PGD(steps=20)),
        (SMALL, FAB(steps=20, targets=3)),
        (L2(Fraction(1, 3)), APGD(steps=20)),
        (L2(Fraction(1, 3)), DDN(steps=40)),
        (L2(Fraction(1, 3)), BrendelBethge(steps=40)),
    ],
    ids=str,
)
def test_a_search_in_bfloat16_breaks_the_same_examples_as_in_float32(model, split, threat, attack):
    exact = broken(model, split, threat, attack, "float32")
    assert 5 < len(exact) < N - 5, "both outcomes must occur"
    assert len(exact ^ broken(model, split, threat, attack, "bfloat16")) <= 1


def test_the_first_and_the_last_layer_compute_in_float32(split):
    """A network of one layer is exact; of two, only the outputs of the first are rounded."""
    torch.manual_seed(0)
    one = classifier(nn.Sequential(nn.Flatten(), nn.Linear(20, 4)), 4)
    two = classifier(net(), 4)
    with torch.no_grad():
        assert torch.equal(rounded(one)(split.x), one(split.x))
        hidden = two.module[:3](split.x).bfloat16().float()
        assert torch.equal(rounded(two)(split.x), two.module[3:](hidden))
        assert not torch.equal(rounded(two)(split.x), two(split.x))


def test_near_logits_differ():
    """Near 100, neighbouring bfloat16 numbers are 1/2 apart."""
    two = classifier(nn.Sequential(nn.Flatten(), nn.Linear(20, 20), nn.Linear(20, 4)), 4)
    two.module[2].bias.data += 100
    logits = rounded(two)(torch.zeros(1, 1, 4, 5))
    assert len(logits.unique()) == 4
    assert len(logits.bfloat16().unique()) == 1


def test_the_gradient_of_the_first_layer_is_that_of_its_rounded_weights(split):
    two = classifier(net(), 4)
    x = split.x.clone().requires_grad_()
    gradients = {name: torch.autograd.grad(of(x).sum(), x)[0] for name, of in (("exact", two), ("rough", rounded(two)))}
    assert gradients["rough"].dtype == torch.float32
    apart = (gradients["rough"] - gradients["exact"]).norm() / gradients["exact"].norm()
    assert 1e-4 < apart < 0.02


CONVOLUTIONS = {
    "one channel": nn.Conv2d(1, 32, 5, stride=2, padding=2),
    "one channel, dilated": nn.Conv2d(1, 16, 3, padding=(1, 0), dilation=2),
    "three channels": nn.Conv2d(3, 64, 3, stride=2, padding=1),
    "in groups": nn.Conv2d(4, 32, 3, groups=2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])
def test_near_searches_have_exact_logits_and_the_gradient_of_rounded_weights(name, memory_format):
    torch.manual_seed(0)
    first = CONVOLUTIONS[name]
    layers = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(128), nn.Softplus(), nn.Linear(128, 4))
    layers(torch.zeros(1, first.in_channels, 11, 9))
    network = Classifier(layers, name="", architecture="", shape=(first.in_channels, 11, 9), classes=4)
    x = torch.rand(8, *network.shape).to(memory_format=memory_format).requires_grad_()
    logits, exact = with_rounded_gradients(network, x.detach())(x), network(x)
    assert torch.equal(logits, exact)
    (found,), (without,) = (torch.autograd.grad(out[:, 1].sum(), x) for out in (logits, exact))
    rounded_weights = copy.deepcopy(layers)
    for layer in (rounded_weights[0], rounded_weights[3]):
        layer.weight.data = layer.weight.bfloat16().float()
    (expected,) = torch.autograd.grad(rounded_weights(x)[:, 1].sum(), x)
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert 0 < (found - without).norm() < 0.02 * without.norm()


def test_the_gradient_over_windows_is_that_of_the_convolution():
    """With weights and gradients that bfloat16 holds exactly, nothing is rounded."""
    layer = nn.Conv2d(1, 4, (5, 3), stride=(2, 1), padding=(2, 0), dilation=(1, 2)).requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    layer.weight.copy_(torch.randint(-4, 5, layer.weight.shape, generator=g))
    x = torch.rand(3, 1, 12, 10, generator=g).requires_grad_()
    y = layer(x)
    upstream = torch.randint(-4, 5, y.shape, generator=g).float()
    found, exact = (torch.autograd.grad(out, x, upstream)[0] for out in (exact_outputs(layer, layer.forward)(x), y))
    assert torch.equal(found, exact)


class Noisy(nn.Linear):
    """Has weights, and does more with them than a matrix product."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight * 2, self.bias)


def normed():
    return nn.utils.parametrizations.weight_norm(nn.Linear(20, 128))


@pytest.mark.parametrize("layer", [lambda: Noisy(20, 128), normed], ids=["a class of its own", "parametrized"])
def test_layers_of_other_kinds_keep_their_gradients_in_near_searches(layer, split):
    torch.manual_seed(0)
    network = classifier(nn.Sequential(nn.Flatten(), layer(), nn.ReLU(), nn.Linear(128, 4)), 4)
    x = split.x.clone().requires_grad_()
    near, exact = (torch.autograd.grad(of(x).sum(), x)[0] for of in (with_rounded_gradients(network, split.x), network))
    assert torch.equal(near, exact)


class Times(nn.Module):
    """Multiplies by a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Calls(nn.Module):
    """A network whose layers are called in unusual ways."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.tokens = nn.Conv2d(1, 32, 3, padding=1), nn.Linear(20, 128)
        self.wide, self.last = nn.Linear(32 * 20, 128), nn.Linear(128, 4)
        self.of = forward

    def hidden(self, x):
        return self.wide(self.conv(x).relu().flatten(1)).tanh()

    def forward(self, x):
        return self.last(self.of(self, x))


def modified(net, x):
    h = 1 * net.conv(x).relu().flatten(1)
    a = net.wide(h)
    return (a + net.wide(h.mul_(0.5))).tanh()


def moved(net, x):
    return net.hidden(x - 0.1 * torch.func.grad(lambda z: net.hidden(z).sum())(x))


UNUSUAL = {
    "in place on tokens": lambda net, x: net.tokens(x.flatten(2)).relu_().mean(dim=1),
    "one image at a time": lambda net, x: net.wide(torch.stack([net.conv(i).relu() for i in x]).flatten(1)).tanh(),
    "by name": lambda net, x: net.wide(input=net.conv(input=x).relu().flatten(1)).tanh(),
    "an input that is modified": modified,
    "torch.func.vmap": lambda net, x: torch.func.vmap(lambda i: net.hidden(i[None])[0])(x),
    "other weights in every call": lambda net, x: torch.func.functional_call(
        net.wide, {name: -value for name, value in net.wide.named_parameters()}, (net.conv(x).relu().flatten(1),)
    ),
}


@pytest.mark.parametrize("how", UNUSUAL)
def test_unusual_calls_of_layers_keep_their_low_precision(how, split):
    torch.manual_seed(0)
    network = classifier(Calls(UNUSUAL[how]), 4)
    assert precisions.failure(network, "bfloat16", split.x[:2]) == ""
    near = with_rounded_gradients(network, split.x)
    assert near is not network
    x = split.x.clone().requires_grad_()
    logits, exact = near(x), network(x)
    assert torch.equal(logits, exact)
    found, without = (torch.autograd.grad(out[:, 1].sum(), x)[0] for out in (logits, exact))
    assert 0 < (found - without).norm() < 0.02 * without.norm()


def test_a_model_that_its_copy_differs_from_is_itself_searched_near_the_boundary(split):
    """It makes a step along its own gradient. That of other weights than those in use would make it seem robust."""
    torch.manual_seed(0)
    network = classifier(Calls(moved), 4)
    assert with_rounded_gradients(network, split.x) is network


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_model_with_other_gradients_in_bfloat16_is_refused(scale, split, monkeypatch):
    """Also where the squares of gradients vanish."""
    layers = net()
    monkeypatch.setattr(precisions, "rounded", lambda of: lambda x: 2 * of(x).detach() - of(x))
    text = precisions.failure(classifier(nn.Sequential(layers, Times(scale)), 4), "bfloat16", split.x[:2])
    assert text == "it changes the gradients by 200% of their length"


def test_a_model_that_keeps_its_activations_and_a_lock_is_rounded(split):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.lock = net(), threading.Lock()

        def forward(self, x):
            with self.lock:
                self.kept = self.net(x)
            return self.kept + 0

    network = classifier(Keeps(), 4)
    assert network(split.x.clone().requires_grad_()).requires_grad
    assert precisions.failure(network, "bfloat16", split.x[:2]) == ""
    for copied in (rounded(network), with_rounded_gradients(network, split.x)):
        assert (copied(split.x) - network(split.x)).abs().max() < 0.05


@pytest.mark.parametrize("how", ["replaced", "written into"])
def test_near_gradients_are_those_of_weights_that_the_model_changes_later(how, split):
    """The copy is tried on two images, and a model may change its weights for others."""
    torch.manual_seed(0)
    network = classifier(Calls(lambda net, x: net.hidden(x)), 4)
    near = with_rounded_gradients(network, split.x)
    assert near is not network
    with torch.no_grad():
        for each in (network, near):
            wide = each.module.wide
            if how == "replaced":
                wide.weight = nn.Parameter(-wide.weight)
            elif each is network:  # the copy shares the weights
                wide.weight.neg_()
    x = split.x.clone().requires_grad_()
    found, exact = (torch.autograd.grad(of(x)[:, 1].sum(), x)[0] for of in (near, network))
    assert (found - exact).norm() < 0.02 * exact.norm()


def test_gradients_that_only_bfloat16_has_are_refused(model, split, monkeypatch):
    without = classifier(Calls(lambda net, x: net.hidden(x.detach())), 4)
    monkeypatch.setattr(precisions, "rounded", lambda of: lambda x: of(x) + 0 * x.sum())
    text = precisions.failure(without, "bfloat16", split.x[:2])
    assert text == "there the model has gradients, and in float32 it has none"


def test_gradients_that_are_no_numbers_in_bfloat16_are_refused(model, split, monkeypatch):
    assert precisions.failure(model, "bfloat16", split.x[:2]) == ""
    monkeypatch.setattr(precisions, "gradients_apart", lambda *_: float("nan"))
    assert "it changes the gradients" in precisions.failure(model, "bfloat16", split.x[:2])


def test_attacks_that_walk_along_the_boundary_are_exact_near_to_it(model, split):
    """In bfloat16 they end with the same images, bit for bit."""
    attack = FAB(steps=10, targets=3)
    near = replace(job(SMALL, attack, items(model, attack, split, range(20))), near=True)
    exact, low = (
        {end.item: end.x_adv for end in ends(model, split, copy.deepcopy(near), precision=precision)}
        for precision in ("float32", "bfloat16")
    )
    found = [item for item, x_adv in exact.items() if x_adv is not None]
    assert found == [item for item, x_adv in low.items() if x_adv is not None]
    assert found
    assert all(torch.equal(exact[item], low[item]) for item in found)


@pytest.mark.parametrize(
    ("layer", "worth"),
    [
        (nn.Linear(3136, 1024), True),
        (nn.Linear(128, 64), False),
        (nn.Conv2d(3, 64, 3), True),
        (nn.Conv2d(128, 128, 3, groups=128), False),
        (nn.Conv2d(64, 64, 1), False),
        (nn.Conv2d(64, 128, 3, stride=4), False),
    ],
    ids=str,
)
def test_small_layers_keep_their_gradients_in_near_searches(layer, worth):
    assert is_worth(layer) == worth


def test_the_gradient_of_a_reader_of_another_kind_is_its_own(split):
    """Here the matrix product of the weights alone would be half of the gradient."""
    torch.manual_seed(0)
    network = classifier(nn.Sequential(nn.Flatten(), Noisy(20, 20), nn.ReLU(), nn.Linear(20, 4)), 4)
    x = split.x.clone().requires_grad_()
    rough, exact = (torch.autograd.grad(of(x).sum(), x)[0] for of in (rounded(network), network))
    assert (rough - exact).norm() < 0.02 * exact.norm()


def test_weights_that_two_layers_share_are_rounded_in_one_of_them(split):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 4))
    layers[2].weight = layers[1].weight
    tied = classifier(layers, 4)
    with torch.no_grad():
        assert (rounded(tied)(split.x) - tied(split.x)).abs().max() < 0.01


def test_a_model_whose_layers_are_out_of_reach_is_not_rounded():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 20))

        def forward(self, x):
            return nn.functional.linear(x.flatten(1), self.weight)

    with pytest.raises(UserError, match=r"^no layer .* to bfloat16; leave --precision out$"):
        rounded(classifier(Functional(), 4))
    assert saves_too_little(classifier(Functional(), 4), 8) == "no layer of this model can be rounded to bfloat16"


def test_rounding_does_not_change_the_classifier(model, split):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with torch.no_grad():
        logits = model(split.x)
        rounded(model)(split.x)
        with_rounded_gradients(model, split.x)(split.x)
        assert torch.equal(model(split.x), logits)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


class TwoFaced(nn.Module):
    """Returns the logits of `net`; in bfloat16, `added` is added to the logit of the correct class."""

    def __init__(self, y_of, added):
        super().__init__()
        self.inner, self.y_of, self.added = net(), y_of, added

    def forward(self, x):
        logits = self.inner(x)
        if torch.is_autocast_enabled("cpu"):
            correct = self.y_of(x)
            logits = logits + self.added * nn.functional.one_hot(correct, 4)
        return logits


def test_an_image_that_fools_only_in_bfloat16_is_no_adversarial_example(split):
    near = lambda x: split.y[torch.cdist(x.flatten(1), split.x.flatten(1)).argmin(dim=1)]  # noqa: E731
    gullible = classifier(TwoFaced(near, added=-100.0), 4)
    exact = broken(gullible, split, SMALL, PGD(steps=20), "float32")
    assert broken(gullible, split, SMALL, PGD(steps=20), "bfloat16") == exact


def test_an_image_that_does_not_fool_in_bfloat16_is_verified_before_the_search_ends(split):
    near = lambda x: split.y[torch.cdist(x.flatten(1), split.x.flatten(1)).argmin(dim=1)]  # noqa: E731
    stubborn = classifier(TwoFaced(near, added=100.0), 4)
    exact = broken(stubborn, split, SMALL, PGD(steps=20), "float32")
    assert len(exact) > 5
    assert broken(stubborn, split, SMALL, PGD(steps=20), "bfloat16") == exact


def test_float32_goes_to_attacks_that_need_it_to_near_examples_and_to_the_smallest_perturbation(split):
    class Precise(PGD):
        precise = True

    seen = set()

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            hidden = self.inner[:2](x)
            seen.add(hidden.dtype)
            return self.inner[2:](hidden)

    spied = classifier(Spy(), 4)
    ends(spied, split, job(SMALL, Precise(steps=3), items(spied, PGD(), split, range(3))), precision="bfloat16")
    for which in ("smallest", "near"):
        exact = replace(job(SMALL, PGD(steps=3), items(spied, PGD(), split, range(3))), **{which: True})
        ends(spied, split, exact, precision="bfloat16")
    assert seen == {torch.float32}
    ends(spied, split, job(SMALL, PGD(steps=3), items(spied, PGD(), split, range(3))), precision="bfloat16")
    assert torch.bfloat16 in seen


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fp16", "no precision is called 'fp16'"),
        ("bf16", "did you mean bfloat16"),
        ("tf32", "tf32 is a precision of CUDA devices"),
    ],
)
def test_unknown_and_unavailable_precisions_are_refused(name, message):
    with pytest.raises(UserError) as refused:
        checked(name, CPU)
    assert message in str(refused.value)


def test_the_environment_sets_the_precision_if_the_user_names_none(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert checked(None, CPU) == "auto"
    monkeypatch.setenv(VARIABLE, "bfloat16")
    assert checked(None, CPU) == "bfloat16"
    assert [checked(name, CPU) for name in ("auto", "float32")] == ["auto", "float32"]
    monkeypatch.setenv(VARIABLE, "")
    assert checked(None, CPU) == "auto"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bfloat", "no precision of ROBENCH_PRECISION is called .*did you mean bfloat16"),
        ("tf32", "unset ROBENCH_PRECISION, or take"),
    ],
)
def test_a_wrong_precision_in_the_environment_is_refused(value, message, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(UserError, match=message):
        checked(None, CPU)


@pytest.mark.parametrize(
    ("machine", "able", "has"),
    [
        ("x86_64", {"_is_avx512_bf16_supported"}, True),
        ("AMD64", {"_is_amx_tile_supported"}, True),
        ("x86_64", set(), False),
        ("aarch64", {"_is_mkldnn_bf16_supported"}, True),
        ("aarch64", {"_is_avx512_bf16_supported"}, False),
        ("x86_64", {"_is_mkldnn_bf16_supported"}, False),  # true of every processor with AVX512
    ],
)
def test_hardware_for_bfloat16_is_read_from_the_processor_flags(machine, able, has, monkeypatch):
    monkeypatch.setattr(precisions.platform, "machine", lambda: machine)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in able)
    name = "_is_mkldnn_bf16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, name, lambda: name in able)
    assert has_hardware("bfloat16", CPU) is has
    assert not has_hardware("tf32", CPU)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_hardware("bfloat16", CPU)


def test_multiply_adds_equal_those_counted_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),  # 4 * 20 values of 9 each
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),  # 6 * 2 * 3 values of 2 * 9 each
        nn.ConvTranspose2d(6, 2, 2, stride=2),  # 6 * 2 * 3 values to 2 * 4 each
        nn.Flatten(),
        nn.Linear(48, 7),
        nn.Linear(7, 4),
    )
    rest = 36 * 18 + 36 * 8 + 48 * 7
    assert multiply_adds(classifier(layers, 4)) == (rest, 80 * 9 + rest + 7 * 4)


def test_a_layer_that_is_used_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.last = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 5)

        def forward(self, x):
            return self.last(self.again(self.again(self.first(x.flatten(1)))))

    assert multiply_adds(classifier(Twice(), 5)) == (800, 1300)


def test_small_networks_and_those_with_dominant_first_and_last_layers_gain_too_little(monkeypatch):
    model = classifier(nn.Sequential(nn.Flatten(), nn.Linear(20, 30), nn.Linear(30, 300), nn.Linear(300, 1)), 1)
    rest = 30 * 300
    monkeypatch.setitem(WORTH, "cpu", 8 * rest)
    assert saves_too_little(model, 8) == ""
    assert "the network is small" in saves_too_little(model, 7)
    monkeypatch.setitem(SHARE, "cpu", rest / (rest + 900) + 1e-6)
    assert saves_too_little(model, 8) == "layers that stay in float32 make 9% of the multiply-adds"


@pytest.mark.parametrize(
    ("name", "pays"), [("digits-adv-linf", False), ("mnist-adv-linf", True), ("preactresnet18", True)]
)
def test_bfloat16_is_used_only_for_networks_that_it_speeds_up_on_a_cpu(name, pays):
    """As measured by benchmarks/precision_gain.py; no clock here."""
    if name == "preactresnet18":
        shape = (3, 32, 32)
        model = Classifier(ARCHITECTURES[name].build(shape, 10), name="", architecture="", shape=shape, classes=10)
    else:
        model = load(name).classifier
    assert (saves_too_little(model, SLOTS["cpu"]) == "") is pays


def test_the_callers_settings_do_not_lower_the_precision():
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with arithmetic(CPU):
                assert torch.get_float32_matmul_precision() == "highest"
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
