"""Common corruptions at given severities: a few images, of which an attacker may take the worst."""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...errors import UserError, unknown
from ..shapes import Inputs, Mask, PerExample
from .base import TransformParams
from .corruptions import CORRUPTIONS, NAMES, SEVERITIES, corrupted
from .rebuilt import Rebuilt

AVAILABLE = tuple(name for name in NAMES if CORRUPTIONS[name] is not None)
ALL = "all"
NOTHING = "corruption needs the name of a corruption and a severity from 1 to 5; write it like corruption:fog@3"


@dataclass(frozen=True)
class Corruption(Rebuilt):
    """An image after one of these corruptions, at one of these severities: Hendrycks and Dietterich 2019.

    https://arxiv.org/abs/1903.12261, with the constants of CIFAR-10-C. Each corruption at each severity is one image:
    its noise is a function of the clean image. The parameters are the number of the corruption in the paper's order,
    from 1 on, the severity, and 0.
    """

    name: ClassVar[str] = "corruption"
    form: ClassVar[str] = "corruption:fog@3"
    meaning: ClassVar[str] = "common corruptions, each one image: corruption:fog+snow@1-5, corruption:all@3"

    kinds: tuple[str, ...]  # in the order of the paper
    mildest: int
    severest: int

    def __post_init__(self) -> None:
        if not self.kinds or not 1 <= self.mildest <= self.severest <= SEVERITIES:
            raise UserError(NOTHING)

    @classmethod
    def parse(cls, text: str) -> "Corruption":
        """`fog@3`, `fog+snow@1-5` or `all@5`. Raises ValueError for anything else, UserError for unknown names."""
        match = re.fullmatch(r"([a-z_+]+)@([0-9])(?:-([0-9]))?", text.replace(" ", ""))
        if not match:
            raise ValueError(text)
        named = list(AVAILABLE) if match[1] == ALL else match[1].split("+")
        for kind in named:
            if kind == "frost":
                raise UserError("frost pastes photographs, which robench does not have; leave frost out")
            if kind not in AVAILABLE:
                raise unknown("corruption", kind, [*AVAILABLE, ALL])
        return cls(tuple(k for k in AVAILABLE if k in named), int(match[2]), int(match[3] or match[2]))

    def __str__(self) -> str:
        kinds = ALL if self.kinds == AVAILABLE else "+".join(self.kinds)
        severities = f"{self.mildest}-{self.severest}" if self.mildest < self.severest else f"{self.mildest}"
        return f"corruption:{kinds}@{severities}"

    @property
    def images(self) -> tuple[tuple[int, int], ...]:
        """The number and severity of every image, the severest first."""
        severities = range(self.severest, self.mildest - 1, -1)
        return tuple((NAMES.index(kind) + 1, severity) for severity in severities for kind in self.kinds)

    def apply(self, x: Inputs, params: TransformParams) -> Inputs:
        """The corrupted images; NaN where the parameters are those of no image of the set."""
        made, member = torch.full_like(x, torch.nan, device="cpu"), self._members(params).cpu()
        pixels, numbers = x.detach().cpu().double().numpy(), params[:, :2].cpu()
        for number, severity in dict.fromkeys(tuple(map(int, row)) for row in numbers[member].tolist()):
            rows = (member & (numbers == torch.tensor([number, severity])).all(dim=1)).nonzero().squeeze(1)
            images = corrupted(pixels[rows.numpy()], NAMES[number - 1], severity)
            made[rows] = torch.from_numpy(images).to(made.dtype)
        return made.to(x.device)

    def share(self, params: TransformParams) -> PerExample:
        """The severity as a share of the severest; infinite for parameters of no image of the set."""
        return torch.where(self._members(params), params[:, 1].double() / self.severest, torch.inf)

    def _members(self, params: TransformParams) -> Mask:
        images = params.new_tensor([(number, severity, 0) for number, severity in self.images])
        return (params[:, None] == images).all(dim=2).any(dim=1)
