"""ANT, adversarial noise training, Rusak et al. 2020, section 3. https://arxiv.org/abs/2001.06057

`Ant.train` below is the loop.

robench train ant --data cifar10 --out cifar10-ant
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..problem.noise import normal, uniform
from ..problem.shapes import Inputs, Keys, per_example
from ..problem.threats import EUCLIDEAN, ThreatModel
from ..problem.threats.base import TINY
from ..search.attack import Batch
from ..settings import Count, Positive, Share
from .memory import forget, resume, store, store_optimiser, stored
from .nat import Nat
from .recipe import Recipe
from .training import Training, TrainingData, share_correct

MAPS, LAYERS = 20, 4  # of the generator: noise to 20, 20, 20 maps and back
SPREAD = 0.01  # standard deviation of the generator's initial weights
CORRELATED = 1  # the layer with 3x3 kernels, if one has them
FITTING = 20  # iterations for the scale at which clipped noise has its length
GENERATOR, OPTIMISER, EARLIER = "generator", "generator optimiser", "earlier"  # in the memory of the training
HARDER, SHOWN, ALONE, CHOICE = 0, 1, 2, 3  # restarts as keys of noise

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Ant(Recipe):
    """Training on noise from a generator that is trained to raise the loss: for corruptions, without a threat.

    The generator maps standard normal noise to noise, pixel by pixel; its output is scaled until the clipped change of
    the image has a Euclidean length of `sigma` per pixel. Every step it takes one Adam step up the loss of the
    network. Of the batch that the network then learns from, half is clean, three tenths have noise of this generator,
    and the rest noise of two generators of earlier epochs: experience replay.

    Every epoch starts with a new generator, trained alone for a twentieth of the epoch, as about 1,000 of 18,000 steps
    in the authors' code. They start from a network trained on Gaussian noise: `--from`.
    """

    name: ClassVar[str] = "ant"
    source: ClassVar[str] = "adversarial noise training, Rusak et al. 2020, https://arxiv.org/abs/2001.06057"
    presets: ClassVar[dict[str, dict[str, Any]]] = Nat.presets

    steps: Count = 6000
    batch: Count = 100
    lr: Positive = 1e-3
    augment: bool = False
    sigma: Positive = 0.348  # root of the mean squared change of a pixel: 135 over 224 x 224 x 3 pixels in the paper
    generator_lr: Positive = 1e-4
    alone: Share = 0.05  # share of an epoch that a new generator trains alone; at least one step
    clean: Share = 0.5  # share of the batch without noise
    current: Share = 0.3  # share of the batch with noise of the current generator
    correlated: bool = False  # one layer of the generator has 3x3 kernels: ANT3x3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean + self.current > 1:
            raise UserError(
                f"clean={self.clean} and current={self.current} are shares of a batch, and add up to more than 1"
            )

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        if threats:
            raise UserError("ant trains on noise of --set sigma=..., without an attack; leave --threat out")

    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        module, memory = training.module, training.memory
        for step in training.steps(self.steps):
            if step % data.batches == 0:
                self.renew(training, data, step)
            batch = data.at(step)
            self.harden(module, memory, batch, HARDER)
            x = self.mixed(memory, batch)
            module.train()
            logits = module(x)
            loss = F.cross_entropy(logits, batch.y)
            training.down(loss, lr=self.rate(step))
            training.report.step(step + 1, self.steps, loss.item(), share_correct(logits, batch.y))

    def renew(self, training: Training, data: TrainingData, step: int) -> None:
        """Puts the generator among the earlier ones, and trains a new one alone."""
        memory, first = training.memory, data.at(step)
        if last := stored(memory, GENERATOR):
            store(memory, f"{EARLIER}.{step // data.batches - 1}", last)
        forget(memory, GENERATOR, OPTIMISER)
        store(memory, GENERATOR, fresh_weights(first.keys[:1], first.x, self.correlated))
        for ahead in range(max(1, ceil(self.alone * data.batches))):
            self.harden(training.module, memory, data.at(step + ahead), ALONE)

    def harden(self, module: nn.Module, memory: dict[str, Tensor], batch: Batch, restart: int) -> None:
        """One step of the generator up the loss of the network, which is in eval mode."""
        weights = {key: value.to(batch.x.device).requires_grad_() for key, value in stored(memory, GENERATOR).items()}
        optimiser = torch.optim.Adam(weights.values(), lr=self.generator_lr, maximize=True)
        resume(optimiser, memory, OPTIMISER, weights)
        with torch.enable_grad():
            loss = F.cross_entropy(module.eval()(self.noisy(weights, batch.x, batch.keys, restart)), batch.y)
        for weight, slope in zip(weights.values(), torch.autograd.grad(loss, [*weights.values()]), strict=True):
            weight.grad = slope
        optimiser.step()
        store(memory, GENERATOR, weights)
        store_optimiser(optimiser, memory, OPTIMISER, weights)

    def mixed(self, memory: dict[str, Tensor], batch: Batch) -> Inputs:
        """The batch with clean images, images with noise of the generator, and of two earlier ones, in this order."""
        n, share = len(batch.y), self.clean + self.current
        ends = [round(self.clean * n), round(share * n), round((share + 1) / 2 * n)]
        generators = [stored(memory, GENERATOR)] * 3
        if earlier := len({key.split(".")[1] for key in memory if key.startswith(f"{EARLIER}.")}):
            chosen = (uniform(batch.keys[:1], CHOICE, 2)[0] * earlier).long().tolist()
            generators[1:] = [stored(memory, f"{EARLIER}.{number}") for number in chosen]
        clean, *blocks = zip(batch.x.tensor_split(ends), batch.keys.tensor_split(ends), strict=True)
        images = [clean[0]]
        for weights, (x, keys) in zip(generators, blocks, strict=True):
            if len(x) == 0:
                continue
            images.append(self.noisy({key: value.to(x.device) for key, value in weights.items()}, x, keys, SHOWN))
        return torch.cat(images)

    def noisy(self, weights: Weights, x: Inputs, keys: Keys, restart: int) -> Inputs:
        """The images with the generator's noise for this restart."""
        made = generated(weights, normal(keys, restart, x))
        return (x + fitted(made, x, self.sigma * x.shape[1:].numel() ** 0.5)).clamp(0, 1)


