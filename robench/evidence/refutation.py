"""Checks a run's records against its images, the data and the model, without any attack.

This proves the broken part of a table. It cannot prove that a search found nothing: of searches only the recorded
cost is checked.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch

from ..errors import UserError
from ..problem import threats
from ..problem.classifier import Classifier
from ..problem.identity import Identity
from ..problem.split import Split
from ..problem.threats import AffineRT, ThreatModel
from ..problem.threats.base import stacked
from ..problem.threats.rebuilt import SAME
from .contradiction import contradictions
from .images import Image
from .nesting import lies_in
from .records import Claim, Clean, Evidence, ModelRecord, Plan, Verdict
from .referee import Decision, Predictions, Referee

NOISE = 1e-4
"""The allowed difference of float32 logits between machines, which add in other orders, as a share of the largest
logit. A test holds the committed runs of digits, made on another processor, to a hundredth of this."""

ROUNDING = 1e-9  # of a size: sums in float64, in another order
AT_ONCE = 512  # images judged together
REPEATED = 8  # clean images, answered twice to detect a stochastic model

Place = tuple[int, str]
"""An example under a threat."""


@dataclass(frozen=True, eq=False)
class Facts:
    """The basis of the check: the data, the model, and their names if these are known."""

    whole: Split  # all examples of the data
    classifier: Classifier
    model: str | None = None
    data: str | None = None
    # The minimum of forward passes in a search that finds nothing, by threat and attack.
    min_passes: Callable[[str, str], int] = lambda threat, attack: 1
    _answers: dict[tuple[int, int], "_Answer"] = field(default_factory=dict)

    @cached_property
    def identity(self) -> Identity:
        """The identity of the model."""
        return self.classifier.identity()

    @cached_property
    def at_random(self) -> bool:
        """Whether the model is stochastic."""
        return Referee(self.classifier).answers_at_random(self.whole.x[:REPEATED])

    @cached_property
    def rows(self) -> dict[int, int]:
        """The row of each example in the data."""
        return {number: row for row, number in enumerate(self.whole.numbers)}

    def answers(self, referee: Referee, examples: Iterable[int]) -> dict[int, "_Answer"]:
        """The model's answers before any attack, about examples of the data. Each is computed once."""
        wanted = {e: (referee.passes, e) for e in examples}
        missing = [e for e, key in wanted.items() if key not in self._answers]
        if missing:
            split = self.whole.take([self.rows[e] for e in missing])
            predictions = referee.predict(split.x, split.y)
            columns = (
                *(predictions.correct.tolist(), predictions.margin.tolist(), predictions.failures.tolist()),
                *(_reach(predictions), split.digests, predictions.errors or ("",) * len(split)),
            )
            self._answers.update(zip([wanted[e] for e in missing], map(_Answer, *columns), strict=True))
        return {e: self._answers[key] for e, key in wanted.items()}


@dataclass(frozen=True)
class _Answer:
    """The model's answer to a clean image."""

    correct: bool
    margin: float
    failures: int  # passes
    reach: float  # the largest logit
    digest: str  # of the image and its label
    error: str = ""  # what the model raises on the image


@dataclass(frozen=True)
class Refuted:
    """The refuted records, one line each, and how much was checked."""

    faults: tuple[str, ...]
    clean: int = 0  # answers before any attack
    images: int = 0  # stored adversarial images
    close: int = 0  # of these, those whose margin is within the difference between machines


def refuted(plan: Plan, evidence: Evidence, images: Iterable[tuple[int, Image]], facts: Facts) -> Refuted:
    """Recompute everything that can be, and compare it with the records; `images` as from `RunFile.images`.

    If the plan is about another model or other data, only that is reported.
    """
    wrong = [*_of_model(plan.model, facts), *_of_data(plan, facts), *_of_passes(plan, facts)]
    if wrong:
        return Refuted(tuple(wrong))
    referee = Referee(facts.classifier, plan.passes)
    examples = dict.fromkeys([*plan.examples, *(c.example for c in evidence.clean if c.example in facts.rows)])
    answers = facts.answers(referee, examples)
    noise = NOISE * max((answer.reach for answer in answers.values() if not answer.error), default=0.0)
    shown = _Images(plan, evidence, facts, referee, noise)
    faults = [
        *_of_clean(plan, evidence, answers, noise),
        *_of_unanswered(evidence),
        *shown.faults(images),
        *contradictions(evidence, plan.passes, facts.whole, facts.classifier.classes),
        *_of_searches(evidence, facts),
    ]
    return Refuted(tuple(faults), len(examples), shown.judged, shown.close)


