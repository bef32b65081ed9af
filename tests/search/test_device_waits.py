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


class FromTheHost(TorchDispatchMode):
    """Lists the tensors that are made of Python numbers, by the operator that torch.tensor and new_tensor end in."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(("aten.lift_fresh", "aten.lift.")):
            self.found.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tested", GRADIENT_ATTACKS, ids=lambda tested: f"{tested.name} {tested.threat}")
def test_a_step_makes_no_tensor_of_python_numbers(tested, monkeypatch):
    model = classifier(net(), 4)
    split = toy(model, 4)
    engine, watch = Engine(model, split, 0, 5, compact=False), FromTheHost()
    made = engine._runner._step
    steps = []

    def step(batch):
        with watch:
            steps.append(made(batch))
        return steps[-1]

    monkeypatch.setattr(engine._runner, "_step", step)
    one = job(parse(USUAL[tested.threat]), tested.attack, items(model, tested.attack, split, range(4)))
    for _ in engine.work([one]):
        pass
    assert steps
    assert watch.found == []
