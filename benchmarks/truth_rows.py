"""The rows that benchmarks/time_to_truth.py measures: their file, their table and their plot."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from robench.results.figures import Picture
from robench.results.figures.picture import COLOURS, MARKERS, NORMS, PAGE, QUIET, sheet, styled

REFERENCES = AUTOATTACK, FOOLBOX = "AutoAttack", "Foolbox"
ORDER = ("linf", "l2", "l1")
TIMED = 50  # images, unless more are asked for: then the rows and the table are others

Pair = tuple[str, str]  # a model and a threat
Theirs = Mapping[str, Mapping[Pair, str]]  # outcomes of each reference on each pair that it has a run of
Row = dict[str, object]


@dataclass(frozen=True)
class Measured:
    """A protocol on one model under one threat."""

    protocol: str
    model: str
    threat: str
    attacks: list[str]  # of the protocol under this threat, with every number
    outcomes: list[str]  # for each seed, a letter per example
    timed: int  # images
    pairs: int  # timings of each
    seconds: dict[str, float]  # CPU time on these images, by protocol and reference
    gradients: dict[str, int]  # on these images
    machine: str
    commit: str
    precision: str = "float32"  # of the protocol's searches; the references compute in float32

    @property
    def name(self) -> str:
        """The key of the row in the file."""
        return row_name(self.protocol, self.model, self.threat, self.precision, self.timed)

    @property
    def pair(self) -> Pair:
        """The model and the threat."""
        return self.model, self.threat

    @property
    def standing(self) -> list[int]:
        """The number of examples that stand, for each seed."""
        return [outcomes.count("S") for outcomes in self.outcomes]


def row_name(protocol: str, model: str, threat: str, precision: str, timed: int) -> str:
    """The key of a row in the file."""
    low = f" {precision}" if precision != "float32" else ""
    return f"{protocol} {model} {threat}{low}" + (f" {timed} timed" if timed > TIMED else "")


def read(path: Path) -> dict[str, Measured]:
    """What was measured so far, by protocol, model and threat."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: Measured(**fields) for name, fields in found.items()}


def keep(path: Path, rows: Mapping[str, Measured]) -> None:
    """Writes all rows, or leaves the file as it is."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({name: asdict(rows[name]) for name in sorted(rows)}, indent=1) + "\n")
    new.replace(path)


# The table.


def table(measured: Sequence[Measured], theirs: Theirs, known: Mapping[Pair, Sequence[str]]) -> list[Row]:
    """The rows of one protocol, the sums of each norm and of all, and that of those with Foolbox if not all have it.

    `known` has the outcomes of everything else that is on file about a pair.
    """
    rows = [
        table_row(row, {name: of[row.pair] for name, of in theirs.items() if row.pair in of}, known[row.pair])
        for row in measured
    ]
    with_foolbox = [row for row in rows if f"{FOOLBOX} leaves" in row]
    of_norm = {norm: [row for row in rows if str(row["threat"]).startswith(f"{norm}:")] for norm in ORDER}
    sums = [summed(f"sum, {norm}", some) for norm, some in of_norm.items() if len(some) > 1]
    sums.append(summed("sum", rows))
    if 0 < len(with_foolbox) < len(rows):
        sums.append(summed(f"sum with {FOOLBOX}", with_foolbox))
    return rows + sums


def table_row(measured: Measured, theirs: Mapping[str, str], known: Sequence[str]) -> Row:
    """One pair: what the protocol and the references leave, image by image, and what they take."""
    protocol = measured.protocol
    row: Row = {"model": measured.model, "threat": measured.threat, f"{protocol} leaves": cell(measured.standing)}
    for name, outcomes in theirs.items():
        row[f"{name} leaves"] = cell([outcomes.count("S")])
        row[f"only {name} breaks"] = cell(one_sided(ours, outcomes) for ours in measured.outcomes)
        row[f"{name} misses"] = cell(one_sided(outcomes, ours) for ours in measured.outcomes)
    row["everything else leaves"] = cell([together(known).count("S")])
    row |= {f"{name} gradients": cell([count]) for name, count in measured.gradients.items()}
    row |= {f"{name} s": seconds for name, seconds in measured.seconds.items()}
    return row | ratios(row, protocol)


def cell(counts: Iterable[float]) -> str:
    """The counts of all seeds."""
    return " ".join(f"{count:.0f}" for count in counts)


def ratios(row: Row, protocol: str) -> Row:
    """How many times faster than each reference the protocol is."""
    timed = [name for name in REFERENCES if f"{name} s" in row]
    ours = float(str(row[f"{protocol} s"])) if timed else 0
    return {f"times faster than {name}": float(str(row[f"{name} s"])) / ours for name in timed}


def one_sided(standing: str, broken: str) -> int:
    """The number of examples that stand in the first and are broken in the second."""
    return sum(a == "S" and b == "B" for a, b in zip(standing, broken, strict=True))


def together(known: Sequence[str]) -> str:
    """The outcomes of several searches of the same examples: what one of them breaks is broken."""
    return "".join("B" if "B" in letters else letters[0] for letters in zip(*known, strict=True))


def summed(name: str, rows: Sequence[Row]) -> Row:
    """Sums of the columns that every row has, by seed where a cell has several; ratios are those of the sums."""
    total: Row = {"model": name}
    for key in rows[0]:
        if key in ("model", "threat") or key.startswith("times faster") or not all(key in row for row in rows):
            continue
        columns = [[float(part) for part in str(row[key]).split()] for row in rows]
        values = [sum(column) for column in zip(*columns, strict=True)]
        total[key] = values[0] if isinstance(rows[0][key], float) else cell(values)
    protocol = next(key for key in rows[0] if key.endswith(" leaves")).removesuffix(" leaves")
    return total | ratios(total, protocol)


# The plot.


@dataclass(frozen=True)
class Point:
    """A protocol or a reference over several pairs."""

    name: str
    seconds: float  # CPU time, summed over pairs
    accuracy: float  # percent of all examples of all pairs, the mean over seeds
    lowest: float  # of the seeds
    highest: float


def pairs_of(measured: Sequence[Measured], norm: str, references: Sequence[str]) -> list[Pair]:
    """The pairs of this norm on which every protocol was timed, in turn with these references."""
    complete = [row for row in measured if row.threat.startswith(f"{norm}:") and {*references} <= row.seconds.keys()]
    found = [{row.pair for row in complete if row.protocol == name} for name in protocols_of(measured)]
    return sorted(set.intersection(*found)) if found else []


def protocols_of(measured: Sequence[Measured]) -> list[str]:
    """The protocols, each once, in their order."""
    return list(dict.fromkeys(row.protocol for row in measured))


def points(
    measured: Sequence[Measured], theirs: Theirs, pairs: Sequence[Pair], references: Sequence[str]
) -> list[Point]:
    """Every protocol and reference on these pairs. Seconds of a reference are medians over the protocols' rows."""
    rows = [row for row in measured if row.pair in pairs]
    found = []
    for name in protocols_of(rows):
        mine = [row for row in rows if row.protocol == name]
        examples = sum(len(row.outcomes[0]) for row in mine)
        of_seeds = [100 * sum(counts) / examples for counts in zip(*(row.standing for row in mine), strict=True)]
        taken = sum(row.seconds[name] for row in mine)
        found.append(Point(name, taken, mean(of_seeds), min(of_seeds), max(of_seeds)))
    for name in references:
        outcomes = "".join(theirs[name][pair] for pair in pairs)
        accuracy = 100 * outcomes.count("S") / len(outcomes)
        taken = sum(median(row.seconds[name] for row in rows if row.pair == pair) for pair in pairs)
        found.append(Point(name, taken, accuracy, accuracy, accuracy))
    return found


