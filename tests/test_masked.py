"""The zoo of models whose gradients mislead."""

import copy

import pytest
import torch

from robench.errors import UserError
from robench.problem import checkpoints, datasets
from robench.problem.classifier import Classifier
from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks.pgd import PGD
from robench.testing.masked import MASKED, masked

EXAMPLES = datasets.load("digits").part("40")
THREAT = parse("linf:0.2")
KEEPING = [name for name, mask in MASKED.items() if mask.keeps]
DETERMINISTIC = [name for name in MASKED if name not in ("noise", "dropped", "shifted")]


def base():
    return copy.deepcopy(checkpoints.load("digits-adv-linf").classifier.module)


def climbed(module, start, steps=15):
    """Images where plain gradient ascent on the cross-entropy ends: what the module's own gradient leads to."""
    model = Classifier(module, name="m", architecture="m", shape=EXAMPLES.shape, classes=10)
    attack = PGD(steps=steps, loss="cross-entropy", random_start=False)
    batch = Batch(start.x, start.y, start.y, torch.arange(len(start)))
    state = attack.start(THREAT, batch)
    for _ in range(steps):
        try:
            seen = differentiate(model, attack.objective, attack.query(THREAT, batch, state), batch.y, batch.target)
        except RuntimeError:  # no gradient at all
            break
        state = attack.step(THREAT, batch, state, seen)
    return batch.x + state.delta.nan_to_num()


@pytest.fixture(scope="module")
def adversarial():
    """Images near the examples, many of them misclassified."""
    return climbed(base(), EXAMPLES)


@pytest.mark.parametrize("name", KEEPING)
def test_a_masking_said_to_keep_predictions_keeps_them_far_from_and_near_the_boundary(name, adversarial):
    images = torch.cat([EXAMPLES.x, adversarial, (EXAMPLES.x + adversarial) / 2, torch.rand(40, 1, 28, 28)])
    with torch.no_grad():
        honest, reported = base()(images), masked(name, base())(images)
    top = honest.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-2  # elsewhere half precision cannot tell the first two apart
    assert clear.float().mean() > 0.9
    assert torch.equal(reported.argmax(dim=1)[clear], honest.argmax(dim=1)[clear])


@pytest.mark.parametrize("name", sorted(set(MASKED) - set(KEEPING)))
def test_a_masking_that_changes_predictions_changes_some_and_leaves_a_model_worth_attacking(name, adversarial):
    torch.manual_seed(0)
    images = torch.cat([EXAMPLES.x.lerp(adversarial, part / 10) for part in range(11)])
    with torch.no_grad():
        honest, reported = base()(images), masked(name, base())(images)
    assert not torch.equal(reported.argmax(dim=1), honest.argmax(dim=1))
    assert (reported[: len(EXAMPLES)].argmax(dim=1) == EXAMPLES.y).float().mean() > 0.8


@pytest.mark.costly
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if MASKED[name].keeps])
def test_its_own_gradient_breaks_fewer_images_than_that_of_the_model_inside(name, adversarial):
    module = masked(name, base())
    with torch.no_grad():
        broken = (base()(adversarial).argmax(dim=1) != EXAMPLES.y).sum()
        led = (module(climbed(module, EXAMPLES)).argmax(dim=1) != EXAMPLES.y).sum()
    assert broken >= 15
    assert led <= broken - 3


def test_about_a_third_is_held_out_and_there_are_many_of_both_kinds():
    held_out = [mask.held_out for mask in MASKED.values()]
    assert len(MASKED) >= 20
    assert 0.2 < sum(held_out) / len(held_out) < 0.45
    assert 8 <= len(KEEPING) <= len(MASKED) - 8


def test_a_name_that_is_not_there_is_told_the_nearest():
    with pytest.raises(UserError, match="decoy"):
        masked("decoi", base())
