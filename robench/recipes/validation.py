"""How a model in training does on images that are kept out of the training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem.noise import keyed, text_key
from ..problem.shapes import Inputs, Labels, Mask
from ..problem.split import Split
from ..problem.threats import ThreatModel
from ..search.attack import Batch, Model, take_rows
from .adversarial import AdversarialTraining, TrainingStep
from .recipe import Recipe
from .training import Report, Training

CHECKS = 20  # over a training
SURE = 2.0  # standard errors by which a fall must exceed chance
MIN_STEPS = 10  # of the attack: overfitting to fewer cannot be seen by as few
KEY, SINCE = "looks", "since the last look"  # in the training's memory


class ValidationCheck(NamedTuple):
    """What was seen."""

    step: int
    clean: float  # accuracy on the images kept out
    robust: float | None  # under all threats at their full size; None for a recipe without an attack
    trained: float  # share of the training images since the last look that were classified right, attacked as they were
    warning: str  # or nothing


@dataclass
class Validation:
    """Passes a training's reports on, and twenty times looks at the images that are kept out.

    They are attacked by the recipe's own attack, in ten steps at least, with noise that is theirs, the same in every
    look, so that looks are compared image by image. Neither weights nor batch-norm statistics nor the training's noise
    are touched.
    """

    recipe: Recipe
    threats: tuple[ThreatModel, ...]
    training: Training
    images: Batch
    report: Report  # who else is told of every step
    tell: Callable[[ValidationCheck], None]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        threats: tuple[ThreatModel, ...],
        training: Training,
        held: Split,
        tell: Callable[[ValidationCheck], None],
    ) -> "Validation":
        """Of a training that reports to it from now on."""
        device = next(training.module.parameters()).device
        keys = keyed(0, torch.tensor(held.numbers), text_key("validation"), restart=0)
        y = held.y.to(device)
        images = Batch(x=held.x.to(device), y=y, target=y, keys=keys.to(device))
        if isinstance(recipe, AdversarialTraining) and recipe.inner_steps < MIN_STEPS:
            recipe = replace(recipe, inner_steps=MIN_STEPS, inner_step_size=2.5 / MIN_STEPS)
        validation = cls(recipe, threats, training, images, training.report, tell)
        training.report = validation
        return validation

    @property
    def checks(self) -> Tensor:
        """Step, clean, robust and trained accuracy of every look so far: rows of float64, kept with the training."""
        return self.training.memory.get(KEY, torch.zeros(0, 4, dtype=torch.float64))

    @property
    def since(self) -> Tensor:
        """The sum and the number of the accuracies of the steps since the last look; kept with the training as well."""
        return self.training.memory.get(SINCE, torch.zeros(2, dtype=torch.float64))

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        self.training.memory[SINCE] = self.since + torch.tensor([accuracy, 1.0], dtype=torch.float64)
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            self.tell(self.check_held_out(step))
        self.report.step(step, steps, loss, accuracy)

    def check_held_out(self, step: int) -> ValidationCheck:
        """Once over the images kept out."""
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
        module, recipe, n = self.training.module, self.recipe, len(self.images.y)
        learning = module.training
        module.eval()
        clean = robust = 0
        for first in range(0, n, recipe.batch):
            rows = torch.arange(first, min(first + recipe.batch, n), device=self.images.y.device)
            batch = take_rows(self.images, rows)
            stand = _right(module, batch.x, batch.y)
            clean += int(stand.sum())
            if isinstance(recipe, AdversarialTraining):
                step = TrainingStep(module, batch, self.threats, 0.0, {})
                for threat in self.threats:
                    stand &= _right(module, recipe.images(step, threat), batch.y)
                robust += int(stand.sum())
        module.train(learning)
        return clean / n, robust / n if isinstance(recipe, AdversarialTraining) else None


def overfitting_warning(checks: Tensor, now: ValidationCheck, examples: int) -> str:
    """The warning of catastrophic overfitting: since an earlier look the model became better on what it is trained on
    and, by more than chance, worse on what it is not; Wong et al. 2020, https://arxiv.org/abs/2001.03994.
    """
    if now.robust is None:
        return ""
    for step, _, robust, trained in checks[checks[:, 2].argsort(descending=True)].tolist():
        chance = SURE * (2 * robust * (1 - robust) / examples) ** 0.5
        if robust - now.robust > chance and now.trained > trained:
            return (
                f"this looks like catastrophic overfitting: from step {step:.0f} to {now.step} robust accuracy fell "
                f"from {robust:.1%} to {now.robust:.1%} on the images kept out and rose from {trained:.1%} to "
                f"{now.trained:.1%} on those trained on; more inner_steps or a smaller lr may help"
            )
    return ""


def _right(model: Model, x: Inputs, y: Labels) -> Mask:
    with torch.no_grad():
        return model(x).argmax(dim=1) == y