def picture(measured: Sequence[Measured], theirs: Theirs) -> Picture | None:
    """Accuracy against CPU seconds for each norm; None where no pair was timed with every protocol.

    The first row of panels is over the pairs that every protocol and AutoAttack have, the second over those of them
    that Foolbox has too, if these are not the same.
    """
    rows: list[dict[str, list[Point]]] = []
    shared: list[dict[str, list[Pair]]] = []
    for references in ((AUTOATTACK,), REFERENCES):
        pairs = {norm: some for norm in ORDER if (some := pairs_of(measured, norm, references))}
        if shared == [pairs]:
            rows, shared = [], []
        if pairs:
            rows.append({norm: points(measured, theirs, some, references) for norm, some in pairs.items()})
            shared.append(pairs)
    if not rows:
        return None
    images = ", ".join(map(str, sorted({row.timed for row in measured})))
    machines = ", ".join(sorted({row.machine for row in measured}))
    caption = (
        f"Accuracy on the first {len(measured[0].outcomes[0])} images of each model, an upper bound; CPU seconds of one"
        f" thread for the first {images} images, summed over the models of a panel. A bar spans the seeds. {machines}."
    )
    counts = [{norm: len(some) for norm, some in pairs.items()} for pairs in shared]
    return Picture("time-to-truth", caption, figure_of(rows, counts, caption))


@styled()
def figure_of(
    rows: Sequence[Mapping[str, Sequence[Point]]], counts: Sequence[Mapping[str, int]], caption: str
) -> Figure:
    """A panel for each norm and row. A protocol or reference looks the same in all of them."""
    shown = {point.name: None for row in rows for some in row.values() for point in some}
    names = sorted(shown, key=lambda name: name not in REFERENCES)  # so that a reference always has the same colour
    marks: dict[str, dict[str, Any]] = {
        name: {"color": colour, "marker": marker, "linestyle": "none"}
        for name, colour, marker in zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    }
    figure = sheet(PAGE, 0.9 + 2.1 * len(rows))
    grid = figure.subplots(len(rows), len(ORDER), squeeze=False)
    for row, models, line in zip(rows, counts, grid, strict=True):
        for norm, axes in zip(ORDER, line, strict=True):
            if norm not in row:
                axes.set_axis_off()
                continue
            for point in row[norm]:
                bar = [[point.accuracy - point.lowest], [point.highest - point.accuracy]]
                axes.errorbar([point.seconds], [point.accuracy], bar, capsize=2, elinewidth=0.8, **marks[point.name])
            axes.set_xscale("log", subs=())
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.margins(x=0.15, y=0.15)
            axes.set(title=f"{NORMS[norm]}, {models[norm]} model{'s' * (models[norm] > 1)}")
    for axes in grid[-1]:
        axes.set_xlabel("CPU seconds")
    for line in grid:
        line[0].set_ylabel("accuracy (%)")
    handles = [Line2D([], [], label=name, **mark) for name, mark in marks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel(textwrap.fill(caption, 140), x=0.01, ha="left", fontsize=6, color=QUIET)
    return figure
