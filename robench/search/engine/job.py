"""One attack under one threat model: the searches it still has to make, and its state on the slots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.shapes import Inputs, Labels, Logits
from ...problem.threats import ThreatModel
from ...problem.threats.base import PackedParams, TransformParams
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
from .scheduler import Item, SlotSearch, Waiting


@dataclass(eq=False)
class Job:
    """One attack under one threat model, and the searches it still has to make. Caller and engine share it."""

    threat: ThreatModel
    attack: AnyAttack
    waiting: Waiting
    smallest: bool = False  # searches use their whole budget, and return the smallest adversarial example
    near: bool = False  # it searches examples near the boundary, where the rounding of low precision decides
    eot: int = 1  # passes over which every answer of the model is averaged: more than one for stochastic models
    in_flight: int = 0  # searches that are running
    steps: int = 0  # made by all its searches together
    dropped: set[int] = field(default_factory=set)  # rows of examples that need no further search
    error: str = ""  # what the attack raised; it makes no more searches then
    unfinished: set[int] = field(default_factory=set)  # rows of examples that the error left unfinished

    def drop(self, row: int) -> None:
        """Drop a broken example: its waiting searches are removed, and its running ones end in the next round."""
        self.dropped.add(row)
        self.waiting.drop(row)

    @cached_property
    def max_queries(self) -> int:
        """The number of steps of a search that finds nothing."""
        return self.attack.max_queries(self.threat)

    @property
    def queries_per_step(self) -> int:
        """The number of images that a search queries in one step."""
        return self.attack.queries_per_step

    @property
    def owns_loop(self) -> bool:
        """Whether the attack runs its own loop over a batch (a library attack)."""
        return isinstance(self.attack, ForeignAttack)

    @property
    def queries(self) -> int:
        """The number of model queries so far."""
        return self.steps * self.attack.queries_per_step * self.eot

    @property
    def left(self) -> int:
        """The number of queries still to be made, at most."""
        return (len(self.waiting) + self.in_flight) * self.max_queries * self.attack.queries_per_step * self.eot

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return not self.waiting and not self.in_flight


@dataclass(frozen=True)
class Ended:
    """A search that has ended: it found an image that seems to fool the model, used up its budget, or was dropped."""

    job: Job
    item: Item
    x_adv: Tensor | None  # (C, H, W)
    forwards: int
    backwards: int
    params: PackedParams = ()  # the parameters of that image
    nan: bool = False  # the model returned NaN at some point of this search
    no_query_inside: bool = (
        False  # it queried no member of the threat set (or found no start): its failure proves nothing
    )
    dropped: bool = False  # another search broke the example first
    error: str = ""  # what the attack raised on this example alone; the example is left unfinished then
    interrupted: bool = False  # the time was over before its end: it counts only if its find is accepted
    margin: float = -math.inf  # the highest of a queried member of the threat set, of searches without a find

    @classmethod
    def of(
        cls,
        search: SlotSearch[Job],
        x_adv: Tensor | None = None,
        params: PackedParams = (),
        *,
        nan: bool = False,
        no_query_inside: bool = False,
        dropped: bool = False,
        error: str = "",
        margin: float = -math.inf,
    ) -> "Ended":
        """The end of a search on a slot, with its cost in passes."""
        attack, passes = search.job.attack, search.steps * search.job.eot
        return cls(
            search.job,
            search.item,
            x_adv,
            forwards=attack.queries_per_step * passes,
            backwards=passes if attack.reads == "gradients" else 0,
            params=params,
            nan=nan,
            no_query_inside=no_query_inside,
            dropped=dropped,
            error=error,
            margin=margin,
        )


class ActiveJob:
    """A job with searches on slots.

    Its state has a row for every slot; rows of slots that it does not hold mean nothing. It computes on its own slots
    alone. If it is the only active job (`slots` is None), it computes on all of them, which saves copying. Arguments
    and results have a row per slot; attacks with several queries per step have a second dimension for them.
    """

    def __init__(self, job: Job):
        assert not isinstance(job.attack, ForeignAttack), f"{job.attack.name} runs its own loop"
        self.job = job
        self.attack: AnySteppedAttack = job.attack
        self.held: list[int] = []  # the slots with its searches
        self.slots: Int[Tensor, "L"] | None = None  # the slots that it computes on; None for all
        self.state: Any = None
        self.recorded: Recorded | Literal[False] | None = None  # its captured step; False if it cannot be captured

    def start(self, slots: Int[Tensor, "L"], new: Batch, n_slots: int) -> None:
        """Start new searches on these slots, of `n_slots` in all."""
        state = self.attack.start(self.job.threat, new)
        if self.state is None:
            self.state = take_rows(state, slots.new_zeros(n_slots))
        self.state = put_rows(self.state, slots, state)

    def query(self, batch: Batch) -> Tensor:
        """The images that its slots query."""
        return self.attack.query(self.job.threat, self._rows(batch), self._rows(self.state))

    def params(self, batch: Batch) -> CandidateParams:
        """The transform parameters of those images."""
        return self.attack.params(self.job.threat, self._rows(batch), self._rows(self.state))

    def loss(self, logits: Logits, y: Labels, target: Labels) -> Float[Tensor, "L"]:
        """The loss that its slots maximise."""
        assert isinstance(self.attack, GradientAttack), f"{self.attack.name} reads no gradient"
        return self.attack.objective(self._of(logits), self._of(y), self._of(target))

    def inside(self, x_adv: Tensor, x: Tensor, params: Tensor) -> Bool[Tensor, "L W"]:
        """Whether each queried image is a member of the threat set."""
        return self.job.threat.contains(*self._pairs(x_adv, x, params)).view(-1, params.shape[1])

    def measure(self, x_adv: Tensor, x: Tensor, params: Tensor) -> Float[Tensor, "L W"]:
        """The size of each queried perturbation."""
        return self.job.threat.measure(*self._pairs(x_adv, x, params)).view(-1, params.shape[1])

    def step(self, batch: Batch, answers: Seen | Tensor) -> None:
        """Make one step of its searches, given the model's answers to their queries."""
        attack: Any = self.attack
        mine = self._of(answers) if isinstance(answers, Tensor) else self._rows(answers)
        state = attack.step(self.job.threat, self._rows(batch), self._rows(self.state), mine)
        self.state = state if self.slots is None else put_rows(self.state, self.slots, state)

    def _pairs(self, x_adv: Tensor, x: Tensor, params: Tensor) -> tuple[Inputs, Inputs, TransformParams]:
        """One row for every queried image of its slots, with the original image and the transform parameters."""
        x_adv, x, params = self._of(x_adv), self._of(x), self._of(params)
        if x_adv.ndim > x.ndim:
            x_adv, x = x_adv.flatten(0, 1), x.repeat_interleave(x_adv.shape[1], dim=0)
        return x_adv, x, params.flatten(0, 1)

    def _of(self, values: Tensor) -> Tensor:
        return values if self.slots is None else values.index_select(0, self.slots)

    def _rows(self, rows: Rows) -> Rows:
        return rows if self.slots is None else take_rows(rows, self.slots)


def joined(active_jobs: Sequence[ActiveJob], parts: Sequence[Tensor], slots: int) -> Tensor:
    """One tensor with a row per slot, from the part of each active job; 0 for slots that no job holds."""
    if active_jobs[0].slots is None:
        return parts[0]
    whole = parts[0].new_zeros(slots, *parts[0].shape[1:])
    for active_job, part in zip(active_jobs, parts, strict=True):
        assert active_job.slots is not None, "a job that shares the batch has a list of its slots"
        whole = whole.index_copy(0, active_job.slots, part)
    return whole