# The question


def _of_model(model: ModelRecord, facts: Facts) -> Iterator[str]:
    found = facts.identity
    recorded = Identity(model.weights_sha256, model.architecture, model.normalisation, model.fingerprint)
    for what, record, value in (
        ("weights", recorded.weights_sha256, found.weights_sha256),
        ("architecture", recorded.architecture, found.architecture),
        ("normalisation", recorded.normalisation, found.normalisation),
    ):
        if record != value:
            yield f"the plan: its model has {what} {_short(record)}, and this one {_short(value)}"
            return
    if not recorded.same_as(found):
        yield "the plan: its model has the same weights as this one but other logits"
    if facts.model is not None and model.name != facts.model:
        yield f"the plan: its model is called {_short(model.name)}, and is {facts.model}"


def _of_data(plan: Plan, facts: Facts) -> Iterator[str]:
    if facts.data is not None and plan.data != facts.data:
        yield f"the plan: its data are called {_short(plan.data)}, and are {facts.data}"
    missing = [e for e in plan.examples if e not in facts.rows]
    if missing:
        yield f"the plan: {facts.whole.name} has no example {missing[0]}"
    elif facts.whole.take([facts.rows[e] for e in plan.examples]).sha256 != plan.data_sha256:
        yield f"the plan: its examples are not those of {facts.whole.name}"


def _of_passes(plan: Plan, facts: Facts) -> Iterator[str]:
    """Whether the plan has several passes if, and only if, the model is stochastic."""
    if facts.at_random and plan.passes == 1:
        yield "the plan: it judges over one pass, and the model answers at random"
    elif not facts.at_random and max(plan.passes, plan.eot) > 1:
        yield "the plan: it judges or searches over several passes, and the model answers the same each time"


def _short(text: str) -> str:
    """A text, shortened to at most 40 characters."""
    return text if len(text) <= 40 else f"{text[:16]}..."


# Before any attack


def _of_clean(plan: Plan, evidence: Evidence, answers: Mapping[int, _Answer], noise: float) -> Iterator[str]:
    recorded = {c.example for c in evidence.clean}
    for example in plan.examples:
        if example not in recorded and not answers[example].error:
            yield f"example {example}: the model's answer before any attack is not on record"
    for clean in evidence.clean:
        if (answer := answers.get(clean.example)) is not None and (why := _differs(clean, answer, plan.passes, noise)):
            yield f"example {clean.example}: {why}"


def _differs(clean: Clean, answer: _Answer, passes: int, noise: float) -> str:
    """The difference between the record and the answer; empty if there is none."""
    if answer.error:
        return f"recorded with an answer before any attack, and the model raises {answer.error}"
    close = 0 < abs(answer.margin) <= noise if passes == 1 else abs(2 * answer.failures - passes) <= 2
    if clean.digest != answer.digest:
        return "recorded with another image or label"
    if clean.correct != answer.correct and not close:
        return f"recorded as {'right' if clean.correct else 'wrong'} before any attack, and it is not"
    if not _near(clean.margin, answer.margin, noise):
        return f"recorded with a margin of {clean.margin:.6g} before any attack, and it has {answer.margin:.6g}"
    if clean.tied != (answer.margin == 0) and not close:
        return f"recorded as {'a' if clean.tied else 'no'} tie before any attack, and it is not so"
    return ""


def _near(recorded: float, found: float, noise: float) -> bool:
    """Equal up to noise; NaN equals NaN, and infinity itself."""
    if math.isnan(recorded) or math.isnan(found):
        return math.isnan(recorded) and math.isnan(found)
    return recorded == found or abs(recorded - found) <= noise


