"""Models with misleading gradients, each made from an honest one, to test detectors of gradient masking.

A wrapper that keeps every prediction does not change the robustness of the model: every further example that attacks
leave standing is due to masking. The other wrappers change predictions, as proposed defences do; their robustness is
known only through the attacks that break them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import unknown

NOISE = 12345  # the seed of fixed random numbers in a wrapper


@dataclass(frozen=True)
class GradientMask:
    """One way to mislead gradient attacks."""

    name: str
    cause: str  # what stops the attacks, in a few words
    keeps: bool  # whether it keeps every prediction of the model inside
    wrap: Callable[[nn.Module], nn.Module]
    stand_in: Callable[[nn.Module], nn.Module] | None = None  # from the wrapped model to one with a useful gradient

    @property
    def held_out(self) -> bool:
        """Whether it is held out when thresholds are chosen: a third of all, by a hash of the name."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 3 == 0


def masked(name: str, base: nn.Module) -> nn.Module:
    """An honest model behind one of the masks in `MASKED`. Raises UserError for an unknown name."""
    if name not in MASKED:
        raise unknown("masking", name, MASKED)
    return MASKED[name].wrap(base).eval()


def stand_in(name: str, base: nn.Module) -> nn.Module:
    """The model that an attacker who knows the mask attacks: it has the same logits and a useful gradient.

    For a mask that keeps every prediction, it is the model inside. For the others, its logits are exactly those of the
    masked model or, where those are random, the mean of several passes. Adversarial examples must still be verified on
    the masked model. Raises UserError for an unknown name.
    """
    wrapped = masked(name, base)
    replace = MASKED[name].stand_in
    return base.eval() if replace is None else replace(wrapped).eval()


class Wrapped(nn.Module):
    """A model with a change of its images before it, or of its logits after it."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.base(self.before(x)))

    def before(self, x: Tensor) -> Tensor:
        """The input of the model inside."""
        return x

    def after(self, logits: Tensor) -> Tensor:
        """The output, from the logits of the model inside."""
        return logits


# Masks after the model that keep every prediction.


class LargeLogits(Wrapped):
    """Logits so large that every probability is exactly 0 or 1, and the gradient of the cross-entropy 0."""

    def after(self, logits: Tensor) -> Tensor:
        return 1e4 * logits


class TinyLogits(Wrapped):
    """Logits so small that the gradient underflows in float32."""

    def after(self, logits: Tensor) -> Tensor:
        return 1e-36 * logits


class Probabilities(Wrapped):
    """A sharp softmax in the forward pass: saturated wherever the model is confident."""

    def after(self, logits: Tensor) -> Tensor:
        return F.softmax(5 * logits.double(), dim=1)


class HalfProbabilities(Wrapped):
    """Probabilities in half precision: below 6e-8 they are 0, and so is the gradient. 1 is added for the best class."""

    def after(self, logits: Tensor) -> Tensor:
        return F.softmax(8 * logits, dim=1).half().float() + _first(logits)


class ClippedLogProbabilities(Wrapped):
    """Log-probabilities that are clipped from below, and flat there. 0.1 is added for the best class."""

    def after(self, logits: Tensor) -> Tensor:
        return F.softmax(10 * logits, dim=1).clamp(min=1e-4).log() + 0.1 * _first(logits)


class OneHot(Wrapped):
    """Only the predicted class, without scores."""

    def after(self, logits: Tensor) -> Tensor:
        return _first(logits)


class Staircase(Wrapped):
    """Logits rounded down to integers, plus 0.5 for the best class."""

    def after(self, logits: Tensor) -> Tensor:
        return logits.floor() + 0.5 * _first(logits)


class ClippedMargin(Wrapped):
    """Logits of the other classes are at most 0.02 below the best one."""

    def after(self, logits: Tensor) -> Tensor:
        return (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-0.02)


class ReversedRivals(Wrapped):
    """The best class stays best; the order of the others is reversed, so the margin falls where it should rise."""

    def after(self, logits: Tensor) -> Tensor:
        best = logits.amax(dim=1, keepdim=True)
        return torch.where(logits == best, 1 + (best - logits.amin(dim=1, keepdim=True)), best - logits)


class Flipped(Wrapped):
    """The gradient with its sign flipped."""

    def after(self, logits: Tensor) -> Tensor:
        flipped: Tensor = _SignFlip.apply(logits)  # type: ignore[no-untyped-call]
        return flipped


class NotANumber(Wrapped):
    """A square root of exactly 0: finite in the forward pass, NaN in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        return logits + (0 * x).flatten(1).sum(dim=1, keepdim=True).sqrt()


# Masks before the model that keep every prediction.


class Detached(Wrapped):
    """The images are detached from the graph; a term of value 0 provides a gradient that is 0."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x.detach())
        return logits + (0 * x).flatten(1).sum(dim=1, keepdim=True)


class NoGraph(Wrapped):
    """The output is computed without a graph: a gradient cannot be computed, and raises."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.base(x)
        return logits


