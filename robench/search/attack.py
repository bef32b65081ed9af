"""What an attack is: a question to the model, and what it makes of the answer.

An attack of ours never holds the model. It names the images it wants to ask about (`query`) and is told what it
declared to read (`step`): labels, logits, or gradients. The engine makes the call, counts it, watches it, and
chooses its precision. So a step is a pure function of tensors, and no attack can read more than it says.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..problem.losses import Loss
from ..problem.shapes import Inputs, Keys, Labels, Logits, Mask, PerExample, per_example
from ..problem.threats import ThreatModel
from ..problem.threats.base import N_PARAMS


@dataclass(frozen=True)
class Batch:
    """What the lanes work on, one row each."""

    x: Inputs
    y: Labels
    target: Labels  # the class to aim at; attacks without targets ignore it
    keys: Keys  # the source of all noise of this row


@dataclass(frozen=True)
class State:
    """What an attack remembers between steps. Every field has one row per lane."""

    delta: Inputs  # a gradient attack asks about x + delta next


Candidates = Float[Tensor, "L W *D"]
"""The images that each of L lanes asks about at once, W of them."""

CandidateParams = Float[Tensor, "L W 3"]
"""How each of those images was made, where the threat model needs to know; else 0."""

Reads = Literal["labels", "logits", "gradients", "anything"]
"""What an attack is told of the model's answers. One that holds the model may ask anything."""


@dataclass(frozen=True)
class Seen:
    """What the model said about the points asked about, as far as a gradient attack reads."""

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
    precise: ClassVar[bool] = False  # low precision would mislead it: it is always told float32
    minimises: ClassVar[bool] = False  # it goes on from a find to a nearer one
    comes_from_outside: ClassVar[bool] = False  # it starts at any image that fools the model, and fails without one

    @property
    def spec(self) -> str:
        """The attack as text, with every number: the key of its evidence. `attacks.parse` reads it back."""
        return spec(self.name, {f.name: getattr(self, f.name) for f in fields(self)})

    @abstractmethod
    def max_queries(self, threat: Any) -> int:
        """How often it asks the model about an example it finds nothing for."""

    @property
    def queries_per_step(self) -> int:
        """How many images it asks about at once for each example."""
        return 1


@dataclass(frozen=True)
class SteppedAttack(Attack, Generic[T, S]):
    """A search that can be paused after any step.

    Lanes are independent: no reduction over the batch, no counter they share, no global random state. The engine
    relies on this to swap finished lanes.
    """

    steps: int  # moves of each lane before it is spent
    targets: int = 0  # searches per draw, each aimed at another wrong class; 0 is one search that aims at none

    @abstractmethod
    def start(self, threat: T, batch: Batch) -> S:
        """The state of fresh lanes. Asks the model nothing."""

    def max_queries(self, threat: T) -> int:
        """How often a lane asks the model before it is spent: at every point it moves to, and where it starts."""
        return self.steps + 1

    def params(self, threat: T, batch: Batch, state: S) -> CandidateParams:
        """How the images of `query` were made."""
        return batch.x.new_zeros(len(batch.y), self.queries_per_step, N_PARAMS)


@dataclass(frozen=True)
class GradientAttack(SteppedAttack[T, S]):
    """An attack that climbs a loss and reads logits, loss and gradient."""

    reads: ClassVar[Reads] = "gradients"

    @property
    @abstractmethod
    def objective(self) -> Loss:
        """The loss it climbs."""

    def query(self, threat: T, batch: Batch, state: S) -> Inputs:
        """The image to ask about next, one per lane."""
        return batch.x + state.delta

    @abstractmethod
    def step(self, threat: T, batch: Batch, state: S, seen: Seen) -> S:
        """One step on, from what the model said about `query`."""


@dataclass(frozen=True)
class ScoreAttack(SteppedAttack[T, S]):
    """An attack that reads logits and no gradient."""

    reads: ClassVar[Reads] = "logits"

    @abstractmethod
    def query(self, threat: T, batch: Batch, state: S) -> Candidates:
        """The images to ask about next, `width` per lane."""

    @abstractmethod
    def step(self, threat: T, batch: Batch, state: S, logits: Float[Tensor, "L W K"]) -> S:
        """One step on, from the logits of `query`."""


