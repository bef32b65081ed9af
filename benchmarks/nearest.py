"""Attacks that look for the nearest adversarial image: robench and Foolbox on the same images, in one run.

    python benchmarks/nearest.py --part labels [--model NAME] [--examples N] [--threads N] [--norm NORM] [--half]
    python benchmarks/nearest.py --part gradients

How near to each image the nearest adversarial one is that the attack finds. By labels: HopSkipJump with 40 iterations
for both, Boundary with each library's own default, and ours with half as many, to see how soon it is as near. By
gradients: the same number of steps for both. Foolbox attacks all images as one batch; attacks from outside begin at
starts of its own (blended noise), and as an image for which it finds none makes it raise, it is told only those for
which it does. Distances are of images that robench's referee accepts, for both; medians are over the images both found
something for. Queries are forward passes of one image. Foolbox's Brendel-Bethge needs a compiler for Python and is
left out.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from measuring import keep, seconds
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.evidence.referee import Referee, fooled
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.search.attack import AnyAttack
from robench.search.attacks import ATTACKS
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Item, Waiting

Row = dict[str, object]
Distances = dict[int, float]  # by row, of those for which something was found

EVERYTHING = {"linf": "linf:1", "l2": "l2:1000", "l1": "l1:100000"}  # holds every image


@dataclass(frozen=True)
class Contest:
    """One attack in both libraries."""

    name: str
    norm: str
    ours: AnyAttack
    theirs: Callable[[ModuleType, Any], Any]  # of foolbox.attacks and the search for starts
    from_outside: bool = False
    half: bool = False  # of ours is half of theirs


LABELS = (
    *(
        Contest(
            f"hop-skip-jump(steps={steps})",
            norm,
            ATTACKS["hop-skip-jump"](steps=steps),
            lambda library, start, norm=norm: library.HopSkipJumpAttack(init_attack=start, steps=40, constraint=norm),
            from_outside=True,
            half=steps == 20,
        )
        for norm in ("linf", "l2")
        for steps in (40, 20)  # the second: how soon it is as near as Foolbox with all its 40
    ),
    *(
        Contest(
            f"boundary(steps={steps})",
            "l2",
            ATTACKS["boundary"](steps=steps),
            lambda library, start: library.BoundaryAttack(init_attack=start),
            from_outside=True,
            half=steps == 500,
        )
        for steps in (1000, 500)
    ),
)
GRADIENTS = (
    Contest("cw", "l2", ATTACKS["cw"](), lambda a, _: a.L2CarliniWagnerAttack(binary_search_steps=9, steps=1000)),
    Contest("ead", "l1", ATTACKS["ead"](), lambda a, _: a.EADAttack(9, steps=1000, decision_rule="L1")),
    Contest("ddn", "l2", ATTACKS["ddn"](), lambda a, _: a.DDNAttack(steps=200)),
    Contest("fmn", "linf", ATTACKS["fmn"](), lambda a, _: a.LInfFMNAttack(steps=200)),
    Contest("fmn", "l2", ATTACKS["fmn"](), lambda a, _: a.L2FMNAttack(steps=200)),
    Contest("fmn", "l1", ATTACKS["fmn"](), lambda a, _: a.L1FMNAttack(steps=200)),
)
PARTS = {"labels": LABELS, "gradients": GRADIENTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--norm", choices=EVERYTHING, help="this one alone")
    parser.add_argument("--half", action="store_true", help="of labels: ours with half of its budget alone")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)
    loaded = load(asked.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier, referee = loaded.classifier, Referee(load(asked.model, device=device).classifier)
    plain = copy.deepcopy(classifier.module).eval()
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(asked.examples))
    split = split.take((~fooled(referee.logits(split.x), split.y)).nonzero().flatten().tolist())

    contests = [c for c in PARTS[asked.part] if asked.norm in (None, c.norm) and (not asked.half or c.half)]
    rows = [compared(contest, classifier, plain, referee, split) for contest in contests]
    notes = [
        f"{asked.model}, the {len(split)} right ones of the first {asked.examples} images, float32, in one run."
        f" Command: python benchmarks/nearest.py --part {asked.part} --model {asked.model} --examples {asked.examples}"
        f" --threads {asked.threads}{f' --norm {asked.norm}' if asked.norm else ''}{' --half' if asked.half else ''}",
    ]
    about = {"labels": "Attacks that read labels alone", "gradients": "Minimum-norm attacks by gradients"}[asked.part]
    of = f"-{asked.norm}" if asked.norm else ""
    keep(f"nearest-{asked.part}-{asked.model}{of}", f"{about}: robench and Foolbox", rows, notes, device)


def compared(contest: Contest, classifier: Classifier, plain: nn.Module, referee: Referee, split: Split) -> Row:
    """One row of the table: an attack by both, on the right images of the split."""
    threat, device = parse(EVERYTHING[contest.norm]), classifier.device
    theirs = Theirs(contest, plain, device)
    mine: list[tuple[Distances, int]] = []
    a = seconds(lambda: mine.append(robench(classifier, referee, split, threat, contest.ours)), device)
    (near, queries), (other, b) = mine[0], theirs.distances(referee, split, threat)
    both = sorted(near.keys() & other.keys())
    row: Row = {
        "attack": contest.name,
        "norm": contest.norm,
        "of": len(split),
        "robench finds": len(near),
        "foolbox finds": len(other),
        "robench median": _median(near, both),
        "foolbox median": _median(other, both),
        "robench nearer": sum(near[row] < other[row] for row in both),
        "robench queries": queries // len(split),
        "foolbox queries": theirs.counted.queries // max(theirs.tried, 1),
        "robench s": a,
        "foolbox s": b,
        "times faster": (b / max(theirs.tried, 1)) / (a / len(split)),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def robench(
    classifier: Classifier, referee: Referee, split: Split, threat: ThreatModel, attack: AnyAttack
) -> tuple[Distances, int]:
    """The distance of the nearest image found for every row, and the queries of all together."""
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(split))), smallest=True)
    found: Distances = {}
    for ended in Engine(classifier, split, seed=0, rows=SLOTS[classifier.device.type]).work([job]):
        for end in ended:
            if end.x_adv is not None:
                found |= accepted(referee, split, threat, [end.item.row], end.x_adv[None])
    assert not job.error, job.error
    return found, job.queries


def accepted(referee: Referee, split: Split, threat: ThreatModel, rows: list[int], x_adv: Tensor) -> Distances:
    """The distances of those images that the referee accepts."""
    decisions = referee.judge(threat, split.x[rows], split.y[rows], x_adv)
    size = threat.measure(x_adv, split.x[rows]).tolist()
    return {row: far for row, far, decision in zip(rows, size, decisions, strict=True) if decision.accepted}


class Counted(nn.Module):
    """Counts the images it is asked about."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.queries = 0

    def forward(self, x: Tensor) -> Tensor:
        self.queries += len(x)
        logits: Tensor = self.inner(x)
        return logits


