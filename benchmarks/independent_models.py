"""Models to judge the masking verdict on, written without `robench.testing.masked`: honest ones and masks of all kinds.

A mask surrounds a network of this file whose robustness is known. Where the mask keeps every prediction, that network
is the truth; elsewhere `twin` has exactly the mask's answers and a useful gradient, so attacks on it give an upper
bound that an attacker who knows the mask reaches. A third of all names is held out by a hash.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robench.problem import checkpoints, datasets

Builder = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Subject:
    """One model: how it is built, and what is known about it."""

    name: str
    family: str
    build: Builder  # from a base network
    twin: Builder | None = None  # the same answers with a useful gradient; None: the base network itself
    compiles: bool = True
    bases: tuple[str, ...] = ("robust",)
    threats: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: THREATS)
    networks: Mapping[str, Callable[[], nn.Module]] = field(default_factory=lambda: TRAINED)

    @property
    def forms(self) -> tuple[str, ...]:
        """In which forms it is evaluated."""
        return ("module", "compiled") if self.compiles else ("module",)

    @property
    def data(self) -> str:
        """The data set of its bases."""
        return "digits"

    @property
    def inside(self) -> tuple[str, ...]:
        """Bundled networks that must not guide the check: they may be inside."""
        return (BUNDLED,)

    def base(self, name: str, keep: Path) -> nn.Module:
        """A base network, trained once and kept in a folder, or a bundled one; `robust` is one of these."""
        if name not in self.networks:
            return copy.deepcopy(checkpoints.load(BUNDLED if name == "robust" else name).classifier.module)
        path = keep / f"{name}.pth"
        if not path.exists():
            keep.mkdir(parents=True, exist_ok=True)
            torch.save(self.networks[name](), path)
        net: nn.Module = torch.load(path, weights_only=False)
        return net.eval()

    @property
    def held_out(self) -> bool:
        """Whether thresholds were chosen without it: the third of each family whose names have the smallest hashes."""
        family = sorted((s.name for s in SUBJECTS if s.family == self.family), key=_hash)
        return self.name in family[: round(len(family) / 3)]


def _hash(name: str) -> str:
    return hashlib.sha256(f"unseen {name}".encode()).hexdigest()


BUNDLED = "digits-adv-linf"  # inside most masks: the check must not be guided by it
THREATS = {"robust": ("linf:0.15",), "plain": ("linf:0.03",), "robust-l2": ("l2:1.5",)}


# Base networks


class SmallCNN(nn.Sequential):
    """Two convolutions and two dense layers, unlike the networks of the zoo."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(24 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
        )


def fit(
    net: nn.Module, *, radius: float = 0.0, l2: bool = False, epochs: int = 30, noise: float = 0.0, decay: float = 0.0
) -> nn.Module:
    """The network, trained on digits; adversarially against PGD where a radius is given."""
    torch.manual_seed(7)
    split = datasets.load("digits:train")
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * (len(split) // 128 + 1))
    for epoch in range(epochs):
        reach = radius * min(1.0, 2 * epoch / epochs)  # else nothing is learnt
        for rows in torch.randperm(len(split)).split(128):
            x, y = split.x[rows], split.y[rows]
            if reach:
                x = worst(net, x, y, reach, l2)
            loss = F.cross_entropy(net(x + noise * torch.randn_like(x)), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rates.step()
    return net.eval().requires_grad_(False)


def worst(net: nn.Module, x: Tensor, y: Tensor, radius: float, l2: bool, steps: int = 5) -> Tensor:
    """The end of a few steps of PGD."""
    delta = torch.zeros_like(x)
    for _ in range(steps):
        leaf = (x + delta).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
        if l2:
            delta = delta + radius / 2 * grad / grad.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            size = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = delta * (radius / size.clamp(min=radius))
        else:
            delta = (delta + radius / 3 * grad.sign()).clamp(-radius, radius)
        delta = (x + delta).clamp(0, 1) - x
    return (x + delta).detach()


TRAINED: Mapping[str, Callable[[], nn.Module]] = {
    "robust-l2": lambda: fit(SmallCNN(), radius=1.5, l2=True, epochs=30),
    "plain": lambda: fit(SmallCNN(), epochs=15),
    "mlp": lambda: fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), epochs=15),
    "tanh": lambda: fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 96), nn.Tanh(), nn.Linear(96, 10)), epochs=15),
    "batch-norm": lambda: fit(
        nn.Sequential(
            *(nn.Conv2d(1, 12, 5, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(12 * 36, 10)),
        ),
        epochs=15,
    ),
    "noisy": lambda: fit(SmallCNN(), noise=0.3, epochs=20),
    "linear": lambda: fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), epochs=20),
    "small-lipschitz": lambda: fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), epochs=20, decay=0.05),
}


