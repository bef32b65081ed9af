"""Patches whose content and place are both optimised."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss, LossName
from ...problem.noise import uniform
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import Patch
from ...settings import Bounds, Count, Targets
from ..attack import Batch, GradientAttack, Seen, State, where_rows

Content = Float[Tensor, "B C K L"]
Places = Int[Tensor, "B 2"]  # row and column of the upper left corner

WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right


@dataclass(frozen=True)
class PatchState(State):
    """A patch at its place, and the place where it is tried. `delta` is the content of the patch."""

    place: Places  # accepted
    tried: Places  # queried next
    loss: PerExample  # at the accepted place
    stepped: Content  # the content after a step from the accepted place
    moves: Int[Tensor, "B"]  # queries so far


@dataclass(frozen=True)
class PatchPGD(GradientAttack[Patch, PatchState]):
    """Ascent on the content of the patch, which moves to a neighbouring place where the loss is higher there.

    After Rao et al. 2020, https://arxiv.org/abs/2005.02313. Queries alternate: at the accepted place, then with the
    same content `stride` pixels away in a random direction; the content steps from the better of the two. By default
    the first query is the clean image, and the patch starts where the linearised loss can gain most, at the pixels of
    that maximum: on a linear model that is the best patch of all.
    """

    name: ClassVar[str] = "patch-pgd"
    source: ClassVar[str] = "Location-optimised patches, Rao et al. 2020, https://arxiv.org/abs/2005.02313"
    threats: ClassVar[tuple[str, ...]] = ("patch",)

    steps: Count = 100
    step_size: Annotated[float, Bounds(0, 1)] = 0.1  # of the range of a pixel
    stride: Count = 2  # pixels that the patch moves
    begin: Literal["gradient", "random"] = "gradient"
    loss: LossName = "margin"
    targets: Targets = 0

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)[self.loss]

    def start(self, threat: Patch, batch: Batch) -> PatchState:
        height, width = threat.sides(batch.x)
        shape = (batch.x.shape[1], height, width)
        noise = uniform(batch.keys, 0, 2 + shape[0] * height * width)
        places = _last(batch.x, height, width) + 1
        place = (noise[:, :2] * places).long().clamp(max=places - 1)
        content = noise[:, 2:].reshape(-1, *shape).to(batch.x.dtype)
        none = torch.zeros_like(batch.keys)
        return PatchState(content, place, place, torch.zeros_like(noise[:, 0]), content, none)

    def query(self, threat: Patch, batch: Batch, state: PatchState) -> Inputs:
        patched = pasted(batch.x, state.delta, state.tried)
        if self.begin == "random":
            return patched
        return torch.where(per_example(state.moves == 0, patched), batch.x, patched)

    def step(self, threat: Patch, batch: Batch, state: PatchState, seen: Seen) -> PatchState:
        stepped = (state.delta + self.step_size * cut(seen.grad, state.tried, state.delta).sign()).clamp(0, 1)
        # At the accepted place: its loss and step are noted, and a neighbouring place is tried.
        way = (uniform(batch.keys, state.moves + 1, 1)[:, 0] * len(WAYS)).long()
        moved = state.place + self.stride * _ways(state.place.device)[way]
        tried = torch.minimum(moved.clamp(min=0), _last(batch.x, *state.delta.shape[2:]))
        noted = replace(state, tried=tried, loss=seen.loss, stepped=stepped)
        # At the neighbouring place: the better of the two is accepted.
        better = seen.loss > state.loss
        place = torch.where(better[:, None], state.tried, state.place)
        content = torch.where(per_example(better, stepped), stepped, state.stepped)
        chosen = replace(state, delta=content, place=place, tried=place)
        first = state.moves == 0 if self.begin == "gradient" else torch.zeros_like(better)
        odd = state.moves % 2 == (1 if self.begin == "gradient" else 0)
        new = where_rows(first, self._best(batch, state, seen.grad), where_rows(odd, noted, chosen))
        return replace(new, moves=state.moves + 1)

    def _best(self, batch: Batch, state: PatchState, grad: Inputs) -> PatchState:
        """The patch that maximises the loss, linearised at the clean image."""
        edge = (grad > 0).to(batch.x.dtype)
        gain = (grad * (edge - batch.x)).sum(dim=1, keepdim=True)
        height, width = state.delta.shape[2:]
        windows = F.avg_pool2d(gain.double(), (height, width), stride=1)
        left = windows.shape[3]
        best = windows.flatten(1).argmax(dim=1)
        place = torch.stack([best // left, best % left], dim=1)
        return replace(state, delta=cut(edge, place, state.delta), place=place, tried=place)


@lru_cache
def _ways(device: torch.device) -> Int[Tensor, "4 2"]:
    """The ways on the device, made once: a copy in every step would stall it."""
    return torch.tensor(WAYS, device=device)


def pasted(x: Inputs, content: Content, places: Places) -> Inputs:
    """The images with the patches at these places."""
    rows, columns = _within(x, content, places)
    down, across = (rows >= 0) & (rows < content.shape[2]), (columns >= 0) & (columns < content.shape[3])
    inside = down[:, :, None] & across[:, None, :]
    return torch.where(inside[:, None], _taken(content, rows, columns), x)


def cut(x: Inputs, places: Places, like: Content) -> Content:
    """What lies under patches at these places."""
    rows = places[:, :1] + torch.arange(like.shape[2], device=x.device)
    columns = places[:, 1:] + torch.arange(like.shape[3], device=x.device)
    return _taken(x, rows, columns)


def _within(x: Inputs, content: Content, places: Places) -> tuple[Int[Tensor, "B H"], Int[Tensor, "B W"]]:
    """The row and the column of the patch at each row and column of the image; out of range beside the patch."""
    rows = torch.arange(x.shape[2], device=x.device) - places[:, :1]
    return rows, torch.arange(x.shape[3], device=x.device) - places[:, 1:]


def _taken(x: Tensor, rows: Int[Tensor, "B M"], columns: Int[Tensor, "B N"]) -> Float[Tensor, "B C M N"]:
    """The pixels at these rows and columns; those out of range are taken from the edge."""
    images = torch.arange(len(x), device=x.device)[:, None, None]
    rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
    return x[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _last(x: Inputs, height: int, width: int) -> Int[Tensor, "2"]:
    """The last row and column at which a patch of this size can begin."""
    sides = (x.shape[2] - height, x.shape[3] - width)
    return torch.stack([torch.full((), side, device=x.device) for side in sides])