@dataclass
class Theirs:
    """A Foolbox attack."""

    contest: Contest
    plain: nn.Module
    device: torch.device
    counted: Counted = field(init=False)
    tried: int = 0  # images

    def __post_init__(self) -> None:
        self.counted = Counted(self.plain)

    def distances(self, referee: Referee, split: Split, threat: ThreatModel) -> tuple[Distances, float]:
        """As `robench`, and the seconds it takes, which the search for who can start does not count in."""
        import foolbox

        model = foolbox.PyTorchModel(self.counted.eval(), bounds=(0, 1), device=self.device)
        start = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
        attack = self.contest.theirs(foolbox.attacks, start)
        x, y = split.x.to(self.device), split.y.to(self.device)
        torch.manual_seed(0)
        rows, settings = list(range(len(y))), {}
        if self.contest.from_outside:
            begun = start.run(model, x, foolbox.criteria.Misclassification(y))
            rows = (model(begun).argmax(dim=1) != y).nonzero().flatten().tolist()
            settings = {"starting_points": begun[rows]}
        self.counted.queries, self.tried = 0, len(rows)
        found: list[Tensor] = []

        def work() -> None:
            found.append(attack.run(model, x[rows], foolbox.criteria.Misclassification(y[rows]), **settings))

        b = seconds(work, self.device) if rows else 0.0
        return (accepted(referee, split, threat, rows, found[0].cpu()) if rows else {}), b


def _median(distances: Distances, rows: list[int]) -> float:
    return float(torch.tensor([distances[row] for row in rows]).median()) if rows else float("nan")


if __name__ == "__main__":
    main()
