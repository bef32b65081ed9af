"""Models whose gradients mislead, each made of an honest one: what a detector of gradient masking must see through.

A wrapper that keeps every prediction leaves the model as robust as it was. Whatever more an attack leaves standing is
masking, and nothing else. The others change predictions, as defences that were proposed do; how robust they are is
known only from what breaks them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import unknown

NOISE = 12345  # the seed of what is fixed in a wrapper


@dataclass(frozen=True)
class Masking:
    """One way to mislead gradient attacks."""

    name: str
    cause: str  # in a few words, what stops the attacks
    keeps: bool  # every prediction of the model inside
    wrap: Callable[[nn.Module], nn.Module]
    known: Callable[[nn.Module], nn.Module] | None = None  # from the wrapped model to one with a gradient to climb

    @property
    def held_out(self) -> bool:
        """Whether it is kept from those who choose thresholds: a third of all, by a hash of the name."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 3 == 0


def masked(name: str, base: nn.Module) -> nn.Module:
    """An honest model behind one of the masks in `MASKED`. Raises UserError for a name that is not there."""
    if name not in MASKED:
        raise unknown("masking", name, MASKED)
    return MASKED[name].wrap(base).eval()


def stand_in(name: str, base: nn.Module) -> nn.Module:
    """What somebody attacks who knows the mask: one that answers alike, with a gradient worth climbing.

    Behind a mask that keeps every prediction it is the model inside. Of the others it answers exactly as the mask does,
    or, where that answers at random, the mean of several draws. What fools it is yet to be verified on the masked
    model. Raises UserError for a name that is not there.
    """
    wrapped = masked(name, base)
    known = MASKED[name].known
    return base.eval() if known is None else known(wrapped).eval()


class Wrapped(nn.Module):
    """A model with something done to its images before it, or to its logits behind it."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.base(self.before(x)))

    def before(self, x: Tensor) -> Tensor:
        """What the model inside is shown."""
        return x

    def after(self, logits: Tensor) -> Tensor:
        """What it is said to have answered."""
        return logits


# Those that keep every prediction. Behind the model.


class LargeLogits(Wrapped):
    """Logits so large that every probability is exactly 0 or 1, and the gradient of the cross-entropy 0."""

    def after(self, logits: Tensor) -> Tensor:
        return 1e4 * logits


class TinyLogits(Wrapped):
    """Logits so small that the gradient is lost below the smallest float32."""

    def after(self, logits: Tensor) -> Tensor:
        return 1e-36 * logits


class Probabilities(Wrapped):
    """A sharp softmax in the forward pass: saturated wherever the model is sure."""

    def after(self, logits: Tensor) -> Tensor:
        return F.softmax(5 * logits.double(), dim=1)


class HalfProbabilities(Wrapped):
    """Probabilities in half precision; what lies below 6e-8 is 0, and so is its gradient. The best class gets more."""

    def after(self, logits: Tensor) -> Tensor:
        return F.softmax(8 * logits, dim=1).half().float() + _first(logits)


class ClippedLogProbabilities(Wrapped):
    """Log-probabilities cut off below, as against a logarithm of 0: flat behind the cut. The best class gets more."""

    def after(self, logits: Tensor) -> Tensor:
        return F.softmax(10 * logits, dim=1).clamp(min=1e-4).log() + 0.1 * _first(logits)


class OneHot(Wrapped):
    """The class alone, without scores."""

    def after(self, logits: Tensor) -> Tensor:
        return _first(logits)


class Staircase(Wrapped):
    """Logits rounded down to steps; half a step more for the best class."""

    def after(self, logits: Tensor) -> Tensor:
        return logits.floor() + 0.5 * _first(logits)


class ClippedMargin(Wrapped):
    """Every rival more than a hair behind the best class is said to be a hair behind."""

    def after(self, logits: Tensor) -> Tensor:
        return (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-0.02)


class ReversedRivals(Wrapped):
    """The best class stays best; the order of the others is turned round, so the margin falls where it should rise."""

    def after(self, logits: Tensor) -> Tensor:
        best = logits.amax(dim=1, keepdim=True)
        return torch.where(logits == best, 1 + (best - logits.amin(dim=1, keepdim=True)), best - logits)


class Flipped(Wrapped):
    """The gradient with its sign turned."""

    def after(self, logits: Tensor) -> Tensor:
        turned: Tensor = _Turned.apply(logits)  # type: ignore[no-untyped-call]
        return turned


class NotANumber(Wrapped):
    """A square root of exactly 0: finite going forward, NaN coming back."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        return logits + (0 * x).flatten(1).sum(dim=1, keepdim=True).sqrt()


