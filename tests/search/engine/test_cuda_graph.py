"""A replayed step gives the same values as the step. On a CPU, the replay runs the step again."""

from fractions import Fraction

import pytest
import torch

from robench.doctor.attacks import OURS, attacks_under_test
from robench.doctor.checks import USUAL
from robench.problem.threats import L1, L2, Linf, parse
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE
from robench.search.engine.cuda_graph import Recorded
from robench.search.engine.engine import Engine

from ...exact_distances import classifier, toy
from ..running import items, job
from .test_engine import net
from .test_independence import N, outcome

CASES = [
    (Linf(Fraction(3, 100)), PGD(steps=9)),
    (L2(Fraction(1, 8)), APGD(steps=15)),
    (L1(Fraction(1, 4)), APGD(steps=15)),
    (L1(Fraction(1, 4)), SLIDE(steps=12)),
]

GRADIENT_ATTACKS = [tested for tested in attacks_under_test([OURS], []) if tested.attack.reads == "gradients"]


def again(run):
    """A recorder whose replay runs the step again."""
    run()
    return run


def found(model, split, threat, attack, record, slots=7):
    engine = Engine(model, split, 0, slots)
    engine._runner.record = record
    return searched(engine, model, split, threat, attack)


def searched(engine, model, split, threat, attack):
    one = job(threat, attack, items(model, attack, split, range(N), restarts=2))
    ended = [end for some in engine.work([one]) for end in some]
    assert one.error == ""
    return outcome(ended)


@pytest.mark.costly
@pytest.mark.parametrize(("threat", "attack"), CASES)
def test_a_replayed_search_gives_the_same_images_as_a_plain_one(threat, attack):
    model = classifier(net(), 4)
    split = toy(model, N)
    replays = []

    def counted(run):
        run()

        def replay():
            replays.append(1)
            run()

        return replay

    plain, played = found(model, split, threat, attack, None), found(model, split, threat, attack, counted)
    assert len(replays) > 20, "nothing was replayed"
    assert plain.keys() == played.keys()
    for key, x_adv in plain.items():
        assert (x_adv is None) == (played[key] is None)
        assert x_adv is None or torch.equal(x_adv, played[key])


@pytest.mark.costly
def test_a_step_that_cannot_be_recorded_runs_plainly():
    def refuses(run):
        run()
        raise RuntimeError("operation not permitted when stream is capturing")

    model = classifier(net(), 4)
    split = toy(model, N)
    for threat, attack in CASES:
        plain, tried = found(model, split, threat, attack, None), found(model, split, threat, attack, refuses)
        assert {key: x is None for key, x in plain.items()} == {key: x is None for key, x in tried.items()}


def test_a_recording_that_gives_other_values_is_not_used():
    with pytest.raises(RuntimeError, match="gives other values"):
        Recorded(lambda c, v: (v[0] + c[0],), (torch.ones(3),), (torch.zeros(3),), record=lambda run: lambda: None)


def test_values_that_are_swapped_do_not_overwrite_each_other():
    swap = Recorded(lambda c, v: (v[1], v[0] + c[0]), (torch.ones(2),), (torch.zeros(2), torch.ones(2)), record=again)
    one, other = swap((torch.ones(2),), (torch.zeros(2), torch.ones(2)), times=3)
    assert (one.tolist(), other.tolist()) == ([2.0, 2.0], [2.0, 2.0])
    one, other = swap((torch.ones(2),), (torch.zeros(2), 5 * torch.ones(2)), times=1)
    assert (one.tolist(), other.tolist()) == ([5.0, 5.0], [1.0, 1.0])


@pytest.mark.gpu
@pytest.mark.parametrize("tested", GRADIENT_ATTACKS, ids=lambda tested: f"{tested.name} {tested.threat}")
def test_on_a_gpu_every_gradient_attack_is_replayed_and_breaks_the_same_examples_as_plain_steps(tested):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = classifier(net().cuda(), 4)
    split = toy(classifier(net(), 4), N)
    threat = parse(USUAL[tested.threat])
    engine = Engine(model, split, 0, 7)
    played = searched(engine, model, split, threat, tested.attack)
    assert engine.notes == []
    plain = found(model, split, threat, tested.attack, None)
    assert {key: x is None for key, x in plain.items()} == {key: x is None for key, x in played.items()}
