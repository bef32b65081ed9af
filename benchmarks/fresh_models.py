"""Models to judge the masking verdict on once: written after its rules, by someone who had not read them.

A set that rules were changed for, after its results were seen, is no longer held out; so nobody may tune the check on
this one. Masks follow the literature (Athalye et al. 2018, Tramèr et al. 2020 and the defences that they broke) and
code that people write; honest networks are of kinds that might be suspected. Three data sets, three norms.

The truth of a mask is the accuracy of its twin, which has the same answers and a useful gradient (`straight`), or of
the network inside where only the values of the logits change. A mask whose `off` is within 3 points of it hides
nothing there, whatever the verdict. The list mixes families, so that every beginning of it is a fair sample.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from independent_models import Around, Builder, SmallCNN, Subject, after, fit
from torch import Tensor, nn

from robench.problem import checkpoints, datasets

MEMBERS = ("mnist-small-adv-l2", "mnist-small-max", "mnist-small-sat")  # of the averaged ensemble


@dataclass(frozen=True)
class FreshSubject(Subject):
    """One model, evaluated in one form only, so that every row is of another model."""

    form: str = "module"
    networks: Mapping[str, Callable[[], nn.Module]] = field(default_factory=lambda: TRAINED)

    @property
    def forms(self) -> tuple[str, ...]:
        return (self.form,)

    @property
    def data(self) -> str:
        first = self.bases[0].partition("-")[0]
        return first if first in ("mnist", "cifar10") else "digits"

    @property
    def inside(self) -> tuple[str, ...]:
        return self.bases + MEMBERS if self.bases[0] == "mnist-averaged" else self.bases

    @property
    def held_out(self) -> bool:
        return True


# Masks. Each is a step of a network with two gradients: its own, which misleads, and one that an attacker would use.


class Step(nn.Module):
    """A step of a network that computes `hard`; with `straight`, its gradient is that of `soft`."""

    straight = True  # as in training

    def hard(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def soft(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        if not self.straight:
            return self.hard(x)
        soft = self.soft(x)
        return soft + (self.hard(x) - soft).detach()


def useful(net: nn.Module, straight: bool = True) -> nn.Module:
    """A copy of the network whose steps have useful gradients."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, Step):
            module.straight = straight
    return net


def misleading(net: nn.Module) -> nn.Module:
    """A copy of the network whose steps have the gradients of what they compute."""
    return useful(net, straight=False)


def around(make: Callable[[nn.Module], nn.Module]) -> tuple[Builder, Builder]:
    """A mask around a network, and its twin."""
    return lambda net: misleading(make(net)), lambda net: useful(make(net))


class Steep(Step):
    """Units that are saturated nearly everywhere (Nayebi and Ganguli 2017)."""

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def hard(self, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * x)

    def soft(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Codes(nn.Module):
    """Classes as words of 16 bits, each of a saturated unit (error-correcting output codes, Verma and Swami 2019)."""

    def __init__(self) -> None:
        super().__init__()
        net = list(SmallCNN())
        self.net = nn.Sequential(*net[:-1], nn.Linear(64, 16), Steep(200))
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("words", torch.randn(16, 10, generator=generator).sign())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) @ self.words


class Thermometer(Step):
    """A channel for each of 10 levels that a pixel may exceed (Buckman et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", (torch.arange(10.0) / 10 + 0.05).view(10, 1, 1))

    def hard(self, x: Tensor) -> Tensor:
        return (x > self.levels).float()

    def soft(self, x: Tensor) -> Tensor:
        return torch.sigmoid(10 * (x - self.levels))


class Embedded(Step):
    """Pixels as words: each of 16 intensities has a vector in a table, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 6))

    def hard(self, x: Tensor) -> Tensor:
        return self.table[(15 * x[:, 0]).round().clamp(0, 15).long()].permute(0, 3, 1, 2)

    def soft(self, x: Tensor) -> Tensor:
        place = 15 * x[:, 0]
        below = place.detach().floor().clamp(0, 14).long()
        share = (place - below)[..., None]
        return ((1 - share) * self.table[below] + share * self.table[below + 1]).permute(0, 3, 1, 2)


class Census(Step):
    """Which of the 8 neighbours of a pixel are brighter than it (census transform, local binary patterns)."""

    def differences(self, x: Tensor) -> Tensor:
        around = F.unfold(F.pad(x, (1, 1, 1, 1)), 3).view(-1, 9, 28, 28)
        return torch.cat([around[:, :4], around[:, 5:]], dim=1) - x - 0.1

    def hard(self, x: Tensor) -> Tensor:
        return (self.differences(x) > 0).float()

    def soft(self, x: Tensor) -> Tensor:
        return torch.sigmoid(10 * self.differences(x))


