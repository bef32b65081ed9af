"""Accuracy in the course of a training, as in Figure 1 of Tramèr and Boneh 2019."""

import re
from collections.abc import Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import UserError
from ..results.figures.picture import (
    COLOURS,
    LINES,
    MARKERS,
    UNION,
    Picture,
    questions,
    sheet,
    styled,
    write_below,
)
from ..results.summary import Summary, ThreatEntry, UnionEntry

STEP = re.compile(r"-(\d+)$")  # ends the name of a snapshot: max-0145


def course(summaries: Sequence[Summary], name: str) -> Picture:
    """The picture of snapshots, whose names end with their step, and of models of a single threat as level lines.

    Raises UserError without a snapshot.
    """
    steps = {int(found[1]): s for s in summaries if (found := STEP.search(s.model.name))}
    singles = [s for s in summaries if not STEP.search(s.model.name)]
    if not steps:
        raise UserError("no summary is that of a snapshot, whose name ends with its step; make them again")
    snapshots = [steps[step] for step in sorted(steps)]
    model = STEP.sub("", snapshots[0].model.name)
    attacks = ", ".join(dict.fromkeys(a.name for t in snapshots[0].threats for a in t.attacks))
    caption = (
        f"Accuracy of {model} in the course of its training under {attacks}, on held-out training images: upper bounds"
        " on robust accuracy. Bands: 95 % intervals (Wilson). Dashed: models trained on one threat alone, under that"
        f" threat, at the end of their training. {questions(snapshots)}{_unfinished([*snapshots, *singles])}"
    )
    return Picture(name, caption, _figure(snapshots, sorted(steps), singles, caption))


def _unfinished(summaries: Sequence[Summary]) -> str:
    """A sentence on the models with open examples, which count as accuracy; empty if there are none."""
    names = [s.model.name for s in summaries if s.clean.open or any(t.open for t in s.threats)]
    return f" Open examples, which count as accuracy: {', '.join(names)}." if names else ""


@styled()
def _figure(snapshots: Sequence[Summary], steps: Sequence[int], singles: Sequence[Summary], caption: str) -> Figure:
    figure = sheet(5.2, 3.9)
    axes = figure.subplots()
    for i, threat in enumerate(snapshots[0].threats):
        _line(axes, steps, [s.threats[i] for s in snapshots], threat.threat, COLOURS[i], "-", MARKERS[i])
        for single in singles:
            for entry in single.threats:
                if entry.threat == threat.threat:
                    axes.axhline(100 * entry.accuracy, color=COLOURS[i], linewidth=0.8, linestyle=LINES[1], zorder=1)
    _line(axes, steps, [s.union for s in snapshots], "union", UNION, LINES[3], "D")
    axes.set_xlabel("steps of training")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 10 * ceil(10 * max(entry.ci95[1] for s in (*snapshots, *singles) for entry in s.threats)))
    axes.set_xlim(left=0)
    handles = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if singles:
        grey = {"color": "#777777", "linewidth": 0.8, "linestyle": LINES[1]}
        handles.append(Line2D([], [], label="trained on it alone", **grey))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    write_below(figure, caption)
    return figure


def _line(
    axes: Axes,
    steps: Sequence[int],
    entries: Sequence[ThreatEntry | UnionEntry],
    name: str,
    colour: str,
    style: Any,
    marker: str,
) -> None:
    """Accuracies by step, with their intervals as a band."""
    low, high = ([100 * entry.ci95[end] for entry in entries] for end in (0, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    shares = [100 * entry.accuracy for entry in entries]
    axes.plot(steps, shares, label=name, color=colour, linestyle=style, marker=marker, markersize=3.5)
