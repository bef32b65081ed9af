"""Attacks that walk along the boundary: logits with a NaN are no misclassification, as for the referee."""

import pytest
import torch

from robench.problem.threats import parse
from robench.search.attack import Batch, Seen
from robench.search.attacks import build

N, SHAPE, CLASSES = 6, (1, 3, 3), 4


@pytest.mark.parametrize(
    ("name", "settings", "threat"),
    [
        ("ddn", {}, "l2:1"),
        ("fab", {"random_start": True}, "l2:1"),
        ("fab", {"random_start": True}, "linf:0.3"),
        ("cw", {}, "l2:1"),
        ("ead", {}, "l1:1"),
    ],
)
def test_a_step_after_a_nan_answer_is_the_step_after_a_correct_one(name, settings, threat):
    attack, threat = build(name, settings), parse(threat)
    draws = torch.Generator().manual_seed(0)
    x, grad = torch.rand(N, *SHAPE, generator=draws), torch.randn(N, *SHAPE, generator=draws)
    y = torch.arange(N) % CLASSES
    batch = Batch(x, y, (y + 1) % CLASSES, torch.arange(N))
    correct = torch.nn.functional.one_hot(y, CLASSES).float()
    wrong, nan = correct.roll(1, dims=1), correct.clone()
    nan[torch.arange(N), (y + 1) % CLASSES] = torch.nan

    def after(logits):
        state = attack.start(threat, batch)
        for _ in range(3):
            state = attack.step(threat, batch, state, Seen(logits, torch.full((N,), -0.5), grad))
        return state

    for field, value in vars(after(correct)).items():
        torch.testing.assert_close(getattr(after(nan), field), value, rtol=0, atol=0)
    differs = [field for field, value in vars(after(correct)).items() if (getattr(after(wrong), field) != value).any()]
    assert differs, "the attack takes no note of a misclassification"


@pytest.mark.parametrize(("name", "field", "before"), [("fmn", "smallest", torch.inf), ("brendel-bethge", "phase", 0)])
def test_a_targeted_search_takes_no_answer_with_a_nan_for_a_find(name, field, before):
    attack, threat, y = build(name, {"targets": 1}), parse("l2:1"), torch.zeros(1, dtype=torch.long)
    batch = Batch(torch.full((1, *SHAPE), 0.5), y, y + 1, y)
    found = torch.tensor([[0.0, 1.0, -1.0, -1.0]])
    for logits, same in ((found, False), (found.index_fill(1, torch.tensor([2]), torch.nan), True)):
        seen = Seen(logits, torch.ones(1), torch.ones(1, *SHAPE))
        after = attack.step(threat, batch, attack.start(threat, batch), seen)
        assert (getattr(after, field).item() == before) is same
