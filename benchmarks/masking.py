"""Gradient masking: verdicts of `--masking` on masked and on honest models, and the effect of surrogate gradients.

    python benchmarks/masking.py [--examples N] [--deep] [--only NAME ...] [--keep DIR]

Every mask of `robench.testing.masked` around `digits-adv-linf`, three around a linear model, and honest models, under
the threats that they were trained for. `off`, `on` and `deep` run in turn on one run file, so each starts from the
results of the previous one. `truth` is the accuracy that should be found. For a mask that keeps every prediction, it is
that of the model inside after the same checks. For a mask that changes some, it is the interval from the certified
accuracy (0 if nothing can be certified) to that left by the verified attacks of an attacker who knows the mask. For a
linear model under l_inf, masked pixel by pixel or not, it is exact. With `--keep`, the same command resumes.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from known_masks import evaluate_known_mask, standing_bound, standing_exactly
from measuring import write_results
from resumable import Row, SavedRows, add_option
from tabulate import tabulate
from torch import Tensor, nn

from robench.evaluation import prepared
from robench.evaluation.model_source import source_of
from robench.evaluation.request import EvalRequest, choose
from robench.masking import schedule
from robench.problem import checkpoints, datasets
from robench.problem.threats import Ball, parse
from robench.results.summary import Summary
from robench.testing.masked import MASKED, masked

BASE, THREAT = "digits-adv-linf", "linf:0.2"
HONEST = {
    "digits-nat": ("linf:0.02", "l2:0.5"),
    "digits-adv-linf": (THREAT,),
    "digits-adv-l2": ("l2:2",),
    "digits-adv-l1": ("l1:10",),
    "digits-sat": (THREAT, "l2:2", "l1:10"),
}
LINEAR = ("linf:0.05", "l2:0.5")
PIXELWISE = ("rounded-input", "black-and-white", "dead-threshold")  # masks that change every pixel independently
PASSES = 10  # that a search averages for stochastic models; claims are verified over 100, as always
NEAR = 3.0  # points between the found accuracy and the truth


@dataclass(frozen=True)
class ModelSource:
    """A model to evaluate, and what is known about it."""

    name: str
    kind: str
    module: nn.Module
    threats: tuple[str, ...]
    mask: str = ""  # around BASE
    linear: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--deep", action="store_true", help="also run --masking deep, on deterministic masks")
    parser.add_argument("--only", nargs="*", default=[], help="run only these models, and write no page")
    add_option(parser)
    args = parser.parse_args()
    without_time_limit(args.examples)
    saved, rows = SavedRows(args.keep), []
    for subject in _subjects():
        wanted = not args.only or subject.name in args.only
        if wanted or (subject.name == BASE and _keeping(args.only)):  # its accuracy is the truth for others
            question = {"examples": args.examples, "deep": args.deep, "passes": PASSES}
            for row in saved.rows(
                subject.name, question, lambda s=subject: list(_rows_of(s, args.examples, args.deep))
            ):
                rows.append(row)
                print(row, flush=True)
    _add_truth(rows)
    deep = " --deep" if args.deep else ""
    notes = [
        *_confusion(rows),
        "",
        *_within(rows),
        "",
        "Accuracy in percent of the examples, under the protocol quick with that threat. Held out: masks chosen by a"
        " hash of the name, and not used while thresholds were set. Seconds are the cost of the checks in addition to"
        " the attacks, without the time limit of `on`. Searches on stochastic models average over"
        f" {PASSES} passes. Truth: see benchmarks/masking.py.",
        *saved.note(),
        f"Command: python benchmarks/masking.py --examples {args.examples}{deep}",
    ]
    if args.only:  # a part must not replace the results of the whole
        print(tabulate(rows, headers="keys", tablefmt="pipe"), *_within(rows), sep="\n")
        return
    write_results("masking-digits", "Gradient masking: a zoo and honest models", rows, notes, torch.device("cpu"))


def without_time_limit(examples: int) -> None:
    """Sets one thread, no time limit, and no idle rows in a batch: results must not depend on the machine's load."""
    torch.set_num_threads(1)
    schedule.MIN = schedule.MORE_MIN = float("inf")
    prepared.SLOTS["cpu"] = min(64, examples)  # a stochastic model pays for every idle row in every pass


def evaluated(
    module: nn.Module, threats: Sequence[str], examples: int, level: str, run: Path | None = None, seed: int = 0
) -> Summary:
    """The result of the protocol quick with these threats on digits, then the masking checks."""
    request = EvalRequest("digits", "quick", tuple(threats), examples=str(examples), seed=seed, masking=level)
    split, protocol = choose(request)
    return prepared.prepare(request, source_of(module), (split, replace(protocol, eot=PASSES))).answer(run).summary


