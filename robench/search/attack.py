"""The interface of attacks: a query to the model, and a step from its answer.

A stepped attack never holds the model. It names the images to query (`query`) and receives what it declares to read
(`step`): labels, logits, or gradients. The engine runs the model, counts the queries, keeps the best image, and chooses
the precision. So a step is a pure function of tensors, and no attack can read more than it declares.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import settings
from ..errors import UserError
from ..problem.losses import Loss
from ..problem.memory import out_of_memory
from ..problem.shapes import Inputs, Keys, Labels, Logits, Mask, PerExample, choose
from ..problem.threats import ThreatModel
from ..settings import Count, NoTargets, TargetOrder

MAX_AT_ONCE = 10_000  # images of one example that an attack may query at once: of CIFAR-10, 120 MB
SAME = 1e-3  # of its length: two backward passes of one graph differ by less, on a GPU too


@dataclass(frozen=True)
class Batch:
    """The examples under attack. A row of every tensor is a slot of the device batch."""

    x: Inputs
    y: Labels
    target: Labels  # the class to aim at; attacks without targets ignore it
    keys: Keys  # keys of all noise of this row


@dataclass(frozen=True)
class State:
    """The memory of an attack between steps. Every field has one row per slot."""

    delta: Inputs  # a gradient attack queries x + delta next


Candidates = Float[Tensor, "L W *D"]
"""The images that L slots query at once, W per slot."""

CandidateParams = Float[Tensor, "L W P"]
"""The parameters of these images, for threat models that need them; else 0."""

Reads = Literal["labels", "logits", "gradients", "anything"]
"""The part of the model's output that an attack receives. An attack that holds the model may read anything."""


@dataclass(frozen=True)
class Seen:
    """The model's output at the queried points, as far as a gradient attack reads it."""

    logits: Logits
    loss: PerExample
    grad: Inputs  # of the loss with respect to the image


Model = Callable[[Tensor], Tensor]
"""Images to logits: a classifier, or a module in training."""

T = TypeVar("T", bound=ThreatModel)
S = TypeVar("S", bound=State)
Rows = TypeVar("Rows", bound=Batch | State | Seen)


@dataclass(frozen=True)
class Attack(ABC):
    """A search for an adversarial example. Subclasses are frozen dataclasses of numbers."""

    name: ClassVar[str]
    source: ClassVar[str]  # method, paper, link: the line of `robench list attacks`
    threats: ClassVar[tuple[str, ...]]  # names of the threat models it can attack
    reads: ClassVar[Reads]
    precise: ClassVar[bool] = False  # rounding would mislead it: it always receives float32
    minimises: ClassVar[bool] = False  # after a find it searches for a nearer one
    comes_from_outside: ClassVar[bool] = False  # it starts at any misclassified image, and fails without one

    def __post_init__(self) -> None:
        """Raises UserError if a setting is out of range."""
        settings.check(self)

    @property
    def spec(self) -> str:
        """The attack as text, with every number: the key of its evidence. `attacks.parse` reads it back."""
        return spec(self.name, settings.named(self))

    @property
    def noise_key(self) -> str:
        """The text that keys the noise of its searches."""
        return self.spec

    @abstractmethod
    def max_queries(self, threat: Any) -> int:
        """The number of queries for an example on which it finds nothing."""

    @property
    def queries_per_step(self) -> int:
        """The number of images it queries at once for each example."""
        return 1


@dataclass(frozen=True)
class SteppedAttack(Attack, Generic[T, S]):
    """A search that can be paused after any step.

    Slots are independent: no reduction over the batch, no shared counter, no global random state. The engine relies on
    this when it gives a finished slot to the next example.
    """

    steps: Count  # steps of each slot before it is exhausted
    targets: NoTargets = 0  # searches per restart, each aimed at another wrong class; 0 is one search that aims at none
    target_order: TargetOrder = "logits"  # which wrong classes are aimed at, and in which order

    def __post_init__(self) -> None:
        super().__post_init__()
        if (count := self.queries_per_step) > MAX_AT_ONCE:
            raise UserError(
                f"{self.name} would query {count:,} images of each example at once, and all are in memory"
                f" together; set at most {MAX_AT_ONCE:,}, in more steps"
            )
        if self.target_order != "logits" and not self.targets:
            raise UserError(
                f"{self.name} cannot take target_order={self.target_order!r}: it aims at no class here; set targets,"
                " such as targets=9, or leave target_order out"
            )

    @property
    def noise_key(self) -> str:
        """The text that keys the noise of its searches: the order of the classes does not change a search."""
        return spec(self.name, {key: value for key, value in settings.named(self).items() if key != "target_order"})

    @abstractmethod
    def start(self, threat: T, batch: Batch) -> S:
        """The state of new slots, made without a query."""

    def max_queries(self, threat: T) -> int:
        """The number of queries of a slot before it is exhausted: the start, and the point after every step."""
        return self.steps + 1

    def params(self, threat: T, batch: Batch, state: S) -> CandidateParams:
        """The transform parameters of the images of `query`."""
        n_params = threat.n_params(batch.x.shape[1:])
        return batch.x.new_zeros(len(batch.y), self.queries_per_step, n_params)


