"""MNG-AC, Madaan et al. 2021, section 4, algorithm 1. https://proceedings.mlr.press/v139/madaan21a.html

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train mng_ac --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-mng-ac
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import UserError
from ..problem.noise import normal
from ..problem.shapes import Inputs, Keys, Labels, per_example
from ..problem.threats import L1, Ball, ThreatModel
from ..search.attack import Batch
from ..settings import NonNegative, Positive
from .adversarial import AdversarialTraining, StepResult, TrainingStep
from .memory import stored
from .sat_ac import check_noise, consistent, noise_ball

KERNELS = (1, 3, 1, 1)  # kernel sizes of the generator's convolutions
MAPS = 20  # feature maps between them
MOMENTUM, DECAY = 0.9, 5e-4  # of the generator's updates, as in the authors' code
META_NOISE, FRESH_NOISE = 1, 2  # restarts as keys of noise; the attack has 0

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class MetaNoiseGenerator(AdversarialTraining):
    """SAT with consistency, with noise from a generator that is trained to improve the classifier's next step.

    One step samples a threat and attacks the batch. Then the classifier takes a trial step of rate `alpha` on the loss
    of the noisy images (equation 9). The generator minimises the loss of the attacked images *after* that trial step,
    by the exact gradient through it (10). Finally the classifier minimises the loss of the attacked images plus `beta`
    times the divergence among clean, attacked and new noisy images (7, 11). The trial step is in train mode and undone.

    Under rt, which has no ball, the noise is projected onto the l_2 ball, as the paper projects its spatial attack.
    That attack is rt-l2, whose own ball is used.
    `--set generator=none` leaves the generator out and `--set beta=0` the divergence: the rows of the paper's ablation.

    The paper and its code differ. Here the generator sees the image, as in the paper (6), and its output is scaled to
    the ball before the projection. In the code it sees noise only (`--set generator=noise`) and its output has unit
    scale (`--set noise_unit=pixel`): a small l_inf ball clips nearly all of that, and with it the gradient. In the code
    the attack runs in train mode too (`--set bn_train_attack=true`), a single rate of at most 0.21 serves all three
    updates (`--set alpha_schedule=true --set alpha=0.21`), and noise under l_2 is stretched to the radius. Beta is from
    the code; the paper gives none.
    """

    name: ClassVar[str] = "mng_ac"
    source: ClassVar[str] = (
        "meta-learned noise and consistency, Madaan et al. 2021, https://proceedings.mlr.press/v139/madaan21a.html"
    )
    twice_differentiated: ClassVar[bool] = True
    divisible: ClassVar[bool] = False  # the trial step follows the gradient of the whole batch

    beta: NonNegative = 12.0  # weight of the divergence
    alpha: Positive = 0.1  # learning rate of the trial step and the generator
    generator: Literal["image", "noise", "none"] = "image"  # its input: noise and the image, noise only; or without one
    noise_unit: Literal["radius", "pixel"] = "radius"  # scale of its output, before the projection
    alpha_schedule: bool = field(default=False, repr=False)  # `alpha` falls and rises as the learning rate does

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generator == "none" and (self.alpha_schedule or self.alpha != type(self).alpha):
            raise UserError("alpha and alpha_schedule have no effect with generator=none; leave them out")

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return ("transforms",)  # ten, as ever: cards of trainings without rt do not have it

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        super().check(threats)
        check_noise(self.name, threats)

    def train_step(self, step: TrainingStep) -> StepResult:
        threat = step.threats[int(step.noise * len(step.threats))]
        ball = noise_ball(threat, step.threats)
        x_adv = self.images(step, threat)
        if self.generator != "none":
            self.improve(step, ball, x_adv)
        x_aug = self.noisy(step.batch, ball, remembered(step, "weights"), FRESH_NOISE)
        return consistent(step, x_adv, x_aug, self.beta)

    def _alpha(self, step: TrainingStep) -> float:
        """The rate of the trial step and of the generator at this step."""
        return self.alpha * step.rate if self.alpha_schedule else self.alpha

    def improve(self, step: TrainingStep, threat: Ball, x_adv: Inputs) -> None:
        """One update of the generator in the memory of the training: equation 10, with momentum and decay."""
        weights = remembered(step, "weights") or self.fresh(step.batch)
        speed = remembered(step, "speed") or {key: torch.zeros_like(weight) for key, weight in weights.items()}
        gradient = self.meta_gradient(step, threat, x_adv, weights)
        for key, weight in weights.items():
            step.memory[f"speed.{key}"] = MOMENTUM * speed[key] + gradient[key] + DECAY * weight
            step.memory[f"weights.{key}"] = weight - self._alpha(step) * step.memory[f"speed.{key}"]

    def meta_gradient(self, step: TrainingStep, threat: Ball, x_adv: Inputs, weights: Weights) -> Weights:
        """The exact gradient of the attacked images' loss after the trial step, by the generator's weights."""
        module, batch, alpha = step.module.train(), step.batch, self._alpha(step)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}  # the trial step changes copies
        parameters = dict(module.named_parameters())
        weights = {key: weight.detach().requires_grad_() for key, weight in weights.items()}
        with torch.enable_grad():
            x_aug = self.noisy(batch, threat, weights, META_NOISE)
            trial = _loss(module, parameters | buffers, x_aug, batch.y)
            slopes = torch.autograd.grad(trial, list(parameters.values()), create_graph=True)
            moved = {
                name: parameter - alpha * slope
                for (name, parameter), slope in zip(parameters.items(), slopes, strict=True)
            }
            after = _loss(module, moved | buffers, x_adv, batch.y)
            gradient = torch.autograd.grad(after, list(weights.values()))
        return dict(zip(weights, gradient, strict=True))

    def noisy(self, batch: Batch, threat: Ball, weights: Weights, restart: int) -> Inputs:
        """The images plus the generator's noise for this restart, projected onto the ball: equation 6."""
        canvas = F.pad(batch.x, [1] * 4)
        noise = normal(batch.keys, restart, canvas)
        made = noise[..., 1:-1, 1:-1]
        if self.generator != "none":
            seen = torch.cat([noise, canvas], dim=1) if self.generator == "image" else noise
            made = made + generated(weights, seen)
        if self.noise_unit == "radius":  # the scale at which the input noise just fits the ball
            made = made * per_example(threat.r / threat.size(noise[..., 1:-1, 1:-1]), made)
        return batch.x + projected(threat, made, batch.x)

    def fresh(self, batch: Batch) -> Weights:
        """The initial weights of the generator."""
        channels = batch.x.shape[1]
        return fresh_weights(channels * (2 if self.generator == "image" else 1), channels, batch.keys[:1], batch.x)


