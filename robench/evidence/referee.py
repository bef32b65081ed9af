"""Checks claims. It imports nothing from search/, so a bug there cannot confirm itself."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError, described
from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import margin, misclassified
from ..problem.memory import out_of_memory
from ..problem.module_copy import own_copy
from ..problem.randomness import reseed, seeded
from ..problem.shapes import Inputs, Labels, Logits, Mask, PerExample
from ..problem.threats import ThreatModel, in_box
from ..problem.threats.base import TransformParams
from .records import Rejection

BATCH = 16  # images: every batch is filled up to it, so that an image always gets the same arithmetic
PASSES = 100  # over which a stochastic model is judged
LEVEL = 0.05  # the probability of calling an example broken although no claimed image fails most of the time


@dataclass(frozen=True)
class Predictions:
    """The model's answers about some images, one row each: from one pass, or several for a stochastic model."""

    logits: Logits  # the mean over the passes
    margin: PerExample  # the mean of their margins; NaN logits have none
    failures: Int[Tensor, "B"]  # passes whose argmax is not the label. NaN logits are no answer, so no failure
    passes: int
    errors: tuple[str, ...] = ()  # by row: what the model raised on this image alone, else empty; () if it never did

    @property
    def correct(self) -> Mask:
        """Whether more than half of the passes are correct."""
        return 2 * self.failures < self.passes

    def part(self, begin: int, end: int) -> "Predictions":
        """The answers about some of the images."""
        rows = slice(begin, end)
        return Predictions(self.logits[rows], self.margin[rows], self.failures[rows], self.passes, self.errors[rows])


@dataclass(frozen=True)
class Decision:
    """The referee's decision on one image under one threat."""

    accepted: bool
    rejection: Rejection
    reason: str
    size: float
    margin: float
    passes: int = 1


class Referee:
    """Evaluates images with its own copy of the weights in full float32, and never repairs an image.

    Stochastic models are evaluated over several passes of each image.
    """

    def __init__(self, classifier: Classifier, passes: int = 1):
        self.classifier = classifier
        self.passes = passes

    def logits(self, x: Inputs) -> Logits:
        """The model's logits in full precision, in batches of one size; NaN for an image on which the model raises."""
        return self._answers(x)[0]

    def _answers(self, x: Inputs) -> tuple[Logits, tuple[str, ...]]:
        """The logits, and by row what the model raised; no rows if it raised nothing.

        If a batch raises, its images are evaluated one by one, so that each error concerns one image.
        """
        answers, raised = [], [""] * len(x)
        with torch.no_grad(), arithmetic(self.classifier.device):
            for first in range(0, len(x), BATCH):
                rows = x[first : first + BATCH]
                try:
                    answers.append(self._filled(rows))
                except Exception as error:  # the model's own code may raise anything
                    if out_of_memory(error):
                        raise
                    for row in range(len(rows)):
                        try:
                            answers.append(self._filled(rows[row : row + 1]))
                        except Exception as own:
                            if out_of_memory(own):
                                raise
                            raised[first + row] = described(own)
                            answers.append(torch.full((1, self.classifier.classes), torch.nan))
        logits = torch.cat(answers) if answers else x.new_zeros(0, self.classifier.classes)
        return logits, tuple(raised) if any(raised) else ()

    def _filled(self, rows: Inputs) -> Logits:
        """The logits of at most BATCH images, in a batch that is filled up with the first of them."""
        filled = torch.cat([rows, rows[:1].expand(BATCH - len(rows), *rows.shape[1:])])
        return self.classifier(filled.to(self.classifier.device))[: len(rows)].float().cpu()

    def predict(self, x: Inputs, y: Labels) -> Predictions:
        """The model's answers about images with these labels.

        Passes of a stochastic model must be independent, so each is a call with one image: a model may use one random
        number for all rows of a batch. The noise is seeded by the image and the pass, so it repeats with the image.
        """
        if self.passes == 1:
            logits, errors = self._answers(x)
            return Predictions(logits, margin(logits, y), misclassified(logits, y).long(), 1, errors)
        means, gaps, failures, raised = [], [], [], [""] * len(x)
        with torch.no_grad(), arithmetic(self.classifier.device), seeded(0, self.classifier.device):
            for row in range(len(x)):
                try:
                    logits = self._at_random(x[row : row + 1])
                except Exception as error:
                    if out_of_memory(error):
                        raise
                    raised[row] = described(error)
                    logits = torch.full((self.passes, self.classifier.classes), torch.nan)
                correct = y[row].expand(self.passes)
                means.append(logits.mean(dim=0))
                gaps.append(margin(logits, correct).nanmean())
                failures.append(misclassified(logits, correct).sum())
        errors = tuple(raised) if any(raised) else ()
        return Predictions(torch.stack(means), torch.stack(gaps), torch.stack(failures), self.passes, errors)

    def _at_random(self, image: Float[Tensor, "1 *D"]) -> Logits:
        """The logits of one image in every pass."""
        known, there = hashlib.sha256(image.numpy().tobytes()), image.to(self.classifier.device)
        answers = []
        for number in range(self.passes):
            seed = known.copy()
            seed.update(number.to_bytes(4, "little"))
            reseed(int.from_bytes(seed.digest()[:4], "little"), there.device)
            answers.append(self.classifier(there).float())
        return torch.cat(answers).cpu()

    def answers_at_random(self, x: Inputs) -> bool:
        """Whether the model is stochastic: whether the same images get different logits.

        Raises UserError if that cannot be repeated, because the noise has another source than the global generators.
        """
        first, other = (self._from_seed(seed, x).nan_to_num(0.0) for seed in (0, 1))  # NaN if it raises
        if torch.equal(first, other):
            return False
        again, once_more = (self._from_seed(0, x).nan_to_num(0.0) for _ in range(2))
        apart = torch.stack([first - again, again - once_more]).abs().amax().item()
        if apart > 0:
            if self._repeats_in_new_copies(x):
                raise UserError(
                    f"the model gives different logits for the same images (up to {apart:.3g} apart): it keeps a state"
                    " from call to call, or draws noise from a generator of its own; reset the state at the beginning"
                    " of its forward pass, or draw from torch's global generator"
                )
            raise UserError(
                f"the model gives different logits for the same images (up to {apart:.3g} apart), and seeding torch,"
                " numpy and random does not make it repeat them; draw its noise from torch's global generator, as"
                " torch.randn_like does"
            )
        return True

    def _repeats_in_new_copies(self, x: Inputs) -> bool:
        """Whether two copies of the model agree in their first call, so that a state explains the difference."""
        copies = (own_copy(self.classifier.module) for _ in range(2))
        with torch.no_grad(), arithmetic(self.classifier.device):
            answers = []
            for module in copies:
                with seeded(0, self.classifier.device):
                    answers.append(module(x.to(self.classifier.device)))
        return torch.equal(*answers)

    def _from_seed(self, seed: int, x: Inputs) -> Logits:
        with seeded(seed, self.classifier.device):
            return self.logits(x)

    def judge(
        self, threat: ThreatModel, x: Inputs, y: Labels, x_adv: Inputs, params: TransformParams | None = None
    ) -> list[Decision]:
        """One decision per row: whether x_adv is finite, in the box, in the threat set of x, and misclassified."""
        return self.rule(threat, x, x_adv, self.predict(x_adv, y), params)

    def rule(
        self,
        threat: ThreatModel,
        x: Inputs,
        x_adv: Inputs,
        predictions: Predictions,
        params: TransformParams | None = None,
        nth: Sequence[int] = (),
    ) -> list[Decision]:
        """Decisions as `judge` makes them, from known answers about x_adv: these do not depend on the threat.

        `nth` numbers the claims about each example from 1 on, for a stochastic model: the later a claim, the more of
        its passes must fail. Without it each claim is the first.
        """
        answers = zip(
            x_adv.isfinite().flatten(1).all(dim=1).tolist(),
            in_box(x_adv).tolist(),
            threat.contains(x_adv, x, params).tolist(),
            threat.measure(x_adv, x, params).tolist(),
            predictions.margin.tolist(),
            predictions.failures.tolist(),
            predictions.errors or [""] * len(x),
            (failures_needed(predictions.passes, n) for n in nth or [1] * len(x)),
            strict=True,
        )
        return [_decision(threat, predictions.passes, *answer) for answer in answers]


