"""Validation of a model in training on held-out images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import checkpoints, datasets
from ..problem.checkpoints.cards import images_held_out, training_images
from ..problem.noise import keyed, text_key
from ..problem.shapes import Inputs, Labels, Mask
from ..problem.split import Split
from ..problem.threats import RT, RTL2, ThreatModel
from ..search.attack import Batch, Model, take_rows
from .adversarial import AdversarialTraining, TrainingStep
from .recipe import Recipe
from .training import Report, Training

CHECKS = 20  # during a training
SURE = 2.0  # standard errors that a decrease must exceed to be significant
MIN_STEPS = 10  # of the attack: an attack with the training's few steps would not detect overfitting to it
KEY, SINCE = "looks", "since the last look"  # keys in the memory of the training


class ValidationCheck(NamedTuple):
    """The result of a validation check."""

    step: int
    clean: float  # accuracy on the held-out images
    robust: float | None  # under all threats at their full size; None for a recipe without an attack
    trained: float  # accuracy on the attacked training images since the last check
    warning: str  # or empty


@dataclass
class Validation:
    """Forwards the reports of a training, and checks the held-out images 20 times during it.

    They are attacked by the recipe's own attack, with at least ten steps; under rt and rt-l2 each of its random
    transforms counts, not the one with the highest loss alone. Their noise is the same in every check, so
    checks can be compared image by image. Weights, batch-norm statistics and the noise of the training do not change.
    """

    recipe: Recipe
    threats: tuple[ThreatModel, ...]
    training: Training
    images: Batch
    report: Report  # the receiver that every step is forwarded to
    receive: Callable[[ValidationCheck], None]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        threats: tuple[ThreatModel, ...],
        training: Training,
        held: Split,
        receive: Callable[[ValidationCheck], None],
    ) -> "Validation":
        """The validation of a training, which reports to it from now on."""
        device = next(training.module.parameters()).device
        keys = keyed(0, torch.tensor(held.numbers), text_key("validation"), restart=0)
        y = held.y.to(device)
        images = Batch(x=held.x.to(device), y=y, target=y, keys=keys.to(device))
        if isinstance(recipe, AdversarialTraining) and recipe.inner_steps < MIN_STEPS:
            recipe = replace(recipe, inner_steps=MIN_STEPS, inner_step_size=2.5 / MIN_STEPS)
        validation = cls(recipe, threats, training, images, training.report, receive)
        training.report = validation
        return validation

    @property
    def checks(self) -> Tensor:
        """Step, clean, robust and training accuracy of every check so far: rows of float64, saved with the training."""
        return self.training.memory.get(KEY, torch.zeros(0, 4, dtype=torch.float64))

    @property
    def since(self) -> Tensor:
        """The sum and the number of step accuracies since the last check; saved with the training."""
        return self.training.memory.get(SINCE, torch.zeros(2, dtype=torch.float64))

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        self.training.memory[SINCE] = self.since + torch.tensor([accuracy, 1.0], dtype=torch.float64)
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            self.receive(self.check_held_out(step))
        self.report.step(step, steps, loss, accuracy)

    def check_held_out(self, step: int) -> ValidationCheck:
        """One check of the held-out images."""
        clean, robust = self._accuracies()
        total, steps = self.since.tolist()
        trained = total / max(steps, 1)
        self.training.memory[SINCE] = torch.zeros(2, dtype=torch.float64)
        seen = ValidationCheck(step, clean, robust, trained, "")
        warning = overfitting_warning(self.checks, seen, len(self.images.y))
        row = torch.tensor([[step, clean, -1.0 if robust is None else robust, trained]], dtype=torch.float64)
        self.training.memory[KEY] = torch.cat([self.checks, row])
        return seen._replace(warning=warning)

    def _accuracies(self) -> tuple[float, float | None]:
        module, recipe, n = self.training.result, self.recipe, len(self.images.y)
        learning = module.training
        module.eval()
        clean = robust = 0
        for first in range(0, n, recipe.batch):
            rows = torch.arange(first, min(first + recipe.batch, n), device=self.images.y.device)
            batch = take_rows(self.images, rows)
            standing = _correct(module, batch.x, batch.y)
            clean += int(standing.sum())
            if isinstance(recipe, AdversarialTraining):
                step = TrainingStep(module, batch, self.threats, 0.0, {})
                for threat in self.threats:
                    standing &= _withstand(recipe, step, threat)
                robust += int(standing.sum())
        module.train(learning)
        return clean / n, robust / n if isinstance(recipe, AdversarialTraining) else None


def _withstand(recipe: AdversarialTraining, step: TrainingStep, threat: ThreatModel) -> Mask:
    """Whether the model is correct on the adversarial image of each row; of transforms, on all."""
    batch = step.batch
    if isinstance(threat, RT | RTL2):
        candidates = recipe.transformed(batch, threat)
        labels = batch.y.repeat_interleave(candidates.shape[1])
        return _correct(step.module, candidates.flatten(0, 1), labels).view(len(batch.y), -1).all(dim=1)
    return _correct(step.module, recipe.images(step, threat), batch.y)


def overfitting_warning(checks: Tensor, now: ValidationCheck, examples: int) -> str:
    """A warning of catastrophic overfitting; empty if there is none. Wong et al. 2020, https://arxiv.org/abs/2001.03994.

    Since an earlier check, accuracy rose on training images and dropped significantly on held-out images.
    """
    if now.robust is None:
        return ""
    for step, _, robust, trained in checks[checks[:, 2].argsort(descending=True)].tolist():
        threshold = SURE * (2 * robust * (1 - robust) / examples) ** 0.5
        if robust - now.robust > threshold and now.trained > trained:
            return (
                f"possible catastrophic overfitting: from step {step:.0f} to {now.step} robust accuracy dropped "
                f"from {robust:.1%} to {now.robust:.1%} on held-out images and rose from {trained:.1%} to "
                f"{now.trained:.1%} on training images; more inner_steps or a smaller lr may help"
            )
    return ""


def _correct(model: Model, x: Inputs, y: Labels) -> Mask:
    with torch.no_grad():
        return model(x).argmax(dim=1) == y


def seen_before(start: str, split: Split, count: int) -> bool:
    """Whether the model `start` may have been trained on some of the `count` images that are held out now.

    By its card it was not if its training held as many out of the same images, or began with random weights on another
    published data set.
    """
    if not start or not count:
        return False
    card = checkpoints.locate(start)[1]
    if card is None or not card.recipe or "pseudo_labelled" in card.settings:
        return True
    if training_images(card) == split.sha256:
        return images_held_out(card) < count
    names = {datasets.title(card.data), datasets.title(split.name)}
    return "start" in card.settings or len(names) == 1 or not all(map(datasets.find, names))
