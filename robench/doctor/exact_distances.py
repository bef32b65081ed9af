"""Models whose smallest adversarial perturbation is known in closed form, box included."""

from fractions import Fraction

import torch
from torch import Tensor, nn

from ..problem.classifier import Classifier
from ..problem.split import Split

SHAPE = (1, 4, 5)


class Linear(nn.Module):
    """Logits W.x + b with random rows: every decision boundary is a hyperplane."""

    def __init__(self, classes: int = 2, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> None:
        super().__init__()
        d = int(torch.tensor(shape).prod())
        g = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, d, generator=g))
        self.bias = nn.Parameter(-0.5 * self.weight.sum(dim=1))  # boundaries pass through the grey image

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def classifier(module: nn.Module, classes: int = 2, shape: tuple[int, ...] = SHAPE) -> Classifier:
    """A classifier for a network that no file describes."""
    return Classifier(module, name="exact", architecture="exact", shape=shape, classes=classes)


def toy(model: Classifier, n: int = 24, seed: int = 1, spread: float = 0.5, edges: bool = True) -> Split:
    """Random images labelled by the model itself; with `edges`, a third of the pixels are exactly 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    x = (0.5 + spread * (torch.rand(n, *model.shape, generator=g) - 0.5)).clamp(0, 1)
    if edges:
        x = torch.where(torch.rand(x.shape, generator=g) < 1 / 3, x.round(), x)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    return Split.whole("toy:test", x, y, model.classes)


def distance(module: Linear, x: Tensor, y: int, norm: str) -> float:
    """The exact distance of one image to the nearest other class inside the box; infinite if none can be reached."""
    w, b = module.weight.detach().double(), module.bias.detach().double()
    x = x.flatten().double()
    others = [k for k in range(len(w)) if k != y]
    return min(_to_hyperplane(w[k] - w[y], float(w[k] @ x + b[k] - w[y] @ x - b[y]), x, norm) for k in others)


def _to_hyperplane(w: Tensor, gap: float, x: Tensor, norm: str) -> float:
    """The smallest norm of a delta in the box with w.delta = -gap, where gap < 0."""
    need = -gap
    wall = torch.where(w > 0, 1 - x, x)  # how far each pixel can move in the useful direction
    w = w.abs()
    if norm == "linf":  # move every pixel by t: sum w_i min(t, wall_i) = need, linear in t between walls
        walls, order = wall.sort()
        gains = w[order]
        done, t = 0.0, 0.0
        for i in range(len(w)):
            slope = gains[i:].sum().item()
            step = (walls[i] - t).item()
            if done + slope * step >= need:
                return t + (need - done) / slope
            done, t = done + slope * step, walls[i].item()
        return float("inf")
    if norm == "l1":  # move the pixel with the largest weight until it meets its wall, then the next
        total = 0.0
        for i in w.argsort(descending=True):
            if w[i] * wall[i] >= need:
                return total + need / w[i].item()
            need -= (w[i] * wall[i]).item()
            total += wall[i].item()
        return float("inf")
    if norm == "l2":  # delta = min(c w, wall); bisection finds c
        if (w * wall).sum() < need:
            return float("inf")
        low, high = 0.0, (wall / w.clamp(min=1e-12)).max().item()
        for _ in range(200):
            c = (low + high) / 2
            low, high = (c, high) if (w * torch.minimum(c * w, wall)).sum() < need else (low, c)
        return float(torch.minimum(high * w, wall).norm())
    if norm == "l0":
        gains = (w * wall).sort(descending=True).values.cumsum(0)
        sufficient = (gains >= need).nonzero()
        return float(sufficient[0].item() + 1) if len(sufficient) else float("inf")
    raise AssertionError(norm)


def fraction(value: float) -> Fraction:
    """The radius as a fraction with a denominator of at most 10^9."""
    return Fraction(value).limit_denominator(10**9)
