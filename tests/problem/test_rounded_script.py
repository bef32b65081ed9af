"""TorchScript programs are searched in bfloat16 as other models are; nothing of them is executed but their forward."""

import io

import pytest
import torch
from torch import Tensor, nn

from robench.errors import UserError
from robench.problem.checkpoints.programs import Program, scripts
from robench.problem.checkpoints.torchscript.rounded import RoundedScript
from robench.problem.classifier import Classifier
from robench.search.attack import differentiate
from robench.search.engine.pilot import named
from robench.search.engine.precision import multiply_adds
from robench.search.engine.rounding import rounded

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
SHAPE = (2, 8, 8)


class Convolutions(nn.Module):
    """Three convolutions and a dense layer, with batch normalisation and in-place ReLUs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 1), nn.ReLU()),
        )
        self.last = nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x).flatten(1))


class Viewing(Convolutions):
    """Reshapes without regard to strides, which raises with activations that are channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x).view(x.size(0), -1))


class Repeating(nn.Module):
    """Adds the image to the outputs of a layer that a loop repeats."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(128, 128)
        self.again = nn.Linear(128, 128)
        self.last = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        image = x.flatten(1)
        h = self.first(image)
        for i in range(3):
            h = torch.relu(self.again(2 * h)) + image if i == 1 else torch.relu(self.again(2 * h))
        return self.last(h)


class Attending(nn.Module):
    """Products of activations, layer normalisation and softmax."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(32)
        self.keys = nn.Linear(32, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.embed(x.flatten(1).view(-1, 8, 16)))
        scores = torch.softmax(torch.matmul(h, self.keys(h).transpose(1, 2)) / 6, dim=2)
        return self.last(torch.matmul(scores, h).mean(dim=1))


def images(rows=16):
    return torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(1))


def made(kind=Convolutions):
    torch.manual_seed(0)
    return kind().eval()


def model(module):
    return Classifier(Program(module), name="toy", architecture="", shape=SHAPE, classes=4)


def traced(module):
    return torch.jit.trace(module, images(3))


def scripted(module):
    return torch.jit.script(module)


def stored(module):
    file = io.BytesIO()
    torch.jit.save(scripted(module), file)
    return torch.jit.load(io.BytesIO(file.getvalue()))


def frozen(module):
    return torch.jit.freeze(scripted(module))


WAYS = {way.__name__: way for way in (traced, scripted, stored, frozen)}


def steps(of, x):
    """Logits and gradients of the sum of the logits, weighted differently."""
    loss = lambda logits, y, target: (logits.float() * torch.arange(1.0, 5)).sum(dim=1)  # noqa: E731
    seen = differentiate(of, loss, x, torch.zeros(len(x)).long(), torch.zeros(len(x)).long())
    return seen.logits, seen.grad


