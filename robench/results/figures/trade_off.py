"""The price of robustness to one threat under another, after Figure 1 of Tramèr and Boneh 2019.

https://arxiv.org/abs/1904.13000. Their figure follows one model over its training. Runs are about finished models, so
here each place on the axis is a model. There is a line per threat, the union is dotted, and a star for each threat
marks the accuracy of a model trained on it alone.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..summary import Summary, ThreatEntry, UnionEntry
from ..tables.seeds import names
from .picture import (
    COLOURS,
    COLUMN,
    LINES,
    MARKERS,
    PAGE,
    UNION,
    Album,
    Material,
    Picture,
    file_name,
    percent_axis,
    questions,
    sheet,
    styled,
    together,
    write_below,
)

TrainedOn = Mapping[str, Sequence[str]]
"""The training threats of models, by their names."""

HOW = "Accuracy under each threat and under their union, with 95 % intervals: upper bounds on robust accuracy."
STARS = " Stars, and thin lines at their height: models trained on that threat alone."


def trade_offs(materials: Sequence[Material], trained_on: TrainedOn) -> Album:
    """One picture for all runs that answer the same question with two threats or more."""
    album = Album()
    album.left_out.extend(
        f"{m.path} has no union, with fewer than two threats; name two or more with robench evaluate --threat"
        for m in materials
        if len(m.summary.threats) < 2
    )
    for group in together([m for m in materials if len(m.summary.threats) > 1], _question):
        summaries = [m.summary for m in group]
        if len(group) == 1:
            album.left_out.append(
                f"{group[0].path} has nothing to be compared with; add runs of other models with its data, examples,"
                " threats and attacks"
            )
            continue
        caption = (
            HOW + (STARS if _singles(summaries, trained_on) else "") + f" {questions(summaries)}{_open(summaries)}"
        )
        figure = draw(summaries, trained_on, caption)
        album.pictures.append(Picture(file_name("trade-off", summaries[0].data.name), caption, figure))
    return album


@styled()
def draw(summaries: Sequence[Summary], trained_on: TrainedOn, caption: str) -> Figure:
    """Models side by side in their order. All summaries answer the same question."""
    figure = sheet(COLUMN if len(summaries) <= 4 else min(PAGE, 0.9 * len(summaries)), 3.3)
    axes = figure.subplots()
    threats = [t.threat for t in summaries[0].threats]
    for i, threat in enumerate(threats):
        entries: list[ThreatEntry | UnionEntry] = [s.threats[i] for s in summaries]
        _line(axes, entries, (i - len(threats) / 2) * 0.07, threat, COLOURS[i % len(COLOURS)], i)
    _line(axes, [s.union for s in summaries], len(threats) / 2 * 0.07, "union", UNION, None)
    for threat, places in _singles(summaries, trained_on).items():
        i = threats.index(threat)
        for place in places:
            height = 100 * summaries[place].threats[i].accuracy
            axes.axhline(height, color=COLOURS[i % len(COLOURS)], linewidth=0.6, alpha=0.6, zorder=1)
            x = place + (i - len(threats) / 2) * 0.07
            axes.plot([x], [height], marker="*", markersize=11, color=COLOURS[i % len(COLOURS)], zorder=4)
    axes.set_xticks(range(len(summaries)), [name.replace("-", "-\n", 1) for name in names(summaries)])
    axes.set_xlim(-0.4, len(summaries) - 0.6)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("accuracy (%)")
    percent_axis(axes)
    handles = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if _singles(summaries, trained_on):
        star = {"marker": "*", "markersize": 9, "linestyle": "none", "color": "#777777"}
        handles.append(Line2D([], [], label="trained on it alone", **star))  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    write_below(figure, caption)
    return figure


def _line(
    axes: Axes, entries: Sequence[ThreatEntry | UnionEntry], aside: float, name: str, colour: str, i: int | None
) -> None:
    """The line of one threat, shifted a little so that intervals do not overlap."""
    x = [place + aside for place in range(len(entries))]
    y = [100 * e.accuracy for e in entries]
    ends = [[100 * (e.accuracy - e.ci95[0]) for e in entries], [100 * (e.ci95[1] - e.accuracy) for e in entries]]
    # An interval of a share of 0 starts at 0 up to rounding.
    ends = [[max(0.0, length) for length in row] for row in ends]
    axes.errorbar(x, y, yerr=ends, fmt="none", ecolor=colour, elinewidth=0.8, capsize=1.5, alpha=0.8)
    line = ":" if i is None else LINES[i % len(LINES)]
    marker = "o" if i is None else MARKERS[(i + 1) % len(MARKERS)]
    width = 2.2 if i is None else 1.2
    axes.plot(x, y, label=name, color=colour, linestyle=line, linewidth=width, marker=marker, markersize=3.5, zorder=3)


def _singles(summaries: Sequence[Summary], trained_on: TrainedOn) -> dict[str, list[int]]:
    """The places of models that were trained on a single threat, by that threat."""
    found: dict[str, list[int]] = {}
    for place, summary in enumerate(summaries):
        threats = trained_on.get(summary.model.name, ())
        if len(threats) == 1 and threats[0] in [t.threat for t in summary.threats]:
            found.setdefault(threats[0], []).append(place)
    return found


def _question(material: Material) -> tuple[object, ...]:
    """The question of a run: only runs with the same examples, threats and attacks share a picture."""
    s = material.summary
    attacks = tuple((t.threat, tuple((a.spec, a.items, a.near, a.sample) for a in t.attacks)) for t in s.threats)
    return s.data.name, s.data.sha256, s.protocol, attacks


def _open(summaries: Sequence[Summary]) -> str:
    left = sum(s.union.open for s in summaries)
    return f" Not finished: {left} open cases count as standing." if left else ""