@dataclass(frozen=True)
class GradientAttack(SteppedAttack[T, S]):
    """An attack that maximises a loss and reads logits, loss and gradient."""

    reads: ClassVar[Reads] = "gradients"

    @property
    @abstractmethod
    def objective(self) -> Loss:
        """The loss to maximise."""

    def query(self, threat: T, batch: Batch, state: S) -> Inputs:
        """The next image to query, one per slot."""
        return batch.x + state.delta

    @abstractmethod
    def step(self, threat: T, batch: Batch, state: S, seen: Seen) -> S:
        """The state after one step, from the model's output at `query`."""


@dataclass(frozen=True)
class ScoreAttack(SteppedAttack[T, S]):
    """An attack that reads logits and no gradient."""

    reads: ClassVar[Reads] = "logits"

    @abstractmethod
    def query(self, threat: T, batch: Batch, state: S) -> Candidates:
        """The next images to query, `queries_per_step` per slot."""

    @abstractmethod
    def step(self, threat: T, batch: Batch, state: S, logits: Float[Tensor, "L W K"]) -> S:
        """The state after one step, from the logits of `query`."""


@dataclass(frozen=True)
class LabelAttack(SteppedAttack[T, S]):
    """An attack that reads the predicted class only."""

    reads: ClassVar[Reads] = "labels"
    precise: ClassVar[bool] = True  # it walks along the boundary

    @abstractmethod
    def query(self, threat: T, batch: Batch, state: S) -> Candidates:
        """The next images to query, `queries_per_step` per slot."""

    @abstractmethod
    def step(self, threat: T, batch: Batch, state: S, labels: Int[Tensor, "L W"]) -> S:
        """The state after one step, from the classes predicted for `query`; the correct class where logits are NaN."""


@dataclass(frozen=True)
class ForeignAttack(Attack):
    """An attack of another library, which runs its own loop on a whole batch.

    It receives a model that it may differentiate; the engine counts the queries and keeps the best images. Its examples
    may share noise and counters, so its result for an example can depend on the rest of the batch.
    """

    reads: ClassVar[Reads] = "anything"
    precise: ClassVar[bool] = True  # nothing is known about how it uses the output
    targets: ClassVar[int] = 0

    @abstractmethod
    def run(self, model: Model, threat: Any, batch: Batch) -> None:
        """Search from images that the model classifies correctly. An image that the library returns counts only if it
        was queried.

        Global random generators (torch, numpy, random) are seeded for the batch, and restored afterwards.
        """


AnySteppedAttack = GradientAttack[Any, Any] | ScoreAttack[Any, Any] | LabelAttack[Any, Any]
AnyAttack = AnySteppedAttack | ForeignAttack

AttackGiven = str | AnyAttack | type[AnyAttack]
"""An attack as a user names it: text, an instance, or a class whose settings all have defaults."""


def spec(name: str, settings: Mapping[str, object]) -> str:
    """An attack as text, with its settings in alphabetical order."""
    return f"{name}({', '.join(f'{setting}={value!r}' for setting, value in sorted(settings.items()))})"


def batch_seed(batch: Batch) -> int:
    """A seed from 0 to 2**32 - 1, for a library that samples for the whole batch at once."""
    return int(batch.keys.sum()) % 2**32