def generated(weights: Weights, noise: Inputs) -> Inputs:
    """The noise plus the output of four convolutions of it, with ReLU between."""
    maps = noise
    for layer in range(LAYERS):
        kernel = weights[f"{layer}.weight"]
        maps = F.conv2d(maps if layer == 0 else F.relu(maps), kernel, weights[f"{layer}.bias"], padding="same")
    return noise + maps


def fitted(made: Inputs, x: Inputs, length: float) -> Inputs:
    """The noise scaled so that its change of the image, once clipped to [0, 1], has this Euclidean length.

    Where the box is too small for that, the change is shorter. The scale has no gradient: the length is fixed.
    """
    unit = made / per_example(EUCLIDEAN.size(made).clamp(min=TINY), made)
    scale = torch.full_like(x.flatten(1)[:, 0], length)
    with torch.no_grad():
        for _ in range(FITTING):  # the length of the clipped change grows with the scale and is never above it
            clipped = (x + unit * per_example(scale, x)).clamp(0, 1) - x
            scale = scale * length / EUCLIDEAN.size(clipped).clamp(min=TINY)
    return unit * per_example(scale, x)


def fresh_weights(key: Keys, like: Tensor, correlated: bool) -> Weights:
    """Initial weights of the generator from the noise of this key: close to 0, so that it starts as Gaussian noise."""
    widths = (like.shape[1], *[MAPS] * (LAYERS - 1), like.shape[1])
    weights = {}
    for layer in range(LAYERS):
        side = 3 if correlated and layer == CORRELATED else 1
        shape = (1, widths[layer + 1], widths[layer], side, side)
        weights[f"{layer}.weight"] = SPREAD * normal(key, layer, like.new_empty(shape))[0]
        weights[f"{layer}.bias"] = like.new_zeros(widths[layer + 1])
    return weights