def _loss(module: nn.Module, state: Weights, x: Inputs, y: Labels) -> Tensor:
    logits: Tensor = functional_call(module, state, (x,))
    return F.cross_entropy(logits, y)


def remembered(step: TrainingStep, what: str) -> Weights:
    """The tensors of this name in memory, on the device of the images: a resumed state may come from another one."""
    return {key: value.to(step.batch.x.device) for key, value in stored(step.memory, what).items()}


def generated(weights: Weights, seen: Tensor) -> Tensor:
    """The output of four convolutions with leaky ReLU between; it is one pixel narrower on each side."""
    for layer in range(len(KERNELS)):
        seen = seen if layer == 0 else F.leaky_relu(seen)
        seen = F.conv2d(seen, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
    return seen


def fresh_weights(inputs: int, outputs: int, key: Keys, like: Tensor) -> Weights:
    """He initialisation by fan-out, as in the authors' code, from the noise of this key."""
    widths = (inputs, *[MAPS] * (len(KERNELS) - 1), outputs)
    weights = {}
    for layer, (kernel, come, go) in enumerate(zip(KERNELS, widths, widths[1:], strict=False)):
        noise = normal(key, layer, like.new_empty(1, go, come, kernel, kernel))[0]
        weights[f"{layer}.weight"] = noise * (2 / (kernel**2 * go)) ** 0.5
        weights[f"{layer}.bias"] = like.new_zeros(go)
    return weights


def projected(threat: Ball, delta: Inputs, x: Inputs) -> Inputs:
    """`threat.project` in a differentiable form; under l_1 the method itself works in place."""
    if not isinstance(threat, L1):
        return threat.project(delta, x)
    size = delta.flatten(1).abs()
    falling = size.sort(dim=1, descending=True).values
    excess = falling.cumsum(dim=1) - threat.r
    counts = torch.arange(1, size.shape[1] + 1, device=size.device)
    last = (falling * counts > excess).sum(dim=1, keepdim=True).clamp(min=1)  # the last for which it holds: P-01
    threshold = (excess.gather(1, last - 1) / last).clamp(min=0)
    ball = (delta.flatten(1).sign() * (size - threshold).clamp(min=0)).view_as(delta)
    return (x + ball).clamp(0, 1) - x
