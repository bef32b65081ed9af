from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...errors import UserError
from ...problem.losses import TARGETED, Loss
from ...problem.noise import normal
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import ThreatModel
from ..attack import Batch, GradientAttack, Seen, State
from .hyperplane import to_hyperplane

SMALL = 1e-8  # keeps 0 / 0 away where both projections are nothing


@dataclass(frozen=True)
class FABState(State):
    fresh: Bool[Tensor, "B"]
    best: Inputs
    best_size: PerExample
    taken: Int[Tensor, "B"]


@dataclass(frozen=True)
class FAB(GradientAttack[FABState]):
    name: ClassVar[str] = "fab"
    source: ClassVar[str] = "Fast adaptive boundary, Croce and Hein 2020, https://arxiv.org/abs/1907.02044"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    precise: ClassVar[bool] = True

    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    random_start: bool = False
    mode: str = "faithful"
    sphere: int = 0
    per: float = 2.0

    def visits(self, threat):
        return int(self.per * self.steps) + 1

    @property
    def objective(self) -> Loss:
        return TARGETED["margin"]

    def start(self, threat: ThreatModel, batch: Batch) -> FABState:
        delta = torch.zeros_like(batch.x)
        if self.random_start:
            delta = threat.sample(batch.x, normal(batch.keys, draw=0, like=batch.x)) / 2
        z = torch.zeros_like(batch.keys)
        return FABState(delta, z.bool(), torch.zeros_like(delta), delta.flatten(1)[:, 0] * 0 + torch.inf, z)

    def step(self, threat: ThreatModel, batch: Batch, state: FABState, seen: Seen) -> FABState:
        fooled = seen.logits.argmax(dim=1) != batch.y
        size = threat.size(state.delta)
        better = fooled & (size < state.best_size)
        best = torch.where(per_example(better, state.delta), state.delta, state.best)
        best_size = torch.where(better, size, state.best_size)
        beta = torch.full_like(size, self.beta)
        if self.sphere:
            beta = torch.maximum(beta, (threat.r / size.clamp(min=1e-12)).clamp(max=1) * (1 - 1e-6))
        back = torch.where(per_example(fooled & state.fresh, state.delta), per_example(beta, best) * state.delta, state.delta)

        def at(p):
            return seen.loss + (seen.grad * (p - state.delta)).flatten(1).sum(dim=1)

        d1 = to_hyperplane(threat, (batch.x + back).clamp(0, 1), seen.grad, at(back))
        d2 = to_hyperplane(threat, batch.x, seen.grad, at(torch.zeros_like(back)))
        a1 = threat.size(d1).clamp(min=SMALL)
        a2 = threat.size(d2).clamp(min=SMALL)
        alpha = per_example((a1 / (a1 + a2)).clamp(max=self.alpha_max), d1)
        new = (1 - alpha) * (back + self.eta * d1) + alpha * self.eta * d2
        new = (batch.x + new).clamp(0, 1) - batch.x
        fresh = torch.ones_like(fooled)
        if self.mode == "faithful":
            retreat = fooled & state.fresh
            new = torch.where(per_example(retreat, new), back, new)
            fresh = ~retreat
        taken = state.taken + 1
        if self.sphere:
            last = (taken == self.visits(threat) - 1) & (best_size < torch.inf)
            scaled = threat.project(best * per_example(threat.r / best_size.clamp(min=1e-12), best), batch.x)
            new = torch.where(per_example(last, new), scaled, new)
        return FABState(new, fresh, best, best_size, taken)
