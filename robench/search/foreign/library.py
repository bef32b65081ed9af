"""The base of attacks of other libraries. A library is imported when an attack names it, and not before."""

import importlib
import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...problem.shapes import Inputs
from ...problem.threats import Ball
from ..attack import Batch, ForeignAttack, Model, spec

LOOPS = (
    *("steps", "max_iter", "max_iterations", "n_iter", "num_steps", "n_queries", "repeats", "directions"),
    "binary_search_steps",
)

Setting = bool | int | float | str | None


def library(*modules: str, install: str) -> Any:
    """The first of these modules that can be imported. Raises UserError with an install command if none can."""
    for module in modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations
                return importlib.import_module(module)
        except ImportError as error:
            missing = error
    raise UserError(f"{modules[0]} cannot be imported ({missing}); install it with: pip install '{install}'")


@dataclass(frozen=True)
class LibraryAttack(ForeignAttack):
    """One attack of a library, with all its settings."""

    prefix: ClassVar[str]  # of its name: the library and a colon

    kind: str  # its name in the library
    settings: tuple[tuple[str, Setting], ...]
    norms: tuple[str, ...]
    minimal: bool  # searches for the smallest perturbation, whatever the radius

    # Each of our attacks has a class of its own; a library's attacks are instances of one class.

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.prefix + self.kind

    @property
    def threats(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.norms

    @property
    def minimises(self) -> bool:  # type: ignore[override]
        return self.minimal

    @property
    def spec(self) -> str:
        return spec(self.name, dict(self.settings))

    def max_queries(self, threat: Ball) -> int:
        """An estimate: no library reports it."""
        loops = [v for name, v in self.settings if name in LOOPS and isinstance(v, int)]
        return math.prod(loops) + 2

    def run(self, model: Model, threat: Ball, batch: Batch) -> None:
        x_adv = self.attacked(Network(model, batch.x.device), threat, batch).detach().clamp(0, 1)
        model(x_adv)
        if threat.name != "l0" and not threat.contains(x_adv, batch.x).all():
            model(shrunk(threat, x_adv, batch.x))

    @abstractmethod
    def attacked(self, network: "Network", threat: Ball, batch: Batch) -> Inputs:
        """The images that the library returns."""


class Network(nn.Module):
    """The model as libraries expect it: a module in eval mode, with a parameter on its device."""

    def __init__(self, model: Model, device: torch.device):
        super().__init__()
        self.model = model
        self.nothing = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def shrunk(threat: Ball, x_adv: Inputs, x: Inputs) -> Inputs:
    """The images moved into the ball as libraries do for their minimum-norm attacks: clipped, or scaled down."""
    radius = torch.full_like(x.flatten(1)[:, :1], threat.r)
    return (x + threat.shortened((x_adv - x)[:, None], radius)[:, 0]).clamp(0, 1)
