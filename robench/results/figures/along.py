"""Loss and margin on straight lines away from images: along the gradient, and along random directions.

If the gradient is correct, its line rises above the random ones. If random ones rise above it, gradient attacks that
start at the image follow a wrong direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from ..summary import Summary
from .picture import COLOURS, PAGE, QUIET, Picture, file_name, question, sheet, styled, write_below

MIN = 1e-6  # nats: smaller losses are drawn as this, because a logarithmic axis has no 0

GRADIENT: dict[str, Any] = {"color": COLOURS[0], "linewidth": 2.0, "zorder": 3}
RANDOM: dict[str, Any] = {"color": COLOURS[1], "linewidth": 0.8, "alpha": 0.7}
PROMISED: dict[str, Any] = {"color": COLOURS[6], "linewidth": 1.2, "linestyle": (0, (1, 1.5)), "zorder": 2}

HOW = (
    "Cross-entropy and margin from clean images to the edge of the set: towards the member that lies furthest along the"
    " gradient, and towards those for random gradients. Dotted: what the gradient at the image promises of its line."
    " The margin is the best wrong logit minus the right one; above 0, shaded, the model is wrong."
)


@dataclass(frozen=True)
class Walk:
    """Loss and margin at equal steps from an image to the edge of its set. The first line is the gradient's."""

    threat: str
    example: int
    label: int
    loss: Float[np.ndarray, "lines points"]  # in nats
    margin: Float[np.ndarray, "lines points"]  # positive where the model is wrong
    promised: float  # nats per radius, by the gradient at the image


def walks(summary: Summary, walked: Sequence[Walk]) -> Picture:
    """Two rows per example, loss and margin; a column per threat."""
    examples = ", ".join(dict.fromkeys(str(w.example) for w in walked))
    caption = f"{HOW} Model {summary.model.name}, examples {examples} of {question(summary)}"
    return Picture(file_name("along", summary.model.name), caption, draw(walked, caption))


@styled()
def draw(walked: Sequence[Walk], caption: str) -> Figure:
    """All lines on one sheet. Losses have one scale, and so have margins."""
    threats = list(dict.fromkeys(w.threat for w in walked))
    examples = list(dict.fromkeys(w.example for w in walked))
    figure = sheet(min(PAGE, 1.2 + 2.0 * len(threats)), 1.0 + 2.5 * len(examples))
    panels = figure.subplots(2 * len(examples), len(threats), sharex=True, sharey="row", squeeze=False)
    losses = _span([np.maximum(w.loss, MIN) for w in walked])
    margins = _span([w.margin for w in walked], 0.0)
    for walk in walked:
        row, column = 2 * examples.index(walk.example), threats.index(walk.threat)
        _loss(panels[row, column], walk, losses)
        _margin(panels[row + 1, column], walk, margins)
        panels[row, 0].set_ylabel(f"example {walk.example}, class {walk.label}\ncross-entropy (nats)")
        panels[row + 1, 0].set_ylabel("margin (logits)")
    for threat, axes in zip(threats, panels[0], strict=True):
        axes.set_title(threat)
    for axes in panels[-1]:
        axes.set_xlabel("way out (radii)")
    kinds = {"along the gradient": GRADIENT, "promised by the gradient": PROMISED, "along random directions": RANDOM}
    handles = [Line2D([], [], label=name, **kind) for name, kind in kinds.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    figure.align_ylabels()
    write_below(figure, caption)
    return figure


def _loss(axes: Axes, walk: Walk, span: tuple[float, float]) -> None:
    way = _lines(axes, np.maximum(walk.loss, MIN))
    axes.plot(way, np.maximum(walk.loss[0, 0] + way * walk.promised, MIN), label="promised", **PROMISED)
    low, high = span
    axes.set_yscale("log")
    axes.set_ylim(low / 1.2, high * 1.2)
    # Over several decades there is room for powers of ten only.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _margin(axes: Axes, walk: Walk, span: tuple[float, float]) -> None:
    _lines(axes, walk.margin)
    low, high = span
    room = 0.08 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + room)
    axes.axhspan(0, high + room, color="#F6E3DC", linewidth=0, zorder=0)
    axes.axhline(0, color=QUIET, linewidth=0.8)


def _lines(axes: Axes, heights: Float[np.ndarray, "lines points"]) -> Float[np.ndarray, "points"]:
    way = np.linspace(0, 1, heights.shape[1])
    for height in heights[1:]:
        axes.plot(way, height, label="random", **RANDOM)
    axes.plot(way, heights[0], label="gradient", **GRADIENT)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    return way


def _span(heights: Sequence[Float[np.ndarray, "lines points"]], *more: float) -> tuple[float, float]:
    """The smallest and the largest value, without NaN, which a model may answer on the way."""
    every = np.concatenate([*(h.flatten() for h in heights), np.array(more)])
    every = every[np.isfinite(every)]
    return (float(every.min()), float(every.max())) if len(every) else (MIN, 1.0)