@lru_cache(maxsize=4096)
def failures_needed(passes: int, nth: int = 1) -> int:
    """The number of failing passes from which an image counts as failing most of the time.

    The exact binomial test of a failure probability of at most 1/2, for the n-th claim about an example at the level
    LEVEL / (n (n + 1)). The levels of all claims, however many, add up to LEVEL. A deterministic model needs one pass.
    """
    if passes == 1:
        return 1
    tail, failures = 0, passes + 1  # more than there are, so no number suffices
    while (tail := tail + math.comb(passes, failures - 1)) <= LEVEL / (nth * (nth + 1)) * 2**passes:
        failures -= 1
    return failures


def _decision(
    threat: ThreatModel,
    passes: int,
    finite: bool,
    boxed: bool,
    inside: bool,
    size: float,
    gap: float,
    failures: int,
    error: str,
    needed: int,
) -> Decision:
    rejection: Rejection
    if not finite:
        rejection, reason = "not finite", NOT_FINITE
    elif not boxed:
        rejection, reason = "outside the box", OUTSIDE_BOX
    elif not inside:
        rejection, reason = "outside", outside(str(threat), size)
    elif error:
        rejection, reason = "not finite", f"{RAISES}{error}, which is no answer"
    elif gap != gap:
        rejection, reason = "not finite", NO_ANSWER
    elif failures < needed:
        rejection, reason = "does not fool", harmless(gap)
        if passes > 1:
            reason += f", {failures} of {passes} passes fail and {needed} are needed to tell that most do"
    else:
        rejection, reason = "", ""
    return Decision(not rejection, rejection, reason, size, gap, passes)


NOT_FINITE = "has pixels that are not finite"
OUTSIDE_BOX = "leaves the pixel range [0, 1]"
RAISES = "makes the model raise "
NO_ANSWER = "makes the model answer NaN, which is no answer"


def outside(threat: str, size: float) -> str:
    """The reason for rejecting an image outside the threat set."""
    return f"lies at {size:.6g}, outside {threat}" if size < torch.inf else f"is not in {threat}"


def harmless(gap: float) -> str:
    """The reason for rejecting an image that the model classifies correctly."""
    return f"does not fool the model: margin {gap:.3g}"
