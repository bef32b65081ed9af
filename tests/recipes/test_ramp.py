"""RAMP: its loss by hand, and gradient projection from the trainings it stands between."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes.projection import START, projected
from robench.recipes.ramp import Ramp, paired

from .test_recipes import Killer, blobs, mlp, plain, training_of, training_step

PAIR = ("linf:0.1", "l1:0.8")
SGD = {"optimiser": "sgd", "lr": 0.05, "schedule": "constant", "weight_decay": 1e-3, "batch": 128}


@pytest.fixture(scope="module")
def learning(tmp_path_factory):
    """A network that both threats break on some images."""
    return plain(60, tmp_path_factory.mktemp("learning"))


@dataclass(frozen=True)
class Noise(Ramp):
    """Attacks by noise, so that either threat is the worse one of some images."""

    def images(self, step, threat):
        generator = torch.Generator().manual_seed(len(threat.name))
        return step.batch.x + 0.6 * torch.randn(step.batch.x.shape, generator=generator)


def test_the_attack_is_that_of_eat(learning):
    now = training_step(learning, blobs(64), PAIR)
    for place, threat in enumerate(now.threats):
        expected = configure("eat", "blobs", {"inner_steps": 4}).ascend(now, place).x_adv
        assert torch.equal(configure("ramp", "blobs", {"inner_steps": 4}).images(now, threat), expected)


def test_the_loss_is_the_worse_of_two_and_the_divergence_where_the_first_leaves_the_answer_correct(learning):
    now, split = training_step(learning, blobs(64), PAIR), blobs(64)
    recipe = Noise(pairing=3.0, beta=0)
    first, second = (recipe.images(now, threat) for threat in now.threats)
    p, q = (learning(x).detach().softmax(dim=1) for x in (first, second))
    worst, apart = [], []
    for i, label in enumerate(split.y):
        worst.append(max(-p[i, label].log(), -q[i, label].log()))
        if p[i].argmax() == label:
            apart.append(sum(p[i, k] * (p[i, k] / q[i, k]).log() for k in range(2)))
    assert 20 < len(apart) < 60, "the first threat breaks some"
    assert 10 < (p > q)[range(64), split.y].sum() < 54, "each threat is the worse one of some"
    expected = sum(worst) / 64 + 3 * sum(apart) / len(apart)
    outcome = recipe.train_step(now)
    torch.testing.assert_close(outcome.loss.detach(), expected)
    assert outcome.accuracy == pytest.approx(float((torch.stack(worst) < torch.tensor(2.0).log()).float().mean()))


def test_the_gradient_of_the_pairing_goes_into_both_answers_and_there_is_none_without_a_correct_one():
    first, second = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    correct = torch.tensor([True, False, True, False])
    one, other = torch.autograd.grad(paired(first, second, correct), (first, second))
    for gradient in (one, other):
        assert (gradient[correct].abs().sum(dim=1) > 1e-3).all()
        assert (gradient[~correct] == 0).all()
    assert paired(first, second, torch.zeros(4, dtype=torch.bool)) == 0


def test_a_projected_update_is_that_worked_out_by_hand():
    natural, adversarial = torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 3.0]])
    torch.testing.assert_close(projected(natural, adversarial, 0.25), torch.tensor([[0.25 * 0.8 * 3 + 3.0, 0.75 * 3]]))
    torch.testing.assert_close(projected(-natural, adversarial, 0.25), 0.75 * adversarial)
    assert torch.equal(projected(natural, torch.zeros(1, 2), 0.25), torch.zeros(1, 2))


def batch_normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def trained(name, folder, stop, **settings):
    """The tensors of a network after so many steps, and the memory of its training."""
    threats = tuple(map(parse, PAIR)) if name == "ramp" else ()
    folder.mkdir()
    recipe, module = configure(name, "blobs", {**SGD, "steps": 8, **settings}), batch_normed()
    training, data = training_of(module, blobs(), folder, batch=128)
    training.optimiser, training.report = recipe.optimiser_for(module.parameters()), Killer(stop, "killed")
    training.clip = recipe.clip
    with contextlib.suppress(KeyboardInterrupt):
        recipe.train(training, data, threats)
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}, training.memory


def test_an_epoch_ends_between_adversarial_and_natural_training_tensor_by_tensor(tmp_path):
    start, beta = batch_normed().state_dict(), 0.4
    inner = {"inner_steps": 2, "warmup": 0}
    natural, _ = trained("nat", tmp_path / "nat", 4)  # 512 images: four steps
    adversarial, none = trained("ramp", tmp_path / "at", 4, beta=0, **inner)
    both, memory = trained("ramp", tmp_path / "ramp", 4, beta=beta, **inner)
    assert not none
    assert not memory, "the copy is forgotten"
    cosines = []
    for key, tensor in both.items():
        if key.endswith("num_batches_tracked"):
            assert tensor == adversarial[key]
            continue
        g_n, g_a = natural[key] - start[key], adversarial[key] - start[key]
        cosines.append(float((g_n * g_a).sum() / (g_n.norm() * g_a.norm())))
        expected = start[key] + beta * max(0, cosines[-1]) * g_n + (1 - beta) * g_a
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-4)
    assert 0.1 < min(cosines) < 0.9, "the two trainings agree in part"


def test_the_next_epoch_begins_at_the_fused_network(tmp_path):
    inner = {"inner_steps": 2, "warmup": 0}
    fused, _ = trained("ramp", tmp_path / "one", 4, **inner)
    _, memory = trained("ramp", tmp_path / "more", 6, **inner)
    for key, tensor in fused.items():
        assert torch.equal(memory[f"{START}.{key}"], tensor)


def test_the_clip_of_a_recipe_is_also_that_of_the_copy(tmp_path):
    start = batch_normed().state_dict()

    def moved(name, **settings):
        after, _ = trained("ramp", tmp_path / name, 4, inner_steps=2, warmup=0, weight_decay=0.0, **settings)
        weights = [key for key, _ in batch_normed().named_parameters()]
        return torch.cat([(after[key] - start[key]).flatten() for key in weights]).norm()

    assert moved("clipped", clip=1e-6) < 1e-4 < 1e-2 < moved("free")


def test_the_last_step_takes_in_an_epoch_that_is_not_full(tmp_path):
    _, memory = trained("ramp", tmp_path / "short", 99, steps=6, inner_steps=2)
    assert not memory


@pytest.mark.parametrize("texts", [["linf:0.1"], ["linf:0.1", "l2:1", "l1:2"]])
def test_ramp_trains_against_exactly_two_threats(texts):
    with pytest.raises(UserError, match="two threats"):
        configure("ramp", "mnist", {}).check(tuple(map(parse, texts)))


def test_without_a_share_of_natural_training_there_is_no_copy():
    now = training_step(mlp(), blobs(16), PAIR)
    configure("ramp", "blobs", {"beta": 0}).train_step(now)
    assert not now.memory