def apart(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize(
    ("kind", "way"),
    [*((kind, way) for kind in (Convolutions, Repeating, Attending) for way in WAYS), (Viewing, "stored")],
)
def test_a_program_answers_nearly_as_in_float32(kind, way):
    exact = model(WAYS[way](made(kind)))
    logits, gradient = steps(exact, images())
    rough_logits, rough_gradient = steps(rounded(exact), images())
    assert rough_logits.dtype == rough_gradient.dtype == torch.float32
    assert 0 < apart(rough_logits, logits) < 0.01
    assert 0 < apart(rough_gradient, gradient) < 0.1


@pytest.mark.parametrize("way", ["traced", "stored"])
def test_a_program_and_the_module_it_was_made_of_have_the_same_copy(way):
    logits, gradient = steps(rounded(model(made())), images())
    others = steps(rounded(model(WAYS[way](made()))), images())
    assert apart(others[0], logits) < 1e-3
    assert apart(others[1], gradient) < 0.02
    assert multiply_adds(model(WAYS[way](made()))) == multiply_adds(model(made()))


class Past(nn.Module):
    """What the logits see of the image comes past the first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(128, 8), nn.Linear(136, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        image = x.flatten(1)
        return self.last(torch.relu(self.second(torch.cat([image, 0 * self.first(image)], dim=1))))


class Written(Past):
    """Like Past, with a copy of the image that is written in place."""

    def forward(self, x: Tensor) -> Tensor:
        image = torch.zeros(x.size(0), 128)
        image.copy_(x.flatten(1))
        return self.last(torch.relu(self.second(torch.cat([image, 0 * self.first(x.flatten(1))], dim=1))))


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((kind, way) for kind in (Convolutions, Repeating, Past, Written) for way in WAYS),
        *((kind, "as it is") for kind in (Convolutions, Repeating, Past, Written)),
    ],
)
def test_a_thousandth_on_the_image_reaches_the_logits(kind, way):
    exact = model(made(kind) if way == "as it is" else WAYS[way](made(kind)))
    x = (0.8 + 0.1 * images(64)).bfloat16().float()
    near = x + steps(exact, x)[1].sign() / 1000
    assert torch.equal(near.bfloat16().float(), x), "a rounded image would lose it"
    weights, rough = torch.arange(1.0, 5), rounded(exact)
    expected = ((exact(near) - exact(x)) @ weights).mean().item()
    assert ((rough(near) - rough(x)) @ weights).mean().item() == pytest.approx(expected, rel=0.2)


def test_rounding_does_not_change_the_program():
    exact = model(stored(made()))
    before = {name: value.clone() for name, value in exact.module.state_dict().items()}
    text, logits = exact.module.network.code, exact(images())
    steps(rounded(exact), images())
    assert torch.equal(exact(images()), logits)
    assert exact.module.network.code == text
    assert all(torch.equal(value, before[name]) for name, value in exact.module.state_dict().items())


def kinds(block):
    """The operators in a graph or block."""
    return {node.kind() for node in block.nodes()}.union(*(kinds(b) for node in block.nodes() for b in node.blocks()))


def test_the_copy_has_no_operators_but_those_of_the_program_and_conversions():
    program = scripted(made(Repeating))
    copy = RoundedScript(program, channels_last=True)
    added = kinds(copy._function.graph) - kinds(program.inlined_graph)
    conversions = {"aten::type_as", "aten::detach", "aten::sub_", "aten::add_"}
    assert added <= conversions | {"prim::If", "prim::requires_grad", "prim::Constant"}


def test_nothing_is_executed_while_a_copy_is_made(capfd):
    class Printing(Convolutions):
        def forward(self, x: Tensor) -> Tensor:
            print("executed")
            return self.last(self.layers(x).flatten(1))

    copy = RoundedScript(scripted(made(Printing)), channels_last=True)
    assert capfd.readouterr().out == ""
    copy(images())
    assert "executed" in capfd.readouterr().out


def test_no_text_is_compiled(monkeypatch):
    program = stored(made())

    def compiled(*_):
        raise AssertionError("text was compiled")

    for owner, name in [(torch.jit, "script"), (torch.jit, "CompilationUnit"), (torch.jit, "load")]:
        monkeypatch.setattr(owner, name, compiled)
    monkeypatch.setattr(torch._C, "_jit_script_compile", compiled)
    rounded(model(program))(images())


class Counting(Convolutions):
    """Counts its passes."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.last(self.layers(x).flatten(1)) + self.passes


def hooked():
    """A module with a hook that is compiled with it."""

    def hook(self, x: tuple[Tensor]) -> tuple[Tensor]:
        return (x[0] / 2,)

    module = Convolutions()
    module.register_forward_pre_hook(hook)
    return module


class TwoInputs(Convolutions):
    """Takes a scale too."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.last(self.layers(x).flatten(1))


class Pooling(nn.Module):
    """Has no layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Counting, "changes its state in a forward pass"),
        (TwoInputs, "takes several inputs"),
        (hooked, "has hooks"),
        (Pooling, "has no convolution or dense layer"),
    ],
)
def test_a_program_that_cannot_be_rewritten_is_searched_in_float32_with_a_note(kind, reason):
    program = model(scripted(made(kind)))
    with pytest.raises(UserError, match=f"^this TorchScript model {reason}, so it cannot be rounded to bfloat16; "):
        rounded(program)
    choice = named(program, "bfloat16", images())
    assert choice.failed
    assert choice.reason == f"not in bfloat16: this TorchScript model {reason}, so it cannot be rounded to bfloat16"


def test_the_note_on_a_program_that_raises_in_bfloat16_is_one_sentence():
    class Strict(Convolutions):
        def forward(self, x: Tensor) -> Tensor:
            h = self.layers(x)
            if h.dtype != torch.float32:
                raise RuntimeError("float32 only")
            return self.last(h.flatten(1))

    choice = named(model(scripted(made(Strict))), "bfloat16", images())
    assert (choice.precision, choice.failed) == ("float32", True)
    assert choice.reason.endswith("float32 only")
    assert "\n" not in choice.reason
    assert len(choice.reason) < 100


def test_a_program_inside_a_module_is_rounded_with_the_layers_around_it():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.program = nn.Conv2d(2, 2, 1), scripted(made())

        def forward(self, x):
            return self.program(self.before(x))

    exact = model(made(Around))
    assert len(scripts(exact.module)) == 1
    assert 0 < apart(rounded(exact)(images()), exact(images())) < 0.02
