"""The page about section 2 of Tramèr and Boneh 2019: what each statement says, its numbers, and a figure."""

import textwrap
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tabulate import tabulate

from ..results.figures.picture import Picture, line_style, percent_axis, sheet, styled
from ..results.stats.intervals import clopper_pearson
from .claim3 import LinearRisks, linear_risks
from .features import Features
from .linear import Linear
from .theorem1 import L1_RADIUS, Risks, linf_radius, mixtures
from .theorem2 import Estimate, ignoring, lower_bound, trusting
from .theorem4 import Broken, compounded_risks

BINARY = Features(d=1000, alpha=2.0, p0=0.95)
NORMAL = Features(d=3072, alpha=2.0)
SMALL = Features(d=100, alpha=2.0)
SHARES = np.linspace(0, 1, 101)
ALPHAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
POSITIONS = (1, 2, 4, 9, 25, 49, 121, 441)  # 49: translations by up to 3 pixels
SAMPLES = 10_000
HEAVY = Linear(np.concatenate([[3.0], np.full(SMALL.d, 0.3)]))
RADIUS = 0.05  # of the l_inf ball in theorem 4

Row = list[str]


@dataclass(frozen=True)
class Section:
    """A statement: its heading, what the numbers show, tables of headers and rows, and figures."""

    heading: str
    text: str
    tables: list[tuple[list[str], list[Row]]]
    pictures: list[Picture]


def sections() -> list[Section]:
    """All of them, computed: a few seconds."""
    return [_theorem1(), _theorem2(), _claim3(), _theorem4()]


def page(parts: list[Section]) -> str:
    """Markdown, with the figures beside it."""
    introduction = (
        "Section 2 of [the paper](https://arxiv.org/abs/1904.13000) proves on a small distribution that robustness to"
        " one threat costs robustness to another. One feature, x_0, agrees with the label strongly; d others agree"
        " with it weakly, with mean η = α/√d. This page computes each statement: exactly where a closed form exists,"
        f" else from a simulation of {SAMPLES:,} examples with 95 % intervals. Risks are error rates, in percent."
        " Command: `python -m robench.theory reports`."
    )
    blocks = ["# The theory of Tramèr and Boneh (2019)", _wrapped(introduction)]
    for part in parts:
        blocks += [f"## {part.heading}", _wrapped(part.text)]
        blocks += [
            tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True, stralign="right")
            for headers, rows in part.tables
        ]
        blocks += [f"![{picture.caption}](theory-{picture.name}.svg)" for picture in part.pictures]
    return "\n\n".join(blocks) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _theorem1() -> Section:
    risks = mixtures(BINARY, SHARES)
    best = min(risks, key=lambda r: r.average)
    rows: list[Row] = [_named_risks("h: the weak features", risks[0])]
    rows += [_named_risks(f"share {share:.1f}", risks[round(share * 100)]) for share in (0.2, 0.4, 0.6, 0.8)]
    rows.append(_named_risks("f: x_0 alone", risks[-1]))
    text = (
        f"With an l∞ radius of 2η and an l1 radius of {L1_RADIUS:g} no classifier has an average risk below 50 %."
        f" The table has exact risks of linear classifiers for d = {BINARY.d:,}, α = {BINARY.alpha:g} and"
        f" p0 = {BINARY.p0:g}: a share of the weight on x_0, the rest on the weak features. f withstands l∞, h"
        f" withstands l1, and none of the {len(SHARES)} mixtures has less than {_percent(best.average)} % on average."
        " The two adversaries of the proof leave the same distribution with opposite labels: the error rates of any"
        " classifier under them sum to exactly 100 %."
    )
    picture = _lines(
        "theorem-1",
        _Axis("share of the weight on x_0 (%)", 100 * SHARES),
        {
            "under l∞": [r.linf for r in risks],
            "under l1": [r.l1 for r in risks],
            "under both": [r.union for r in risks],
            "average": [r.average for r in risks],
        },
        "Theorem 1: exact risks of linear classifiers between h (left) and f (right). Dotted: the bound of 50 % on the"
        " average.",
        level=50.0,
    )
    by_alpha = [(features, mixtures(features, SHARES)) for features in (_binary(alpha) for alpha in ALPHAS)]
    by_eta: list[Row] = [
        [
            f"{features.alpha:g}",
            f"{features.eta:.3f}",
            *(_percent(r.average) for r in (found[0], found[-1], min(found, key=lambda r: r.average))),
        ]
        for features, found in by_alpha
    ]
    against_eta = _lines(
        "risk-against-eta",
        _Axis("η", np.array([features.eta for features, _ in by_alpha])),
        {
            "h under l∞": [found[0].linf for _, found in by_alpha],
            "h under l1": [found[0].l1 for _, found in by_alpha],
            "f under l∞": [found[-1].linf for _, found in by_alpha],
            "f under l1": [found[-1].l1 for _, found in by_alpha],
        },
        f"Exact risks of f and h against η, for d = {BINARY.d:,}; the l∞ radius is 2η.",
    )
    headers = ["classifier", "l∞", "l1", "both", "average"]
    eta_headers = ["α", "η", "average of h", "average of f", "least average of a mixture"]
    return Section("Theorem 1: l∞ and l1", text, [(headers, rows), (eta_headers, by_eta)], [picture, against_eta])