def take_rows(rows: Rows, slots: Int[Tensor, "L"]) -> Rows:
    """The rows of the given slots."""
    taken: dict[str, Any] = {f.name: getattr(rows, f.name).index_select(0, slots) for f in fields(rows)}
    return replace(rows, **taken)


def put_rows(rows: Rows, slots: Int[Tensor, "L"], fresh: Rows) -> Rows:
    """`rows` with the given slots replaced by `fresh`."""
    return _by_field(lambda old, new: old.index_copy(0, slots, new), rows, fresh)


def where_rows(mask: Mask, first: Rows, second: Rows) -> Rows:
    """The rows of `first` where the mask holds, else those of `second`."""
    if mask.device.type == "cpu" and not mask.any():
        return second
    return _by_field(lambda a, b: choose(mask, a, b), first, second)


def _by_field(join: Callable[[Tensor, Tensor], Tensor], one: Rows, other: Rows) -> Rows:
    joined: dict[str, Any] = {f.name: join(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)}
    return replace(one, **joined)


class NoGradientsError(RuntimeError):
    """The logits do not depend on the image in a way that can be differentiated; `labels` if they are only labels."""

    def __init__(self, *, labels: bool):
        super().__init__("the model has no gradients")
        self.labels = labels


def differentiate(model: Model, objective: Loss, x_adv: Inputs, y: Labels, target: Labels) -> Seen:
    """One forward and one backward pass. Rows are independent, so one sum gives every row's gradient.

    Raises NoGradientsError if there are none.
    """
    leaf, logits = _recorded(model, x_adv)
    return _derivative(objective, leaf, logits, y, target)


def differentiate_each(
    model: Model, objective: Loss, x_adv: Inputs, y: Labels, targets: Sequence[Labels]
) -> Iterator[Seen]:
    """What `differentiate` gives for each of several target classes, from one forward pass where that is enough.

    Some layers can be differentiated only once, and raise the second time, or are wrong. So the second class has a
    graph of its own, and the first graph is used again only if it repeats that gradient.
    """
    leaf, logits = _recorded(model, x_adv)

    def again(target: Labels) -> Seen:
        return _derivative(objective, leaf, logits, y, target, keep=True)

    def each() -> Iterator[Seen]:
        yield again(targets[0])
        repeats = False
        for place, target in enumerate(targets[1:]):
            if repeats:
                yield again(target)
                continue
            alone = differentiate(model, objective, x_adv, y, target)
            if place == 0 and len(targets) > 2:
                repeats = _repeats(again, target, alone.grad)
            yield alone

    return each()


def _repeats(again: Callable[[Labels], Seen], target: Labels, grad: Inputs) -> bool:
    """Whether a graph that was used before gives this gradient."""
    try:
        apart = again(target).grad - grad
    except Exception as error:  # whatever a layer's own code raises
        if out_of_memory(error):
            raise
        return False
    return bool((apart.flatten(1).double().norm(dim=1) <= SAME * grad.flatten(1).double().norm(dim=1)).all())


def _recorded(model: Model, x_adv: Inputs) -> tuple[Inputs, Logits]:
    """The images as a leaf of a graph, and the logits that it leads to."""
    with torch.enable_grad():
        leaf = x_adv.detach().requires_grad_()
        logits = model(leaf)
    if not logits.requires_grad:
        one_hot = ((logits == 0) | (logits == 1)).all() & (logits.sum(dim=1) <= 1).all()  # idle rows are 0
        raise NoGradientsError(labels=bool(one_hot))
    return leaf, logits


def _derivative(
    objective: Loss, leaf: Inputs, logits: Logits, y: Labels, target: Labels, *, keep: bool = False
) -> Seen:
    """The gradient of the loss of these logits; `keep` the graph for another one."""
    with torch.enable_grad():
        loss = objective(logits, y, target)
        (grad,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=keep)
    return Seen(logits.detach().to(grad.dtype), loss.detach().to(grad.dtype), grad)  # the model may use another type


def unroll(model: Model, threat: T, attack: GradientAttack[T, S], batch: Batch) -> S:
    """The state after all steps on one batch. Finds neither stop it nor are they recorded: training uses this."""
    state = attack.start(threat, batch)
    for _ in range(attack.steps):
        x_adv = attack.query(threat, batch, state)
        seen = differentiate(model, attack.objective, x_adv, batch.y, batch.target)
        state = attack.step(threat, batch, state, seen)
    return state
