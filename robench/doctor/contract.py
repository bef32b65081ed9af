"""The contract of attacks, which the engine relies on, checked on models of a few pixels.

The result of an attack on an example depends only on the example and its noise: not on the other rows of the batch,
their order or number, or any other source of randomness. The attack makes no more queries than it declares, queries
images inside the threat set, and reads only what its base class declares.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..evidence.referee import Referee
from ..problem.classifier import Classifier
from ..problem.noise import keyed
from ..problem.split import Split
from ..problem.threats import Ball, ThreatModel
from ..problem.threats.base import stacked
from ..search.attack import (
    AnyAttack,
    AnySteppedAttack,
    Batch,
    ForeignAttack,
    GradientAttack,
    LabelAttack,
    State,
    differentiate,
    take_rows,
)
from ..search.engine.engine import Engine
from ..search.engine.job import Ended, Job
from ..search.engine.scheduler import Item, Waiting
from .exact_distances import Linear, classifier, toy

CLASSES, SHAPE, IMAGES = 4, (1, 5, 5), 9
STEPS = 12  # at most so many steps are made without the engine
SUBSET = (5, 0, 7)  # rows that are searched again without the others, in another order
CLOSE = 2e-5  # of a pixel: rounding may differ that much

UNLIKELY = 271828182  # a seed that no attack is likely to set

Key = tuple[int, int]  # row and number of an item


class RowByRow(nn.Module):
    """A linear model that computes each row separately, so that logits have the same bits in a batch of any size."""

    def __init__(self, inner: Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.inner.weight).sum(dim=2) + self.inner.bias


class Unreadable(nn.Module):
    """A model with the predicted classes of another, and its logits if `logits`. It cannot be differentiated."""

    def __init__(self, inner: nn.Module, *, logits: bool) -> None:
        super().__init__()
        self.inner, self.logits = inner, logits

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("the attack needs a gradient, which its base class does not declare to read")
        logits: Tensor = self.inner(x)
        return logits if self.logits else nn.functional.one_hot(logits.argmax(dim=1), CLASSES).float()


class Unbreakable(nn.Module):
    """A model that predicts class 0 everywhere, with a gradient that is not zero."""

    def forward(self, x: Tensor) -> Tensor:
        scores = 0.01 * x.flatten(1)[:, :CLASSES]
        return scores + scores.new_tensor([9.0, 0.0, 0.0, 0.0])


def breaches(attack: AnyAttack, threat: ThreatModel) -> list[str]:
    """A sentence for each way in which the attack breaks the contract under this threat; empty if it breaks none."""
    model = classifier(RowByRow(Linear(CLASSES, SHAPE)), CLASSES, SHAPE)
    split = toy(model, IMAGES, edges=False)
    if isinstance(attack, ForeignAttack):
        return _tried(lambda: _of_library(attack, threat, model, split))
    by_hand = _tried(lambda: _of_steps(attack, threat, model, split))
    return by_hand or _tried(lambda: _of_searches(attack, threat, model, split))


def _tried(rule: Callable[[], Iterator[str]]) -> list[str]:
    found: list[str] = []
    try:
        found.extend(dict.fromkeys(rule()))
    except Exception as error:  # of any kind: it is raised by the attack
        found.append(f"it raises {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return found


# Step by step, without the engine


@dataclass(frozen=True)
class Trace:
    """The states of an attack and the images it queried, step by step. Each has one row per row of the batch."""

    states: tuple[State, ...]
    images: tuple[Tensor, ...]


def _of_steps(attack: AnySteppedAttack, threat: ThreatModel, model: Classifier, split: Split) -> Iterator[str]:
    """Breaches in single steps. After a breach of form, nothing else is checked."""
    batch = _batch(split)
    form: list[str] = []
    whole = _driven(attack, threat, model, batch, form)
    if form:
        yield from form
        return
    with _watched_random_numbers() as used:  # in the second search: libraries imported during the first may use them
        again = _driven(attack, threat, model, batch, form)
    if used:
        yield "it uses global random numbers; take its noise from batch.keys, with robench.attacks.normal or uniform"
    if where := _apart(whole, again):
        yield f"{where} differs when the same search is made again; its noise must come from batch.keys alone"
        return
    rows = torch.tensor(SUBSET)
    part = _driven(attack, threat, model, take_rows(batch, rows), form)
    if where := _apart(_rows(whole, rows), part):
        yield f"{where} depends on the other rows of the batch; no operation may mix rows"


def _driven(attack: Any, threat: ThreatModel, model: Classifier, batch: Batch, form: list[str]) -> Trace:
    """The first steps of a search. Breaches of form are added to `form`, and end the search."""
    states, images = [], []
    state = _unchanged("start", form, partial(attack.start, threat, batch), batch)
    states.append(state)
    form += _form_of_state(state, "start", len(batch.y))
    for _ in range(min(STEPS, attack.max_queries(threat))):
        if form:
            break
        x_adv = _unchanged("query", form, partial(attack.query, threat, batch, state), batch, state)
        images.append(x_adv)
        form += _form_of_query(attack, x_adv, batch)
        if form:
            break
        answers = _answers(attack, model, x_adv, batch)
        state = _unchanged("step", form, partial(attack.step, threat, batch, state, answers), batch, state, answers)
        states.append(state)
        form += _form_of_state(state, "step", len(batch.y))
    return Trace(tuple(states), tuple(images))


def _answers(attack: AnySteppedAttack, model: Classifier, x_adv: Tensor, batch: Batch) -> Any:
    if isinstance(attack, GradientAttack):
        return differentiate(model, attack.objective, x_adv, batch.y, batch.target)
    with torch.no_grad():
        logits = model(x_adv.flatten(0, 1)).view(*x_adv.shape[:2], CLASSES)
    return logits.argmax(dim=2) if isinstance(attack, LabelAttack) else logits


def _unchanged(method: str, form: list[str], call: Callable[[], Any], *given: Any) -> Any:
    """The result of a method. Adds a breach to `form` if the method changed its arguments."""
    before = [tensor.clone() for one in given for tensor in _tensors(one)]
    made = call()
    after = [tensor for one in given for tensor in _tensors(one)]
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)):
        form.append(f"{method} writes into the tensors it is given; it must return new ones")
    return made


def _tensors(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else [getattr(values, f.name) for f in fields(values)]


def _form_of_state(state: object, method: str, rows: int) -> Iterator[str]:
    if not isinstance(state, State):
        yield f"{method} returns {type(state).__name__}; it must be a State of robench.attacks"
        return
    for f in fields(state):
        value = getattr(state, f.name)
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != rows:
            yield f"{method}: the field {f.name} of the state must be a tensor with one row per row of the batch"


def _form_of_query(attack: AnySteppedAttack, x_adv: object, batch: Batch) -> Iterator[str]:
    rows, *image = batch.x.shape
    wanted = (rows, *image) if isinstance(attack, GradientAttack) else (rows, attack.queries_per_step, *image)
    shape = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else None
    if shape != wanted:
        shown = shape or type(x_adv).__name__
        yield f"query returns {shown} for a batch of {tuple(batch.x.shape)}; it must be a tensor of {wanted}"
    elif isinstance(x_adv, Tensor) and x_adv.dtype != torch.float32:
        yield f"query returns {x_adv.dtype}; images are torch.float32"


def _batch(split: Split) -> Batch:
    rows = torch.arange(len(split))
    return Batch(split.x.clone(), split.y.clone(), (split.y + 1) % CLASSES, keyed(0, rows, restart=0))


def _rows(trace: Trace, rows: Tensor) -> Trace:
    return Trace(
        tuple(take_rows(state, rows) for state in trace.states), tuple(x.index_select(0, rows) for x in trace.images)
    )


def _apart(one: Trace, other: Trace) -> str:
    """The place where two traces first differ; empty if they are equal."""
    for step, (first, second) in enumerate(zip(one.states, other.states, strict=True)):
        for f in fields(first):
            if not _close(getattr(first, f.name), getattr(second, f.name)):
                return f"the field {f.name} of the state after {f'step {step}' if step else 'start'}"
        if step < len(one.images) and not _close(one.images[step], other.images[step]):
            return f"the image of query {step + 1}"
    return ""


def _close(one: Tensor, other: Tensor) -> bool:
    if one.is_floating_point():
        return one.shape == other.shape and torch.allclose(one, other, atol=CLOSE, rtol=1e-4, equal_nan=True)
    return torch.equal(one, other)


@contextmanager
def _watched_random_numbers() -> Iterator[list[str]]:
    """Collects the libraries whose global random generators are used or seeded inside, and restores the generators.

    Python's own generator is not watched: a type checker at run time may use it.
    """
    used: list[str] = []
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNLIKELY)
        np.random.seed(UNLIKELY)
        states = _random_states()
        try:
            yield used
            used += [name for name, state in _random_states().items() if state != states[name]]
        finally:
            np.random.set_state(before)


def _random_states() -> dict[str, bytes]:
    state: Any = np.random.get_state()
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": state[1].tobytes() + repr(state[2:]).encode()}


# Whole searches, by the engine


@dataclass(frozen=True)
class Searches:
    """The ends of searches by item, and the first error that the attack raised."""

    ended: dict[Key, Ended]
    error: str = ""


def _of_searches(attack: AnySteppedAttack, threat: ThreatModel, model: Classifier, split: Split) -> Iterator[str]:
    """Breaches in whole searches."""
    items = _items(attack, split)
    alone = _searched(attack, threat, model, split, items, slots=len(items))
    yield from _of_ends(attack, threat, model, split, alone)
    if alone.error:
        return
    runs = {
        "one at a time": _searched(attack, threat, model, split, items, slots=1),
        "in another order, a few at once": _searched(attack, threat, model, split, items[::-1], slots=7),
        "beside other searches": _searched(attack, threat, model, split, items, slots=11, company=_other(threat)),
    }
    for company, run in runs.items():
        if run.error:
            yield f"it raises when images are searched {company}: {run.error}"
        elif number := _differing(alone, run):
            yield f"{number} of {len(items)} searches end differently when images are searched {company}"
    if attack.reads != "gradients":
        bare = classifier(Unreadable(model.module, logits=attack.reads == "logits"), CLASSES, SHAPE)
        run = _searched(attack, threat, bare, split, items, slots=len(items))
        # Only the items are compared: among several finds the engine keeps the best by logits, which labels lack.
        if run.error or _found(alone) != _found(run):
            yield f"it breaks other images on a model that returns only {attack.reads}"


def _of_ends(attack: AnyAttack, threat: ThreatModel, model: Classifier, split: Split, run: Searches) -> Iterator[str]:
    """Breaches in the end of a search: errors, queries, and images that the referee rejects."""
    if run.error:
        yield f"it raises {run.error}"
    ends = run.ended.values()
    outside = sum(end.no_query_inside for end in ends)
    if outside and not attack.comes_from_outside:
        yield f"{outside} of {len(ends)} searches query no image inside the threat set, so they can find nothing"
    budget = attack.max_queries(threat) * attack.queries_per_step
    if over := [end.forwards for end in ends if end.forwards > budget + isinstance(attack, ForeignAttack)]:
        yield f"a search makes {max(over)} queries, and max_queries allows {budget}"
    finds = [end for end in ends if end.x_adv is not None]
    if finds:
        rows = [end.item.row for end in finds]
        images = torch.stack([end.x_adv for end in finds if end.x_adv is not None])
        params = stacked([end.params for end in finds])
        decisions = Referee(model).judge(threat, split.x[rows], split.y[rows], images, params)
        if refused := [decision.reason for decision in decisions if not decision.accepted]:
            yield f"an image it found {refused[0]}"


def _of_library(attack: ForeignAttack, threat: ThreatModel, model: Classifier, split: Split) -> Iterator[str]:
    """Breaches of an attack with a loop of its own. Its rows may share noise and counters."""
    items = [item for item in _items(attack, split) if item.restart == 0]
    first = _searched(attack, threat, model, split, items, slots=len(items))
    yield from _of_ends(attack, threat, model, split, first)
    if first.error:
        return
    if number := _differing(first, _searched(attack, threat, model, split, items, slots=len(items))):
        yield f"{number} of {len(items)} searches end differently when the same batch is searched again"
    firm = classifier(Unbreakable(), CLASSES, SHAPE)
    zeros = replace(split, y=torch.zeros_like(split.y))
    yield from _of_ends(attack, threat, firm, zeros, _searched(attack, threat, firm, zeros, items, slots=len(items)))


def _items(attack: AnyAttack, split: Split) -> list[Item]:
    """Two restarts on each image; for targeted attacks, two towards each wrong class."""
    items = []
    for row in range(len(split)):
        wrong = [k for k in range(CLASSES) if k != split.y[row]] if attack.targets else [-1]
        aims = [(restart, target) for restart in range(2) for target in wrong]
        items += [Item(row, number, restart, target) for number, (restart, target) in enumerate(aims)]
    return items


def _searched(
    attack: AnyAttack,
    threat: ThreatModel,
    model: Classifier,
    split: Split,
    items: Sequence[Item],
    *,
    slots: int,
    company: ThreatModel | None = None,
) -> Searches:
    """Runs every search to its end; with `company`, beside searches of the same attack under that threat."""
    job = Job(threat, attack, Waiting.of(items))
    beside = [] if company is None else [Job(company, attack, Waiting.of(items[::2]))]
    rows = slots * attack.queries_per_step
    ended = [end for some in Engine(model, split, 0, rows).work([*beside, job]) for end in some if end.job is job]
    errors = [end.error for end in ended if end.error] or [job.error]
    return Searches({(end.item.row, end.item.number): end for end in ended}, errors[0])


def _other(threat: ThreatModel) -> ThreatModel:
    """A ball of half the radius; any other threat model itself."""
    return replace(threat, radius=threat.radius / 2) if isinstance(threat, Ball) and threat.name != "l0" else threat


def _differing(one: Searches, other: Searches) -> int:
    """The number of searches that end with different images, or with an image in only one of the two runs."""
    return sum(
        not _same(end.x_adv, other.ended[key].x_adv) if key in other.ended else True for key, end in one.ended.items()
    )


def _found(run: Searches) -> set[Key]:
    return {key for key, end in run.ended.items() if end.x_adv is not None}


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, atol=CLOSE, rtol=0)
