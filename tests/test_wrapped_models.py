"""A model is searched as it is: the same network in another coat keeps the outcome of every example."""

import contextlib
from dataclasses import dataclass
from functools import lru_cache, partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import robench
from robench.problem import datasets

QUESTIONS = (
    ("linf:0.1", ["pgd(steps=3)", "square(steps=15)"], 8),
    ("l2:1.5", ["hop-skip-jump(steps=1)", "apgd(steps=4)"], 5),
)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(1, 8, 5, 2, 2), nn.Conv2d(8, 16, 5, 2, 2), nn.Linear(784, 10)

    def maps(self, x):
        return F.relu(self.b(F.relu(self.a((x - 0.3) / 0.4))))

    def forward(self, x):
        return self.f(self.maps(x).flatten(1))


class View(Plain):
    def forward(self, x):
        x = self.maps(x)
        return self.f(x.view(x.size(0), -1))


class Strided(Plain):
    """Reads its maps by their strides, which are those of a contiguous tensor."""

    def forward(self, x):
        x = self.maps(x)
        return self.f(x.as_strided((len(x), 784), (784, 1)))


class InPlace(Plain):
    def maps(self, x):
        return F.relu_(self.b(F.relu_(self.a(x.sub_(0.3).div_(0.4)))))


class Buffered(Plain):
    """Answers in a buffer of its own, the same in every call."""

    def forward(self, x):
        logits = super().forward(x)
        if torch.is_grad_enabled():
            return logits
        if not hasattr(self, "held") or self.held.shape != logits.shape:
            self.held = torch.empty_like(logits)
        return self.held.copy_(logits)


class KeepsActivations(Plain):
    def forward(self, x):
        self.activations = [self.maps(x)]
        return self.f(self.activations[0].flatten(1))


class LikeLightning(nn.Module):
    """What such modules bring along: hyperparameters, a trainer, steps, a log, properties."""

    def __init__(self, net):
        super().__init__()
        self.net, self.hparams, self.trainer = net, {"lr": 0.1}, None

    @property
    def device(self):
        return next(self.parameters()).device

    def training_step(self, batch, index):
        raise AssertionError("nobody trains here")

    def forward(self, x):
        return self.net(x.to(self.device))


class InDouble(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double())


class Views(Plain):
    """Takes batches of one size alone, for others with an error or with another number of answers."""

    def __init__(self, size=8, last=False):
        super().__init__()
        self.size, self.last = size, last

    def forward(self, x):
        if self.last:
            return self.f(self.maps(x).flatten(1)).view(self.size, -1)
        return self.f(self.maps(x).view(self.size, -1))


class Predicts(Plain):
    def forward(self, x):
        raise AssertionError("its method is what is given")

    def predict(self, x):
        return super().forward(x)


class Callable:
    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


@dataclass
class Output:
    features: torch.Tensor
    logits: torch.Tensor


def answers(form):
    """A function that gives the logits in another form."""
    net = made().eval()
    return lambda x: form(net(x))


@lru_cache
def weights():
    torch.manual_seed(0)
    split, net = datasets.load("digits", "train"), Plain()
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(6):
        for rows in torch.randperm(600).split(64):
            adam.zero_grad()
            F.cross_entropy(net(split.x[rows]), split.y[rows]).backward()
            adam.step()
    # Numbers that bfloat16 holds exactly, and float16, which has three bits more and fewer exponents.
    exact = {key: (weight * 256).bfloat16().float() / 256 for key, weight in net.state_dict().items()}
    exact = {key: torch.where(weight.abs() < 2**-14, 0.0, weight) for key, weight in exact.items()}
    for dtype in (torch.float16, torch.bfloat16):
        assert all(torch.equal(weight.to(dtype).float(), weight) for weight in exact.values())
    return exact


def made(kind=Plain):
    net = kind()
    net.load_state_dict(weights())
    return net


def hooked():
    net, seen = made(), []
    net.a.register_forward_hook(lambda _module, _x, out: seen.append(out))
    net.b.register_forward_pre_hook(lambda module, x: setattr(module, "kept", x[0]))
    net.f.register_full_backward_hook(lambda _module, given, _: seen.append(given))
    net(torch.rand(2, 1, 28, 28))  # what it keeps now has a history
    return net


def scripted():
    with torch.jit.optimized_execution(True):
        return torch.jit.script(made(View))


def traced():
    return torch.jit.trace(made(View).eval(), torch.rand(3, 1, 28, 28), check_trace=False)


