"""Compaction: the model computes busy slots alone, and the results stay the same."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.problem import datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.threats import parse
from robench.search.attacks.hop_skip_jump import HopSkipJump
from robench.search.attacks.pgd import PGD
from robench.search.attacks.square import Square
from robench.search.engine import model_runner
from robench.search.engine.compaction import MIN_ROWS, compacted
from robench.search.engine.precision import has_hardware
from robench.search.engine.rounding import rounded, with_rounded_gradients
from robench.search.engine.scheduler import Item

from ..running import ends, job


def test_busy_slots_are_padded_with_idle_ones_to_a_multiple_of_four():
    assert compacted([3, 60], 64, 1) == [0, 1, 2, 3, 4, 5, 6, 60]
    assert compacted([0, 9], 64, 8) == [0, 9]
    assert compacted(range(9), 64, 1) == list(range(12))


def test_a_slot_is_never_alone():
    """With several threads torch adds up a lone row in another order."""
    assert compacted([7], 8, 32) == [0, 7]


@pytest.mark.parametrize(("busy", "slots", "queries"), [(57, 64, 1), (29, 32, 4), (64, 64, 1), (1, 8, 1), (2, 2, 32)])
def test_a_batch_that_would_save_less_than_an_eighth_stays_as_it_is(busy, slots, queries):
    assert compacted(range(busy), slots, queries) is None


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float32, near"])
@pytest.mark.parametrize("network", ["digits", "mnist", "preactresnet18"])
def test_a_row_has_the_same_bits_in_a_batch_of_any_size(network, precision):
    if network == "preactresnet18":
        emulated = precision != "float32" and not has_hardware("bfloat16", torch.device("cpu"))  # which is slow
        side = 8 if emulated else 16
        shape = (3, side, side)
        module = ARCHITECTURES[network].build(shape, 10)
        model = Classifier(module, name="", architecture="", shape=shape, classes=10)
    else:
        model = load({"digits": "digits-adv-linf", "mnist": "mnist-adv-linf"}[network]).classifier
    convert_conv2d_weight_memory_format(model.module, torch.channels_last)
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(64, *model.shape, generator=g), torch.randint(0, 10, (64,), generator=g)
    copies = {"float32": model, "bfloat16": rounded(model), "float32, near": with_rounded_gradients(model, x)}
    network = copies[precision]

    def answers(rows):
        images = x[rows].clone().requires_grad_()
        logits = network(images)
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, y[rows], reduction="sum"), images)
        return logits.detach(), grad

    logits, grad = answers(range(64))
    elsewhere = torch.randperm(64, generator=g).tolist()
    for rows in (range(44), range(20), range(MIN_ROWS), range(40, 40 + MIN_ROWS), elsewhere):
        assert all(torch.equal(few, all_[rows]) for few, all_ in zip(answers(rows), (logits, grad), strict=True))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("attack", "radius", "slots"),
    [(PGD(steps=6), 0.1, 64), (Square(steps=60), 0.1, 64), (HopSkipJump(steps=2), 0.3, 256)],
    ids=str,
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_few_searches_compute_few_rows_and_end_with_the_same_images(attack, radius, slots, precision, monkeypatch):
    model, split = load("digits-nat").classifier, datasets.load("digits:test").part("4:8")
    computed = []
    model.module.register_forward_hook(lambda _module, x, _logits: computed.append(len(x[0])))

    def found():
        computed.clear()
        searches = [Item(row, 0, 0) for row in range(3)]
        ended = ends(model, split, job(parse(f"linf:{radius}"), attack, searches), slots=slots, precision=precision)
        return {end.item: (end.x_adv, end.forwards) for end in ended}, sum(computed)

    few, cost = found()
    monkeypatch.setattr(model_runner, "compacted", lambda *_: None)
    same, whole = found()
    assert any(x_adv is not None for x_adv, _ in few.values())
    assert cost < whole
    for item, (x_adv, forwards) in few.items():
        assert forwards == same[item][1]
        assert (x_adv is None) == (same[item][0] is None)
        assert x_adv is None or torch.equal(x_adv, same[item][0])
