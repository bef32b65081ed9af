"""The first two phases of attacks that read labels only: find any misclassified image, then search the line from it to
the attacked image for the boundary.

Grey noise comes first, as in the papers. Black-and-white or coarse images are nearer, but on grey noise pixels differ
in their distance from the thresholds of the first layer, which leaves a way on: on an adversarially trained MNIST
network, walks from the nearest image of all kinds end half as far away again. A model may take all noise for a single
class, which leaves no start for images of that class: then images of many kinds are queried.
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

FINE = (1, 2, 4)  # pixels: side of the squares of noise at first
BLOCKS = (1, 2, 4, 8, 16)  # then sides of all scales below that of the image, and the whole image
STYLES = 3  # grey noise, black-and-white noise, and the image inverted where the noise is high
STARTS = 4  # passes in search of a start; more if none succeeds
NEAREST = 0.5  # of the current distance: nothing nearer is tried before

PerCandidate = Float[Tensor, "L W"]
Noise = Float[Tensor, "L W N"]


START, LINE = 0, 1
"""The first phases of every such attack; others follow."""


@dataclass(frozen=True)
class WalkState(State):
    """The nearest image so far that fools the model, x + delta, and the line that is searched."""

    candidates: Candidates  # the next images to query
    size: PerExample  # of delta; infinite before the first find
    phase: Int[Tensor, "B"]
    passes: Int[Tensor, "B"]  # made in this phase
    taken: Int[Tensor, "B"]  # made in total
    # The line that is searched: from the image towards image + end, between the size `low`, at which no query fooled
    # the model, and `size`, at which one did.
    end: Inputs
    low: PerExample


@dataclass(frozen=True)
class Answers:
    """Which candidates fool the model, and their distances from the image."""

    fools: Bool[Tensor, "L W"]
    size: PerCandidate


R = TypeVar("R", bound=WalkState)


def occupied(phase: Int[Tensor, "L"], which: int) -> bool:
    """Whether any slot may be in this phase; a phase without slots need not be computed.

    On a GPU the test would stall the pipeline, so the answer is always True there.
    """
    return phase.device.type != "cpu" or bool((phase == which).any())


def fresh(batch: Batch, width: int) -> dict[str, Any]:
    """The fields of a `WalkState` before the first query."""
    still, none = torch.zeros_like(batch.x), torch.zeros_like(batch.keys)
    zero = torch.zeros_like(still.flatten(1)[:, 0])
    return {
        "delta": still,
        "candidates": batch.x[:, None].expand(-1, width, *batch.x.shape[1:]),
        "size": zero + torch.inf,
        "phase": none + START,
        "passes": none,
        "taken": none,
        "end": still,
        "low": zero,
    }


def answered(threat: Ball, batch: Batch, state: WalkState, labels: Int[Tensor, "L W"]) -> Answers:
    """The candidates that fool the model by these labels, with their sizes."""
    return Answers(labels != batch.y[:, None], sizes(threat, state.candidates - batch.x[:, None]))


def moved(batch: Batch, state: R, answers: Answers) -> R:
    """The state at the nearest point that fools, which may be the old one."""
    size, which = nearest(answers.fools, answers.size)
    nearer = size < state.size
    delta = torch.where(per_example(nearer, state.delta), pick(state.candidates, which) - batch.x, state.delta)
    return replace(state, delta=delta, size=torch.where(nearer, size, state.size))


def started(batch: Batch, state: R, answers: Answers) -> R:
    """The state after a pass of the START phase."""
    state = moved(batch, state, answers)
    done = (state.passes >= STARTS) & state.size.isfinite()
    return replace(state, end=state.delta, phase=torch.where(done, LINE, START))


def lined(batch: Batch, state: R, answers: Answers, gap: float, then: int) -> R:
    """The state after a pass along the line. The phase `then` begins once `low` and `size` differ by at most this
    share of `size`.
    """
    state = moved(batch, state, answers)
    low = torch.where(answers.size < state.size[:, None], answers.size, state.low[:, None]).amax(dim=1)
    return replace(state, low=low, phase=torch.where(state.size - low <= gap * state.size, then, LINE))


def along_line(threat: Ball, batch: Batch, state: WalkState, width: int) -> Candidates:
    """Images that divide the rest of the line into equal parts."""
    share = torch.arange(1, width + 1, device=state.low.device) / (width + 1)
    gap = torch.where(state.size.isfinite(), state.size - state.low, 0)
    return faded(threat, batch.x, state.end[:, None], state.low[:, None] + gap[:, None] * share)


def noise_of(keys: Keys, restart: Int[Tensor, "L"], width: int, x: Inputs) -> Noise:
    """Uniform numbers in (0, 1) for every candidate: one per pixel and channel, and two more."""
    return uniform(keys, restart, width * (x[0].numel() + 2)).view(len(x), width, -1)


def starts(threat: Ball, x: Inputs, noise: Noise, state: WalkState) -> Candidates:
    """Candidates for a start: fine grey noise first, then images of many kinds until one fools.

    The kinds are noise in blocks of every scale up to the whole image (flat grey, black, white), and the image inverted
    in some or all blocks. After a find, candidates are faded to smaller sizes.
    """
    _, _, h, w = x.shape
    width = noise.shape[1]
    nearer, share, noise = noise[..., 0], noise[..., 1], noise[..., 2:]
    blocks, style = _kinds(width, h, w, x.device)
    many = _of_kinds(x, noise, share, blocks[None], style[None])
    plain = (state.passes == 0) | state.size.isfinite()
    images = torch.where(per_example(plain, many), _in_blocks(x, noise, _fine(width, h, w, x.device)[None]), many)
    return faded(threat, x, images - x[:, None], state.size[:, None] * (NEAREST + (1 - NEAREST) * nearer))


def of_kind(x: Inputs, keys: Keys, number: Int[Tensor, "L"], kinds: int) -> Inputs:
    """Another image for each, of one of the kinds of `starts`; `number` says which, from 0 to `kinds` - 1."""
    _, _, h, w = x.shape
    blocks, style = _kinds(kinds, h, w, x.device)
    noise = noise_of(keys, number + 1, 1, x)
    return _of_kinds(x, noise[..., 2:], noise[..., 1], blocks[number][:, None], style[number][:, None])[:, 0]


def _of_kinds(
    x: Inputs, noise: Noise, share: PerCandidate, blocks: Int[Tensor, "#L W N"], style: Int[Tensor, "#L W"]
) -> Candidates:
    """Noise in blocks, the same in black and white, or the image inverted in some blocks, by the style of each."""
    coarse = _in_blocks(x, noise, blocks)
    share = share[..., None, None, None]
    binary = (coarse < share).to(x.dtype)
    inverted = torch.where(coarse < share.sqrt(), 1 - x[:, None], x[:, None])
    style = style[..., None, None, None]
    return torch.where(style == 0, coarse, torch.where(style == 1, binary, inverted))


def _in_blocks(x: Inputs, noise: Noise, pixels: Int[Tensor, "#L W N"]) -> Candidates:
    """Noise that is constant in blocks: `pixels` are those from which each takes its noise."""
    slots, c, h, w = x.shape
    noise = noise.view(slots, -1, c, h * w)
    return noise.gather(3, pixels[:, :, None, :].expand_as(noise)).view(slots, -1, c, h, w)


def faded(threat: Ball, x: Inputs, delta: Float[Tensor, "L #W *D"], size: PerCandidate) -> Candidates:
    """The images on the way from x to x + delta at this distance from x; x + delta itself if it is no farther away."""
    return (x[:, None] + threat.shortened(delta, size)).clamp(0, 1)


def sizes(threat: Ball, delta: Candidates) -> PerCandidate:
    """The size of every delta of every slot."""
    return threat.size(delta.flatten(0, 1)).view(delta.shape[:2])


def nearest(fools: Bool[Tensor, "L W"], size: PerCandidate) -> tuple[PerExample, Int[Tensor, "L"]]:
    """The smallest size among the candidates that fool, infinite if none does, and the index of that candidate."""
    smallest = torch.where(fools, size, torch.inf).min(dim=1)
    return smallest.values, smallest.indices


def pick(candidates: Candidates, which: Int[Tensor, "L"]) -> Inputs:
    """One candidate of every slot."""
    index = per_example(which, candidates).expand(-1, 1, *candidates.shape[2:])
    return candidates.gather(1, index).squeeze(1)


@lru_cache
def _fine(width: int, h: int, w: int, device: torch.device) -> Int[Tensor, "W N"]:
    """The pixel from which each pixel of every candidate takes its noise."""
    sides = torch.stack([_squares(side, h, w) for side in FINE])
    return sides[torch.arange(width) % len(FINE)].to(device)


@lru_cache
def _kinds(width: int, h: int, w: int, device: torch.device) -> tuple[Int[Tensor, "W N"], Int[Tensor, "W"]]:
    """`_fine` for images of many kinds, with the style of each candidate."""
    sides = torch.stack([_squares(side, h, w) for side in (*(b for b in BLOCKS if b < min(h, w)), max(h, w))])
    number = torch.arange(width)
    return sides[number // STYLES % len(sides)].to(device), (number % STYLES).to(device)


def _squares(side: int, h: int, w: int) -> Int[Tensor, "N"]:
    """The pixel at the corner of every pixel's square."""
    row, column = (torch.arange(n) // side * side for n in (h, w))
    return (row[:, None] * w + column).flatten()