def _binary(alpha: float) -> Features:
    return Features(BINARY.d, alpha, BINARY.p0)


def _theorem2() -> Section:
    found = [(n, lower_bound(NORMAL, n, SAMPLES), ignoring(NORMAL, n), trusting(NORMAL, n)) for n in POSITIONS]
    rows: list[Row] = [
        [str(n), _percent(bound.mean), _interval(bound), f"{(0.5 - bound.mean) * n**0.5:.2f}", _percent(a), _percent(b)]
        for n, bound, a, b in found
    ]
    text = (
        "With an l∞ radius of 2η and rotation-translations that move x_0 to one of N positions the average risk of any"
        f" classifier is at least 1/2 - O(1/√N). For d = {NORMAL.d:,} and α = {NORMAL.alpha:g} the table has the error"
        " rate of the Bayes classifier against two fixed adversaries, below which the average risk of no classifier"
        " lies. What is missing to 1/2 shrinks as 1/√N: times √N it tends to a constant. Two classifiers of the paper"
        " are beside it: one sums the weak features that x_0 cannot reach, one trusts x_0."
    )
    picture = _lines(
        "theorem-2",
        _Axis("positions N of x_0", np.array(POSITIONS), logarithmic=True),
        {
            "bound for every classifier": [bound.mean for _, bound, _, _ in found],
            "sums the weak features out of reach": [a for _, _, a, _ in found],
            "trusts x_0": [b for _, _, _, b in found],
        },
        f"Theorem 2: average risk under l∞ and rotation-translations, d = {NORMAL.d:,}, α = {NORMAL.alpha:g}. No"
        " classifier lies below the bound.",
        level=50.0,
    )
    headers = ["N", "bound", "95 % interval", "(1/2 - bound)·√N", "weak features", "x_0"]
    return Section("Theorem 2: l∞ and rotation-translations", text, [(headers, rows)], [picture])


