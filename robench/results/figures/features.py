"""Clean and adversarial images of two classes in a plane, by a model's features.

After Table 5 of Madaan et al. 2021, https://arxiv.org/abs/2006.12135.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import KDTree

from ..summary import Summary
from .picture import COLOURS, PAGE, QUIET, Picture, file_name, question, sheet, styled, write_below

OTHER = "#9A9A9A"  # answers that are neither class
GRID = 240  # points to a side on which areas are drawn
NEAR = 5  # images whose commonest answer colours a point of an area

HOW = (
    "Images of two classes, placed by t-SNE of the features that the last layer reads: near images have similar"
    " features, and far distances mean nothing. Under each threat broken images are drawn as adversarial, the others as"
    f" clean. Areas: the commonest answer to the {NEAR} nearest images of all panels; this is no picture of the"
    " network's own boundary."
)


@dataclass(frozen=True)
class Placed:
    """Images in the plane, the class of each, and the model's answer to it; those of one panel."""

    title: str
    places: Float[np.ndarray, "B 2"]
    labels: Int[np.ndarray, "B"]
    answers: Int[np.ndarray, "B"]


def often_confused(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The two classes between which most finds lead, either way, from pairs of label and answer.

    Of equal ones the first. Answers that are correct do not count; at least one must be wrong.
    """
    counts = Counter((min(pair), max(pair)) for pair in pairs if pair[0] != pair[1])
    return min(counts, key=lambda pair: (-counts[pair], pair))


def feature_planes(summary: Summary, classes: tuple[int, int], panels: Sequence[Placed]) -> Picture:
    """A panel for the clean images, and one for each threat, all in the same plane."""
    caption = f"{HOW} Model {summary.model.name}, classes {classes[0]} and {classes[1]} of {question(summary)}"
    return Picture(file_name("features", summary.model.name), caption, draw(classes, panels, caption))


@styled()
def draw(classes: tuple[int, int], panels: Sequence[Placed], caption: str) -> Figure:
    """All panels side by side, at most four in a row."""
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = sheet(min(PAGE, 0.3 + 1.75 * across), 0.95 + 1.95 * down)
    places = figure.subplots(down, across, squeeze=False).flatten()
    drawn = [np.column_stack([panel.places, panel.answers]) for panel in panels]
    once = np.unique(np.concatenate(drawn), axis=0)  # a clean image may be in every panel
    answers = once[:, 2].astype(int)
    area = _areas(classes, once[:, :2], answers)
    for axes, panel in zip(places, panels, strict=False):
        _panel(axes, classes, panel, *area)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.legend(handles=_key(classes, answers), loc="outside upper center", ncols=5, handletextpad=0.2)
    write_below(figure, caption)
    return figure


def _areas(
    classes: tuple[int, int], places: Float[np.ndarray, "B 2"], answers: Int[np.ndarray, "B"]
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The colour of each point of a grid, and where the grid lies."""
    low, high = places.min(axis=0), places.max(axis=0)
    margin = 0.06 * (high - low) + 1e-9
    (west, south), (east, north) = low - margin, high + margin
    grid = np.stack(np.meshgrid(np.linspace(west, east, GRID), np.linspace(south, north, GRID)), axis=-1)
    near = min(NEAR, len(places))
    _, nearest = KDTree(places).query(grid.reshape(-1, 2), k=near)
    votes = np.stack([(answers[nearest.reshape(-1, near)] == c).sum(axis=1) for c in classes], axis=1)
    rest = near - votes.sum(axis=1, keepdims=True)
    colours = np.array([_rgb(c, 0.25) for c in (*COLOURS[:2], OTHER)])
    return colours[np.concatenate([votes, rest], axis=1).argmax(axis=1)].reshape(GRID, GRID, 3), (
        float(west),
        float(east),
        float(south),
        float(north),
    )


def _panel(
    axes: Axes,
    classes: tuple[int, int],
    panel: Placed,
    area: np.ndarray,
    extent: tuple[float, float, float, float],
) -> None:
    axes.imshow(area, origin="lower", extent=extent, aspect="auto", interpolation="none")
    for label, marker in zip(classes, ("o", "^"), strict=True):
        here = panel.labels == label
        across, up = panel.places[here].T
        axes.scatter(
            across,
            up,
            s=9,
            c=[_colour(classes, int(a)) for a in panel.answers[here]],
            marker=marker,
            linewidths=0.3,
            edgecolors="white",
        )
    correct = int((panel.labels == panel.answers).sum())
    axes.set_title(f"{panel.title}\n{correct} of {len(panel.labels)} correct")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="#999999")


def _key(classes: tuple[int, int], answers: Int[np.ndarray, "B"]) -> list[Line2D]:
    shapes = [
        Line2D([], [], linestyle="", marker=marker, color=QUIET, markersize=4, label=f"class {c}")
        for c, marker in zip(classes, ("o", "^"), strict=True)
    ]
    read = [*classes, None] if set(answers.tolist()) - set(classes) else list(classes)
    colours = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="s",
            markersize=4,
            color=OTHER if c is None else _colour(classes, c),
            label="another answer" if c is None else f"answer {c}",
        )
        for c in read
    ]
    return shapes + colours


def _colour(classes: tuple[int, int], answer: int) -> str:
    return dict(zip(classes, COLOURS, strict=False)).get(answer, OTHER)


def _rgb(colour: str, strength: float) -> tuple[float, ...]:
    """A lighter shade of `#RRGGBB`, each channel in [0, 1]."""
    return tuple(1 - strength * (1 - int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