# Wrappers. Each is a module that torch.jit.trace or torch.jit.script can compile, unless its subject says otherwise.


class Around(nn.Module):
    """A network inside another module."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net


def after(change: Callable[[Tensor], Tensor]) -> Builder:
    """A change of the logits."""

    class After(Around):
        def forward(self, x: Tensor) -> Tensor:
            return change(self.net(x))

    return After


def before(change: Callable[[Tensor], Tensor]) -> Builder:
    """A change of the images."""

    class Before(Around):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(change(x))
            return out

    return Before


def straight(change: Callable[[Tensor], Tensor]) -> Builder:
    """The same change of the images with the gradient of the identity."""
    return before(lambda x: change(x).detach() + (x - x.detach()))


def with_gradient_of(other: Callable[[Tensor, nn.Module], Tensor]) -> Builder:
    """The network's values with the gradient of another function."""

    class Decoy(Around):
        def forward(self, x: Tensor) -> Tensor:
            honest: Tensor = self.net(x).detach()
            lie = other(x, self.net)
            return honest + (lie - lie.detach())

    return Decoy


def top(z: Tensor) -> Tensor:
    """1 for the best class, 0 for the others."""
    return F.one_hot(z.argmax(dim=1), 10).to(z.dtype)


def gap(z: Tensor) -> Tensor:
    """Distances below the best class: 0 there, negative elsewhere."""
    return z - z.max(dim=1, keepdim=True).values


def reranked(z: Tensor) -> Tensor:
    """The best class stays; the farther a class is from it, the higher it ranks."""
    distance = -gap(z)
    return distance - 2 * top(z) * (distance - distance.max(dim=1, keepdim=True).values - 1)


