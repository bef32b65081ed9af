"""How every picture looks, what it says below itself, and how it becomes bytes: the same ones each time."""

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
from ..summary import Summary

FORMS = ("svg", "png")
COLUMN, PAGE = 3.5, 7.0  # inches: one column of a paper, and both
DOTS = 200  # per inch, of PNG

# Okabe and Ito 2008: told apart with any kind of colour vision, and by line style and marker without colour.
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
    "svg.fonttype": "path",  # looks alike without our font; the words stand in the description
    "svg.hashsalt": "robench",  # else ids in the file are random
    "savefig.dpi": DOTS,
}


@dataclass(frozen=True)
class Picture:
    """A figure under the name of its file, with what it shows in words."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Material:
    """A run as it is drawn: what was asked, what is known, what it amounts to."""

    path: str  # as the user named it, for sentences to them alone
    plan: Plan
    evidence: Evidence
    summary: Summary


@dataclass(frozen=True)
class Album:
    """Pictures of one kind, and a sentence for each run that could not be in one: why, and what to type."""

    pictures: list[Picture] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@contextmanager
def styled() -> Iterator[None]:
    """Our settings and matplotlib's defaults, whatever the user's own say. Also a decorator."""
    with style.context(["default", _STYLE]):
        yield


@styled()
def image_bytes(picture: Picture, form: str) -> bytes:
    """The file. Without a date or a version of anything, so that the same picture gives the same bytes."""
    assert form in FORMS, form
    told: Mapping[str, str | None] = {"Title": picture.name, "Description": picture.caption}
    nothing: Mapping[str, str | None] = (
        {"Date": None, "Creator": "robench"} if form == "svg" else {"Software": None, "Author": "robench"}
    )
    with io.BytesIO() as file:
        picture.figure.savefig(file, format=form, metadata={**told, **nothing})
        return file.getvalue()


def sheet(width: float, height: float) -> Figure:
    """An empty figure, in inches, that arranges what is put on it."""
    return Figure(figsize=(width, height), layout="constrained")


def write_below(figure: Figure, caption: str) -> None:
    """The caption under everything, where it travels with the picture."""
    letters = int(figure.get_figwidth() * 23)
    text = textwrap.fill(caption, letters, break_on_hyphens=False)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6, color=QUIET)


def asked(summary: Summary) -> str:
    """What stands in every caption: data, how many examples, protocol, seed."""
    return f"{summary.data.name}, n = {summary.data.examples}; protocol {summary.protocol}; seed {summary.seed}."


def asked_all(summaries: Sequence[Summary]) -> str:
    """The same for several runs about one thing, each protocol and seed once."""
    first = summaries[0]
    protocols = ", ".join(dict.fromkeys(s.protocol for s in summaries))
    seeds = ", ".join(dict.fromkeys(str(s.seed) for s in summaries))
    return f"{first.data.name}, n = {first.data.examples}; protocol {protocols}; seed {seeds}."


def together(materials: Iterable[Material], key: Callable[[Material], Hashable]) -> list[list[Material]]:
    """Materials with equal keys, in the order they come."""
    groups: dict[Hashable, list[Material]] = {}
    for material in materials:
        groups.setdefault(key(material), []).append(material)
    return list(groups.values())


def file_name(kind: str, about: str) -> str:
    """`curve-mnist-test` for curve and mnist:test. No more than 100 characters of what it is about."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', about).strip('-.')[:100]}"


def look(i: int) -> dict[str, Any]:
    """Colour and line style of the i-th thing in a picture."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def percent_axis(axes: Any) -> None:
    """From 0 to 100 %, with room for a line that lies on either."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
