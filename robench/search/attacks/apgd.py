from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss
from ...problem.noise import normal
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import L1, Ball, Linf
from ..attack import Batch, GradientAttack, Seen, State, where_rows

MOMENTUM = 0.75  # alpha of algorithm 1
RISING = 0.75  # rho: the share of rising steps below which the stride is halved
L1_START = 0.2  # of the coordinates move at first (Croce and Hein 2021)
L1_SHRINK = 1.5  # of support and stride at a checkpoint
L1_FLOOR = 10.0  # the stride never falls below the radius over this
STAGES = ((0.3, 3.0), (0.3, 2.0), (0.4, 1.0))  # large-radius schedule: share of the steps, radius

Rows = Float[Tensor, "B N"]
Column = Float[Tensor, "B 1"]


@dataclass(frozen=True)
class APGDState(State):
    """Where it is, the best point it has been at, and what decides its stride."""

    stage: Int[Tensor, "B"]  # of the large-radius schedule; 0 where there is none
    seen: Int[Tensor, "B"]  # points of this stage that the model has been asked about
    previous: Inputs  # where the last move began
    # The best point of the stage
    top: Inputs
    top_grad: Inputs
    top_loss: PerExample
    # Since the last checkpoint
    loss: PerExample  # at the last point
    rises: Int[Tensor, "B"]
    checked_loss: PerExample  # top_loss at the checkpoint
    stride: PerExample  # in radii of the stage
    halved: Bool[Tensor, "B"]  # at the checkpoint; l_inf and l_2
    share: PerExample  # of the coordinates that move; l_1
    support: PerExample  # coordinates that differ from the image in the top point, at the checkpoint; l_1