def _of_unanswered(evidence: Evidence) -> Iterator[str]:
    """Examples with records of attacks, but without an answer before any attack. Attacks skip those."""
    known = {c.example for c in evidence.clean}
    attacked = {c.example for c in evidence.claims} | {s.example for s in evidence.exhausted}
    for example in sorted((attacked | {f.example for f in evidence.failures if f.threat}) - known):
        yield f"example {example}: on record under attack, and not before any"


# Claims


class _Images:
    """The stored images, judged again."""

    def __init__(self, plan: Plan, evidence: Evidence, facts: Facts, referee: Referee, noise: float):
        self.facts = facts
        self.examples = frozenset(plan.examples)
        self.threats = {t.threat: threat for t in plan.threats if (threat := _parsed(t.threat)) is not None}
        accepted = {v.claim: v for v in evidence.verdicts if v.accepted}
        self.broken = {
            (claim.example, text)
            for claim in evidence.claims
            if (verdict := accepted.get(claim.id)) is not None
            for text in self.threats
            if lies_in(claim.threat, verdict.size, text)
        }
        self.referee = referee
        self.noise = noise
        self.claims = {c.id: c for c in evidence.claims}
        self.verdicts = {v.claim: v for v in evidence.verdicts}
        self.judged = 0
        self.close = 0

    def faults(self, images: Iterable[tuple[int, Image]]) -> Iterator[str]:
        """What is wrong with the images, or with finds that have none."""
        stored: dict[Place, list[int]] = {}
        waiting: dict[str, list[tuple[Claim, Image]]] = {}
        for number, image in images:
            claim = self.claims.get(number)
            if claim is None:
                yield f"claim {number}: it has an image but does not exist"
                continue
            stored.setdefault((claim.example, claim.threat), []).append(number)
            if claim.example in self.facts.rows:
                finds = waiting.setdefault(claim.threat, [])
                finds.append((claim, image))
                if len(finds) == AT_ONCE:
                    yield from self._under(claim.threat, waiting.pop(claim.threat))
        for threat, finds in waiting.items():
            yield from self._under(threat, finds)
        yield from self._of_stored(stored)

    def _under(self, text: str, finds: Sequence[tuple[Claim, Image]]) -> Iterator[str]:
        try:
            threat = threats.parse(text)
        except UserError as error:
            yield f"images under {_short(text)}: {error}"
            return
        index = [self.facts.rows[claim.example] for claim, _ in finds]
        x, y = self.facts.whole.x[index], self.facts.whole.y[index]
        x_adv = torch.stack([torch.from_numpy(image) for _, image in finds])
        predictions = self.referee.predict(x_adv, y)
        params = stacked([claim.params for claim, _ in finds])
        decisions = self.referee.rule(threat, x, x_adv, predictions, params)
        inside = self._inside(text, x_adv, x, params)
        self.judged += len(finds)
        for row, ((claim, _), decision, reach) in enumerate(zip(finds, decisions, _reach(predictions), strict=True)):
            noise = max(self.noise, NOISE * reach)
            close = predictions.passes == 1 and 0 < abs(decision.margin) <= noise
            self.close += close
            # A stochastic model needs more failures for each further claim, so there acceptance here proves nothing.
            if decision.accepted and not close and predictions.passes == 1 and claim.example in self.examples:
                yield from self._uncounted(claim, [other for other, holds in inside.items() if holds[row]])
            if decision.accepted or (close and decision.rejection == "does not fool"):
                why = self._otherwise(claim, decision, noise, _rounding(threat, decision.size, x))
            else:
                why = f"its image {decision.reason}"
            if why:
                yield f"example {claim.example} under {text}: {why}"

    def _inside(self, text: str, x_adv: torch.Tensor, x: torch.Tensor, params: torch.Tensor) -> dict[str, list[bool]]:
        """Which of the images lie in the set of each other planned threat."""
        others = {other: threat for other, threat in self.threats.items() if other != text}
        return {other: threat.contains(x_adv, x, params).tolist() for other, threat in others.items()}

    def _uncounted(self, claim: Claim, others: Sequence[str]) -> Iterator[str]:
        """The planned threats in whose set this adversarial image lies, and under which no image breaks its example."""
        for other in others:
            if (claim.example, other) not in self.broken:
                yield (
                    f"example {claim.example}: its image under {claim.threat} lies in {other} too, where it is not"
                    " counted; evaluate again with this run file to count it"
                )

    def _otherwise(self, claim: Claim, decision: Decision, noise: float, rounding: float) -> str:
        """The difference between the record and a confirmed image; empty if there is none."""
        verdict = self.verdicts.get(claim.id)
        if verdict is None:
            return ""  # which `contradictions` reports
        if not verdict.accepted:
            return f"its image breaks it, and is recorded as turned down ({verdict.rejection})"
        if not _near(verdict.size, decision.size, rounding):
            return f"its image is recorded at {verdict.size:.9g}, and lies at {decision.size:.9g}"
        if not _near(verdict.margin, decision.margin, noise):
            return f"its image is recorded with a margin of {verdict.margin:.6g}, and has {decision.margin:.6g}"
        return ""

    def _of_stored(self, stored: Mapping[Place, Sequence[int]]) -> Iterator[str]:
        """Whether exactly the smallest accepted image of each example under each threat is stored."""
        accepted: dict[Place, list[Verdict]] = {}
        for number, claim in self.claims.items():
            if (verdict := self.verdicts.get(number)) is not None and verdict.accepted:
                accepted.setdefault((claim.example, claim.threat), []).append(verdict)
        for (example, threat), verdicts in sorted(accepted.items()):
            about = f"example {example} under {threat}"
            numbers = stored.get((example, threat), ())
            smallest = min(v.size for v in verdicts)
            held = next((v.size for v in verdicts if v.claim in numbers), smallest)
            if not numbers:
                yield f"{about}: broken by an image that is not kept"
            elif len(numbers) > 1:
                yield f"{about}: {len(numbers)} images are stored, not only the smallest"
            elif smallest < held:
                yield f"{about}: an image at {smallest:.9g} is recorded, and the stored one lies at {held:.9g}"


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ThreatModel | None:
    """The threat model of a text; None if there is none, which other checks report."""
    try:
        return threats.parse(text)
    except UserError:
        return None


