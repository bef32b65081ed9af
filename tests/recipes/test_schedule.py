"""What a training does step by step: threats at first, rates, minutes; and what is kept when it is stopped."""

import contextlib
import signal
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from robench.problem.architectures import ARCHITECTURES, Architecture
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import configure, training
from robench.recipes.adversarial import cross_entropy_step
from robench.recipes.making import Order, make
from robench.recipes.sat import StochasticAdversarialTraining
from robench.recipes.training import Training, TrainingData

from .test_recipes import CPU, LEARNT, Killer, Silent, blobs, mlp, training_of


@dataclass(frozen=True)
class Observed(StochasticAdversarialTraining):
    """Learns from the images themselves, and notes what it should have attacked them under."""

    seen: tuple = ()
    rates: list = field(default_factory=list)

    def train_step(self, step):
        self.seen[0].append(step.threats)
        self.rates.append(step.rate)
        return cross_entropy_step(step.module, step.batch.x, step.batch.y)


@pytest.mark.parametrize(
    ("steps", "warmup", "warmup_threat"), [(10, 0.3, 3), (10, 0.25, 3), (6, 0.0, 0), (4, 1.0, 4), (50, 0.1, 5)]
)
def test_the_first_share_of_a_training_is_at_a_third_of_every_threat(steps, warmup, warmup_threat, tmp_path):
    third, whole = (
        tuple(map(parse, texts))
        for texts in (
            ("linf:0.1", "l2:0.5", "l1:4", "rt:1px,10deg", "rt-l2:1px,10deg+l2:0.5"),
            ("linf:0.3", "l2:1.5", "l1:12", "rt:3px,30deg", "rt-l2:3px,30deg+l2:1.5"),
        )
    )
    recipe = Observed(steps=steps, batch=16, warmup=warmup, seen=([],))
    recipe.train(*training_of(mlp(), blobs(32), tmp_path, 16), whole)
    assert recipe.seen[0] == [third] * warmup_threat + [whole] * (steps - warmup_threat)


def test_a_step_knows_its_share_of_the_highest_rate(tmp_path):
    recipe = Observed(steps=5, batch=16, lr=0.02, schedule="triangular", seen=([],))
    recipe.train(*training_of(mlp(), blobs(32), tmp_path, 16), (parse("linf:0.1"), parse("l2:1")))
    assert recipe.rates == pytest.approx([0.5, 1, 2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("name", ["nat", "sat", "mng_ac"])
def test_the_rate_is_cut_to_a_tenth_half_way(name, tmp_path):
    module, split = mlp(), blobs(32)
    weights, biases = ([p for p in module.parameters() if p.ndim == ndim] for ndim in (2, 1))
    adam = torch.optim.Adam([{"params": weights}, {"params": biases}])
    rates = []

    class Watching(Silent):
        def step(self, step, steps, loss, accuracy):
            rates.append(tuple(group["lr"] for group in adam.param_groups))

    inner = {} if name == "nat" else {"inner_steps": 1}
    recipe = configure(name, "blobs", {"steps": 7, "batch": 16, "lr": 0.02, **inner})
    under_way = Training(module, adam, tmp_path / "state", "test", Watching())
    recipe.train(under_way, TrainingData.of(split, 16, 0, CPU), tuple(map(parse, LEARNT[name])))
    assert rates == [(0.02, 0.02)] * 4 + [(0.002, 0.002)] * 3


class Small(nn.Module):
    """Convolution, batch-norm, pooling, answer."""

    def __init__(self, shape, classes):
        super().__init__()
        self.first = nn.Conv2d(shape[0], 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * 13 * 13, classes)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu().flatten(1))


@pytest.fixture
def small(monkeypatch):
    """The name of a network with batch-norm."""
    monkeypatch.setitem(ARCHITECTURES, "small", Architecture("small", "", Small, "first.weight", "last.weight"))
    return "small"


@pytest.fixture(scope="module")
def images():
    g = torch.Generator().manual_seed(0)
    return Split.whole("toy:train", torch.rand(80, 1, 28, 28, generator=g), torch.arange(80) % 10, 10)


class Ticking(Silent):
    """Every step takes a minute."""

    def __init__(self, monkeypatch):
        self.now, self.stop = 1000.0, None
        monkeypatch.setattr(training.time, "monotonic", lambda: self.now)

    def step(self, step, steps, loss, accuracy):
        self.now += 60
        if step == self.stop:
            signal.raise_signal(signal.SIGINT)


def test_the_minutes_on_a_card_are_those_of_every_sitting(tmp_path, monkeypatch, images):
    clock = Ticking(monkeypatch)
    order = Order(configure("nat", "toy", {"steps": 5, "batch": 16}), (), "toy", "digits-cnn", 0, tmp_path / "m", "")
    for stop in (2, 3):
        clock.stop = stop
        with pytest.raises(KeyboardInterrupt):
            make(order, images, CPU, clock)
        clock.now += 86_400  # until the next day
    clock.stop = None
    assert make(order, images, CPU, clock).minutes == 5


@pytest.mark.costly
@pytest.mark.parametrize(("name", "precision"), [("pgd_at", "float32"), ("mng_ac", "bfloat16")])
def test_a_training_with_batch_norm_and_held_out_images_is_killed_and_ends_as_it_would_have(
    name, precision, tmp_path, monkeypatch, small, images
):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    recipe = configure(name, "toy", {"steps": 6, "batch": 16, "inner_steps": 2})
    threats = tuple(map(parse, LEARNT[name][:2]))

    def made(place, stops):
        order = Order(recipe, threats, "toy", small, 0, tmp_path / place, "", validation=16, precision=precision)
        checks = []
        for stop in stops:
            with contextlib.suppress(KeyboardInterrupt):
                card = make(order, images, CPU, Killer(stop, "killed"), checks.append)
        return card, {check.step: check for check in checks}

    (whole, seen), (pieces, seen_in_pieces) = made("whole", [99]), made("pieces", [2, 5, 99])
    assert pieces.sha256 == whole.sha256, "the same file, statistics of batch-norm and all"
    assert pieces.validation == whole.validation
    assert [*seen] == [*seen_in_pieces] == [1, 2, 3, 4, 5, 6]
    assert [check[:4] for check in seen.values()] == [check[:4] for check in seen_in_pieces.values()]


@pytest.mark.costly
def test_a_check_after_a_kill_covers_all_steps_since_the_previous_check(tmp_path, monkeypatch, images):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    recipe = configure("nat", "toy", {"steps": 60, "batch": 8})

    def checks(place, stops):
        order = Order(recipe, (), "toy", "digits-cnn", 0, tmp_path / place, "", validation=16)
        reported = []
        for stop in stops:
            with contextlib.suppress(KeyboardInterrupt):
                make(order, images, CPU, Killer(stop, "killed"), reported.append)
        return {check.step: check.trained for check in reported}

    assert checks("whole", [99]) == checks("pieces", [44, 99])  # a look every third step, so 44 lies between two
