"""A correct attack passes every check, and each planted fault fails in the case that was made for it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from robench.doctor import cases as all_cases
from robench.doctor.attacks import NO_REACH, OURS, AttackUnderTest
from robench.doctor.cases import cases
from robench.doctor.checks import check
from robench.evidence.referee import Referee
from robench.problem.losses import UNTARGETED, margin
from robench.search.attack import ForeignAttack, GradientAttack, State, differentiate
from robench.search.attacks import build, parse
from robench.search.attacks.pgd import PGD

SOUND = PGD(steps=12, step_size=0.2)
CASES = [case.name for case in cases()]


def failing(attack, threat="linf", reach=1.25):
    """The failure of each case that the attack does not pass."""
    results = list(check(AttackUnderTest(OURS, attack.name, attack, threat, reach), cases()))
    assert [result.case for result in results] == CASES
    return {result.case: result.failure for result in results if not result.passed}


@pytest.mark.parametrize("threat", ["linf", "l1"])
def test_a_correct_attack_passes_every_case(threat):
    assert failing(SOUND, threat) == {}


def test_an_attack_on_transforms_passes_where_no_distance_is_known():
    assert failing(build(*parse("grid(translations=3, rotations=3, steps=3)")), "rt") == {}


@dataclass(frozen=True)
class Broken(GradientAttack):
    """Projected ascent with a fault."""

    name: ClassVar[str] = "broken"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)

    steps: int = 12
    targets: int = 0

    @property
    def objective(self):
        return UNTARGETED["margin"]

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))

    def step(self, threat, batch, state, seen):
        delta = state.delta + 0.2 * threat.r * self.direction(threat, batch, state, seen)
        return State(threat.project(delta, batch.x))

    def direction(self, threat, batch, state, seen):
        return threat.steepest(seen.grad)


class DoesNothing(Broken):
    def direction(self, threat, batch, state, seen):
        return 0 * seen.grad


class CannotMoveAtTheEdge(Broken):
    """The gradient vanishes at 0 and 1, as for C&W in tanh space."""

    def direction(self, threat, batch, state, seen):
        return threat.steepest(seen.grad) * ((batch.x > 0) & (batch.x < 1))


class TakesZeroForTheLowestLogit(Broken):
    """Masks the right class with 0, as torchattacks does in C&W and EAD."""

    @property
    def objective(self):
        def loss(logits, y, target):
            correct = F.one_hot(y, logits.shape[1])
            return ((1 - correct) * logits).amax(dim=1) - (correct * logits).amax(dim=1).clamp(min=0)

        return loss


class GivesUpOnSureModels(Broken):
    """The loss is flat where the right class leads by more than 1."""

    @property
    def objective(self):
        return lambda logits, y, target: margin(logits, y).clamp(min=-1)


class StepsAsLongAsTheGradient(Broken):
    def direction(self, threat, batch, state, seen):
        return seen.grad


class WantsThreeClasses(Broken):
    def step(self, threat, batch, state, seen):
        seen.logits.topk(3)
        return super().step(threat, batch, state, seen)


class WantsFourClasses(Broken):
    def step(self, threat, batch, state, seen):
        seen.logits.topk(4)
        return super().step(threat, batch, state, seen)


class AssumesSquareImages(Broken):
    def direction(self, threat, batch, state, seen):
        side = batch.x.shape[2]
        return threat.steepest(seen.grad.contiguous().view(-1, batch.x.shape[1], side, side))


class AssumesContiguousGradients(Broken):
    def direction(self, threat, batch, state, seen):
        return threat.steepest(seen.grad.view(len(batch.y), -1).view_as(batch.x))


class NeedsCorrectImages(Broken):
    def step(self, threat, batch, state, seen):
        first = ~state.delta.flatten(1).any(dim=1)
        assert not (first & (seen.logits.argmax(dim=1) != batch.y)).any()
        return super().step(threat, batch, state, seen)


class DependsOnItsBatch(Broken):
    def direction(self, threat, batch, state, seen):
        return threat.steepest(seen.grad) * (len(batch.y) > 1)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("kind", "expected", "message"),
    [
        (DoesNothing, CASES, "images that lie within 0.8 of the radius"),
        (CannotMoveAtTheEdge, ["binary"], "misses"),
        (TakesZeroForTheLowestLogit, ["logits − 100"], "misses"),
        (GivesUpOnSureModels, ["logits × 30"], "misses"),
        (StepsAsLongAsTheGradient, ["logits / 30"], "misses"),
        (WantsThreeClasses, ["2 classes"], "raises RuntimeError: selected index k out of range"),
        (WantsFourClasses, ["2 classes", "3 classes"], "raises RuntimeError: selected index k out of range"),
        (AssumesSquareImages, ["not square", "channels last"], "raises RuntimeError: shape"),
        (AssumesContiguousGradients, ["channels last"], "raises RuntimeError: view size is not compatible"),
        (NeedsCorrectImages, ["partly wrong"], "raises AssertionError"),
        (DependsOnItsBatch, ["one by one"], "misses"),
    ],
)
def test_a_planted_fault_is_found_in_its_case(kind, expected, message):
    found = failing(kind())
    assert set(expected) <= set(found)
    assert all(message in found[case] for case in expected)
    if kind is not DoesNothing:
        assert "plain" not in found


def test_an_attack_that_succeeds_only_in_a_larger_batch_fails_one_by_one():
    """The distances allow both results: the images lie between those it must break and those it cannot break."""

    @dataclass(frozen=True)
    class Lucky(ForeignAttack):
        name: ClassVar[str] = "lucky"
        source: ClassVar[str] = "tests"
        threats: ClassVar[tuple[str, ...]] = ("linf",)

        def max_queries(self, threat):
            return 1

        def run(self, model, threat, batch):
            share = 1.0 if len(batch.y) > 1 else 0.25
            grad = differentiate(model, UNTARGETED["margin"], batch.x, batch.y, batch.y).grad
            model((batch.x + share * threat.r * grad.sign()).clamp(0, 1))

    assert failing(Lucky(), reach=4.0) == {"one by one": "2 of 4 images end differently than in 'plain'"}


def test_an_attack_without_a_reach_need_not_break_any_image():
    assert failing(DoesNothing(), reach=NO_REACH) == {}


def test_an_image_broken_beyond_the_radius_is_reported(monkeypatch):
    """It would be a bug of the doctor: the referee accepts nothing outside the ball."""
    case = cases()[0]
    double = {row: 2 * far for row, far in case.distances("linf").items()}
    monkeypatch.setattr(all_cases.Case, "distances", lambda self, norm: double)
    (result,) = check(AttackUnderTest(OURS, "pgd", SOUND, "linf"), [case])
    assert "images that lie beyond the radius" in result.failure


def test_an_image_that_the_referee_rejects_is_reported(monkeypatch):
    judge = Referee.judge

    def strict(self, *args):
        return [replace(decision, accepted=False, reason="is not what it seems") for decision in judge(self, *args)]

    monkeypatch.setattr(Referee, "judge", strict)
    (result,) = check(AttackUnderTest(OURS, "pgd", SOUND, "linf"), cases()[:1])
    assert result.failure == "an image it found is not what it seems"


@pytest.mark.parametrize("case", cases(), ids=CASES)
def test_the_distances_are_those_of_the_model_under_attack(case):
    """An image moved straight to the boundary is still correct just before it, and misclassified just behind it."""
    for row, far in case.distances("linf").items():
        x, y = case.split.x[row], int(case.split.y[row])
        weight = case.linear.weight
        misclassified = []
        for share in (0.999, 1.001):
            push = torch.stack([(x + share * far * (w - weight[y]).sign().view_as(x)).clamp(0, 1) for w in weight])
            misclassified.append(bool((case.model(push).argmax(dim=1) != y).any()))
        assert misclassified == [False, True]


def test_at_the_chosen_radius_some_images_are_broken_and_others_stand():
    for case in cases():
        (result,) = check(AttackUnderTest(OURS, "pgd", SOUND, "linf"), [replace(case, same_as="")])
        assert 0 < len(result.broken & set(case.correct)) < len(case.correct)
