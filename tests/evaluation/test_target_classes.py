"""Targeted attacks with classes in the order of first-order distance: what they search, its cost, and resuming."""

import pytest
import torch
from torch import nn

from robench.evaluation.target_classes import TargetClasses
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.problem.threats import parse
from robench.protocols import AttackChoice
from robench.search import targets
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD

from .test_runner import CLASSES, SMALL, Pulled, alone, answered, as_classifier, asking, evidence, images, letters, net

STEPS = 4
ORDERED = PGD(steps=STEPS, targets=2, target_order="first-order", random_start=False)
PROTOCOL = asking(SMALL, attacks=(AttackChoice("ordered", ORDERED),))


def classes_of(split, attack=ORDERED, rows=None, passes=1, module=None):
    referee = Referee(as_classifier(module or net()), passes)
    rows = list(range(len(split))) if rows is None else rows
    return TargetClasses(referee, split, parse(SMALL), attack, rows)


def test_every_search_aims_at_the_nearest_classes_and_the_cost_counts_the_gradients_of_the_order(path_of_run):
    split = images()
    summary = answered(path_of_run, split, PROTOCOL)
    known = evidence(path_of_run)
    chosen = classes_of(split)
    assert summary.threats[0].broken >= 4
    assert summary.threats[0].standing >= 4
    for claim in known.claims:
        assert claim.target in chosen.of(claim.example)
    broken = {c.example for c in known.claims}
    order = CLASSES - 1
    for exhausted in known.exhausted:
        searches = bin(exhausted.done).count("1")
        if exhausted.example not in broken:
            assert exhausted.forwards == exhausted.backwards == order + searches * (STEPS + 1)
        assert exhausted.forwards >= order
    assert {e.example for e in known.exhausted} == set(range(3, len(split))), "wrong examples cost nothing"


@pytest.fixture
def path_of_run(tmp_path):
    return tmp_path / "r.robench"


@pytest.mark.costly
@pytest.mark.parametrize("looks", [1, 3, 7])
def test_an_interrupted_run_searches_the_same_classes(path_of_run, looks):
    split = images()
    whole = alone(split, PROTOCOL)
    with pytest.raises(KeyboardInterrupt):
        answered(path_of_run, split, PROTOCOL, progress=Pulled(looks), slots=4)
    assert letters(answered(path_of_run, split, PROTOCOL, slots=16)) == letters(whole)


def test_the_order_of_an_example_depends_neither_on_its_neighbours_nor_on_where_a_session_begins():
    split = images(40)
    every = {row: list(classes_of(split).of(row)) for row in range(40)}
    assert any(every[row] != targets.by_logits(net()(split.x[[row]]), split.y[[row]], 2)[0].tolist() for row in every)
    late = classes_of(split, rows=list(range(39, 2, -3)))
    for row in range(39, 2, -3):
        assert list(late.of(row)) == every[row]


def test_dropped_examples_cost_nothing_and_no_example_costs_twice():
    split = images(30)
    chosen = classes_of(split)
    chosen.of(0, dropped={1, 2})
    first = chosen.take_cost()
    assert set(first) == {0, *range(3, 18)}
    assert set(first.values()) == {CLASSES - 1}
    for row in range(30):
        chosen.of(row)
    assert set(chosen.take_cost()) == {1, 2, *range(18, 30)}
    assert not chosen.take_cost()


def test_by_logits_there_is_no_cost_and_without_targets_no_class():
    split = images()
    logits = net()(split.x)
    plain = classes_of(split, APGD(targets=2))
    assert [list(plain.of(row)) for row in range(5)] == targets.by_logits(logits[:5], split.y[:5], 2).tolist()
    assert not plain.take_cost()
    assert list(classes_of(split, APGD()).of(3)) == [-1]


class OneHot(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return nn.functional.one_hot(net()(x).argmax(dim=1), CLASSES).float()


def test_without_a_gradient_the_order_is_that_of_the_logits_and_the_attack_reports_its_error(path_of_run):
    split = images()
    chosen, logits = classes_of(split, module=OneHot()), OneHot()(split.x)
    assert [list(chosen.of(row)) for row in range(5)] == targets.by_logits(logits[:5], split.y[:5], 2).tolist()
    summary = answered(path_of_run, split, PROTOCOL, module=OneHot())
    assert summary.threats[0].standing == 0
    assert summary.threats[0].open > 0
    with RunFile.read(path_of_run) as run:
        assert any("grad" in failure.error for failure in run.evidence().failures)


def test_for_a_stochastic_model_the_order_is_that_of_the_mean_logits():
    class Noisy(nn.Module):
        def forward(self, x):
            return net()(x) + 1e-3 * torch.randn(len(x), CLASSES)

    split = images()
    chosen = classes_of(split, passes=5, module=Noisy())
    mean = net()(split.x)
    assert [list(chosen.of(row)) for row in range(5)] == targets.by_logits(mean[:5], split.y[:5], 2).tolist()
    assert not chosen.take_cost()
