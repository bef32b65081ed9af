"""Galleries of adversarial images: clean, adversarial, the difference, and both labels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...evidence.records import Claim, Evidence, Plan, Verdict
from ..outcomes import answers
from ..summary import Summary
from .picture import PAGE, QUIET, Picture, file_name, question, sheet, styled, write_below

Image = Float[np.ndarray, "C H W"]

HOW = (
    "Adversarial images, under each threat those nearest to their clean image: clean with its label, adversarial with"
    " the model's answer, and the difference, blue where darker and red where lighter (in colour images: from grey),"
    " on a scale of its own."
)

SHEET = (
    "Adversarial images, of each broken example the smallest: clean with its label, adversarial, and the difference,"
    " blue where darker and red where lighter (in colour images: from grey), on a scale of its own."
)
ACROSS = 3  # images to a line of a sheet


@dataclass(frozen=True)
class Shown:
    """One image that fools the model, and its clean image; pixels in [0, 1]."""

    threat: str
    example: int
    label: int
    answer: int | None  # the model's, to the adversarial image; None if it was not queried
    size: float  # in the unit of the threat
    clean: Image
    adversarial: Image


def nearest(
    plan: Plan, evidence: Evidence, threat: str, stored: Collection[int], count: int
) -> list[tuple[Claim, Verdict]]:
    """The smallest finds under a threat whose images are stored; of equal ones the earlier example."""
    correct = answers(evidence)
    planned = {example for example in plan.examples if correct.get(example, False)}
    finds = [
        (c, v)
        for c, v in evidence.judged()
        if v.accepted and c.threat == threat and c.id in stored and c.example in planned
    ]
    return sorted(finds, key=lambda find: (find[1].size, find[0].example, find[0].id))[:count]


def galleries(summary: Summary, shown: Sequence[Shown]) -> Picture:
    """A row per threat, three images for each example."""
    caption = f"{HOW} Model {summary.model.name}. {question(summary)}"
    return Picture(file_name("gallery", summary.model.name), caption, draw(shown, caption))


def contact_sheet(summary: Summary, shown: Sequence[Shown]) -> Picture:
    """All images, three in a line, with the threat of each line."""
    caption = f"{SHEET} Model {summary.model.name}. {question(summary)}"
    return Picture(file_name("sheet", summary.model.name), caption, draw(shown, caption, across=ACROSS))


@styled()
def draw(shown: Sequence[Shown], caption: str, across: int | None = None) -> Figure:
    """All images on one sheet, a line per threat, or several of at most `across` images."""
    rows = []
    for threat in dict.fromkeys(s.threat for s in shown):
        found = [s for s in shown if s.threat == threat]
        step = across or len(found)
        rows += [(threat, found[i : i + step]) for i in range(0, len(found), step)]
    groups = max(len(found) for _, found in rows)
    figure = sheet(min(PAGE, 0.4 + 2.3 * groups), 0.45 + 1.08 * len(rows))
    # A narrow empty column between groups keeps threes together.
    widths = ([1, 1, 1, 0.12] * groups)[:-1]
    panels = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for axes in panels.flatten():
        axes.set_axis_off()
    for (threat, found), row in zip(rows, panels, strict=True):
        for i, one in enumerate(found):
            _three(list(row[4 * i : 4 * i + 3]), one)
        row[0].text(
            -0.12, 0.5, _broken(threat), fontsize=7, rotation=90, ha="right", va="center", transform=row[0].transAxes
        )
    write_below(figure, caption)
    return figure


def _broken(threat: str) -> str:
    """`affine:linf:0.05+rt:1px,10deg` on lines short enough to stand beside an image."""
    return threat.replace("affine:", "affine:\n").replace("+", "\n+").replace("deg,", "deg,\n")


def _three(places: Sequence[Axes], one: Shown) -> None:
    delta = one.adversarial - one.clean
    largest = float(np.abs(delta).max()) or 1.0  # a stochastic model may be wrong on the image itself
    _image(places[0], one.clean)
    _image(places[1], one.adversarial)
    if len(delta) == 1:
        places[2].imshow(delta[0], cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="none")
    else:
        _image(places[2], 0.5 + delta / (2 * largest))
    places[0].set_title(f"label {one.label}", fontsize=7, pad=2)
    places[1].set_title("adversarial" if one.answer is None else f"read as {one.answer}", fontsize=7, pad=2)
    places[2].set_title(f"± {largest:.2g}", fontsize=7, pad=2, color=QUIET)
    for axes, text in zip(places, (f"example {one.example}", f"size {one.size:.3g}"), strict=False):
        axes.text(0.5, -0.04, text, fontsize=6, color=QUIET, ha="center", va="top", transform=axes.transAxes)
    for axes in places:
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=0.4, color="#999999")


def _image(axes: Axes, image: Image) -> None:
    if len(image) == 1:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=1, interpolation="none")
    else:
        axes.imshow(np.moveaxis(image, 0, 2).clip(0, 1), interpolation="none")
