"""No step of an attack moves numbers from the host to the device: a GPU would wait, and no graph could be captured."""

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from robench.doctor.attacks import OURS, attacks_under_test
from robench.doctor.checks import USUAL
from robench.problem.threats import parse
from robench.search.engine.engine import Engine

from ..exact_distances import classifier, toy
from .engine.test_engine import net
from .running import items, job

GRADIENT_ATTACKS = [tested for tested in attacks_under_test([OURS], []) if tested.attack.reads == "gradients"]
ROUNDS = 25  # of the engine: enough for every branch of a step


class FromTheHost(TorchDispatchMode):
    """Lists the tensors that are made of Python numbers, by the operator that torch.tensor and new_tensor end in."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(("aten.lift_fresh", "aten.lift.")):
            self.found.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.costly
@pytest.mark.parametrize("tested", GRADIENT_ATTACKS, ids=lambda tested: f"{tested.name} {tested.threat}")
def test_a_step_makes_no_tensor_of_python_numbers(tested):
    model = classifier(net(), 4)
    split = toy(model, 4)
    threat = parse(USUAL[tested.threat])
    search(Engine(model, split, 0, 5, compact=False), threat, tested.attack)  # makes constants once, and keeps them
    engine, watch = Engine(model, split, 0, 5, compact=False), FromTheHost()
    steps, step = [], engine._runner._step

    def watched_step(batch):
        with watch:
            steps.append(step(batch))
        return steps[-1]

    engine._runner._step = watched_step
    search(engine, threat, tested.attack)
    assert steps
    assert watch.found == []


def search(engine, threat, attack):
    """Some rounds of the engine."""
    work = engine.work([job(threat, attack, items(engine.classifier, attack, engine.split, range(4)))])
    for _ in zip(range(ROUNDS), work, strict=False):
        pass