# Those that keep every prediction. On the way to the model.


class Detached(Wrapped):
    """The images are cut off from the graph; a term of value 0 keeps a gradient, of value 0, alive."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x.detach())
        return logits + (0 * x).flatten(1).sum(dim=1, keepdim=True)


class NoGraph(Wrapped):
    """The whole answer is computed without a graph: asking for a gradient raises."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.base(x)
        return logits


class Decoy(Wrapped):
    """The gradient of another function, smooth and wrong: a fixed random linear one."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x.detach())
        noise = torch.Generator().manual_seed(NOISE)
        weights = torch.randn(logits.shape[1], x[0].numel(), generator=noise).to(x)
        decoy = x.flatten(1) @ weights.T
        return logits + (decoy - decoy.detach())


class NoisyGradient(Wrapped):
    """What comes back is random, another time than the last."""

    def before(self, x: Tensor) -> Tensor:
        x = x.clone()
        if x.requires_grad:
            x.register_hook(torch.randn_like)  # type: ignore[no-untyped-call]
        return x


class Oscillating(Wrapped):
    """All distances from the best class are multiplied by a factor above 0 that oscillates from pixel value to pixel
    value: the gradient is that of the factor.
    """

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        waves = (2e3 * x).sin().flatten(1).mean(dim=1, keepdim=True)
        return (logits - logits.amax(dim=1, keepdim=True)) * (1 + 0.95 * waves)


class AntiAdversary(Wrapped):
    """Three steps towards a surer answer before the image is read, which stays what it was: a gradient taken in the
    forward pass, and none let out. Alfarra et al. 2022.
    """

    def before(self, x: Tensor) -> Tensor:
        surer = x.detach().clone()
        with torch.enable_grad():
            for _ in range(3):
                surer.requires_grad_()
                sure = self.base(surer).log_softmax(dim=1).amax(dim=1).sum()
                (ascent,) = torch.autograd.grad(sure, surer)
                surer = (surer + 0.02 * ascent.sign()).clamp(0, 1).detach()
        return surer + (0 * x)


# Those that change predictions.


class RoundedInput(Wrapped):
    """Pixels on eight levels."""

    def before(self, x: Tensor) -> Tensor:
        return (7 * x).round() / 7


class BlackAndWhite(Wrapped):
    """Pixels on two levels."""

    def before(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)


class RoundedSpectrum(Wrapped):
    """Every block of 7x7 pixels keeps its cosine coefficients on a coarse grid, as JPEG does with 8x8."""

    def before(self, x: Tensor) -> Tensor:
        side, step = 7, 0.4
        i = torch.arange(side, dtype=x.dtype, device=x.device)
        cosines = torch.cos(torch.pi / side * (i[None, :] + 0.5) * i[:, None]) * (2 / side) ** 0.5
        cosines = torch.cat([cosines[:1] * 0.5**0.5, cosines[1:]])
        b, c, h, w = x.shape
        blocks = x.reshape(b, c, h // side, side, w // side, side).permute(0, 1, 2, 4, 3, 5)
        coarse = ((cosines @ blocks @ cosines.T) / step).round() * step
        back = (cosines.T @ coarse @ cosines).permute(0, 1, 2, 4, 3, 5)
        return back.reshape(b, c, h, w).clamp(0, 1)


class DeadThreshold(Wrapped):
    """Pixels below 0.3 are black: no gradient reaches a black pixel. Tramèr and Boneh 2019, section 4."""

    def before(self, x: Tensor) -> Tensor:
        return F.relu(x - 0.3) / 0.7


class Noise(Wrapped):
    """Gaussian noise on every pixel, new each time."""

    def before(self, x: Tensor) -> Tensor:
        return x + 0.15 * torch.randn_like(x)


class Dropped(Wrapped):
    """A fifth of the pixels is left out, others each time, as by a dropout that was left on."""

    def before(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2, training=True)


class Shifted(Wrapped):
    """The image is moved by up to two pixels, elsewhere each time."""

    def before(self, x: Tensor) -> Tensor:
        down, right = torch.randint(-2, 3, (2,)).tolist()
        return x.roll((down, right), dims=(2, 3))


class Winners(nn.Module):
    """The fifth of the values that is largest; the others are 0. Xiao et al. 2020, k-winners-take-all."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 5), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


