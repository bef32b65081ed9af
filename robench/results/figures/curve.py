"""Accuracy against radius: a panel per norm, a line per model or set of attacks, bands of 95 %."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..stats.intervals import wilson
from ..summary import CurveEntry, Summary, ThreatEntry
from ..tables.seeds import names
from .picture import (
    COLUMN,
    NORMS,
    PAGE,
    UNITS,
    Album,
    Material,
    Picture,
    explained,
    file_name,
    line_style,
    marks,
    percent_axis,
    questions,
    sheet,
    styled,
    together,
    write_below,
)

HOW = (
    "Accuracy against radius: examples without an adversarial image up to each radius, an upper bound on robust"
    " accuracy. Bands: 95 % intervals (Wilson), point by point."
)


def curves(materials: Sequence[Material]) -> Album:
    """One picture for all runs on the same examples. Radii as each threat measures them, accuracies in percent."""
    album = Album()
    album.left_out.extend(
        f"{m.path} holds no accuracy by radius; measure it with robench evaluate --curve and a minimum-norm attack"
        for m in materials
        if not _measured(m.summary)
    )
    usable = [m for m in materials if _measured(m.summary)]
    for group in together(usable, lambda m: (m.summary.data.name, m.summary.data.sha256)):
        summaries = [m.summary for m in group]
        caption = f"{HOW} {questions(summaries)}{explained(t for s in summaries for t in _measured(s).values())}"
        album.pictures.append(Picture(file_name("curve", summaries[0].data.name), caption, draw(summaries, caption)))
    return album


@styled()
def draw(summaries: Sequence[Summary], caption: str) -> Figure:
    """The curves of models on the same examples."""
    norms = list(dict.fromkeys(norm for s in summaries for norm in _measured(s)))
    figure = sheet(PAGE if len(norms) > 1 else COLUMN, 2.8)
    panels: list[Axes] = list(figure.subplots(1, len(norms), sharey=True, squeeze=False)[0])
    for i, (summary, name) in enumerate(zip(summaries, _labels(summaries), strict=True)):
        for norm, entry in _measured(summary).items():
            _line(panels[norms.index(norm)], entry.curve, summary.data.examples, name, i)
    for norm, axes in zip(norms, panels, strict=True):
        axes.set_xlabel(f"radius in {NORMS.get(norm, norm)}\n({UNITS.get(norm, 'in its own unit')})")
        axes.set_xlim(left=0)
        axes.margins(x=0.02)
        percent_axis(axes)
    panels[0].set_ylabel("accuracy (%)")
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(handles=list(lines.values()), loc="outside upper center", ncols=4 if len(norms) > 1 else 2)
    write_below(figure, caption)
    return figure


def _labels(summaries: Sequence[Summary]) -> list[str]:
    """The names of the models; of a model with several sets of attacks, with these."""
    models = names(summaries)
    attacks = [dict.fromkeys(a.name for t in _measured(s).values() for a in t.attacks) for s in summaries]
    labels = zip(models, summaries, attacks, strict=True)
    return [
        name + marks(_measured(summary).values()) + (f" by {', '.join(by)}" if models.count(name) > 1 else "")
        for name, summary, by in labels
    ]


def _line(axes: Axes, curve: CurveEntry, n: int, name: str, i: int) -> None:
    bands = [wilson(round(share * n), n) for share in curve.accuracy]
    shares = [100 * share for share in curve.accuracy]
    low, high = ([100 * band[end] for band in bands] for end in (0, 1))
    colour = line_style(i)["color"]
    axes.fill_between(curve.radius, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(curve.radius, shares, label=name, **line_style(i))


def _measured(summary: Summary) -> dict[str, ThreatEntry]:
    """The threat with a curve for each norm; of several the largest, which contains the others."""
    found: dict[str, ThreatEntry] = {}
    for threat in summary.threats:
        norm = threat.threat.partition(":")[0]
        if threat.curve.radius and (norm not in found or threat.curve.radius[-1] > found[norm].curve.radius[-1]):
            found[norm] = threat
    return found
