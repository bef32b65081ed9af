"""Attacks on l_p balls, applied to the parameters of images: the gradient goes back through the images."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ...problem.losses import TARGETED, UNTARGETED, Loss, LossName
from ...problem.shapes import Inputs
from ...problem.threats import ParamBall
from ...problem.threats.base import TransformParams
from ...settings import Count, Targets
from ..attack import Batch, CandidateParams, GradientAttack, Seen, State
from .apgd import APGD
from .frank_wolfe import FrankWolfe
from .pgd import PGD
from .slide import SLIDE


@dataclass(frozen=True)
class ParamAscent(GradientAttack[ParamBall, State]):
    """Ascent on the parameters by one of robench's attacks on l_p balls, with its default settings.

    `pgd`, and `frank-wolfe` under l_1, are what Kang et al. 2019 use (https://arxiv.org/abs/1908.08016); `apgd`
    adapts its step size. Under l_1 `pgd` is `slide`, whose steps move more than one parameter.
    """

    name: ClassVar[str] = "param-ascent"
    source: ClassVar[str] = "Ascent on the parameters of images, Kang et al. 2019, https://arxiv.org/abs/1908.08016"
    threats: ClassVar[tuple[str, ...]] = ("jpeg-linf", "jpeg-l2", "jpeg-l1", "elastic")

    steps: Count = 100
    loss: LossName = "margin"
    targets: Targets = 0
    by: Literal["apgd", "pgd", "frank-wolfe"] = "apgd"

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)[self.loss]

    def inner(self, threat: ParamBall) -> GradientAttack[Any, Any]:
        """The attack on the ball of parameters."""
        if self.by == "frank-wolfe":
            return FrankWolfe(steps=self.steps, loss=self.loss)
        if self.by == "pgd":
            kind = SLIDE if threat.ball.sparse_steps else PGD
            return kind(steps=self.steps, loss=self.loss)
        return APGD(steps=self.steps, loss=self.loss)

    def max_queries(self, threat: ParamBall) -> int:
        return self.inner(threat).max_queries(threat.ball)

    def start(self, threat: ParamBall, batch: Batch) -> State:
        state: State = self.inner(threat).start(threat.ball, _grey(threat, batch))
        return state

    def query(self, threat: ParamBall, batch: Batch, state: State) -> Inputs:
        return threat.apply(batch.x, self._params(threat, state))

    def params(self, threat: ParamBall, batch: Batch, state: State) -> CandidateParams:
        return self._params(threat, state).unsqueeze(1)

    def step(self, threat: ParamBall, batch: Batch, state: State, seen: Seen) -> State:
        with torch.enable_grad():
            delta = state.delta.detach().requires_grad_()
            images = threat.apply(batch.x, threat.params_at(delta))
            (grad,) = torch.autograd.grad(images, delta, seen.grad)
        moved: State = self.inner(threat).step(
            threat.ball, _grey(threat, batch), state, Seen(seen.logits, seen.loss, grad)
        )
        return moved

    def _params(self, threat: ParamBall, state: State) -> TransformParams:
        return threat.params_at(state.delta)


def _grey(threat: ParamBall, batch: Batch) -> Batch:
    """The batch in the space of parameters."""
    return Batch(threat.grey(batch.x), batch.y, batch.target, batch.keys)