def _reach(predictions: Predictions) -> list[float]:
    """The largest logit of each image; 0 if there is no finite one."""
    reach: list[float] = predictions.logits.abs().nan_to_num(0.0, 0.0, 0.0).amax(dim=1).tolist()
    return reach


def _rounding(threat: ThreatModel, size: float, x: torch.Tensor) -> float:
    """The allowed difference of a size between machines."""
    if not isinstance(threat, AffineRT):
        return ROUNDING * size
    moved = threat.ball.size(torch.full_like(x[:1], SAME, dtype=torch.float64)).item()  # by an image resampled
    return ROUNDING * size + moved / threat.ball.r


# Searches


def _of_searches(evidence: Evidence, facts: Facts) -> Iterator[str]:
    """Searches recorded with fewer forward passes than they take."""
    paid: Counter[tuple[int, str, str]] = Counter()
    rejected = {v.claim for v in evidence.verdicts if not v.accepted}
    for claim in evidence.claims:
        if claim.id in rejected:  # a search may end with these instead
            paid[claim.example, claim.threat, claim.attack] += claim.forwards
    for exhausted in evidence.exhausted:
        if not exhausted.done:
            continue
        if exhausted.key.is_claim:
            yield (
                f"example {exhausted.example} under {exhausted.threat}: {_short(exhausted.attack)} is on record as a"
                " search, and images from a file are none"
            )
        claimed = paid[exhausted.example, exhausted.threat, exhausted.attack]
        minimum = 1 if claimed else facts.min_passes(exhausted.threat, exhausted.attack)
        if exhausted.forwards + claimed < minimum:
            yield (
                f"example {exhausted.example} under {exhausted.threat}: {_short(exhausted.attack)} is on record as done"
                f" in {exhausted.forwards} forward passes, and takes {minimum}"
            )
