"""Jobs that share the slots, several queries per step, and memory shortage."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.noise import normal
from robench.problem.threats import L1, L2, Ball, Linf
from robench.search.attack import LabelAttack, ScoreAttack, State
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE
from robench.search.engine.engine import Engine
from robench.search.engine.scheduler import Item
from robench.search.engine.slot_batch import batch_of

from ...exact_distances import Linear, classifier, toy
from ..running import ends, items, job
from .test_engine import net

N = 9


@pytest.fixture
def model():
    return classifier(net(), 4)


@pytest.fixture
def split(model):
    return toy(model, N)


def several(model, split):
    """Five jobs of different attacks and threats, some with several restarts or targets."""
    cases = [
        (Linf(Fraction(3, 100)), PGD(steps=9), 2),
        (L2(Fraction(1, 8)), PGD(steps=4, loss="cross-entropy"), 1),
        (L1(Fraction(1, 4)), SLIDE(steps=12), 1),
        (L1(Fraction(1, 4)), APGD(steps=15), 1),
        (Linf(Fraction(3, 100)), APGD(steps=7, loss="dlr", targets=3), 1),
    ]
    return [job(threat, attack, items(model, attack, split, range(N), restarts)) for threat, attack, restarts in cases]


def outcome(ended):
    return {(str(end.job.threat), end.job.attack.spec, end.item): end.x_adv for end in ended}


@functools.cache
def alone(slots):
    """The results of these jobs, one job after the other."""
    model = classifier(net(), 4)
    split = toy(model, N)
    return outcome([end for one in several(model, split) for end in ends(model, split, one, slots=slots)])


@pytest.mark.costly
@pytest.mark.parametrize("slots", [1, 7, 64])
def test_jobs_that_share_the_slots_get_the_same_results_as_alone(model, split, slots):
    together = outcome(ends(model, split, *several(model, split), slots=slots))
    expected = alone(slots)
    assert together.keys() == expected.keys()
    for key, x_adv in together.items():
        assert (x_adv is None) == (expected[key] is None), key
        if x_adv is not None:
            torch.testing.assert_close(x_adv, expected[key], atol=2e-5, rtol=0)
    assert 5 < sum(x is None for x in expected.values()) < len(expected) - 5, "both outcomes must occur"


@pytest.mark.costly
def test_slots_stay_busy_between_jobs(model, split):
    together, jobs = Engine(model, split, 0, rows=4), several(model, split)
    list(together.work(jobs))
    separately = 0
    for one in several(model, split):
        engine = Engine(model, split, 0, rows=4)
        list(engine.work([one]))
        separately += engine.rounds
    steps = sum(one.steps for one in jobs)
    assert steps > 0.93 * 4 * together.rounds, "fewer than one slot in fourteen may be idle: those at the very end"
    assert separately > 1.05 * together.rounds


def test_a_job_is_taken_when_slots_are_free_and_not_before(model, split):
    taken = []

    def queue() -> Iterator:
        for number, one in enumerate(several(model, split)):
            taken.append(number)
            yield one

    work = Engine(model, split, 0, rows=8).work(queue())
    next(work)
    assert taken == [0]
    list(work)
    assert taken == [0, 1, 2, 3, 4]


class Fails(PGD):
    name: ClassVar[str] = "fails"
    at: ClassVar[str] = "step"

    def start(self, threat, batch):
        return self._maybe("start") or super().start(threat, batch)

    def query(self, threat, batch, state):
        return self._maybe("query") or super().query(threat, batch, state)

    def step(self, threat, batch, state, seen):
        return self._maybe("step") or super().step(threat, batch, state, seen)

    def _maybe(self, where):
        if where == self.at:
            raise ZeroDivisionError(f"in {where}")


@pytest.mark.parametrize("where", ["start", "query", "step"])
def test_an_attack_that_raises_does_not_affect_the_jobs_that_share_its_batch(model, split, where, monkeypatch):
    monkeypatch.setattr(Fails, "at", where)
    threat = Linf(Fraction(3, 100))
    jobs = [
        job(threat, attack, items(model, attack, split, range(N)))
        for attack in (PGD(steps=9), Fails(steps=9), APGD(steps=9))
    ]
    got = outcome(ends(model, split, *jobs, slots=10, may_fail=True))
    assert [one.error for one in jobs] == ["", f"ZeroDivisionError: in {where}", ""]
    assert jobs[1].unfinished == set(range(N))
    others = outcome(
        ends(model, split, *[job(threat, a, items(model, a, split, range(N))) for a in (PGD(steps=9), APGD(steps=9))])
    )
    assert {key: x is None for key, x in got.items()} == {key: x is None for key, x in others.items()}
    assert all(one.over for one in jobs)


def test_a_model_that_raises_fails_every_attack_with_its_error(split):
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("no such layer")

    jobs = several(classifier(Linear(4), 4), split)
    assert ends(classifier(Broken(), 4), split, *jobs, may_fail=True) == []
    assert {one.error for one in jobs} == {"KeyError: 'no such layer'"}


# Memory


class Cramped(nn.Module):
    """A network that runs out of memory on more than `room` images."""

    def __init__(self, room: int, error: Exception):
        super().__init__()
        self.inner, self.room, self.error = net(), room, error

    def forward(self, x):
        if len(x) > self.room:
            raise self.error
        return self.inner(x)


CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU_ERROR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


@pytest.mark.costly
@pytest.mark.parametrize("error", [CUDA_ERROR, CPU_ERROR, MemoryError()], ids=["cuda", "cpu", "python"])
def test_a_batch_too_large_for_the_memory_is_halved_and_gives_the_same_results(split, error):
    roomy, cramped = classifier(net(), 4), classifier(Cramped(5, error), 4)
    engine = Engine(cramped, split, 0, rows=64)
    jobs = several(roomy, split)
    got = outcome([end for some in engine.work(jobs) for end in some])
    assert engine.rows == 4
    assert {key: x is None for key, x in got.items()} == {key: x is None for key, x in alone(4).items()}


def test_a_model_that_cannot_hold_one_image_is_refused(split):
    cramped = classifier(Cramped(0, CUDA_ERROR), 4)
    with pytest.raises(UserError, match=r"runs out of memory on a single image \(CUDA out of memory"):
        ends(cramped, split, *several(classifier(net(), 4), split))


# Several queries per step


@dataclass(frozen=True)
class Tries(LabelAttack[Ball, State]):
    """Random members of the threat set, several per step."""

    name: ClassVar[str] = "tries"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)

    steps: int = 6
    targets: int = 0
    queries_per_step: ClassVar[int] = 5

    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))

    def max_queries(self, threat):
        return self.steps

    def query(self, threat, batch, state):
        tries = [
            batch.x + threat.sample(batch.x, normal(batch.keys, restart=k, like=batch.x))
            for k in range(self.queries_per_step)
        ]
        return torch.stack(tries, dim=1)

    def step(self, threat, batch, state, labels):
        assert labels.shape == (len(batch.y), self.queries_per_step)
        assert not labels.is_floating_point()
        return state


@dataclass(frozen=True)
class Scores(ScoreAttack[Ball, State]):
    """The same queries, of an attack that reads logits."""

    name: ClassVar[str] = "scores"
    source: ClassVar[str] = "tests"
    threats: ClassVar[tuple[str, ...]] = ("linf",)

    steps: int = 6
    targets: int = 0
    queries_per_step: ClassVar[int] = 5
    start, max_queries, query = Tries.start, Tries.max_queries, Tries.query

    def step(self, threat, batch, state, logits):
        assert logits.shape == (len(batch.y), 5, 4)
        return state


class OneHot(nn.Module):
    """A model that returns only the predicted class, and has no gradient."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        assert not torch.is_grad_enabled(), "an attack that reads labels must not need a gradient"
        return nn.functional.one_hot(self.inner(x).argmax(dim=1), 4).float()