@dataclass(frozen=True)
class APGD(GradientAttack[Ball, APGDState]):
    """Auto-PGD: ascent with momentum that halves its stride and returns to its best point when it stalls.

    Croce and Hein 2020, algorithm 1, https://arxiv.org/abs/2003.01690; under l_1 with the sparse step, the exact
    projection onto ball and box, and the radius shrinking in stages from three times its size, Croce and Hein
    2021, https://arxiv.org/abs/2103.01208. Counts and constants are those of the authors' AutoAttack.
    """

    name: ClassVar[str] = "apgd"
    source: ClassVar[str] = "Auto-PGD, Croce and Hein 2020 and 2021, https://arxiv.org/abs/2003.01690"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = 100
    targets: int = 0
    loss: str = "cross-entropy"
    staged: bool = True  # l_1 only: the large-radius schedule

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)[self.loss]

    def max_queries(self, threat: Ball) -> int:
        return self.steps + len(self.stages(threat))  # every stage first looks at where it begins

    def stages(self, threat: Ball) -> tuple[tuple[int, float], ...]:
        """Moves and radius (in radii of the threat) of every stage."""
        if not (self.staged and isinstance(threat, L1)) or self.steps < len(STAGES) / STAGES[0][0]:
            return ((self.steps, 1.0),)
        early = [(int(share * self.steps), radius) for share, radius in STAGES[:-1]]
        return (*early, (self.steps - sum(moves for moves, _ in early), STAGES[-1][1]))

    def start(self, threat: Ball, batch: Batch) -> APGDState:
        noise = normal(batch.keys, restart=0, like=batch.x)
        stage = torch.zeros_like(batch.keys)
        if isinstance(threat, L1):
            delta = threat.nearest(noise, batch.x, self._radius(threat, stage))
            return self._begin(threat, stage, delta)
        outward = torch.erf(noise * 0.5**0.5) if isinstance(threat, Linf) else noise
        outward = outward / per_example(threat.size(outward), outward)  # on the sphere, as in the authors' code
        return self._begin(threat, stage, threat.project(threat.r * outward, batch.x))

    def step(self, threat: Ball, batch: Batch, state: APGDState, seen: Seen) -> APGDState:
        state = _noted(state, seen)
        if isinstance(threat, L1):
            return self._sparse_move(threat, batch, state, seen)
        return self._move(threat, batch, state, seen)

    def _move(self, threat: Ball, batch: Batch, state: APGDState, seen: Seen) -> APGDState:
        window = _on_device(self._windows, torch.long, state.seen.device)[(state.seen - 1).clamp(max=self.steps)]
        at_checkpoint = window > 0
        stalled = (state.rises <= RISING * window) | (~state.halved & (state.checked_loss >= state.top_loss))
        halve = at_checkpoint & stalled
        here, grad = _back_to_top(state, seen, halve)
        stride = torch.where(halve, state.stride / 2, state.stride)

        leap = threat.project(here + threat.r * per_example(stride, grad) * threat.steepest(grad), batch.x)
        pull = per_example(torch.where(state.seen == 1, 1.0, MOMENTUM), grad)
        delta = threat.project(here + pull * (leap - here) + (1 - pull) * (here - state.previous), batch.x)
        return replace(
            state,
            delta=delta,
            previous=here,
            stride=stride,
            halved=torch.where(at_checkpoint, stalled, state.halved),
            checked_loss=torch.where(at_checkpoint, state.top_loss, state.checked_loss),
            rises=torch.where(at_checkpoint, 0, state.rises),
        )

    def _sparse_move(self, threat: L1, batch: Batch, state: APGDState, seen: Seen) -> APGDState:
        moves = self._moves(threat, state)
        at_checkpoint = (state.seen > 1) & ((state.seen - 1) % (moves * 4 // 100).clamp(min=1) == 0)
        support = _support(state.top)
        shrunk = at_checkpoint & (support < 0.95 * state.support)
        here, grad = _back_to_top(state, seen, shrunk)
        slower = (state.stride / L1_SHRINK).clamp(min=1 / L1_FLOOR)
        stride = torch.where(shrunk, 1.0, torch.where(at_checkpoint, slower, state.stride))
        share = torch.where(at_checkpoint, support / (L1_SHRINK * batch.x[0].numel()), state.share)

        radius = self._radius(threat, state.stage)
        leap = here + per_example(radius * threat.r * stride, grad) * _sparse(grad, share)
        # A stage that has made its moves hands its top point, drawn into the next ball, to the next stage.
        over = (state.seen > moves) & (state.stage < len(self.stages(threat)) - 1)
        stage = state.stage + over.long()
        leap = torch.where(per_example(over, leap), state.top, leap)
        delta = threat.nearest(leap, batch.x, self._radius(threat, stage))
        moved = replace(
            state,
            delta=delta,
            previous=here,
            stride=stride,
            share=share,
            support=torch.where(at_checkpoint, support, state.support),
        )
        return where_rows(over, self._begin(threat, stage, delta), moved)

    def _begin(self, threat: Ball, stage: Int[Tensor, "B"], delta: Inputs) -> APGDState:
        """Fresh lanes, or lanes that enter a stage, at this point."""
        zero = torch.zeros_like(delta.flatten(1)[:, 0])
        support = _support(delta)
        staged = len(self.stages(threat)) > 1
        return APGDState(
            delta=delta,
            stage=stage,
            seen=torch.zeros_like(stage),
            previous=delta,
            top=delta,
            top_grad=torch.zeros_like(delta),
            top_loss=zero - torch.inf,
            loss=zero,
            rises=torch.zeros_like(stage),
            checked_loss=zero,
            stride=zero + (1.0 if isinstance(threat, L1) else 2.0),
            halved=torch.ones_like(stage, dtype=torch.bool),
            share=support / (L1_SHRINK * delta[0].numel()) if staged else zero + L1_START,
            support=support if staged else zero + delta[0].numel(),
        )

    def _radius(self, threat: Ball, stage: Int[Tensor, "B"]) -> PerExample:
        return _on_device(tuple(radius for _, radius in self.stages(threat)), torch.float32, stage.device)[stage]

    def _moves(self, threat: Ball, state: APGDState) -> Int[Tensor, "B"]:
        moves = tuple(moves for moves, _ in self.stages(threat))
        return _on_device(moves, torch.long, state.stage.device)[state.stage]

    @cached_property
    def _windows(self) -> tuple[int, ...]:
        """Entry t is the length of the window that the checkpoint after t moves closes; 0 where there is none."""
        shrink, shortest = max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1)
        table, t, window = [0] * (self.steps + 1), 0, max(int(0.22 * self.steps), 1)
        while (t := t + window) <= self.steps:
            table[t] = window
            window = max(window - shrink, shortest)
        return tuple(table)


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[int, ...] | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small table, copied there once: a copy in every step would stop the device, and cannot be recorded."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def _noted(state: APGDState, seen: Seen) -> APGDState:
    """The state after a look at the point it asked about."""
    first = state.seen == 0
    higher = seen.loss > state.top_loss
    return replace(
        state,
        seen=state.seen + 1,
        top=torch.where(per_example(higher, state.delta), state.delta, state.top),
        top_grad=torch.where(per_example(higher, state.delta), seen.grad, state.top_grad),
        top_loss=torch.where(higher, seen.loss, state.top_loss),
        rises=torch.where(first, 0, state.rises + (seen.loss > state.loss)),
        checked_loss=torch.where(first, seen.loss, state.checked_loss),
        loss=torch.where(first, 0, seen.loss),  # the authors compare the first move with 0
    )


def _back_to_top(state: APGDState, seen: Seen, back: Bool[Tensor, "B"]) -> tuple[Inputs, Inputs]:
    """Where the next move begins, and the gradient there."""
    rows = per_example(back, state.delta)
    return torch.where(rows, state.top, state.delta), torch.where(rows, state.top_grad, seen.grad)


def _support(delta: Inputs) -> PerExample:
    """How many coordinates differ from the image."""
    return delta.flatten(1).ne(0).sum(dim=1).to(delta.dtype)


def _sparse(grad: Inputs, share: PerExample) -> Inputs:
    """The signs of this share of the largest components, and of all that tie with the last, of absolute sum 1."""
    flat = grad.flatten(1).abs()
    d = flat.shape[1]
    smaller = ((1 - share) * d).clamp(0, d - 1).floor()[:, None]
    signs = grad.sign() * (flat >= level(flat, d - smaller)).view_as(grad)
    return signs / per_example(signs.flatten(1).abs().sum(dim=1).clamp(min=1), grad)


def level(size: Rows, goal: Tensor | float, weight: Rows | None = None) -> Column:
    """The largest v for which the entries of `size` of at least v weigh `goal` or more together, row by row.

    0 where they all weigh less. Without `weight` it counts them. Sizes are not negative, and such floats stand
    in the order of their bit patterns read as integers: so many halvings as there are bits find v exactly.
    """
    bits = torch.finfo(size.dtype).bits
    found = torch.zeros_like(size[:, :1]).view({32: torch.int32, 64: torch.int64}[bits])
    at_least = torch.empty_like(size)
    for bit in reversed(range(bits - 1)):  # all but the sign
        torch.ge(size, (found + 2**bit).view(size.dtype), out=at_least)  # 1 and 0 as floats: bools add up slowly
        total = (at_least if weight is None else at_least.mul_(weight)).sum(dim=1, keepdim=True)
        found = torch.add(found, total >= goal, alpha=2**bit)
    return found.view(size.dtype)
