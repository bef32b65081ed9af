"""The loss around images: along the gradient and along a random direction.

After Figure 3 of Madaan et al. 2021, https://arxiv.org/abs/2006.12135, as maps and not as surfaces: heights can be
read off, and the decision boundary is a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..summary import Summary
from .picture import PAGE, Picture, file_name, question, sheet, styled, write_below

FLOOR = 1e-3  # nats: smaller losses are drawn as this

HOW = (
    "Cross-entropy around clean images (crosses), towards the member of the set that lies furthest along the gradient,"
    " and towards that for a random gradient; images cut to the pixel range. White line: where the answer changes."
)


@dataclass(frozen=True)
class Surface:
    """Loss and margin on a square of images around one; rows go along the random direction, columns along the
    gradient. The margin is positive if the model is wrong.
    """

    threat: str
    example: int
    label: int
    reach: float  # of the square to each side, in radii of the threat
    loss: Float[np.ndarray, "points points"]
    margin: Float[np.ndarray, "points points"]


def landscapes(summary: Summary, surfaces: Sequence[Surface]) -> Picture:
    """A row per example, a column per threat, one scale of colours."""
    examples = list(dict.fromkeys(str(s.example) for s in surfaces))
    which = f"example{'s' if len(examples) > 1 else ''} {', '.join(examples)}"
    caption = f"{HOW} Model {summary.model.name}, {which} of {question(summary)}"
    return Picture(file_name("landscape", summary.model.name), caption, draw(surfaces, caption))


@styled()
def draw(surfaces: Sequence[Surface], caption: str) -> Figure:
    """All surfaces on one sheet."""
    threats = list(dict.fromkeys(s.threat for s in surfaces))
    examples = list(dict.fromkeys(s.example for s in surfaces))
    width = min(PAGE, 1.2 + 2.0 * len(threats))
    figure = sheet(width, 1.25 + 1.75 * len(examples))
    panels = figure.subplots(len(examples), len(threats), sharex=True, sharey=True, squeeze=False)
    scale = _scale(surfaces)
    for s in surfaces:
        axes: Axes = panels[examples.index(s.example), threats.index(s.threat)]
        image = _map(axes, s, scale)
    for threat, axes in zip(threats, panels[0], strict=True):
        axes.set_title(threat)
    for axes in panels[-1]:
        axes.set_xlabel("along the gradient (radii)")
    for example, axes in zip(examples, panels[:, 0], strict=True):
        label = next(s.label for s in surfaces if s.example == example)
        axes.set_ylabel(f"example {example}, class {label}\nrandom direction (radii)")
    bar = figure.colorbar(image, ax=panels, shrink=0.7, pad=0.02, label="cross-entropy (nats)")
    bar.outline.set_linewidth(0.5)
    ticks = _ticks(scale)
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    write_below(figure, caption)
    return figure


def _scale(surfaces: Sequence[Surface]) -> LogNorm:
    """A logarithmic scale: losses span decades within a class, and do not matter below FLOOR."""
    losses = np.concatenate([s.loss.flatten() for s in surfaces])
    losses = losses[np.isfinite(losses)]  # a model may answer NaN far out; that stays blank
    top = float(losses.max(initial=2 * FLOOR))
    return LogNorm(vmin=max(FLOOR, min(top / 2, float(losses.min(initial=top)))), vmax=top, clip=True)


def _ticks(scale: LogNorm) -> list[float]:
    """Numbers like 0.1, 0.2 and 0.5 within the scale; evenly spaced ones if it is too short for three of these."""
    assert scale.vmin is not None
    assert scale.vmax is not None
    usual = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 5)]
    inside = [round(tick, 6) for tick in usual if scale.vmin <= tick <= scale.vmax]
    if len(inside) > 6:
        inside = [tick for tick in inside if f"{tick:e}".startswith("1")]
    if len(inside) > 2:
        return inside
    even = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(scale.vmin, scale.vmax)
    return [round(float(tick), 6) for tick in even if scale.vmin <= tick <= scale.vmax]


def _map(axes: Axes, surface: Surface, scale: LogNorm):  # type: ignore[no-untyped-def]  # matplotlib's ScalarMappable
    reach = surface.reach
    extent = (-reach, reach, -reach, reach)
    image = axes.imshow(
        surface.loss,
        origin="lower",
        extent=extent,
        norm=scale,
        cmap="viridis",
        aspect="equal",
        interpolation="bilinear",
    )
    along = np.linspace(-reach, reach, len(surface.margin))
    if np.nanmin(surface.margin) < 0 < np.nanmax(surface.margin):
        axes.contour(along, along, surface.margin, levels=[0.0], colors="white", linewidths=1.2)
    axes.plot([0], [0], marker="+", color="white", markersize=6, markeredgewidth=1.0)
    axes.grid(visible=False)
    axes.set_xticks([-reach, 0, reach])
    axes.set_yticks([-reach, 0, reach])
    return image
