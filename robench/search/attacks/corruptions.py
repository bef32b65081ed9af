"""Common corruptions, tried one after the other."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.threats import Corruption
from ...settings import Count
from ..attack import Batch, CandidateParams, Candidates, LabelAttack
from .spatial import TransformState, transformed

LARGEST_SET = 70  # images of the largest set: 14 corruptions at 5 severities


@dataclass(frozen=True)
class Corruptions(LabelAttack[Corruption, TransformState]):
    """Every image of the set, the severest first. An example ends at its first find."""

    name: ClassVar[str] = "corruptions"
    source: ClassVar[str] = "Common corruptions, Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261"
    threats: ClassVar[tuple[str, ...]] = ("corruption",)

    steps: Count = LARGEST_SET  # passes over which the largest set is spread

    def max_queries(self, threat: Corruption) -> int:
        return -(-len(threat.images) // self.queries_per_step)

    @property
    def queries_per_step(self) -> int:
        return -(-LARGEST_SET // self.steps)

    def start(self, threat: Corruption, batch: Batch) -> TransformState:
        return TransformState(torch.zeros_like(batch.x), torch.zeros_like(batch.keys))

    def query(self, threat: Corruption, batch: Batch, state: TransformState) -> Candidates:
        return transformed(threat, batch.x, self.params(threat, batch, state))

    def params(self, threat: Corruption, batch: Batch, state: TransformState) -> CandidateParams:
        images = batch.x.new_tensor([(number, severity, 0) for number, severity in threat.images])
        first = state.taken[:, None] * self.queries_per_step
        places = first + torch.arange(self.queries_per_step, device=batch.x.device)
        return images[places.clamp(max=len(images) - 1)]  # repeats fill up the last pass

    def step(
        self, threat: Corruption, batch: Batch, state: TransformState, labels: Int[Tensor, "L W"]
    ) -> TransformState:
        return TransformState(state.delta, state.taken + 1)