class Levels(Step):
    """Activations of few bits."""

    def __init__(self, levels: int):
        super().__init__()
        self.levels = levels

    def hard(self, x: Tensor) -> Tensor:
        return torch.round(self.soft(x) * self.levels / 4) * 4 / self.levels

    def soft(self, x: Tensor) -> Tensor:
        return x.clamp(0, 4)


class DeepNeighbours(Step):
    """How many of the 11 training images with the nearest features are of each class (Papernot and McDaniel 2018)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.features = nn.Sequential(*list(net.children())[:-1])
        split = datasets.load("digits:train")
        with torch.no_grad():
            self.register_buffer("known", self.features(split.x))
        self.register_buffer("classes", F.one_hot(split.y, 10).float())

    def hard(self, x: Tensor) -> Tensor:
        nearest = self.distances(x).topk(11, dim=1, largest=False).indices
        return self.classes[nearest].sum(dim=1)

    def soft(self, x: Tensor) -> Tensor:
        near = -self.distances(x) / (0.1 * self.known.var(dim=0).sum())
        return torch.logsumexp(near[:, None] + self.classes.t().log(), dim=2)

    def distances(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return (
            features.square().sum(dim=1, keepdim=True) - 2 * features @ self.known.t() + self.known.square().sum(dim=1)
        )


class Whole(Step):
    """Rounding."""

    def hard(self, x: Tensor) -> Tensor:
        return torch.round(x)


LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)  # table K.1 of the JPEG standard


def cosines(size: int) -> Tensor:
    """The orthogonal matrix of the cosine transform."""
    k = torch.arange(float(size))
    matrix = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


class JPEG(Around):
    """The loss of JPEG at quality 30, in each colour, before the network (Guo et al. 2018)."""

    def __init__(self, net: nn.Module):
        super().__init__(net)
        self.register_buffer("cosines", cosines(8))
        self.register_buffer("table", torch.tensor(LUMINANCE).float().view(8, 8) * 5 / 3 / 255)
        self.whole = Whole()

    def forward(self, x: Tensor) -> Tensor:
        blocks = (x - 0.5).reshape(-1, 3, 4, 8, 4, 8).transpose(3, 4)
        waves = self.cosines @ blocks @ self.cosines.t()
        blocks = self.cosines.t() @ (self.whole(waves / self.table) * self.table) @ self.cosines
        return self.net((blocks.transpose(3, 4).reshape(-1, 3, 32, 32) + 0.5).clamp(0, 1))


class Quilt(Step):
    """Every patch of 4 by 4 pixels replaced by the nearest of 256 training images' patches (Guo et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        patches = F.unfold(datasets.load("digits:train").x, 4, stride=4).transpose(1, 2).reshape(-1, 16).unique(dim=0)
        rows = torch.randperm(len(patches), generator=torch.Generator().manual_seed(5))[:256]
        self.register_buffer("patches", patches[rows])

    def hard(self, x: Tensor) -> Tensor:
        own = F.unfold(x, 4, stride=4).transpose(1, 2)
        nearest = (self.patches.square().sum(dim=1) - 2 * own @ self.patches.t()).argmin(dim=2)
        return F.fold(self.patches[nearest].transpose(1, 2), 28, 4, stride=4)


class LowRank(Step):
    """The image from its 8 largest singular values (ME-Net, Yang et al. 2019): NaN or huge gradients where equal."""

    def forward(self, x: Tensor) -> Tensor:
        if self.straight:
            left = torch.linalg.svd(x.detach(), full_matrices=False)[0][..., :8]
            return left @ (left.transpose(-1, -2) @ x)
        left, values, right = torch.linalg.svd(x, full_matrices=False)
        return (left[..., :8] * values[..., None, :8]) @ right[..., :8, :]


class WrongReLU(torch.autograd.Function):
    """A ReLU written by hand, whose backward pass keeps the wrong half."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        (x,) = ctx.saved_tensors
        return grad * (x <= 0)


class HandWritten(Step):
    """The activation that uses it."""

    def hard(self, x: Tensor) -> Tensor:
        return WrongReLU.apply(x)  # type: ignore[no-untyped-call, no-any-return]

    def soft(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Frozen(Step):
    """Deep features without gradient, beside a shallow branch with one, as where a backbone is frozen."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("weights", 0.3 * torch.randn(49, 10, generator=torch.Generator().manual_seed(9)))

    def hard(self, x: Tensor) -> Tensor:
        return self.net(x.detach()) + self.shallow(x)

    def soft(self, x: Tensor) -> Tensor:
        return self.net(x) + self.shallow(x)

    def shallow(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 4).flatten(1) @ self.weights