class Decoy(Wrapped):
    """The gradient of another function, a fixed random linear one."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x.detach())
        noise = torch.Generator().manual_seed(NOISE)
        weights = torch.randn(logits.shape[1], x[0].numel(), generator=noise).to(x)
        decoy = x.flatten(1) @ weights.T
        return logits + (decoy - decoy.detach())


class NoisyGradient(Wrapped):
    """A random gradient, new each time."""

    def before(self, x: Tensor) -> Tensor:
        x = x.clone()
        if x.requires_grad:
            x.register_hook(torch.randn_like)  # type: ignore[no-untyped-call]
        return x


class Oscillating(Wrapped):
    """Distances from the best class are multiplied by a positive factor that oscillates with the pixel values.

    The gradient of the factor dominates.
    """

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        waves = (2e3 * x).sin().flatten(1).mean(dim=1, keepdim=True)
        return (logits - logits.amax(dim=1, keepdim=True)) * (1 + 0.95 * waves)


class AntiAdversary(Wrapped):
    """Three gradient steps towards a more confident prediction in the forward pass; no gradient passes through them.

    Alfarra et al. 2022.
    """

    def before(self, x: Tensor) -> Tensor:
        confident = x.detach().clone()
        with torch.enable_grad():
            for _ in range(3):
                confident.requires_grad_()
                score = self.base(confident).log_softmax(dim=1).amax(dim=1).sum()
                (ascent,) = torch.autograd.grad(score, confident)
                confident = (confident + 0.02 * ascent.sign()).clamp(0, 1).detach()
        return confident + (0 * x)


# Masks that change predictions.


class RoundedInput(Wrapped):
    """Pixels rounded to eight levels."""

    def before(self, x: Tensor) -> Tensor:
        return (7 * x).round() / 7


class BlackAndWhite(Wrapped):
    """Pixels rounded to two levels."""

    def before(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)


class RoundedSpectrum(Wrapped):
    """The cosine coefficients of each block of 7x7 pixels are rounded coarsely, as JPEG does with 8x8."""

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
    """Pixels below 0.3 become black: no gradient reaches a black pixel. Tramèr and Boneh 2019, section 4."""

    def before(self, x: Tensor) -> Tensor:
        return F.relu(x - 0.3) / 0.7


class Noise(Wrapped):
    """Gaussian noise on every pixel, new each time."""

    def before(self, x: Tensor) -> Tensor:
        return x + 0.15 * torch.randn_like(x)


class Dropped(Wrapped):
    """A random fifth of the pixels is set to 0, as by a dropout layer in training mode."""

    def before(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2, training=True)


class Shifted(Wrapped):
    """The image is shifted by up to two pixels at random."""

    def before(self, x: Tensor) -> Tensor:
        rows, columns = torch.randint(-2, 3, (2,)).tolist()
        return x.roll((rows, columns), dims=(2, 3))


class Winners(nn.Module):
    """The largest fifth of the values; the others become 0. Xiao et al. 2020, k-winners-take-all."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        smallest = flat.topk(max(1, flat.shape[1] // 5), dim=1).values[:, -1:]
        return (flat * (flat >= smallest)).view_as(x)


class KWinners(Wrapped):
    """Only the largest values of the first layer pass; which ones do is discontinuous in the image."""

    def __init__(self, base: nn.Module):
        super().__init__(base)
        name, first = next((n, m) for n, m in base.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        parent = base.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], nn.Sequential(first, Winners()))


# Stand-ins that an attacker who knows the mask attacks.


class PassedOver(nn.Module):
    """The same logits; the backward pass skips the change of the images (BPDA). Athalye et al. 2018."""

    def __init__(self, mask: Wrapped):
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        changed = self.mask.before(x).detach() + (x - x.detach())
        logits: Tensor = self.mask.base(changed)
        return logits


class Averaged(nn.Module):
    """The mean of the logits over several passes."""

    def __init__(self, mask: nn.Module, passes: int = 8):
        super().__init__()
        self.mask = mask
        self.passes = passes

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.mask(x) for _ in range(self.passes)]).mean(dim=0)


class Blurred(nn.Module):
    """The same logits; the backward pass averages gradients over nearby images. Tramèr et al. 2020, on k-winners."""

    def __init__(self, mask: nn.Module, passes: int = 8, sigma: float = 0.1):
        super().__init__()
        self.mask = mask
        self.passes = passes
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.mask(x)
        noise = torch.Generator().manual_seed(NOISE)
        offsets = self.sigma * torch.randn(self.passes, *x.shape, generator=noise).to(x)
        nearby: Tensor = self.mask((x + offsets).flatten(0, 1))
        mean = nearby.view(self.passes, *logits.shape).mean(dim=0)
        return logits + (mean - mean.detach())


def _first(logits: Tensor) -> Tensor:
    """A one-hot vector of the predicted class."""
    return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)


class _SignFlip(torch.autograd.Function):
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
    ("clipped-log-probabilities", "clipped logarithm", ClippedLogProbabilities),
    ("one-hot", "no scores", OneHot),
    ("staircase", "rounded logits", Staircase),
    ("clipped-margin", "flat margin", ClippedMargin),
    ("reversed-rivals", "misleading scores", ReversedRivals),
    ("flipped", "sign flip in the backward pass", Flipped),
    ("not-a-number", "NaN in the backward pass", NotANumber),
    ("detached", "input detached from the graph", Detached),
    ("no-graph", "no gradient at all", NoGraph),
    ("decoy", "gradient of another function", Decoy),
    ("noisy-gradient", "random backward pass", NoisyGradient),
    ("oscillating", "gradient of an oscillation", Oscillating),
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
MASKED: dict[str, GradientMask] = {
    **{name: GradientMask(name, cause, True, wrap) for name, cause, wrap in _KEEPING},
    **{name: GradientMask(name, cause, False, wrap, stand_in) for name, cause, wrap, stand_in in _CHANGING},
}
"""Every mask by its name."""
