"""Compiled programs, read operator by operator: the same answers, with derivatives that can be replaced."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robench.masking import surrogates
from robench.masking.script_graph import is_compiled, readable
from robench.problem.checkpoints.programs import Program, load_torchscript
from robench.problem.checkpoints.torchscript.interpreted import Interpreted, UnreadableGraphError
from robench.problem.classifier import Classifier
from robench.problem.repairs import repairs

X = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """A linear model of images, before which and after which something happens."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(WEIGHTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Rounded(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.floor(x * 8).flatten(1) / 8)


class Detached(Linear):
    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x.flatten(1))
        return z.detach() - z + z.detach()


class WithoutGraph(Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.linear(x.flatten(1))


class OneHot(Linear):
    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x.flatten(1))
        return F.one_hot(z.argmax(dim=1), 3).float()


class Nearest(Linear):
    """Thresholds, a table, and the nearest of its entries."""

    def forward(self, x: Tensor) -> Tensor:
        marks = (x.flatten(1) > 0.5).float()
        distances = (marks[:, None] - self.linear.weight).square().sum(dim=2)
        chosen = torch.topk(distances, 2, dim=1, largest=False)[1]
        return torch.tanh(50 * (self.linear(marks) + torch.eye(3)[chosen].sum(dim=1)))


class Branching(Linear):
    """Loops and branches, which tracing would drop."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x.flatten(1))
        total = torch.zeros_like(z)
        for k in range(3):
            if float(x.mean()) > 2.0:
                total = total - z
            elif k == 1:
                total = total + 2 * z
            else:
                total = total - z / 2
        n = 0
        while n < 2:
            n += 1
        return total * n / 2


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module.eval())


def classifier(module):
    return Classifier(module, name="m", architecture="m", shape=(1, 2, 3), classes=3)


@pytest.mark.parametrize("module", [Linear, Rounded, Detached, WithoutGraph, OneHot, Nearest, Branching])
def test_a_program_read_operator_by_operator_answers_as_before(module):
    program = scripted(module())
    assert torch.equal(Interpreted(program)(X), program(X))


@pytest.mark.parametrize("module", [Rounded, Detached, WithoutGraph, OneHot])
def test_surrogate_gradients_reach_the_operators_of_a_compiled_program(module):
    model = classifier(Program(scripted(module())))
    assert is_compiled(model.module)
    opened = surrogates.opened(model, X)
    assert not is_compiled(opened.module)
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(surrogates.bpda(opened)(x)[:, 1].sum(), x)
    assert torch.allclose(grad.flatten(1), WEIGHTS[1].expand(4, 6), atol=1e-5)


@pytest.mark.parametrize("sharpness", [0.0, 10.0])
def test_a_compiled_program_has_the_surrogate_gradients_of_its_module(sharpness):
    found = []
    for module in (Nearest().eval(), Program(scripted(Nearest()))):
        surrogate = surrogates.bpda(surrogates.opened(classifier(module), X), sharpness=sharpness)
        x = X.clone().requires_grad_()
        found.append(torch.autograd.grad(surrogate(x)[:, 1].sum(), x)[0])
    assert torch.equal(*found)
    assert float(found[0].abs().sum()) > 0


def test_the_logits_inside_a_compiled_program_take_the_place_of_its_classes():
    inner = surrogates.inner_layer(surrogates.opened(classifier(Program(scripted(OneHot()))), X), X)
    assert torch.allclose(inner(X), X.flatten(1) @ WEIGHTS.T, atol=1e-6)


def test_a_program_with_a_node_of_an_unknown_kind_stays_as_it_is():
    class Lists(Linear):
        def forward(self, x: Tensor) -> Tensor:
            sizes = {"one": 1.0}
            return self.linear(x.flatten(1)) * sizes["one"]

    module = Program(scripted(Lists()))
    with pytest.raises(UnreadableGraphError, match="prim::DictConstruct"):
        Interpreted(module.network)
    assert readable(module, X) is module


def test_a_program_that_raises_raises_in_its_own_words():
    class Refusing(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 1:
                raise ValueError("one image is too few")
            return self.linear(x.flatten(1))

    opened = Interpreted(scripted(Refusing()))
    assert torch.equal(opened(X), X.flatten(1) @ WEIGHTS.T)
    with pytest.raises(RuntimeError, match="one image is too few"):
        opened(X[:1])


def test_a_module_without_a_compiled_part_stays_as_it_is():
    module = Linear()
    assert readable(module, X) is module


@pytest.mark.costly
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # the process inherits the filters
@pytest.mark.parametrize("kind", [Rounded, Detached, WithoutGraph, OneHot, Nearest])
@pytest.mark.parametrize("sharpness", [0.0, 10.0])
def test_a_confined_program_is_read_where_it_runs_with_the_same_derivatives(kind, sharpness, tmp_path):
    """Logits, gradients and the values inside are those of the same program in this process, bit for bit."""
    path = tmp_path / "model.pt"
    scripted(kind()).save(str(path))
    found = []
    for trust in (False, True):
        model = classifier(load_torchscript(path, torch.device("cpu"), trust=trust)[0].eval())
        assert is_compiled(model.module)
        opened = surrogates.opened(model, X)
        assert not is_compiled(opened.module)
        x = X.clone().requires_grad_()
        logits = surrogates.bpda(opened, leak=0.1, sharpness=sharpness)(x)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
        inside: list[Tensor] = []
        with torch.no_grad(), repairs(watch=inside.append):
            opened.module(X.clone())
        found.append((logits, gradient, [value for value in inside if value.shape == (4, 3)]))
    (one, its_gradient, its_inside), (two, other_gradient, other_inside) = found
    assert torch.equal(one, two)
    assert torch.equal(its_gradient, other_gradient)
    assert float(its_gradient.abs().sum()) > 0
    assert len(its_inside) == len(other_inside) > 0
    assert all(map(torch.equal, its_inside, other_inside))