class Median(Step):
    """The median of 3 by 3 pixels, computed by NumPy (feature squeezing, Xu et al. 2018)."""

    def hard(self, x: Tensor) -> Tensor:
        image = np.pad(x.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        size = x.shape[-1]
        shifts = [image[..., i : i + size, j : j + size] for i in range(3) for j in range(3)]
        return torch.from_numpy(np.median(np.stack(shifts), axis=0))

    def soft(self, x: Tensor) -> Tensor:
        image, size = F.pad(x, (1, 1, 1, 1), mode="replicate"), x.shape[-1]
        shifts = [image[..., i : i + size, j : j + size] for i in range(3) for j in range(3)]
        return torch.stack(shifts).median(dim=0).values


class LargestWaves(Step):
    """The 40 largest coefficients of the cosine transform of an image (sparse front ends, Marzi et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cosines", cosines(28))

    def hard(self, x: Tensor) -> Tensor:
        waves = (self.cosines @ x @ self.cosines.t()).flatten(1)
        least = waves.abs().topk(40, dim=1).values[:, -1:]
        waves = waves * (waves.abs() >= least)
        return self.cosines.t() @ waves.view_as(x) @ self.cosines


class Pruned(Step):
    """Activations of ReLUs, kept by chance, the large ones more often (Dhillon et al. 2018)."""

    def hard(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        share = x.flatten(1) / x.flatten(1).sum(dim=1, keepdim=True).clamp(min=1e-12)
        kept = 1 - (1 - share) ** (2 * share.shape[1])
        chosen = (torch.rand_like(kept) < kept) / kept.clamp(min=1e-6)
        return x * chosen.detach().view_as(x)

    def soft(self, x: Tensor) -> Tensor:
        return F.relu(x)


def distilled(z: Tensor) -> Tensor:
    """Logarithms of probabilities at a 300th of the training temperature, kept from zero (Papernot et al. 2016)."""
    return torch.log(torch.softmax(300 * z, dim=1) + 1e-12)


def two_decimals(z: Tensor) -> Tensor:
    """Probabilities as an interface might show them."""
    return torch.round(100 * torch.softmax(z, dim=1)) / 100


# Honest networks


class SortedPairs(nn.Module):
    """Each pair of units in order, instead of a ReLU (Anil et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


class Subspaces(nn.Module):
    """Minus the squared distance from the subspace of each class: the best 12 directions of its training images."""

    def __init__(self) -> None:
        super().__init__()
        split = datasets.load("digits:train")
        images = [split.x[split.y == c].flatten(1) for c in range(10)]
        self.register_buffer("means", torch.stack([x.mean(dim=0) for x in images]))
        bases = [torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)[2][:12] for x in images]
        self.register_buffer("bases", torch.stack(bases))

    def forward(self, x: Tensor) -> Tensor:
        away = x.flatten(1)[:, None] - self.means
        inside = torch.einsum("ncp,ckp->nck", away, self.bases)
        return inside.square().sum(dim=2) - away.square().sum(dim=2)


class Averaged(nn.Module):
    """The logarithm of the mean probabilities of some networks of the zoo."""

    def __init__(self, names: tuple[str, ...]):
        super().__init__()
        self.members = nn.ModuleList(zoo(name) for name in names)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([torch.log_softmax(member(x), dim=1) for member in self.members])
        return torch.logsumexp(logits, dim=0) - math.log(len(self.members))


def zoo(name: str) -> nn.Module:
    return copy.deepcopy(checkpoints.load(name).classifier.module)


def convolutions(activation: Callable[[], nn.Module], channels: int = 1) -> nn.Sequential:
    """`SmallCNN` with other activations."""
    net = SmallCNN()
    net[0] = nn.Conv2d(channels, 16, 5, stride=2, padding=2)
    return nn.Sequential(*(activation() if isinstance(layer, nn.ReLU) else layer for layer in net))


def _noisy(make: Callable[[], nn.Module], epochs: int = 15) -> Callable[[], nn.Module]:
    """Trained on noisy images, which gives some robustness in seconds."""

    def trained() -> nn.Module:
        torch.manual_seed(11)
        return fit(make(), noise=0.25, epochs=epochs)

    return trained


def _max_pools() -> nn.Module:
    pooled = [(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in ((1, 12), (12, 24), (24, 32))]
    return nn.Sequential(*(layer for group in pooled for layer in group), nn.Flatten(), nn.Linear(288, 10))


TRAINED: Mapping[str, Callable[[], nn.Module]] = {
    "thermometer": _noisy(lambda: nn.Sequential(Thermometer(), convolutions(nn.ReLU, 10))),
    "embedded": _noisy(lambda: nn.Sequential(Embedded(), convolutions(nn.ReLU, 6)), 25),
    "census": _noisy(lambda: nn.Sequential(Census(), convolutions(nn.ReLU, 8))),
    "quilt": _noisy(lambda: nn.Sequential(Quilt(), SmallCNN())),
    "codes": _noisy(Codes, 25),
    "steep": _noisy(
        lambda: nn.Sequential(
            *(nn.Flatten(), nn.Linear(784, 128), Steep(60), nn.Linear(128, 64), Steep(60), nn.Linear(64, 10))
        ),
        25,
    ),
    "features": _noisy(SmallCNN),
    "hand-written": _noisy(lambda: convolutions(HandWritten)),
    "pruned": _noisy(lambda: convolutions(Pruned)),
    "smooth": _noisy(lambda: convolutions(nn.SiLU)),
    "max-pools": _noisy(_max_pools),
    "few bits": _noisy(lambda: convolutions(lambda: Levels(7))),
    "sorted": _noisy(
        lambda: nn.Sequential(
            *(nn.Flatten(), nn.Linear(784, 128), SortedPairs(), nn.Linear(128, 64), SortedPairs(), nn.Linear(64, 10))
        )
    ),
    "dropout": _noisy(
        lambda: nn.Sequential(nn.Dropout(0.3), *list(SmallCNN())[:-1], nn.Dropout(0.5), nn.Linear(64, 10)), 25
    ),
    "subspaces": Subspaces,
    "mnist-averaged": lambda: Averaged(MEMBERS),
}


def _mask(
    name: str,
    family: str,
    base: str,
    threat: str,
    form: str,
    make: tuple[Builder, Builder | None] = (misleading, useful),
) -> FreshSubject:
    build, twin = make
    return FreshSubject(name, family, build, twin, bases=(base,), threats={base: (threat,)}, form=form)


def _honest(name: str, base: str, threat: str, form: str = "module", build: Builder = copy.deepcopy) -> FreshSubject:
    return FreshSubject(name, "honest", build, bases=(base,), threats={base: (threat,)}, form=form)


def _before(step: Callable[[], nn.Module]) -> tuple[Builder, Builder]:
    return around(lambda net: nn.Sequential(step(), net))


M, C = "module", "compiled"
FRESH: list[FreshSubject] = [
    _mask("log of distilled probabilities", "saturated", "digits-adv-linf", "linf:0.15", C, (after(distilled), None)),
    _honest("smooth units", "smooth", "linf:0.1", C),
    _mask(
        "probabilities of two decimals", "absent", "mnist-small-adv-linf", "linf:0.3", M, (after(two_decimals), None)
    ),
    _mask("thermometer code", "absent", "thermometer", "linf:0.1", C),
    _honest("max pools", "max-pools", "l2:1"),
    _mask("wrong half of the ReLU", "wrong", "hand-written", "linf:0.1", M),
    _mask("saturated output codes", "saturated", "codes", "l2:1", C),
    _honest("batch norm, photographs", "cifar10-small-max", "l1:2000/255", C),
    _mask("low rank", "wrong", "mnist-small-adv-l1", "l1:10", M, _before(LowRank)),
    _mask("JPEG", "absent", "cifar10-small-adv-l2", "l2:128/255", C, around(JPEG)),
    _honest("robust within the radius", "mnist-small-adv-linf", "linf:0.1"),
    _mask("embedded intensities", "absent", "embedded", "linf:0.03", M),
    _mask("frozen features", "wrong", "mnist-small-max", "l2:2", C, around(Frozen)),
    _honest("averaged ensemble", "mnist-averaged", "l2:2"),
    _mask("deep neighbours", "absent", "features", "linf:0.1", M, around(DeepNeighbours)),
    _mask("steep units", "saturated", "steep", "linf:0.05", C),
    _honest("few bits, straight-through", "few bits", "linf:0.1"),
    _honest(
        "largest waves", "mnist-small-adv-l2", "l2:2", build=lambda n: misleading(nn.Sequential(LargestWaves(), n))
    ),
    _mask("quilt of patches", "absent", "quilt", "linf:0.1", C),
    _honest("no example stands", "mnist-small-nat", "linf:0.3", C),
    _mask("median by NumPy", "absent", "mnist-small-nat", "linf:0.1", M, _before(Median)),
    _honest("class subspaces", "subspaces", "l2:1", C),
    _honest("dropout in training", "dropout", "l1:5"),
    _mask("census", "absent", "census", "linf:0.06", C),
    _honest("sorted pairs", "sorted", "linf:0.05"),
    _honest("logits times 12", "mnist-small-eat-l1r14", "l1:10", build=after(lambda z: 12 * z)),
    _honest("pruned by chance", "pruned", "linf:0.03", build=misleading),
]
