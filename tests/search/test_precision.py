"""A rough search finds what an exact one finds, and nothing it finds or misses is believed unasked."""

import warnings
from fractions import Fraction

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.classifier import arithmetic
from robench.problem.threats import L2, Linf
from robench.search import pilot
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.loop import Engine
from robench.search.pilot import choose
from robench.search.precision import checked, rounded, speed_up

from ..oracles import classifier, toy
from .running import ends, items, job
from .test_loop import net

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
                assert model(end.x_adv[None]).argmax(dim=1) != split.y[end.item.row], "a find that fools only roughly"
    return {end.item.row for end in ended if end.x_adv is not None}


@pytest.mark.parametrize(("threat", "attack"), [(SMALL, PGD(steps=20)), (L2(Fraction(1, 3)), APGD(steps=20))])
def test_a_search_in_bfloat16_breaks_what_one_in_float32_breaks(model, split, threat, attack):
    exactly = broken(model, split, threat, attack, "float32")
    assert 5 < len(exactly) < N - 5, "both outcomes must occur"
    assert len(exactly ^ broken(model, split, threat, attack, "bfloat16")) <= 1


def test_the_first_layer_is_not_rounded(split):
    """All that happens in one layer is exact; with two, bfloat16 shows."""
    torch.manual_seed(0)
    one = classifier(nn.Sequential(nn.Flatten(), nn.Linear(20, 4)), 4)
    two = classifier(net(), 4)
    with torch.no_grad():
        assert torch.equal(rounded(one)(split.x), one(split.x))
        apart = (rounded(two)(split.x) - two(split.x)).abs().max()
    assert 1e-5 < apart < 0.05


def test_rounding_leaves_the_classifier_as_it_was(model, split):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with torch.no_grad():
        logits = model(split.x)
        rounded(model)(split.x)
        assert torch.equal(model(split.x), logits)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


class TwoFaced(nn.Module):
    """Answers as `net` does, and in bfloat16 with this much added to the logit of the right class."""

    def __init__(self, y_of, added):
        super().__init__()
        self.inner, self.y_of, self.added = net(), y_of, added

    def forward(self, x):
        logits = self.inner(x)
        if logits.dtype == torch.bfloat16:
            right = self.y_of(x)
            logits = logits.float() + self.added * nn.functional.one_hot(right, 4)
        return logits


def test_what_fools_in_bfloat16_alone_is_no_find(split):
    near = lambda x: split.y[torch.cdist(x.flatten(1), split.x.flatten(1)).argmin(dim=1)]  # noqa: E731
    gullible = classifier(TwoFaced(near, added=-100.0), 4)
    exactly = broken(gullible, split, SMALL, PGD(steps=20), "float32")
    assert broken(gullible, split, SMALL, PGD(steps=20), "bfloat16") == exactly


def test_what_does_not_fool_in_bfloat16_is_asked_again_before_the_search_is_given_up(split):
    near = lambda x: split.y[torch.cdist(x.flatten(1), split.x.flatten(1)).argmin(dim=1)]  # noqa: E731
    stubborn = classifier(TwoFaced(near, added=100.0), 4)
    exactly = broken(stubborn, split, SMALL, PGD(steps=20), "float32")
    assert len(exactly) > 5
    assert broken(stubborn, split, SMALL, PGD(steps=20), "bfloat16") == exactly


def test_an_attack_that_must_be_precise_is(split):
    class Precise(PGD):
        precise = True

    seen = set()

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            logits = self.inner(x)
            seen.add(logits.dtype)
            return logits

    spied = classifier(Spy(), 4)
    ends(spied, split, job(SMALL, Precise(steps=3), items(spied, PGD(), split, range(3))), precision="bfloat16")
    assert seen == {torch.float32}
    ends(spied, split, job(SMALL, PGD(steps=3), items(spied, PGD(), split, range(3))), precision="bfloat16")
    assert torch.bfloat16 in seen


# Who decides


def chosen(model, split, ratio, monkeypatch):
    monkeypatch.setattr(pilot, "speed_up", lambda *_: ratio)
    return choose(model, [(SMALL, PGD(steps=10))], split, lanes=8, seed=0)


def test_a_lower_precision_is_taken_when_it_is_faster_and_breaks_the_same(model, split, monkeypatch):
    choice = chosen(model, split, 3.4, monkeypatch)
    assert choice.precision == "bfloat16"
    assert "3.4 times as fast as float32" in choice.reason


def test_a_lower_precision_that_is_not_faster_is_not_tried(model, split, monkeypatch):
    choice = chosen(model, split, 1.1, monkeypatch)
    assert (choice.precision, choice.reason) == ("float32", "bfloat16 is 1.1 times as fast here")


def test_a_lower_precision_that_breaks_other_examples_is_not_taken(split, model, monkeypatch):
    real = pilot._broken
    monkeypatch.setattr(pilot, "_broken", lambda *a: real(*a) - ({min(real(*a))} if a[-1] == "bfloat16" else set()))
    choice = chosen(model, split, 3.4, monkeypatch)
    assert (choice.precision, choice.reason) == (
        "float32",
        "a pilot in bfloat16 breaks 1 examples other than in float32",
    )


def test_a_model_that_fails_when_rounded_is_searched_in_float32(split, monkeypatch):
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            logits = self.inner(x)
            if logits.dtype != torch.float32:
                raise TypeError("float32 only")
            return logits

    choice = chosen(classifier(Strict(), 4), split, 3.4, monkeypatch)
    assert choice.precision == "float32"


def test_the_time_of_a_precision_is_measured(model):
    assert 0.001 < speed_up(model, "bfloat16", 8) < 1000


def test_a_torchscript_model_is_searched_in_float32(model, split):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself: people still have such files
        script = classifier(torch.jit.trace(net().eval(), split.x[:2]), 4)
    choice = choose(script, [(SMALL, PGD(steps=2))], split, lanes=8, seed=0)
    assert choice.precision == "float32"
    with pytest.raises(UserError, match="TorchScript model cannot be rounded"):
        Engine(script, split, 0, 8, "bfloat16")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fp16", "no precision is called 'fp16'"),
        ("bf16", "did you mean bfloat16"),
        ("tf32", "tf32 is a precision of CUDA devices"),
    ],
)
def test_precisions_that_are_not_there_are_refused(name, told):
    with pytest.raises(UserError) as refused:
        checked(name, CPU)
    assert told in str(refused.value)


def test_a_caller_cannot_make_the_arithmetic_rough():
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
