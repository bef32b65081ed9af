"""Threat models whose members are computed from the clean image and a few parameters, which a claim carries."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..shapes import Inputs, Mask, PerExample
from .base import ThreatModel, TransformParams, fitted, in_box

# Two computations of one image, on different devices or in different batches, differ by less; a grey level is 250
# times as much.
SAME = 2.0**-16
EDGE = 1e-6  # share of the limits: float32 rounding of the parameters


@dataclass(frozen=True)
class Rebuilt(ThreatModel):
    """Images that parameters give. An image is a member if its parameters lie in the limits and give it again."""

    by_params: ClassVar[bool] = True

    @abstractmethod
    def apply(self, x: Inputs, params: TransformParams) -> Inputs:
        """The images of these parameters. Parameters outside the limits may give anything; they never raise."""

    @abstractmethod
    def share(self, params: TransformParams) -> PerExample:
        """The share of the limits that the parameters use, in float64; infinite or NaN where they have no meaning."""

    def contains(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> Mask:
        return in_box(x_adv) & (self.measure(x_adv, x, params) <= 1 + EDGE)

    def measure(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> PerExample:
        """The share of the limits that is used; infinite if the parameters do not give the image."""
        params = fitted(params, x, self.n_params(x.shape[1:]))
        apart = (x_adv - self.apply(x, params)).flatten(1).abs().amax(dim=1)
        share = self.share(params).nan_to_num(torch.inf, torch.inf)
        return torch.where(apart <= SAME, share, torch.inf)