def _subjects() -> Iterator[ModelSource]:
    for name, threats in HONEST.items():
        yield ModelSource(name, "honest", loaded(name), threats)
    yield ModelSource("linear", "honest", _linear(0.0), LINEAR, linear=True)
    yield ModelSource("linear, small weights", "honest", _linear(0.05), (THREAT, "l2:2"), linear=True)
    for name, mask in MASKED.items():
        kind = f"{'keeps' if mask.keeps else 'changes'} predictions{', held out' if mask.held_out else ''}"
        yield ModelSource(name, kind, masked(name, loaded(BASE)), (THREAT,), mask=name)
    for name in PIXELWISE:
        wrapped = masked(name, _linear(0.0))
        yield ModelSource(f"{name}, linear", "changes predictions, linear", wrapped, LINEAR[:1], linear=True)


def _keeping(names: Sequence[str]) -> bool:
    return any(name in MASKED and MASKED[name].keeps for name in names)


def loaded(name: str) -> nn.Module:
    """A copy of a bundled model."""
    return copy.deepcopy(checkpoints.load(name).classifier.module)


def _linear(decay: float) -> nn.Module:
    """A multinomial regression; weight decay makes its Lipschitz constant small."""
    torch.manual_seed(0)
    split = datasets.load("digits:train")
    net = nn.Sequential(nn.Flatten(), nn.Linear(split.x[0].numel(), split.classes))
    sgd = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=decay)
    for _ in range(300):
        loss: Tensor = F.cross_entropy(net(split.x), split.y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return net


def _rows_of(subject: ModelSource, examples: int, deep: bool) -> Iterator[Row]:
    found: dict[str, tuple[Summary, float]] = {}
    # On stochastic models, full attacks would take hours; on honest models, they would add nothing.
    deep = deep and subject.kind != "honest" and subject.name not in ("noise", "dropped", "shifted")
    with tempfile.TemporaryDirectory() as folder:
        for level in ("off", "on", *(["deep"] if deep else [])):
            start_time = time.process_time()
            summary = evaluated(subject.module, subject.threats, examples, level, Path(folder) / "run.robench")
            found[level] = summary, time.process_time() - start_time
    for place, threat in enumerate(subject.threats):
        row: Row = {"model": subject.name, "kind": subject.kind, "threat": threat, "of": examples, "verdict": ""}
        for level, (summary, seconds) in found.items():
            entry = summary.threats[place]
            row[level] = f"{'≤ ' if entry.open else ''}{100 * entry.accuracy:.1f}"
            row["verdict"] = entry.masking.verdict if level == "on" else row["verdict"]
            if level != "off":
                row[f"seconds, {level}"] = round(seconds, 1)
        yield row | {"truth": _truth(subject, threat, examples)}


def _truth(subject: ModelSource, threat: str, examples: int) -> str:
    """The accuracy that should be found, in percent; empty if it is unknown, or given by another row."""
    about = parse(threat)
    assert isinstance(about, Ball), f"{threat} has no radius"
    if subject.linear and about.name == "linf":
        return f"{100 * standing_exactly(subject.module, 'digits', about.r, examples) / examples:.1f}"
    if subject.mask and not MASKED[subject.mask].keeps:
        left = evaluate_known_mask(subject.mask, loaded(BASE), "digits", threat, examples).threats[0]
        pixelwise = subject.mask in PIXELWISE and about.name == "linf"
        bound = standing_bound(subject.module, "digits", about.r, examples) if pixelwise else 0
        return f"{100 * bound / examples:.1f} to {100 * left.accuracy:.1f}"
    return ""


def _add_truth(rows: list[Row]) -> None:
    """Sets the truth of masks that keep every prediction: the accuracy of the model inside after the same checks."""
    inside = next((row["on"] for row in rows if (row["model"], row["threat"]) == (BASE, THREAT)), "")
    for row in rows:
        if str(row["kind"]).startswith("keeps"):
            row["truth"] = inside


def _within(rows: list[Row]) -> Iterator[str]:
    """The number of masks for which the found accuracy is near the truth."""
    sentences = {
        "keeps predictions": "that keep predictions {near} of {all} end within {points:g} points of the model inside",
        "changes predictions": "that change some {near} of {all} end within {points:g} points of the informed attack",
        "changes predictions, linear": "of a linear model {near} of {all} end within {points:g} points of the truth",
    }
    for kind, sentence in sentences.items():
        known = [row for row in rows if str(row["kind"]).replace(", held out", "") == kind and row["truth"]]
        near = sum(_number(row["on"]) <= _number(row["truth"]) + NEAR for row in known)
        yield f"Of masks {sentence.format(near=near, all=len(known), points=NEAR)}."


def _number(text: object) -> float:
    """The last number in a text such as `≤ 47.5` or `0.0 to 47.5`."""
    return float(str(text).split()[-1])


def _confusion(rows: list[Row]) -> Iterator[str]:
    yield "| | masked | suspect | none-found | untested |"
    yield "|:--|--:|--:|--:|--:|"
    for kind in dict.fromkeys(str(row["kind"]) for row in rows):
        verdicts = [row["verdict"] for row in rows if row["kind"] == kind]
        counts = [str(verdicts.count(v)) for v in ("masked", "suspect", "none-found", "untested")]
        yield f"| {kind} | {' | '.join(counts)} |"


if __name__ == "__main__":
    main()