def traced_with_its_size():
    return torch.jit.trace(made(Views).eval(), torch.rand(8, 1, 28, 28), check_trace=False)


def method():
    return made(Predicts).eval().predict


WAYS = {
    "view for flatten": lambda: made(View),
    "strides": lambda: made(Strided),
    "normalises in place": lambda: made(InPlace),
    "answers in a buffer": lambda: made(Buffered),
    "keeps its activations": lambda: made(KeepsActivations),
    "hooks": hooked,
    "DataParallel": lambda: nn.DataParallel(made()),
    "torch.compile": lambda: torch.compile(made(), backend="eager"),
    "TorchScript": scripted,
    "traced": traced,
    "like Lightning": lambda: LikeLightning(made()),
    "double inside": lambda: InDouble(made()),
    "double": lambda: made().double(),
    "in training mode": lambda: made().train(),
    "half": lambda: made().half(),
    "bfloat16": lambda: made().bfloat16(),
    "a function": lambda: answers(lambda logits: logits),
    "a bound method": method,
    "a partial function": lambda: partial(torch.func.functional_call, made().eval(), made().state_dict()),
    "a callable object": lambda: Callable(made().eval()),
    "a tuple": lambda: answers(lambda logits: (logits, logits.flatten(1) * 2)),
    "a list": lambda: answers(lambda logits: [logits.mean(), logits]),
    "a dict with logits": lambda: answers(lambda logits: {"aux": -logits, "logits": logits}),
    "a dict of one": lambda: answers(lambda logits: {"y_hat": logits}),
    "a dataclass": lambda: answers(lambda logits: Output(-logits, logits)),
    "an object with logits": lambda: answers(lambda logits: SimpleNamespace(logits=logits)),
    "one image at a time": lambda: made(partial(Views, 1)),
    "batches of eight": lambda: made(Views),
    "batches of ten": lambda: made(partial(Views, 10, last=True)),
    "traced with its batch of eight": traced_with_its_size,
}


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CALLS = {
    "inside inference_mode": torch.inference_mode,
    "inside no_grad": torch.no_grad,
    "float64 by default": lambda: default_dtype(torch.float64),
    "inside autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def outcomes(net, data="digits"):
    letters = []
    for threat, attacks, examples in QUESTIONS:
        asked = robench.evaluate(net, data, threats=[threat], attacks=attacks, examples=examples, precision="float32")
        (entry,) = asked.threats
        assert not entry.failures
        letters.append(entry.outcomes)
    return letters


@lru_cache
def plain_outcomes():
    return outcomes(made())


@pytest.mark.costly
def test_the_plain_network_has_broken_and_standing_examples():
    for letters in plain_outcomes():
        assert {"B", "S"} <= set(letters) <= {"W", "B", "S"}


@pytest.mark.costly
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of torch.compile
@pytest.mark.parametrize("way", WAYS)
def test_a_wrapped_network_has_the_same_outcomes(way):
    assert outcomes(WAYS[way]()) == plain_outcomes()


class Parity(nn.Module):
    """Whether a digit is odd, as two logits, or as the logit that is their difference."""

    def __init__(self, single):
        super().__init__()
        self.net, self.single = made(), single

    def forward(self, x):
        digits = self.net(x)
        even, odd = digits[:, ::2].logsumexp(1), digits[:, 1::2].logsumexp(1)
        return (odd - even)[:, None] if self.single else torch.stack([even, odd], dim=1)


@pytest.mark.costly
def test_one_logit_keeps_the_outcomes_of_two():
    split = datasets.load("digits")
    data = robench.Split.whole("parity:test", split.x[:12], split.y[:12] % 2, classes=2)
    one, two = (outcomes(Parity(single), data) for single in (True, False))
    assert one == two
    assert {"B", "S"} <= set("".join(one))


@pytest.mark.costly
@pytest.mark.parametrize("call", CALLS)
def test_the_settings_of_the_process_change_no_outcome(call):
    expected = plain_outcomes()
    with CALLS[call]():
        assert outcomes(made()) == expected


def test_a_network_made_in_inference_mode_has_the_same_outcomes():
    expected = plain_outcomes()
    with torch.inference_mode():
        net = made()
    assert net.a.weight.is_inference(), "its weights know no gradients, or the test says nothing"
    assert outcomes(net) == expected


def test_the_callers_network_is_unchanged():
    net = made(KeepsActivations).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    outcomes(net)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.a.weight.is_contiguous(memory_format=torch.contiguous_format)