@pytest.mark.parametrize("rows", [64, 7, 3])
def test_any_of_several_queries_per_step_may_be_the_adversarial_example(model, split, rows):
    threat, attack = Linf(Fraction(1, 2)), Tries()
    ended = ends(model, split, job(threat, attack, items(model, attack, split, range(N))), slots=rows)
    batch = batch_of(model, job(threat, attack, []), split, [end.item for end in ended], seed=0)
    tries = attack.query(threat, batch, None)
    fooled = (model(tries.flatten(0, 1)).argmax(dim=1).view(-1, 5) != batch.y[:, None]).any(dim=1)
    assert [end.x_adv is not None for end in ended] == fooled.tolist()
    assert 1 < fooled.sum() < N - 1, "both outcomes must occur"
    for end in ended:
        assert (end.forwards, end.backwards) == (5 if end.x_adv is not None else 30, 0)


def test_an_attack_that_reads_labels_gets_the_same_results_from_a_model_that_returns_only_labels(model, split):
    attack = Tries()
    jobs = [job(Linf(Fraction(1, 5)), attack, items(model, attack, split, range(N))) for _ in range(2)]
    plain, bare = ends(model, split, jobs[0]), ends(classifier(OneHot(net()), 4), split, jobs[1])
    assert [(e.item, e.x_adv is None) for e in plain] == [(e.item, e.x_adv is None) for e in bare]


def test_attacks_that_read_different_answers_run_one_after_the_other(model, split):
    threat = Linf(Fraction(1, 5))
    jobs = [job(threat, a, items(model, a, split, range(N))) for a in (PGD(steps=3), Tries(), Scores(), PGD(steps=4))]
    ended = ends(model, split, *jobs, slots=9)
    assert [jobs.index(end.job) for end in ended] == sorted(jobs.index(end.job) for end in ended)
    assert len(ended) == 4 * N


def test_nan_logits_are_read_as_the_correct_label(split):
    class Torn(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 4), torch.nan)

    seen = []

    class Reads(Tries):
        def step(self, threat, batch, state, labels):
            seen.append((labels == batch.y[:, None]).all())
            return state

    (end,) = ends(classifier(Torn(), 4), split, job(Linf(Fraction(1, 5)), Reads(), [Item(0, 0, 0)]))
    assert (end.x_adv, end.nan, end.no_query_inside) == (None, True, True)
    assert all(seen)