class KWinners(Wrapped):
    """Only the largest values of the first layer go on: which ones they are jumps as the image moves."""

    def __init__(self, base: nn.Module):
        super().__init__(base)
        name, first = next((n, m) for n, m in base.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        parent = base.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], nn.Sequential(first, Winners()))


# What somebody attacks who knows one of these.


class PassedOver(nn.Module):
    """The same answers; going back, what is done to the images is passed over. Athalye et al. 2018."""

    def __init__(self, mask: Wrapped):
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        shown = self.mask.before(x).detach() + (x - x.detach())
        logits: Tensor = self.mask.base(shown)
        return logits


class Averaged(nn.Module):
    """The mean answer over several draws."""

    def __init__(self, mask: nn.Module, draws: int = 8):
        super().__init__()
        self.mask = mask
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.mask(x) for _ in range(self.draws)]).mean(dim=0)


class Blurred(nn.Module):
    """The same answers; going back, the mean gradient of several images nearby. Tramèr et al. 2020, on k-winners."""

    def __init__(self, mask: nn.Module, draws: int = 8, sigma: float = 0.1):
        super().__init__()
        self.mask = mask
        self.draws = draws
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            told: Tensor = self.mask(x)
        noise = torch.Generator().manual_seed(NOISE)
        aside = self.sigma * torch.randn(self.draws, *x.shape, generator=noise).to(x)
        nearby: Tensor = self.mask((x + aside).flatten(0, 1))
        mean = nearby.view(self.draws, *told.shape).mean(dim=0)
        return told + (mean - mean.detach())


def _first(logits: Tensor) -> Tensor:
    """1 for the class that argmax names, else 0."""
    return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


_KEEPING: list[tuple[str, str, Callable[[nn.Module], nn.Module]]] = [
    ("large-logits", "saturated cross-entropy", LargeLogits),
    ("tiny-logits", "gradient below the smallest float", TinyLogits),
    ("probabilities", "softmax inside", Probabilities),
    ("half-probabilities", "underflow in half precision", HalfProbabilities),
    ("clipped-log-probabilities", "a flat logarithm", ClippedLogProbabilities),
    ("one-hot", "no scores", OneHot),
    ("staircase", "rounded logits", Staircase),
    ("clipped-margin", "flat margin", ClippedMargin),
    ("reversed-rivals", "scores that lie", ReversedRivals),
    ("flipped", "backward pass turned round", Flipped),
    ("not-a-number", "NaN in the backward pass", NotANumber),
    ("detached", "input cut off from the graph", Detached),
    ("no-graph", "no gradient at all", NoGraph),
    ("decoy", "gradient of another function", Decoy),
    ("noisy-gradient", "random backward pass", NoisyGradient),
    ("oscillating", "gradient of a ripple", Oscillating),
    ("anti-adversary", "optimisation in the forward pass", AntiAdversary),
]
_CHANGING: list[tuple[str, str, Callable[[nn.Module], nn.Module], Callable[[Any], nn.Module]]] = [
    ("rounded-input", "rounded pixels", RoundedInput, PassedOver),
    ("black-and-white", "binary pixels", BlackAndWhite, PassedOver),
    ("rounded-spectrum", "rounded cosine coefficients", RoundedSpectrum, PassedOver),
    ("dead-threshold", "dead first layer on black", DeadThreshold, PassedOver),
    ("noise", "random noise", Noise, Averaged),
    ("dropped", "random dropout", Dropped, Averaged),
    ("shifted", "random position", Shifted, Averaged),
    ("k-winners", "shattered gradient", KWinners, Blurred),
]
MASKED: dict[str, Masking] = {
    **{name: Masking(name, cause, True, wrap) for name, cause, wrap in _KEEPING},
    **{name: Masking(name, cause, False, wrap, known) for name, cause, wrap, known in _CHANGING},
}
"""Every masking by its name."""
