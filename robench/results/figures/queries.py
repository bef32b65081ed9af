"""Accuracy against queries, drawn: a panel per threat, a line per attack."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..queries import Fall, falls
from .picture import (
    COLUMN,
    PAGE,
    Album,
    Material,
    Picture,
    explained,
    file_name,
    line_style,
    marks,
    percent_axis,
    question,
    sheet,
    styled,
    write_below,
)

HOW = "Accuracy against queries: forward passes of an attack on an example, all its searches together."
EVERY = " Every attack ran on its own; examples it did not reach count as standing."
EARLY = " Each attack ran only on the examples that earlier ones left, and its line starts there."
FURTHER = " Minimum-norm attacks continued after their first find, to the end of their search."


def queries(materials: Sequence[Material]) -> Album:
    """A picture per run, a panel per threat."""
    album = Album()
    for material in materials:
        panels = {t.threat: falls(material.plan, material.evidence, t.threat) for t in material.plan.threats}
        panels = {threat: found for threat, found in panels.items() if found}
        if not panels:
            album.left_out.append(f"{material.path} holds no search; start it again with robench evaluate")
            continue
        caption = _caption(material, panels)
        name = file_name("queries", material.summary.model.name)
        album.pictures.append(Picture(name, caption, draw(panels, caption)))
    return album


@styled()
def draw(panels_of: Mapping[str, Sequence[Fall]], caption: str) -> Figure:
    """A panel per threat, with a line per attack."""
    attacks = list(dict.fromkeys(fall.attack for found in panels_of.values() for fall in found))
    columns = min(3, len(panels_of))
    rows = -(-len(panels_of) // columns)
    figure = sheet(PAGE if columns > 1 else COLUMN, 0.6 + 2.2 * rows + 0.16 * (len(attacks) // 4))
    panels: list[Axes] = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flatten())
    for axes, (threat, found) in zip(panels, panels_of.items(), strict=False):
        for fall in found:
            heights = [100 * share for share in fall.standing]
            axes.step(fall.queries, heights, where="post", label=fall.attack, **line_style(attacks.index(fall.attack)))
            axes.plot(
                fall.queries[-1:], heights[-1:], marker="o", markersize=2.5, **line_style(attacks.index(fall.attack))
            )
        axes.set_xscale("log")
        axes.set_xlabel("forward passes per example")
        axes.set_title(threat)
        percent_axis(axes)
    for axes in panels[len(panels_of) :]:
        axes.remove()
    panels[0].set_ylabel("accuracy (%)")
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    handles = [lines[attack] for attack in attacks]
    figure.legend(handles=handles, loc="outside upper center", ncols=4 if columns > 1 else 2)
    write_below(figure, caption)
    return figure


def _caption(material: Material, panels: Collection[str]) -> str:
    plan, summary = material.plan, material.summary
    order = EVERY if plan.every_attack else EARLY
    further = FURTHER if plan.curve else ""
    drawn = [t for t in summary.threats if t.threat in panels]
    return f"{HOW}{order}{further} Model {summary.model.name}{marks(drawn)}. {question(summary)}{explained(drawn)}"
