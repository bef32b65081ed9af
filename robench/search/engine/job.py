"""One attack under one threat: what is left to do, and where it stands on the lanes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.shapes import Inputs, Labels, Logits
from ...problem.threats import ThreatModel
from ...problem.threats.base import TransformParams
from ..attack import (
    AnyAttack,
    AnySteppedAttack,
    Batch,
    CandidateParams,
    ForeignAttack,
    GradientAttack,
    Rows,
    Seen,
    put_rows,
    take_rows,
)
from .cuda_graph import Recorded
from .scheduler import Item, Waiting


@dataclass(eq=False)
class Job:
    """One attack under one threat, and the searches it still has to make. Caller and engine share it."""

    threat: ThreatModel
    attack: AnyAttack
    waiting: Waiting
    smallest: bool = False  # searches go on from a find, for the smallest, to the end of their budget
    eot: int = 1  # passes over which every answer of the model is averaged: more than one where it answers at random
    in_flight: int = 0  # searches on lanes
    steps: int = 0  # made by all its searches together
    dropped: set[int] = field(default_factory=set)
    error: str = ""  # what the attack raised: then it makes no more searches
    unfinished: set[int] = field(default_factory=set)  # the rows it left then

    def drop(self, row: int) -> None:
        """An example is broken: its other searches are not made, and those on lanes end at once."""
        self.dropped.add(row)
        self.waiting.drop(row)

    @property
    def max_queries(self) -> int:
        """Steps of a search that finds nothing."""
        return self.attack.max_queries(self.threat)

    @property
    def asked(self) -> int:
        """Queries of the model so far."""
        return self.steps * self.attack.queries_per_step * self.eot

    @property
    def left(self) -> int:
        """Queries still to be made, at most."""
        return (len(self.waiting) + self.in_flight) * self.max_queries * self.attack.queries_per_step * self.eot

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return not self.waiting and not self.in_flight


@dataclass(frozen=True)
class Ended:
    """A search that has ended: with an image that seems to fool the model, in vain, or because it was dropped."""

    job: Job
    item: Item
    x_adv: Tensor | None  # (C, H, W)
    forwards: int
    backwards: int
    params: tuple[float, ...] = ()  # how that image was made
    nan: bool = False  # the model answered NaN at some point of this search
    no_query_inside: bool = (
        False  # it never asked about a member of the threat set (or found no start): its failure says nothing
    )
    dropped: bool = False  # others broke the example before it was done
    error: str = ""  # what the attack raised on this example alone; it is not done with it then


class ActiveJob:
    """A job on the lanes.

    Its state has a row for every lane; those of lanes where others sit mean nothing. It computes on its own lanes
    alone, and when it has all of them to itself (`slots` is None) without copying them out and back. Whatever it is
    given or gives is told by lanes, the points of a wide attack in a second dimension.
    """

    def __init__(self, job: Job):
        assert not isinstance(job.attack, ForeignAttack), f"{job.attack.name} has a loop of its own"
        self.job = job
        self.attack: AnySteppedAttack = job.attack
        self.slots: Int[Tensor, "L"] | None = None
        self.state: Any = None
        self.recorded: Recorded | Literal[False] | None = None  # its step; False where it cannot be

    def sit(self, slots: Int[Tensor, "L"], fresh: Batch, n_slots: int) -> None:
        """Begin new searches on these lanes."""
        state = self.attack.start(self.job.threat, fresh)
        if self.state is None:
            self.state = take_rows(state, slots.new_zeros(n_slots))
        self.state = put_rows(self.state, slots, state)

    def query(self, batch: Batch) -> Tensor:
        """The images its lanes ask about."""
        return self.attack.query(self.job.threat, self._rows(batch), self._rows(self.state))

    def params(self, batch: Batch) -> CandidateParams:
        """How those images were made."""
        return self.attack.params(self.job.threat, self._rows(batch), self._rows(self.state))

    def loss(self, logits: Logits, y: Labels, target: Labels) -> Float[Tensor, "L"]:
        """What its lanes climb."""
        assert isinstance(self.attack, GradientAttack), f"{self.attack.name} reads no gradient"
        return self.attack.objective(self._of(logits), self._of(y), self._of(target))

    def inside(self, x_adv: Tensor, x: Tensor, params: Tensor) -> Bool[Tensor, "L W"]:
        """Which of the images its lanes ask about are members."""
        return self.job.threat.contains(*self._each(x_adv, x, params)).view(-1, params.shape[1])

    def measure(self, x_adv: Tensor, x: Tensor, params: Tensor) -> Float[Tensor, "L W"]:
        """How far they are from the image."""
        return self.job.threat.measure(*self._each(x_adv, x, params)).view(-1, params.shape[1])

    def _each(self, x_adv: Tensor, x: Tensor, params: Tensor) -> tuple[Inputs, Inputs, TransformParams]:
        """One row for every image of its lanes."""
        x_adv, x, params = self._of(x_adv), self._of(x), self._of(params)
        if x_adv.ndim > x.ndim:
            x_adv, x = x_adv.flatten(0, 1), x.repeat_interleave(x_adv.shape[1], dim=0)
        return x_adv, x, params.flatten(0, 1)

    def tell(self, batch: Batch, answers: Seen | Tensor) -> None:
        """Show its lanes the model's answers."""
        attack: Any = self.attack
        mine = self._of(answers) if isinstance(answers, Tensor) else self._rows(answers)
        state = attack.step(self.job.threat, self._rows(batch), self._rows(self.state), mine)
        self.state = state if self.slots is None else put_rows(self.state, self.slots, state)

    def _of(self, values: Tensor) -> Tensor:
        return values if self.slots is None else values.index_select(0, self.slots)

    def _rows(self, rows: Rows) -> Rows:
        return rows if self.slots is None else take_rows(rows, self.slots)


def joined(active_jobs: Sequence[ActiveJob], parts: Sequence[Tensor], slots: int) -> Tensor:
    """One tensor for all lanes from the part of each crew; 0 where nobody sits."""
    if active_jobs[0].slots is None:
        return parts[0]
    whole = parts[0].new_zeros(slots, *parts[0].shape[1:])
    for active_job, part in zip(active_jobs, parts, strict=True):
        assert active_job.slots is not None, "a crew that is not alone knows its lanes"
        whole = whole.index_copy(0, active_job.slots, part)
    return whole
