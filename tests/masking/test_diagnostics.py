"""Measurements on models whose gradients are known."""

import copy
import functools
from collections import Counter

import pytest
import torch
from torch import nn

from robench.masking import diagnostics
from robench.problem import checkpoints, datasets
from robench.problem.checkpoints.cards import read_card
from robench.problem.checkpoints.zoo import zoo_folder
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.testing.masked import MASKED, masked

DIGITS = datasets.load("digits").part("24")


def linear(blind=0):
    """Three classes by random weights on 4x5 grey images, none on the first `blind` pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 20, generator=noise))
        net[1].weight[:, :blind] = 0
    return net


def split(module, n=10):
    """Images in the middle of the box, labelled as the model has them."""
    x = 0.3 + 0.4 * torch.rand(n, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    return Split.whole("made:up", x, module(x).argmax(dim=1).detach(), classes=3)


def classifier(module, shape=(1, 4, 5), classes=3):
    return Classifier(module, name="m", architecture="m", shape=shape, classes=classes)


def by_name(measured):
    values = {}
    for m in measured:
        values.setdefault(m.name, []).append(m.value)
    return values


def of_threat(module, threat="l2:0.2", images=None):
    images = split(module) if images is None else images
    return by_name(diagnostics.of_threat(classifier(module), parse(threat), images, seed=0))


@functools.cache
def of_digits(name, examples=24):
    images = DIGITS.take(range(examples))
    base = copy.deepcopy(checkpoints.load("digits-adv-linf").classifier.module)
    model = classifier(masked(name, base) if name else base, DIGITS.shape, 10)
    return by_name(diagnostics.of_model(model, images, seed=0)), by_name(
        diagnostics.of_threat(model, parse("linf:0.2"), images, seed=0)
    )


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.2", "l1:0.5"])
def test_diagnostics_of_a_linear_model_are_exact(threat):
    reported = of_threat(linear(), threat)
    assert reported["slope"] == pytest.approx([1.0] * 10, abs=0.05)  # except where rivals change places
    assert reported["aside"] == pytest.approx([1.0] * 10, abs=0.01)
    assert reported["agrees"] == pytest.approx([1.0] * 10)
    assert mean(reported["leads"]) > (
        0.8 if threat[:2] != "l1" else 0.3
    )  # of 20 pixels chance often takes the best too
    for name in ("zero", "not finite", "loss zero", "blind", "same"):
        assert reported[name] == [0.0] * 10, name


class HalfDetached(nn.Module):
    """Two linear parts at right angles; the first, three times as steep, is detached."""

    def __init__(self):
        super().__init__()
        first, second = torch.linalg.qr(torch.randn(20, 2, generator=torch.Generator().manual_seed(5)))[0].T
        self.detached, self.kept = 3 * first, second

    def forward(self, x):
        flat = x.flatten(1) - 0.5
        rise = flat.detach() @ self.detached + flat @ self.kept
        return torch.stack([rise, -rise], dim=1)


def test_a_gradient_that_lacks_a_part_at_right_angles_is_right_along_itself_and_wrong_aside():
    reported = of_threat(HalfDetached(), images=split(HalfDetached(), n=40))
    assert reported["slope"] == pytest.approx([1.0] * 40, abs=0.01)
    # The cosine of the kept part with the whole is 1 / sqrt(10); eight directions scatter around it.
    assert mean(reported["aside"]) == pytest.approx(10**-0.5, abs=0.15)


def test_the_norm_is_that_of_the_difference_of_two_rows():
    module = linear()
    rows = module[1].weight.detach()
    distances = {round((rows[i] - rows[j]).norm().item(), 4) for i in range(3) for j in range(i)}
    assert {round(value, 4) for value in of_threat(module)["norm"]} <= distances


def test_the_share_of_pixels_without_gradient_is_that_without_a_weight():
    assert of_threat(linear(blind=5))["blind"] == [0.25] * 10


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "probe", "value"),
    [
        ("flipped", "slope", -1.0),
        ("staircase", "zero", 1.0),
        ("detached", "zero", 1.0),
        ("not-a-number", "not finite", 1.0),
        ("large-logits", "loss zero", 0.9),
        ("staircase", "same", 0.9),
        ("rounded-input", "blind", 1.0),
        ("noisy-gradient", "agrees", 0.0),
        ("decoy", "leads", 0.1),
        ("anti-adversary", "zero", 1.0),
    ],
)
def test_each_mask_shows_in_its_own_measurement(name, probe, value):
    assert mean(of_digits(name)[1][probe]) == pytest.approx(value, abs=0.12)


def test_an_honest_network_shows_nothing():
    whole, reported = of_digits("")
    assert (whole["repeatable"], whole["no gradient"], whole["inner gradients"]) == ([1.0], [0.0], [0.0])
    assert mean(reported["leads"]) > 0.9
    assert mean(reported["slope"]) == pytest.approx(1.0, abs=0.05)
    assert max(reported["zero"] + reported["not finite"] + reported["loss zero"] + reported["same"]) == 0


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "probe", "value"),
    [
        ("probabilities", "probabilities", 1.0),
        ("one-hot", "one-hot", 1.0),
        ("staircase", "probabilities", 0.0),
        ("no-graph", "no gradient", 1.0),
        ("one-hot", "no gradient", 1.0),
        ("noise", "repeatable", 0.0),
        ("anti-adversary", "inner gradients", 3.0),
    ],
)
def test_properties_of_the_whole_model_are_measured(name, probe, value):
    assert of_digits(name)[0][probe] == [value]


def test_layers_in_training_mode_are_counted_and_change_the_answer_about_a_single_image():
    class Stubborn(nn.Sequential):
        def train(self, mode=True):
            return super().train(True)

    module = Stubborn(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(20, 3))
    reported = by_name(diagnostics.of_model(classifier(module), split(linear()), seed=0))
    assert reported["training layers"] == [3.0]
    assert reported["alone"][0] > 0.1
    honest = by_name(diagnostics.of_model(classifier(linear()), split(linear()), seed=0))
    assert honest["training layers"] == [0.0]
    assert honest["alone"][0] < 1e-4


def test_log_probabilities_are_known_from_logits():
    whole = by_name(
        diagnostics.of_model(classifier(nn.Sequential(linear(), nn.LogSoftmax(1))), split(linear()), seed=0)
    )
    assert whole["log-probabilities"] == [1.0]
    assert whole["probabilities"] == [0.0]
    assert by_name(diagnostics.of_model(classifier(linear()), split(linear()), seed=0))["log-probabilities"] == [0.0]


def test_measuring_costs_5_gradients_and_98_forward_passes_per_image():
    rows = Counter()

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear()

        def forward(self, x):
            rows["gradients" if torch.is_grad_enabled() else "forwards"] += len(x)
            return self.net(x)

    of_threat(Counting(), images=split(linear(), n=7))
    assert rows == {"gradients": 5 * 7, "forwards": 98 * 7}


def test_measuring_changes_neither_random_numbers_nor_torch():
    grad, backward = torch.autograd.grad, torch.Tensor.backward
    noisy = classifier(nn.Sequential(linear(), nn.Dropout()).train())
    noisy.module.train()
    images = split(linear())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert by_name(diagnostics.of_model(noisy, images, seed=0))["repeatable"] == [0.0]
    by_name(diagnostics.of_threat(noisy, parse("l2:0.2"), images, seed=0))
    assert torch.equal(torch.rand(3), expected)
    assert torch.autograd.grad is grad
    assert torch.Tensor.backward is backward


def test_measurements_of_an_example_do_not_depend_on_the_others():
    module = linear(blind=3)
    images = split(module, n=9)
    together = of_threat(module, images=images)
    few = of_threat(module, images=images.take([4, 7]))
    for name, values in few.items():
        assert values == pytest.approx([together[name][4], together[name][7]], rel=1e-4, abs=1e-5), name


@pytest.mark.costly
def test_every_mask_of_the_zoo_can_be_measured():
    for name in MASKED:
        whole, reported = of_digits(name, examples=2)
        assert all(len(values) == 1 for values in whole.values())
        assert all(value == value for values in reported.values() for value in values), name


class LowMemory(nn.Module):
    """Fails as the CPU allocator does if a gradient is computed for more images than fit."""

    def __init__(self, limit):
        super().__init__()
        self.net = linear()
        self.limit = limit

    def forward(self, x):
        if torch.is_grad_enabled() and len(x) > self.limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return self.net(x)


def test_a_batch_that_does_not_fit_the_memory_is_halved_and_measured_all_the_same():
    images = split(linear(), n=7)
    whole = of_threat(linear(), images=images)
    for name, values in of_threat(LowMemory(2), images=images).items():
        assert values == pytest.approx(whole[name], abs=1e-3), name


def test_running_out_of_memory_is_raised_and_never_read_as_a_gradient_of_0():
    images = split(linear(), n=7)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        of_threat(LowMemory(0), images=images)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        by_name(diagnostics.of_model(classifier(LowMemory(0)), images, seed=0))


def test_a_model_without_a_graph_has_no_gradient():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear()

        def forward(self, x):
            return self.net(x.detach())

    images = split(linear(), n=3)
    net = Cut().requires_grad_(False)
    assert by_name(diagnostics.of_model(classifier(net), images, seed=0))["no gradient"] == [1.0]
    assert of_threat(net, images=images)["zero"] == [1.0] * 3


# The caution


class Wrong(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient), None


class Misled(nn.Module):
    """A linear model whose gradients are changed, on the first images of a batch alone."""

    def __init__(self, change, wrong):
        super().__init__()
        self.net, self.change, self.wrong = linear(), change, wrong

    def forward(self, x):
        return self.net(torch.cat([Wrong.apply(x[: self.wrong], self.change), x[self.wrong :]]))


CHANGES = {
    "are not numbers": lambda g: g * torch.nan,
    "are exactly 0": lambda g: g * 0,
    "contradict differences of the outputs": lambda g: -g,
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("wrong", [0, 4, 5, 8])
def test_the_caution_says_what_is_wrong_with_most_gradients(what, wrong):
    text = diagnostics.caution(classifier(Misled(CHANGES[what], wrong)), split(linear(), 8))
    assert text.startswith(f"gradients {what} on {wrong} of the first 8 images, so") if wrong > 4 else text == ""


def test_a_gradient_that_lacks_the_steeper_part_is_caught_in_other_directions():
    net = HalfDetached()
    assert "contradict differences" in diagnostics.caution(classifier(net, classes=2), split(net, 8))


@pytest.mark.parametrize("name", ["", *(m.name for m in MASKED.values() if m.keeps)])
def test_the_caution_finds_the_masks_whose_gradients_are_absent_or_wrong(name):
    base = copy.deepcopy(checkpoints.load("digits-adv-linf").classifier.module)
    model = classifier(masked(name, base) if name else base, DIGITS.shape, 10)
    right = ("", "large-logits", "tiny-logits", "probabilities")  # near the image
    small = ("half-probabilities", "clipped-log-probabilities")  # wrong where the model is sure
    none = ("one-hot", "no-graph")  # of which another note warns
    text = diagnostics.caution(model, DIGITS.take(range(8)))
    if name not in small:
        assert (text == "") == (name in (*right, *none))


class Rounded(nn.Module):
    """A model that computes in another precision."""

    def __init__(self, net, dtype):
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, x):
        return self.net(x.to(self.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["digits-nat", "digits-adv-linf"])
def test_low_precision_gets_no_caution(dtype, name):
    net = Rounded(copy.deepcopy(checkpoints.load(name).classifier.module), dtype)
    assert diagnostics.caution(classifier(net, DIGITS.shape, 10), DIGITS.take(range(8))) == ""


class Root(nn.Module):
    """The identity, without a gradient at black pixels."""

    def forward(self, x):
        return x.sqrt() ** 2


def test_a_gradient_that_is_no_number_at_black_pixels_is_found_at_the_images_themselves():
    net = nn.Sequential(Root(), copy.deepcopy(checkpoints.load("digits-nat").classifier.module))
    text = diagnostics.caution(classifier(net, DIGITS.shape, 10), DIGITS.take(range(8)))
    assert text.startswith("gradients are not numbers on 8 of the first 8 images")


def test_a_gradient_that_raises_is_left_to_the_attacks():
    def raises(gradient):
        raise RuntimeError("no derivative of this layer")

    assert diagnostics.caution(classifier(Misled(raises, 8)), split(linear(), 8)) == ""


def test_black_and_white_images_and_models_that_cut_pixels_to_the_box_get_no_caution():
    net = linear()
    cut = nn.Sequential(Cut(), net)
    x = (torch.rand(8, 1, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    images = Split.whole("made:up", x, net(x).argmax(dim=1).detach(), classes=3)
    assert diagnostics.caution(classifier(cut), images) == ""


class Cut(nn.Module):
    def forward(self, x):
        return x.clamp(0, 1)


class Raising(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such layer")


def test_where_the_model_raises_there_is_no_caution():
    assert diagnostics.caution(classifier(Raising()), split(linear(), 8)) == ""


BUNDLED = [card.stem for card in sorted(zoo_folder().glob("*.toml")) if card.with_suffix(".safetensors").exists()]


@pytest.mark.costly
@pytest.mark.parametrize("name", BUNDLED)
def test_no_bundled_model_gets_a_caution(name):
    images = datasets.load(read_card(zoo_folder() / f"{name}.toml").data).part("8")
    assert diagnostics.caution(checkpoints.load(name).classifier, images) == ""
