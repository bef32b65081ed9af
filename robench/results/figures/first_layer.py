"""The filters of a model's first layer, and the loss as black pixels rise past their thresholds.

After section 4 and Figure 3 of Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..summary import Summary
from .picture import COLOURS, PAGE, QUIET, Picture, file_name, question, sheet, styled, write_below

MAX = 32  # filters that are drawn
IN_A_ROW = 16

ALONE: dict[str, Any] = {"color": COLOURS[0], "linewidth": 1.0}
TOGETHER: dict[str, Any] = {"color": COLOURS[1], "linewidth": 2.0}
PROMISED: dict[str, Any] = {"color": COLOURS[6], "linewidth": 1.2, "linestyle": (0, (1, 1.5))}

HOW = (
    "Filters of the first layer, on one scale, red positive and blue negative; below each the value at which one pixel"
    " on black makes its output positive: 0 if it is on black already, – if no value up to 1 does. Cross-entropy as"
    " black pixels rise: of all black pixels those, marked, that raise it most when white. Dotted: what the gradient at"
    " the clean image promises of all together. Ticks: the values from below the filters."
)


@dataclass(frozen=True)
class Layer:
    """The filters of a convolution. `wakes` is the value from 0 to 1 at which one pixel on a black image makes the
    output of a filter positive; infinite if none does.
    """

    weight: Float[np.ndarray, "filters C H W"]
    wakes: Float[np.ndarray, "filters"]


@dataclass(frozen=True)
class Raised:
    """An image, some of its black pixels, and the cross-entropy in nats at equal steps as they rise from 0 to 1."""

    example: int
    label: int
    image: Float[np.ndarray, "C H W"]
    pixels: tuple[tuple[int, int], ...]  # row and column
    loss: Float[np.ndarray, "pixels points"]  # each alone
    together: Float[np.ndarray, "points"]
    promised: Float[np.ndarray, "pixels"]  # nats from 0 to 1, by the gradient at the image


def first_layers(summary: Summary, layer: Layer, raised: Sequence[Raised]) -> Picture:
    """The filters with the largest weights first; then a panel per example, beside its image."""
    count = len(layer.weight)
    shown = f" The {MAX} of {count} filters with the largest weights." if count > MAX else ""
    examples = ", ".join(str(r.example) for r in raised)
    caption = f"{HOW}{shown} Model {summary.model.name}, examples {examples} of {question(summary)}"
    return Picture(file_name("first-layer", summary.model.name), caption, draw(layer, raised, caption))


@styled()
def draw(layer: Layer, raised: Sequence[Raised], caption: str) -> Figure:
    """All on one sheet."""
    largest = np.abs(layer.weight).max(axis=(1, 2, 3))
    order = np.argsort(-largest, kind="stable")[:MAX]
    rows, below = -(-len(order) // IN_A_ROW), -(-len(raised) // 2)
    heights = [0.25 + 0.56 * rows, 0.3 + 1.9 * below]
    figure = sheet(PAGE, sum(heights) + 0.6)
    halves = figure.add_gridspec(2, 1, height_ratios=heights)
    above, under = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    above.suptitle("first-layer filters, and the value of one pixel on black that switches each on", fontsize=8)
    squares = above.subplots(rows, IN_A_ROW, squeeze=False).flatten()
    for axes, which in zip(squares, order, strict=False):
        _filter(axes, layer.weight[which], float(largest.max()), float(layer.wakes[which]))
    places = under.subplots(below, 4, width_ratios=[0.5, 1, 0.5, 1], squeeze=False).reshape(-1, 2)
    thresholds = [float(w) for w in layer.wakes if 0 < w <= 1]
    for (beside, panel), one in zip(places, raised, strict=False):
        _image(beside, one)
        _rise(panel, one, thresholds)
    for axes in [*squares[len(order) :], *places[len(raised) :].flatten()]:
        axes.set_axis_off()  # it keeps its place, so that a single example is not stretched
    kinds = {"each black pixel alone": ALONE, "all together": TOGETHER, "promised by the gradient": PROMISED}
    handles = [Line2D([], [], label=name, **kind) for name, kind in kinds.items()]
    under.legend(handles=handles, loc="outside upper center", ncols=3)
    write_below(figure, caption)
    return figure


def _filter(axes: Axes, weight: Float[np.ndarray, "C H W"], largest: float, wakes: float) -> None:
    if len(weight) == 3:
        axes.imshow(np.moveaxis(0.5 + weight / (2 * largest), 0, 2), interpolation="none")
    else:  # its response to grey
        axes.imshow(weight.sum(axis=0), cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="none")
    _framed(axes)
    value = f"{wakes:.2f}" if wakes > 0 else "0"
    axes.set_xlabel(value if np.isfinite(wakes) else "–", fontsize=6, labelpad=1.5)


def _image(axes: Axes, one: Raised) -> None:
    if len(one.image) == 3:
        axes.imshow(np.moveaxis(one.image, 0, 2), interpolation="none")
    else:
        axes.imshow(one.image[0], cmap="gray", vmin=0, vmax=1, interpolation="none")
    for row, column in one.pixels:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=TOGETHER["color"], linewidth=0))
    _framed(axes)
    axes.set_xlabel(f"example {one.example}, class {one.label}", fontsize=7)


def _rise(axes: Axes, one: Raised, thresholds: Sequence[float]) -> None:
    value = np.linspace(0, 1, len(one.together))
    for loss in one.loss:
        axes.plot(value, loss, label="alone", **ALONE)
    axes.plot(value, one.together, label="together", **TOGETHER)
    axes.plot(value, one.together[0] + value * float(one.promised.sum()), label="promised", **PROMISED)
    for threshold in thresholds:
        axes.plot([threshold, threshold], [0.95, 1], transform=axes.get_xaxis_transform(), color=QUIET, linewidth=0.7)
    axes.set_title("ticks: a filter switches on", fontsize=6, color=QUIET, pad=2)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)  # otherwise a rise of a hundredth would appear as a cliff
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel("value of the pixels")
    axes.set_ylabel("cross-entropy (nats)")


def _framed(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="#999999")