def quantised(levels: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.floor(x * levels) / levels


def binary(x: Tensor) -> Tensor:
    return (x > 0.5).float()


def waves(x: Tensor) -> Tensor:
    return x + 0.04 * torch.sin(700 * x)


def shattered_pixels(x: Tensor) -> Tensor:
    return x + 0.05 * torch.frac(997 * x) - 0.025


def blurred(x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + 0.5 * (F.avg_pool2d(x, 3, stride=1, padding=1) - x)
    return torch.round(x * 12) / 12


def denoised(x: Tensor) -> Tensor:
    """Five steps of gradient descent on total variation plus distance, written out; then rounded."""
    y = x
    for _ in range(5):
        right, down = F.pad(y, (0, 1))[..., 1:] - y, F.pad(y, (0, 0, 0, 1))[..., 1:, :] - y
        pull = torch.sign(right) - F.pad(torch.sign(right), (1, 0))[..., :-1]
        pull = pull + torch.sign(down) - F.pad(torch.sign(down), (0, 0, 1, 0))[..., :-1, :]
        y = (y + 0.01 * pull + 0.1 * (x - y)).clamp(0, 1)
    return torch.round(y * 10) / 10


def thresholded(x: Tensor) -> Tensor:
    return torch.where(x < 0.2, torch.zeros_like(x), x)


def cells(x: Tensor) -> Tensor:
    """Each 2x2 cell takes its mean, rounded to six levels."""
    return F.interpolate(torch.round(F.avg_pool2d(x, 2) * 5) / 5, scale_factor=2.0, mode="nearest")


def linear_lie(x: Tensor, net: nn.Module) -> Tensor:
    # No generator: a compiled program that names one is refused.
    return x.flatten(1) @ (4 * torch.sin(78.233 * torch.arange(7840.0).square()).view(784, 10))


def mirrored_lie(x: Tensor, net: nn.Module) -> Tensor:
    out: Tensor = net(torch.flip(x, (2, 3)))
    return out


def opposite_lie(x: Tensor, net: nn.Module) -> Tensor:
    return -net(x)  # type: ignore[no-any-return]


def rotated_classes_lie(x: Tensor, net: nn.Module) -> Tensor:
    return torch.roll(net(x), 3, dims=1)


def brightness_lie(x: Tensor, net: nn.Module) -> Tensor:
    return x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(10.0)


def random_lie(x: Tensor, net: nn.Module) -> Tensor:
    return x.flatten(1) @ torch.randn(784, 10)


class NoGradient(Around):
    """Computed without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = self.net(x)
        return out


class ThroughNumpy(Around):
    """The images leave torch on their way."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(torch.from_numpy(x.detach().numpy().copy()))
        return out


class Purified(Around):
    """Steps towards confidence before it answers, by autograd; no gradient passes through them."""

    steps, size = 2, 0.03

    def forward(self, x: Tensor) -> Tensor:
        sure = x.detach().clone()
        with torch.enable_grad():
            for _ in range(self.steps):
                sure.requires_grad_()
                z = self.net(sure)
                two = z.topk(2, dim=1).values
                (up,) = torch.autograd.grad((two[:, 0] - two[:, 1]).sum(), sure)
                sure = (sure + self.size * up.sign()).clamp(0, 1).detach()
        out: Tensor = self.net(sure)
        return out + 0 * x.sum()


class Searched(Around):
    """Tries fixed directions and answers where it is surest: optimisation without gradients."""

    def __init__(self, net: nn.Module):
        super().__init__(net)
        noise = torch.Generator().manual_seed(3)
        self.register_buffer("moves", 0.04 * torch.randn(6, 1, 28, 28, generator=noise).sign())

    def forward(self, x: Tensor) -> Tensor:
        best: Tensor = self.net(x)
        for move in self.moves.unbind(0):
            other = self.net((x + move).clamp(0, 1))
            surer = other.max(dim=1, keepdim=True).values > best.max(dim=1, keepdim=True).values
            best = torch.where(surer, other, best)
        return best.detach() + 0 * x.flatten(1)[:, :1]


class SearchedTwin(Searched):
    """The same with its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        best: Tensor = self.net(x)
        for move in self.moves.unbind(0):
            other = self.net((x + move).clamp(0, 1))
            surer = other.max(dim=1, keepdim=True).values > best.max(dim=1, keepdim=True).values
            best = torch.where(surer, other, best)
        return best


class Vote(Around):
    """The number of votes of nine copies with fixed noise."""

    def __init__(self, net: nn.Module, soft: bool = False):
        super().__init__(net)
        noise = torch.Generator().manual_seed(9)
        self.register_buffer("moves", 0.1 * torch.randn(9, 1, 28, 28, generator=noise))
        self.soft = soft

    def forward(self, x: Tensor) -> Tensor:
        logits = [self.net(x + move) for move in self.moves.unbind(0)]
        votes = torch.stack([top(z) for z in logits]).sum(dim=0)
        if not self.soft:
            return votes
        soft = torch.stack(logits).mean(dim=0)
        return votes.detach() + (soft - soft.detach())


class Winners(nn.Module):
    """k-winners-take-all."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        k = max(1, flat.shape[1] // 8)
        return (flat * (flat >= flat.topk(k, dim=1).values[:, -1:])).view_as(x)


def k_winners(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    return nn.Sequential(net[0], Winners(), *list(net.children())[2:])  # type: ignore[index]


class Twisted(torch.autograd.Function):
    """Its backward pass reverses the order of the pixels and their sign."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return -grad.flip(-1)


def hooked(x: Tensor) -> Tensor:
    x = x.clone()
    if x.requires_grad:
        x.register_hook(lambda grad: torch.zeros_like(grad) + 1e-3 * grad.sum())  # type: ignore[no-untyped-call]
    return x


class NaNRoot(Around):
    """A root of 0 next to the logits."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        zero = (x - x).square().flatten(1).sum(dim=1, keepdim=True)
        return out + torch.sqrt(zero)


class Prototypes(nn.Module):
    """Negative squared distances to the mean image of each class."""

    def __init__(self) -> None:
        super().__init__()
        split = datasets.load("digits:train")
        means = torch.stack([split.x[split.y == k].flatten(1).mean(dim=0) for k in range(10)])
        self.register_buffer("means", means)

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), self.means.to(x)).square()


class Kernel(nn.Module):
    """Votes of the training images, weighted by a Gaussian of their distance: a soft nearest neighbour."""

    def __init__(self) -> None:
        super().__init__()
        split = datasets.load("digits:train")
        self.register_buffer("images", split.x[:400].flatten(1))
        self.register_buffer("classes", F.one_hot(split.y[:400], 10).float())

    def forward(self, x: Tensor) -> Tensor:
        near = -0.15 * torch.cdist(x.flatten(1), self.images.to(x)).square()
        near = near - near.max(dim=1, keepdim=True).values.detach()
        return (near.exp() @ self.classes.to(x) + 1e-6).log()


class InputNoise(Around):
    """A network trained with noise, which it also adds when it answers."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x + 0.05 * torch.randn_like(x))
        return out


class Waved(Around):
    """Gaps to the best class, times a positive factor that oscillates with the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(3e3 * x).flatten(1).mean(dim=1, keepdim=True)
        return gap(self.net(x)) * (1 + 0.9 * wave)


class BigNoise(Around):
    """Strong noise."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x + 0.25 * torch.randn_like(x))
        return out


class RandomRoll(Around):
    """A random shift."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.randint(-1, 2, (2,)).tolist()
        out: Tensor = self.net(torch.roll(x, (a, b), dims=(2, 3)))
        return out


def zoo(name: str) -> Builder:
    return lambda net: copy.deepcopy(checkpoints.load(name).classifier.module)


def _masks() -> list[Subject]:
    s = Subject
    return [
        s("logits times 3e4", "saturated", after(lambda z: 3e4 * z)),
        s("softmax of 25 logits", "saturated", after(lambda z: torch.softmax(25 * z, dim=1))),
        s("tanh of gaps", "saturated", after(lambda z: torch.tanh(6 * gap(z)))),
        s("gaps cut at 0.05", "saturated", after(lambda z: gap(z).clamp(min=-0.05))),
        s("exponential of gaps", "saturated", after(lambda z: torch.exp(40 * gap(z)))),
        s("sixteenth logits", "absent", after(lambda z: torch.round(z / 2) * 2 + 0.25 * top(z))),
        s("whole numbers", "absent", after(lambda z: (4 * z).int().float() + 0.5 * top(z))),
        s("detached", "absent", lambda net: before(lambda x: x.detach() + 0 * x)(net)),
        s("no graph", "absent", NoGradient),
        s("numpy", "absent", ThroughNumpy, compiles=False),
        s("floor to 12", "absent", before(quantised(12)), straight(quantised(12))),
        s("two levels", "absent", before(binary), straight(binary)),
        s("rounded cells", "absent", before(cells), straight(cells)),
        s("root of zero", "absent", NaNRoot),
        s("linear lie", "wrong", with_gradient_of(linear_lie)),
        s("mirrored lie", "wrong", with_gradient_of(mirrored_lie)),
        s("opposite lie", "wrong", with_gradient_of(opposite_lie)),
        s("rotated classes", "wrong", with_gradient_of(rotated_classes_lie)),
        s("brightness", "wrong", with_gradient_of(brightness_lie)),
        s("reranked", "wrong", after(reranked)),
        s("twisted function", "wrong", before(lambda x: Twisted.apply(x)), compiles=False),
        s("grey hook", "wrong", before(hooked), compiles=False),
        s("random lie", "shattered", with_gradient_of(random_lie)),
        s("wave pixels", "shattered", before(waves), straight(waves)),
        s("fractions", "shattered", before(shattered_pixels), straight(shattered_pixels)),
        s("wave gaps", "shattered", Waved),
        s("winners", "shattered", k_winners, k_winners, bases=("plain",)),
        s("strong noise", "shattered", BigNoise, BigNoise),
        s("random roll", "shattered", RandomRoll, RandomRoll, compiles=False),
        s("blurred then rounded", "optimised", before(blurred), straight(blurred)),
        s("total variation", "optimised", before(denoised), straight(denoised)),
        s("purified", "optimised", Purified, compiles=False),
        s("searched", "optimised", Searched, SearchedTwin),
        s("one-hot", "labels", after(top)),
        s("nine votes", "labels", Vote, lambda net: Vote(net, soft=True)),
        s(
            "distance of class numbers",
            "labels",
            after(lambda z: -(torch.arange(10.0) - z.argmax(dim=1)[:, None]).abs()),
        ),
        s("dead below 0.2", "absent", before(thresholded), straight(thresholded), bases=("robust-l2",)),
    ]


def _honest() -> list[Subject]:
    def h(name: str, build: Builder, base: str, threats: tuple[str, ...], compiles: bool = False) -> Subject:
        return Subject(name, "honest", build, compiles=compiles, bases=(base,), threats={base: threats})

    same: Builder = lambda net: net  # noqa: E731
    return [
        h("robust network", same, "robust", ("linf:0.15", "l2:1"), compiles=True),
        h("robust in l2", same, "robust-l2", ("l2:1.5", "linf:0.1"), compiles=True),
        h("plain network", same, "plain", ("linf:0.03", "l2:0.5"), compiles=True),
        h("dense network", same, "mlp", ("linf:0.03", "l1:4")),
        h("tanh network", same, "tanh", ("linf:0.03",)),
        h("batch norm", same, "batch-norm", ("linf:0.03", "l2:0.5")),
        h("linear", same, "linear", ("linf:0.03", "l2:0.5")),
        h("linear, small weights", same, "small-lipschitz", ("linf:0.1", "l2:1")),
        h("tiny logits", after(lambda z: 1e-5 * z), "robust", ("linf:0.15",), compiles=True),
        h("logits times 3", after(lambda z: 3 * z), "plain", ("linf:0.03",)),
        h("probabilities", after(lambda z: torch.softmax(z, dim=1)), "robust", ("linf:0.15",), compiles=True),
        h("log-probabilities", after(lambda z: torch.log_softmax(z, dim=1)), "plain", ("linf:0.03",)),
        h("straight-through", straight(quantised(16)), "robust", ("linf:0.15",), compiles=True),
        h("straight-through, two levels", straight(binary), "robust", ("linf:0.15",)),
        h("noise at the input", InputNoise, "noisy", ("linf:0.05",)),
        h("prototypes", lambda net: Prototypes(), "linear", ("linf:0.1", "l2:1.5")),
        h("soft neighbours", lambda net: Kernel(), "linear", ("linf:0.1",)),
        h("digits-adv-l1", zoo("digits-adv-l1"), "linear", ("linf:0.05", "l1:10")),
        h("digits-adv-l2", zoo("digits-adv-l2"), "linear", ("l1:10",)),
        h("constant", lambda net: after(lambda z: 0 * z + torch.eye(10)[3])(net), "linear", ("linf:0.1",)),
        h("broken everywhere", same, "plain", ("linf:0.2",)),
    ]


SUBJECTS: list[Subject] = _masks() + _honest()