@dataclass(frozen=True)
class LabelAttack(SteppedAttack[T, S]):
    """An attack that reads nothing but the predicted class."""

    reads: ClassVar[Reads] = "labels"
    precise: ClassVar[bool] = True  # it walks along the very boundary

    @abstractmethod
    def query(self, threat: T, batch: Batch, state: S) -> Candidates:
        """The images to ask about next, `width` per lane."""

    @abstractmethod
    def step(self, threat: T, batch: Batch, state: S, labels: Int[Tensor, "L W"]) -> S:
        """One step on, from the classes predicted for `query`; where the model answered NaN, the right class."""


@dataclass(frozen=True)
class ForeignAttack(Attack):
    """An attack of somebody else's library, which owns its loop and works on a whole batch.

    It is handed a model, which it may differentiate; the engine counts and watches what the model is asked. Its
    examples may share noise and counters, so what it finds can depend on who else is in the batch.
    """

    reads: ClassVar[Reads] = "anything"
    precise: ClassVar[bool] = True  # it does as it likes with what it is told
    targets: ClassVar[int] = 0

    @abstractmethod
    def run(self, model: Model, threat: Any, batch: Batch) -> None:
        """Search from images that the model gets right. What the library returns is looked at if, and only if, the
        model is asked about it.

        Global random numbers (torch, numpy, random) are seeded for the batch, and put back afterwards.
        """


AnySteppedAttack = GradientAttack[Any, Any] | ScoreAttack[Any, Any] | LabelAttack[Any, Any]
AnyAttack = AnySteppedAttack | ForeignAttack

AttackGiven = str | AnyAttack | type[AnyAttack]
"""An attack as a user names it: text, an instance, or a class whose settings all have defaults."""


def spec(name: str, settings: Mapping[str, object]) -> str:
    """An attack as text, its settings in alphabetical order."""
    return f"{name}({', '.join(f'{setting}={value!r}' for setting, value in sorted(settings.items()))})"


def batch_seed(batch: Batch) -> int:
    """A seed for a library that draws for the whole batch at once, from 0 to 2**32 - 1."""
    return int(batch.keys.sum()) % 2**32


def take_rows(rows: Rows, slots: Int[Tensor, "L"]) -> Rows:
    """The rows of the given lanes."""
    taken: dict[str, Any] = {f.name: getattr(rows, f.name).index_select(0, slots) for f in fields(rows)}
    return replace(rows, **taken)


def put_rows(rows: Rows, slots: Int[Tensor, "L"], fresh: Rows) -> Rows:
    """`rows` with the given lanes replaced by `fresh`."""
    return _by_field(lambda old, new: old.index_copy(0, slots, new), rows, fresh)


def where_rows(mask: Mask, first: Rows, second: Rows) -> Rows:
    """The rows of `first` where the mask holds, else those of `second`."""
    return _by_field(lambda a, b: torch.where(per_example(mask, a), a, b), first, second)


def _by_field(join: Callable[[Tensor, Tensor], Tensor], one: Rows, other: Rows) -> Rows:
    joined: dict[str, Any] = {f.name: join(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)}
    return replace(one, **joined)


def differentiate(model: Model, objective: Loss, x_adv: Inputs, y: Labels, target: Labels) -> Seen:
    """One forward and one backward pass. Rows do not meet: the summed loss has each row's own gradient."""
    with torch.enable_grad():
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        loss = objective(logits, y, target)
        (grad,) = torch.autograd.grad(loss.sum(), x_adv)
    return Seen(logits.detach().to(grad.dtype), loss.detach().to(grad.dtype), grad)  # it may answer in another type


def unroll(model: Model, threat: T, attack: GradientAttack[T, S], batch: Batch) -> S:
    """Every step on one batch, without stopping at a find, watching or counting. Training uses this."""
    state = attack.start(threat, batch)
    for _ in range(attack.steps):
        x_adv = attack.query(threat, batch, state)
        seen = differentiate(model, attack.objective, x_adv, batch.y, batch.target)
        state = attack.step(threat, batch, state, seen)
    return state
