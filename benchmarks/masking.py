"""Gradient masking: what `--masking` says of models that mask and of honest ones, and how far remedies bring them down.

    python benchmarks/masking.py [--examples N] [--deep] [--only NAME ...] [--keep DIR]

Every mask of `robench.testing.masked` round `digits-adv-linf`, three round a linear model, and honest models, under the
threats they were trained for. `off`, `on` and `deep` are asked in turn of one run, so each begins with what the one
before has found. What the accuracy should come to, `truth`, is for a mask that keeps every prediction that of the model
inside after the same look; for one that changes some the interval from what is certified (0 where nothing can be) to
what verified witnesses leave, made by an attacker who knows the mask; for a linear model under l_inf, masked pixel by
pixel or not, it is exact. With `--keep` the same command goes on where it was stopped.
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
from kept import Kept, Row, add_option
from measuring import keep
from tabulate import tabulate
from torch import Tensor, nn
from witnesses import standing_exactly, standing_surely, witnessed

from robench.evaluation import prepared
from robench.evaluation.model_source import source_of
from robench.evaluation.request import EvalRequest, choose
from robench.masking import schedule as scrutiny
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
PIXELWISE = ("rounded-input", "black-and-white", "dead-threshold")  # masks that move every pixel by itself
PASSES = 10  # that a search averages, of models that answer at random; claims are judged over 100, as always
NEAR = 3.0  # points, between what is found and the truth


@dataclass(frozen=True)
class ModelSource:
    """A model to be asked about, and what is known of it."""

    name: str
    kind: str
    module: nn.Module
    threats: tuple[str, ...]
    mask: str = ""  # round BASE
    linear: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument(
        "--deep", action="store_true", help="look deep as well, at masks that answer the same each time"
    )
    parser.add_argument("--only", nargs="*", default=[], help="these models, and write no page")
    add_option(parser)
    asked = parser.parse_args()
    unhurried(asked.examples)
    kept, rows = Kept(asked.keep), []
    for subject in _subjects():
        wanted = not asked.only or subject.name in asked.only
        if wanted or (subject.name == BASE and _keeping(asked.only)):  # whose accuracy is the truth of others
            question = {"examples": asked.examples, "deep": asked.deep, "passes": PASSES}
            for row in kept.rows(subject.name, question, lambda s=subject: list(_asked(s, asked.examples, asked.deep))):
                rows.append(row)
                print(row, flush=True)
    _add_truth(rows)
    deep = " --deep" if asked.deep else ""
    notes = [
        *_confusion(rows),
        "",
        *_within(rows),
        "",
        "Accuracy in percent of the examples, under the protocol quick with that threat. Held out: masks chosen by a"
        " hash of the name, and not looked at while thresholds were set. Seconds are what looking took, beside the"
        " attacks, without the limit in time that `on` has. Searches of models that answer at random average over"
        f" {PASSES} passes. Truth: see benchmarks/masking.py.",
        *kept.note(),
        f"Command: python benchmarks/masking.py --examples {asked.examples}{deep}",
    ]
    if asked.only:  # nothing to be kept beside the whole
        print(tabulate(rows, headers="keys", tablefmt="pipe"), *_within(rows), sep="\n")
        return
    keep("masking-digits", "Gradient masking: a zoo and honest models", rows, notes, torch.device("cpu"))


def unhurried(examples: int) -> None:
    """One thread, no limit in time, and no idle rows in a batch: what is found must not depend on a busy machine."""
    torch.set_num_threads(1)
    scrutiny.MIN = float("inf")
    prepared.SLOTS["cpu"] = min(64, examples)  # a model that answers at random pays for every idle row at every pass


def evaluated(
    module: nn.Module, threats: Sequence[str], examples: int, level: str, run: Path | None = None, seed: int = 0
) -> Summary:
    """The protocol quick with these threats on digits, then a look at gradients."""
    ask = EvalRequest("digits", "quick", tuple(threats), examples=str(examples), seed=seed, masking=level)
    split, protocol = choose(ask)
    return prepared.prepare(ask, source_of(module), (split, replace(protocol, eot=PASSES))).answer(run).summary


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
    """A bundled model."""
    return copy.deepcopy(checkpoints.load(name).classifier.module)


def _linear(decay: float) -> nn.Module:
    """Multinomial regression; weight decay makes its Lipschitz constant small."""
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


def _asked(subject: ModelSource, examples: int, deep: bool) -> Iterator[Row]:
    told: dict[str, tuple[Summary, float]] = {}
    # At random, full attacks would take hours; an honest model has nothing more to show.
    deep = deep and subject.kind != "honest" and subject.name not in ("noise", "dropped", "shifted")
    with tempfile.TemporaryDirectory() as folder:
        for level in ("off", "on", *(["deep"] if deep else [])):
            begun = time.process_time()
            summary = evaluated(subject.module, subject.threats, examples, level, Path(folder) / "run.robench")
            told[level] = summary, time.process_time() - begun
    for place, threat in enumerate(subject.threats):
        row: Row = {"model": subject.name, "kind": subject.kind, "threat": threat, "of": examples, "verdict": ""}
        for level, (summary, seconds) in told.items():
            entry = summary.threats[place]
            row[level] = f"{'≤ ' if entry.open else ''}{100 * entry.accuracy:.1f}"
            row["verdict"] = entry.masking.verdict if level == "on" else row["verdict"]
            if level != "off":
                row[f"seconds, {level}"] = round(seconds, 1)
        yield row | {"truth": _truth(subject, threat, examples)}


def _truth(subject: ModelSource, threat: str, examples: int) -> str:
    """What the accuracy should come to, in percent; empty where nobody knows, or another row says it."""
    about = parse(threat)
    assert isinstance(about, Ball), f"{threat} has no radius"
    if subject.linear and about.name == "linf":
        return f"{100 * standing_exactly(subject.module, 'digits', about.r, examples) / examples:.1f}"
    if subject.mask and not MASKED[subject.mask].keeps:
        left = witnessed(subject.mask, loaded(BASE), "digits", threat, examples).threats[0]
        pixelwise = subject.mask in PIXELWISE and about.name == "linf"
        surely = standing_surely(subject.module, "digits", about.r, examples) if pixelwise else 0
        return f"{100 * surely / examples:.1f} to {100 * left.accuracy:.1f}"
    return ""


def _add_truth(rows: list[Row]) -> None:
    """To the masks that keep every prediction: what the model inside has after the same look."""
    inside = next((row["on"] for row in rows if (row["model"], row["threat"]) == (BASE, THREAT)), "")
    for row in rows:
        if str(row["kind"]).startswith("keeps"):
            row["truth"] = inside


def _within(rows: list[Row]) -> Iterator[str]:
    """How many masks come down to what is known of them."""
    told = {
        "keeps predictions": "that keep predictions {near} of {all} end within {points:g} points of the model inside",
        "changes predictions": "that change some {near} of {all} end within {points:g} points of their witnesses",
        "changes predictions, linear": "round a linear model {near} of {all} end within {points:g} points of the truth",
    }
    for kind, sentence in told.items():
        known = [row for row in rows if str(row["kind"]).replace(", held out", "") == kind and row["truth"]]
        near = sum(_number(row["on"]) <= _number(row["truth"]) + NEAR for row in known)
        yield f"Of masks {sentence.format(near=near, all=len(known), points=NEAR)}."


def _number(told: object) -> float:
    """Of `≤ 47.5` or `0.0 to 47.5` the last."""
    return float(str(told).split()[-1])


def _confusion(rows: list[Row]) -> Iterator[str]:
    yield "| | masked | suspect | none-found | untested |"
    yield "|:--|--:|--:|--:|--:|"
    for kind in dict.fromkeys(str(row["kind"]) for row in rows):
        verdicts = [row["verdict"] for row in rows if row["kind"] == kind]
        counts = [str(verdicts.count(v)) for v in ("masked", "suspect", "none-found", "untested")]
        yield f"| {kind} | {' | '.join(counts)} |"


if __name__ == "__main__":
    main()
