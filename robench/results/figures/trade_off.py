"""The price of robustness to one threat under another: Tramèr and Boneh 2019, figure 1, for finished models.

https://arxiv.org/abs/1904.13000. Their figure follows one model over its training. Here each row is a model, with a
point per threat and a diamond for the union. Rows are sorted by the union, the best on top and unfinished ones below.
A star in place of a point marks the accuracy of a model under the one threat that it was trained on, and a thin line
carries it to all rows.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..measured import unmeasured
from ..summary import Summary, ThreatEntry, UnionEntry
from ..tables.seeds import names
from .picture import (
    COLOURS,
    MARKERS,
    UNION,
    Album,
    Material,
    Picture,
    explained,
    file_name,
    marks,
    questions,
    sheet,
    styled,
    together,
    write_below,
)

TrainedOn = Mapping[str, Sequence[str]]
"""The training threats of models, by their names."""

HOW = "Accuracy under each threat and under their union, with 95 % intervals: upper bounds on robust accuracy."
STARS = " Stars, and thin lines through them: models trained on that threat alone."
WIDTH = 5.0  # inches
ROW = 0.34  # height of a model's row, in inches
ASIDE = 0.17  # distance of two points of a model, in rows


def trade_offs(materials: Sequence[Material], trained_on: TrainedOn) -> Album:
    """One picture for all runs that answer the same question with two threats or more."""
    album = Album()
    album.left_out.extend(
        f"{m.path} has no union, with fewer than two threats; name two or more with robench evaluate --threat"
        for m in materials
        if len(m.summary.threats) < 2
    )
    album.left_out.extend(
        f"{m.path} measured nothing under {failed[0].threat}, as every planned attack failed there"
        for m in materials
        if (failed := unmeasured(m.summary))
    )
    usable = [m for m in materials if len(m.summary.threats) > 1 and not unmeasured(m.summary)]
    for group in together(usable, _question):
        summaries = sorted((m.summary for m in group), key=_merit, reverse=True)
        if len(group) == 1:
            album.left_out.append(
                f"{group[0].path} has nothing to be compared with; add runs of other models with its data, examples,"
                " threats and attacks"
            )
            continue
        stars = STARS if _singles(summaries, trained_on) else ""
        caption = f"{HOW}{stars} {questions(summaries)}{explained(t for s in summaries for t in s.threats)}"
        figure = draw(summaries, trained_on, caption)
        album.pictures.append(Picture(file_name("trade-off", summaries[0].data.name), caption, figure))
    return album


def _merit(summary: Summary) -> tuple[bool, float, float]:
    """The sort key of a model: the union, a bound below all accuracies, and among equals the sum over threats."""
    return not summary.union.open, summary.union.accuracy, sum(t.accuracy for t in summary.threats)


@styled()
def draw(summaries: Sequence[Summary], trained_on: TrainedOn, caption: str) -> Figure:
    """Models one below the other, in their order. All summaries answer the same question."""
    figure = sheet(WIDTH, 1.3 + ROW * len(summaries))
    axes = figure.subplots()
    threats = [t.threat for t in summaries[0].threats]
    for row in range(0, len(summaries), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
    singles = _singles(summaries, trained_on)
    middle = len(threats) / 2
    for i, threat in enumerate(threats):
        entries: list[ThreatEntry | UnionEntry] = [s.threats[i] for s in summaries]
        _points(axes, entries, (i - middle) * ASIDE, threat, COLOURS[i % len(COLOURS)], MARKERS[i % 3], 3.5)
        for row in singles.get(threat, ()):
            share = 100 * summaries[row].threats[i].accuracy
            axes.axvline(share, color=COLOURS[i % len(COLOURS)], linewidth=0.6, alpha=0.6, zorder=1)
            star = {"marker": "*", "markersize": 10, "color": COLOURS[i % len(COLOURS)], "zorder": 4}
            axes.plot([share], [row + (i - middle) * ASIDE], **star)  # type: ignore[arg-type]
    _points(axes, [s.union for s in summaries], middle * ASIDE, "union", UNION, "D", 4.5)
    marked = [f"{name}{marks(s.threats)}" for name, s in zip(names(summaries), summaries, strict=True)]
    axes.set_yticks(range(len(summaries)), marked)
    axes.set_ylim(len(summaries) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("accuracy (%)")
    axes.set_xlim(-3, 103)
    axes.set_xticks(range(0, 101, 20))
    handles = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if singles:
        grey = {"marker": "*", "markersize": 9, "linestyle": "none", "color": "#777777"}
        handles.append(Line2D([], [], label="trained on it alone", **grey))  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    write_below(figure, caption)
    return figure


def _points(
    axes: Axes,
    entries: Sequence[ThreatEntry | UnionEntry],
    aside: float,
    name: str,
    colour: str,
    marker: str,
    size: float,
) -> None:
    """A point with its interval in every row, beside the row's middle so that intervals do not overlap."""
    rows = [row + aside for row in range(len(entries))]
    shares = [100 * e.accuracy for e in entries]
    ends = [[100 * (e.accuracy - e.ci95[0]) for e in entries], [100 * (e.ci95[1] - e.accuracy) for e in entries]]
    # An interval of a share of 0 starts at 0 up to rounding.
    ends = [[max(0.0, length) for length in row] for row in ends]
    axes.errorbar(shares, rows, xerr=ends, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.8)
    axes.plot(shares, rows, label=name, color=colour, linestyle="none", marker=marker, markersize=size, zorder=3)


def _singles(summaries: Sequence[Summary], trained_on: TrainedOn) -> dict[str, list[int]]:
    """The rows of models that were trained on a single threat, by that threat."""
    found: dict[str, list[int]] = {}
    for row, summary in enumerate(summaries):
        threats = trained_on.get(summary.model.name, ())
        if len(threats) == 1 and threats[0] in [t.threat for t in summary.threats]:
            found.setdefault(threats[0], []).append(row)
    return found


def _question(material: Material) -> tuple[object, ...]:
    """The question of a run: only runs with the same examples, threats and attacks share a picture."""
    s = material.summary
    attacks = tuple((t.threat, tuple((a.spec, a.items, a.near, a.sample) for a in t.attacks)) for t in s.threats)
    return s.data.name, s.data.sha256, s.protocol, attacks
