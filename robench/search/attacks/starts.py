"""How an attack that reads labels alone begins: at some image that the model takes for another class, and from there
down the line towards the image it attacks, to the boundary.

Grey noise comes first, as in the papers. It is farther away than black and white or coarse images are, but where it
meets the boundary its pixels differ in how far they are from where the first layer takes note of them, so there is a
way on; on an adversarially trained MNIST network walks that begin with the nearest image of all kinds end half as far
away again. But noise may look like one class to a model, which leaves nothing to begin with for that class: then images
of many kinds are asked about.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.noise import uniform
from ...problem.shapes import Inputs, Keys, PerExample, per_example
from ...problem.threats import Ball
from ..attack import Batch, Candidates, State

FINE = (1, 2, 4)  # pixels: noise comes in squares that long at first
BLOCKS = (1, 2, 4, 8, 16)  # those that are shorter than the image, and the whole image, where that does not do
STYLES = 3  # grey noise, black-and-white noise, and the image inverted where the noise is high
STARTS = 4  # passes that look for a start, where one of them finds one
NEAREST = 0.5  # of the distance reached: no nearer is tried before something there has fooled

PerCandidate = Float[Tensor, "L W"]
Noise = Float[Tensor, "L W N"]


START, LINE = 0, 1
"""The phases every such attack begins with; others follow."""


@dataclass(frozen=True)
class WalkState(State):
    """Where a walk is: delta leads to the nearest image so far that fools the model."""

    asked: Candidates  # the images it asks about next
    size: PerExample  # of delta; infinite until something has fooled
    phase: Int[Tensor, "B"]
    passes: Int[Tensor, "B"]  # made in this phase
    taken: Int[Tensor, "B"]  # made in all
    # The line that is searched: from the image towards image + end, between the size `low`, which does not fool the
    # model as far as it was asked, and `size`, which does.
    end: Inputs
    low: PerExample


@dataclass(frozen=True)
class Answers:
    """Which candidates fool the model, and how far from the image they are."""

    fools: Bool[Tensor, "L W"]
    size: PerCandidate


R = TypeVar("R", bound=WalkState)


def occupied(phase: Int[Tensor, "L"], which: int) -> bool:
    """Whether a lane may be in this phase: what no lane needs is not worked out.

    On a device apart looking would stop the pipeline; there the answer is always yes.
    """
    return phase.device.type != "cpu" or bool((phase == which).any())


def fresh(batch: Batch, width: int) -> dict[str, Any]:
    """The fields of a `WalkState` before anything was asked."""
    still, none = torch.zeros_like(batch.x), torch.zeros_like(batch.keys)
    zero = torch.zeros_like(still.flatten(1)[:, 0])
    return {
        "delta": still,
        "asked": batch.x[:, None].expand(-1, width, *batch.x.shape[1:]),
        "size": zero + torch.inf,
        "phase": none + START,
        "passes": none,
        "taken": none,
        "end": still,
        "low": zero,
    }


def answered(threat: Ball, batch: Batch, state: WalkState, labels: Int[Tensor, "L W"]) -> Answers:
    """What these labels of the candidates say."""
    return Answers(labels != batch.y[:, None], sizes(threat, state.asked - batch.x[:, None]))


def moved(batch: Batch, state: R, answers: Answers) -> R:
    """At the nearest point that fools, be it the old one."""
    size, which = nearest(answers.fools, answers.size)
    nearer = size < state.size
    delta = torch.where(per_example(nearer, state.delta), pick(state.asked, which) - batch.x, state.delta)
    return replace(state, delta=delta, size=torch.where(nearer, size, state.size))


def started(batch: Batch, state: R, answers: Answers) -> R:
    """After a pass that looked for a start."""
    state = moved(batch, state, answers)
    done = (state.passes >= STARTS) & state.size.isfinite()
    return replace(state, end=state.delta, phase=torch.where(done, LINE, START))


def lined(batch: Batch, state: R, answers: Answers, gap: float, then: int) -> R:
    """After a pass along the line. Where `low` and `size` are no farther apart than this share of `size`, another
    phase begins.
    """
    state = moved(batch, state, answers)
    low = torch.where(answers.size < state.size[:, None], answers.size, state.low[:, None]).amax(dim=1)
    return replace(state, low=low, phase=torch.where(state.size - low <= gap * state.size, then, LINE))


def along_line(threat: Ball, batch: Batch, state: WalkState, width: int) -> Candidates:
    """Images that divide what is left of the line into equal parts."""
    share = torch.arange(1, width + 1, device=state.low.device) / (width + 1)
    gap = torch.where(state.size.isfinite(), state.size - state.low, 0)
    return faded(threat, batch.x, state.end[:, None], state.low[:, None] + gap[:, None] * share)


def noise_of(keys: Keys, restart: Int[Tensor, "L"], width: int, x: Inputs) -> Noise:
    """Uniform numbers for every candidate: one for each number of the image, and two more."""
    return uniform(keys, restart, width * (x[0].numel() + 2)).view(len(x), width, -1)


def starts(threat: Ball, x: Inputs, noise: Noise, state: WalkState) -> Candidates:
    """Fine grey noise, and where that has not fooled images of many kinds. Once something has, faded until nearer.

    Of many kinds: noise in blocks of every scale up to the whole image (flat grey, black, white), and the image
    inverted in some of the blocks or in all.
    """
    slots, c, h, w = x.shape
    width = noise.shape[1]
    nearer, share, noise = noise[..., 0], noise[..., 1], noise[..., 2:].view(slots, width, c, h * w)

    def in_blocks(pixels: Int[Tensor, "W N"]) -> Candidates:
        return noise.gather(3, pixels[None, :, None, :].expand_as(noise)).view(slots, width, c, h, w)

    blocks, style = _kinds(width, h, w, x.device)
    coarse = in_blocks(blocks)
    share = share[..., None, None, None]
    binary = (coarse < share).to(x.dtype)
    inverted = torch.where(coarse < share.sqrt(), 1 - x[:, None], x[:, None])
    style = style[None, :, None, None, None]
    many = torch.where(style == 0, coarse, torch.where(style == 1, binary, inverted))
    plain = (state.passes == 0) | state.size.isfinite()
    images = torch.where(per_example(plain, many), in_blocks(_fine(width, h, w, x.device)), many)
    return faded(threat, x, images - x[:, None], state.size[:, None] * (NEAREST + (1 - NEAREST) * nearer))


def faded(threat: Ball, x: Inputs, delta: Float[Tensor, "L #W *D"], size: PerCandidate) -> Candidates:
    """The images on the way from x to x + delta that are `size` away from x; x + delta itself if it is no farther."""
    return (x[:, None] + threat.shortened(delta, size)).clamp(0, 1)


def sizes(threat: Ball, delta: Candidates) -> PerCandidate:
    """How far every delta of every lane reaches."""
    return threat.size(delta.flatten(0, 1)).view(delta.shape[:2])


def nearest(fools: Bool[Tensor, "L W"], size: PerCandidate) -> tuple[PerExample, Int[Tensor, "L"]]:
    """The least size among the candidates that fool, infinite if there is none, and which one has it."""
    least = torch.where(fools, size, torch.inf).min(dim=1)
    return least.values, least.indices


def pick(candidates: Candidates, which: Int[Tensor, "L"]) -> Inputs:
    """One candidate of every lane."""
    index = per_example(which, candidates).expand(-1, 1, *candidates.shape[2:])
    return candidates.gather(1, index).squeeze(1)


@lru_cache
def _fine(width: int, h: int, w: int, device: torch.device) -> Int[Tensor, "W N"]:
    """Of every candidate: from which pixel each pixel takes its noise."""
    sides = torch.stack([_squares(side, h, w) for side in FINE])
    return sides[torch.arange(width) % len(FINE)].to(device)


@lru_cache
def _kinds(width: int, h: int, w: int, device: torch.device) -> tuple[Int[Tensor, "W N"], Int[Tensor, "W"]]:
    """The same for images of many kinds, and the style of each."""
    sides = torch.stack([_squares(side, h, w) for side in (*(b for b in BLOCKS if b < min(h, w)), max(h, w))])
    number = torch.arange(width)
    return sides[number // STYLES % len(sides)].to(device), (number % STYLES).to(device)


def _squares(side: int, h: int, w: int) -> Int[Tensor, "N"]:
    """Of every pixel the one at the corner of its square."""
    row, column = (torch.arange(n) // side * side for n in (h, w))
    return (row[:, None] * w + column).flatten()