def _claim3() -> Section:
    one, two = ("linf", linf_radius(BINARY) / 2), ("l1", L1_RADIUS / 4)
    risks = [linear_risks(Linear.mixing(float(share), BINARY.d), BINARY, one, two) for share in SHARES]
    differing = sum(r.union != r.affine for r in risks)
    rows: list[Row] = [
        _linear_row(f"{share:.1f}", risks[round(share * 100)]) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    text = (
        "Against a linear classifier an adversary that mixes two l_p balls affinely is no stronger than the better of"
        " the two balls for each example, because what it achieves is linear in β. Exact risks of the classifiers of"
        f" theorem 1, with l∞ radius η and l1 radius {two[1]:g}: of {len(SHARES)} mixtures {differing} have another"
        " risk under the affine adversary than under the union."
    )
    picture = _lines(
        "claim-3",
        _Axis("share of the weight on x_0 (%)", 100 * SHARES),
        {
            "under l∞": [r.one for r in risks],
            "under l1": [r.two for r in risks],
            "under both": [r.union for r in risks],
            "affine": [r.affine for r in risks],
        },
        "Claim 3: exact risks of linear classifiers. The line of the affine adversary lies on that of the union.",
    )
    headers = ["share on x_0", "l∞", "l1", "both", "affine"]
    return Section("Claim 3: affine mixtures of l_p balls", text, [(headers, rows)], [picture])


def _theorem4() -> Section:
    found = [(n, compounded_risks(HEAVY, SMALL, RADIUS, n, SAMPLES)) for n in (1, 2, 3, 5, 9, 25, 49)]
    rows: list[Row] = [_broken_row(n, broken) for n, broken in found]
    text = (
        "Compounding l∞ with rotation-translations is stronger than the union of both, for linear classifiers too, if"
        f" N > 2. For d = {SMALL.d}, α = {SMALL.alpha:g}, weights 3 and 0.3 and an l∞ radius of {RADIUS:g} the last"
        " column has the share that only the affine adversary breaks, with its exact interval. With N = 2, x_0 has one"
        " other position, half of the budget moves nothing, and there is none."
    )
    picture = _lines(
        "theorem-4",
        _Axis("positions N of x_0", np.array([n for n, _ in found]), logarithmic=True),
        {
            "under l∞": [float(b.linf.mean()) for _, b in found],
            "under rotation-translations": [float(b.rt.mean()) for _, b in found],
            "under both": [float(b.union.mean()) for _, b in found],
            "affine": [float(b.affine.mean()) for _, b in found],
        },
        f"Theorem 4: risks of a linear classifier, {SAMPLES:,} simulated examples.",
    )
    headers = ["N", "l∞", "rotation-translations", "both", "affine", "affine alone", "95 % interval"]
    return Section("Theorem 4: affine mixtures of l∞ and rotation-translations", text, [(headers, rows)], [picture])


@dataclass(frozen=True)
class _Axis:
    label: str
    values: Float[np.ndarray, "n"] | Int[np.ndarray, "n"]
    logarithmic: bool = False


@styled()
def _lines(name: str, along: _Axis, lines: dict[str, list[float]], caption: str, level: float | None = None) -> Picture:
    """A line of risks for each name, and a dotted one at `level` percent."""
    figure = sheet(4.0, 3.0)
    axes = figure.subplots()
    for i, (line, risks) in enumerate(lines.items()):
        axes.plot(along.values, 100 * np.array(risks), label=line, **line_style(i))
    if level is not None:
        axes.axhline(level, color="black", linewidth=0.8, linestyle=":")
    if along.logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(along.values, [str(n) for n in along.values])
        axes.minorticks_off()
    percent_axis(axes)
    axes.set_xlabel(along.label)
    axes.set_ylabel("risk (%)")
    figure.legend(loc="outside upper center", ncols=2)
    return Picture(name, caption, figure)


def _named_risks(name: str, risks: Risks) -> Row:
    return [name, *(_percent(share) for share in (risks.linf, risks.l1, risks.union, risks.average))]


def _linear_row(name: str, risks: LinearRisks) -> Row:
    return [name, *(_percent(share) for share in (risks.one, risks.two, risks.union, risks.affine))]


def _broken_row(positions: int, broken: Broken) -> Row:
    alone = int((broken.affine & ~broken.union).sum())
    low, high = clopper_pearson(alone, len(broken.affine))
    shares = (broken.linf, broken.rt, broken.union, broken.affine)
    return [
        str(positions),
        *(_percent(float(share.mean())) for share in shares),
        _percent(alone / len(broken.affine)),
        f"{_percent(low)} to {_percent(high)}",
    ]


def _interval(estimate: Estimate) -> str:
    return f"{_percent(estimate.low)} to {_percent(estimate.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
