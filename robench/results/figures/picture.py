"""The common style, caption and file of all pictures. The same picture always gives the same bytes."""

import io
import re
import textwrap
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from ...evidence.records import Evidence, Plan
from ..summary import Summary, ThreatEntry
from ..tables.cells import MASKED

FORMS = ("svg", "png")
COLUMN, PAGE = 3.5, 7.0  # inches: one column of a paper, and both
DOTS = 200  # per inch, of PNG

# Okabe and Ito 2008: distinct for any kind of colour vision, and by line style and marker without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
UNION = "#7A4A1E"  # the brown of Tramèr and Boneh's figure
QUIET = "#555555"

NORMS = {"linf": "ℓ∞", "l2": "ℓ₂", "l1": "ℓ₁", "l0": "ℓ₀"}
UNITS = {"linf": "largest change of a pixel", "l2": "Euclidean length", "l1": "sum of changes", "l0": "pixels changed"}

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.fonttype": "path",  # independent of installed fonts; the description holds the text
    "svg.hashsalt": "robench",  # otherwise ids in the file are random
    "savefig.dpi": DOTS,
}


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file, and a caption that describes it."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Material:
    """The run behind a picture: its plan, its evidence and its summary."""

    path: str  # as the user typed it, for messages only
    plan: Plan
    evidence: Evidence
    summary: Summary


@dataclass(frozen=True)
class Album:
    """Pictures of one kind, and a sentence for each run that is in none: why, and what to type."""

    pictures: list[Picture] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@contextmanager
def styled() -> Iterator[None]:
    """The settings of robench over matplotlib's defaults, not the user's. Also a decorator."""
    with style.context(["default", _STYLE]):
        yield


@styled()
def image_bytes(picture: Picture, form: str) -> bytes:
    """The content of the file, without dates and versions, so that the same picture gives the same bytes."""
    assert form in FORMS, form
    described: Mapping[str, str | None] = {"Title": picture.name, "Description": picture.caption}
    undated: Mapping[str, str | None] = (
        {"Date": None, "Creator": "robench"} if form == "svg" else {"Software": None, "Author": "robench"}
    )
    with io.BytesIO() as file:
        picture.figure.savefig(file, format=form, metadata={**described, **undated})
        return file.getvalue()


def sheet(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, with an automatic layout."""
    return Figure(figsize=(width, height), layout="constrained")


def write_below(figure: Figure, caption: str) -> None:
    """Write the caption below everything, as a part of the picture."""
    letters = int(figure.get_figwidth() * 23)
    text = textwrap.fill(caption, letters, break_on_hyphens=False)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6, color=QUIET)


def question(summary: Summary) -> str:
    """The question, for captions: data, number of examples, protocol, seed."""
    return f"{summary.data.name}, n = {summary.data.examples}; protocol {summary.protocol}; seed {summary.seed}."


def questions(summaries: Sequence[Summary]) -> str:
    """The question of several runs on the same data, with each protocol and seed once."""
    first = summaries[0]
    protocols = ", ".join(dict.fromkeys(s.protocol for s in summaries))
    seeds = ", ".join(dict.fromkeys(str(s.seed) for s in summaries))
    return f"{first.data.name}, n = {first.data.examples}; protocol {protocols}; seed {seeds}."


def marks(shown: Iterable[ThreatEntry]) -> str:
    """What a name has behind it for these threats: † for masked gradients, ≤ while searches are still to do."""
    entries = [*shown]
    doubtful = any(t.masking.verdict in MASKED for t in entries)
    return f"{'†' if doubtful else ''}{' ≤' if any(t.open for t in entries) else ''}"


def explained(shown: Iterable[ThreatEntry]) -> str:
    """Sentences for a caption on the marks of all models, which have these threats."""
    entries = [*shown]
    doubtful = any(t.masking.verdict in MASKED for t in entries)
    left = sum(t.open for t in entries)
    return (" † gradients are masked, or may be." if doubtful else "") + (
        f" ≤ not finished: {left} open cases count as standing." if left else ""
    )


def together(materials: Iterable[Material], key: Callable[[Material], Hashable]) -> list[list[Material]]:
    """Groups of materials with equal keys, in their order."""
    groups: dict[Hashable, list[Material]] = {}
    for material in materials:
        groups.setdefault(key(material), []).append(material)
    return list(groups.values())


def file_name(kind: str, about: str) -> str:
    """`curve-mnist-test` for curve and mnist:test, with at most 100 characters of the latter."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', about).strip('-.')[:100]}"


def line_style(i: int) -> dict[str, Any]:
    """Colour and style of the i-th line in a picture."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def percent_axis(axes: Any) -> None:
    """Scale the vertical axis from 0 to 100 %, with room for a line at either end."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
