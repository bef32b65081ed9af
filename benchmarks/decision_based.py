"""Attacks that read labels alone: robench and Foolbox on the same images, in one run.

    python benchmarks/decision_based.py [--part NAME] [--model NAME] [--examples N] [--threads N]

How near to each image the nearest adversarial one is that the attack finds: HopSkipJump with 40 iterations for both,
Boundary with each library's own default. Foolbox attacks all images as one batch, from starts of its own (blended
noise). An image for which it finds none makes it raise, so it is told only those for which it does: `foolbox starts`.
Distances are of images that robench's referee accepts, for both; medians are over the images both could start from.
"""

import argparse
import copy
import sys
from dataclasses import dataclass, field

import torch
from measuring import keep, seconds
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.api import LANES, pick_device
from robench.evidence.referee import Referee, fooled
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.search.attack import AnyAttack
from robench.search.attacks import ATTACKS
from robench.search.job import Job
from robench.search.loop import Engine
from robench.search.queue import Item, Waiting

Row = dict[str, object]
Distances = dict[int, float]  # by row, of those for which something was found

EVERYTHING = {"linf": "linf:1", "l2": "l2:1000"}  # holds every image
PARTS = {"hsj-linf": ("hop-skip-jump", "linf"), "hsj-l2": ("hop-skip-jump", "l2"), "boundary": ("boundary", "l2")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
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

    parts = asked.part or list(PARTS)
    rows = [compared(*PARTS[part], classifier, plain, referee, split) for part in parts]
    notes = [
        f"{asked.model}, the {len(split)} right ones of the first {asked.examples} images, float32, in one run."
        f" Command: python benchmarks/decision_based.py --model {asked.model} --examples {asked.examples}"
        f" --threads {asked.threads}" + "".join(f" --part {part}" for part in asked.part or []),
    ]
    name = "-".join(["decision-based", asked.model, *(asked.part or [])])
    keep(name, "Attacks that read labels alone: robench and Foolbox", rows, notes, device)


def compared(name: str, norm: str, classifier: Classifier, plain: nn.Module, referee: Referee, split: Split) -> Row:
    """One row of the table: an attack by both, on the right images of the split."""
    threat, device = parse(EVERYTHING[norm]), classifier.device
    ours, theirs = ATTACKS[name](), Theirs(name, norm, plain, device)
    mine: list[tuple[Distances, int]] = []
    a = seconds(lambda: mine.append(robench(classifier, referee, split, threat, ours)), device)
    (near, queries), (other, b) = mine[0], theirs.distances(referee, split, threat)
    both = sorted(near.keys() & other.keys())
    row: Row = {
        "attack": name,
        "norm": norm,
        "of": len(split),
        "robench starts": len(near),
        "foolbox starts": len(other),
        "robench median": _median(near, both),
        "foolbox median": _median(other, both),
        "robench nearer": sum(near[row] < other[row] for row in both),
        "robench queries": queries // len(split),
        "foolbox queries": theirs.counted.queries // max(len(other), 1),
        "robench s": a,
        "foolbox s": b,
        "times faster": (b / max(len(other), 1)) / (a / len(split)),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def robench(
    classifier: Classifier, referee: Referee, split: Split, threat: ThreatModel, attack: AnyAttack
) -> tuple[Distances, int]:
    """The distance of the nearest image found for every row, and the queries of all together."""
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(split))), smallest=True)
    found: Distances = {}
    for ended in Engine(classifier, split, seed=0, rows=LANES[classifier.device.type]).work([job]):
        for end in ended:
            if end.x_adv is not None:
                found |= accepted(referee, split, threat, [end.item.row], end.x_adv[None])
    assert not job.error, job.error
    return found, job.asked


def accepted(referee: Referee, split: Split, threat: ThreatModel, rows: list[int], x_adv: Tensor) -> Distances:
    """The distances of those images that the referee accepts."""
    rulings = referee.judge(threat, split.x[rows], split.y[rows], x_adv)
    size = threat.measure(x_adv, split.x[rows]).tolist()
    return {row: far for row, far, ruling in zip(rows, size, rulings, strict=True) if ruling.accepted}


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

    name: str
    norm: str
    plain: nn.Module
    device: torch.device
    counted: Counted = field(init=False)

    def __post_init__(self) -> None:
        self.counted = Counted(self.plain)

    def distances(self, referee: Referee, split: Split, threat: ThreatModel) -> tuple[Distances, float]:
        """As `robench`, and the seconds it takes, which the search for who can start does not count in."""
        import foolbox

        model = foolbox.PyTorchModel(self.counted.eval(), bounds=(0, 1), device=self.device)
        start = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
        attack = {
            "hop-skip-jump": lambda: foolbox.attacks.HopSkipJumpAttack(
                init_attack=start, steps=40, constraint=self.norm
            ),
            "boundary": lambda: foolbox.attacks.BoundaryAttack(init_attack=start),
        }[self.name]()
        x, y = split.x.to(self.device), split.y.to(self.device)
        torch.manual_seed(0)
        begun = start.run(model, x, foolbox.criteria.Misclassification(y))
        rows = (model(begun).argmax(dim=1) != y).nonzero().flatten().tolist()
        self.counted.queries = 0
        found: list[Tensor] = []

        def work() -> None:
            criterion = foolbox.criteria.Misclassification(y[rows])
            found.append(attack.run(model, x[rows], criterion, starting_points=begun[rows]))

        b = seconds(work, self.device) if rows else 0.0
        return (accepted(referee, split, threat, rows, found[0].cpu()) if rows else {}), b


def _median(distances: Distances, rows: list[int]) -> float:
    return float(torch.tensor([distances[row] for row in rows]).median()) if rows else float("nan")


if __name__ == "__main__":
    main()
