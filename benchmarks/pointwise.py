"""Pointwise: robench and Foolbox on the same images, in one run.

    python benchmarks/pointwise.py [--model NAME] [--examples N] [--foolbox N] [--threads N]

How near to each image the nearest adversarial one is under l_1, and how many are left standing at a radius. Foolbox
attacks the first of the images as one batch, from salt-and-pepper noise by its own attack; its ordinary call raises,
so it is run as its code allows. Its queries are counted with those of images it has done with. Distances are of
images that robench's referee accepts, for both.
"""

import argparse
import copy
import sys

import numpy as np
import torch
from decision_based import Counted, Distances, Row, accepted, robench
from measuring import keep, seconds
from torch import Tensor
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
from robench.search.attacks.pointwise import Pointwise
from robench.search.attacks.salt_and_pepper import SaltAndPepper
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Item, Waiting

EVERYTHING = parse("l1:100000")  # holds every image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--foolbox", type=int, default=10, help="images for Foolbox; 0 leaves it out")
    parser.add_argument("--radius", default="10")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)
    loaded = load(asked.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier, referee = loaded.classifier, Referee(load(asked.model, device=device).classifier)
    plain = Counted(copy.deepcopy(classifier.module).eval())
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(asked.examples))
    split = split.take((~fooled(referee.logits(split.x), split.y)).nonzero().flatten().tolist())
    few, threat = split.take(list(range(min(asked.foolbox, len(split))))), parse(f"l1:{asked.radius}")

    rows: list[Row] = []
    for attack in (Pointwise(), Pointwise(steps=100), SaltAndPepper()):
        rows.append(_until_broken(classifier, referee, split, threat, attack))
        if len(few):
            rows.append(_nearest(classifier, referee, few, threat, attack))
    if len(few):
        rows.append(_foolbox(plain, referee, few, threat, device))
    notes = [
        "`until broken`: a search ends at its first find inside the ball, as in an evaluation. `nearest`: every search"
        " uses its whole budget. Standing: at the radius of the first column. Queries are per image.",
        f"{asked.model}, the {len(split)} right ones of the first {asked.examples} images, float32, in one run."
        f" Command: python benchmarks/pointwise.py --model {asked.model} --examples {asked.examples}"
        f" --foolbox {asked.foolbox} --radius {asked.radius} --threads {asked.threads}",
    ]
    keep(f"pointwise-{asked.model}", "Pointwise: robench and Foolbox", rows, notes, device)


def _until_broken(
    classifier: Classifier, referee: Referee, split: Split, threat: ThreatModel, attack: AnyAttack
) -> Row:
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(split))))
    found: Distances = {}

    def search() -> None:
        for ended in Engine(classifier, split, seed=0, rows=SLOTS[classifier.device.type]).work([job]):
            for end in ended:
                if end.x_adv is not None:
                    found.update(accepted(referee, split, threat, [end.item.row], end.x_adv[None]))

    took = seconds(search, classifier.device)
    assert not job.error, job.error
    return _row(f"{attack.spec}, until broken", split, threat, found, job.queries, took)


def _nearest(classifier: Classifier, referee: Referee, split: Split, threat: ThreatModel, attack: AnyAttack) -> Row:
    made: list[tuple[Distances, int]] = []
    took = seconds(lambda: made.append(robench(classifier, referee, split, EVERYTHING, attack)), classifier.device)
    ((found, queries),) = made
    return _row(f"{attack.spec}, nearest", split, threat, found, queries, took, median=True)


def _foolbox(plain: Counted, referee: Referee, split: Split, threat: ThreatModel, device: torch.device) -> Row:
    import foolbox

    model = foolbox.PyTorchModel(plain.eval(), bounds=(0, 1), device=device)
    x, y = split.x.to(device), split.y.to(device)
    criterion = foolbox.criteria.Misclassification(y)
    torch.manual_seed(0)
    np.random.seed(0)
    made: list[tuple[list[int], Tensor]] = []

    def search() -> None:
        begun = foolbox.attacks.SaltAndPepperNoiseAttack().run(model, x, criterion)
        rows = (model(begun).argmax(dim=1) != y).nonzero().flatten().tolist()
        their = foolbox.criteria.Misclassification(y[rows])
        made.append((rows, foolbox.attacks.PointwiseAttack().run(model, x[rows], their, starting_points=begun[rows])))

    took = seconds(search, device)
    ((rows, x_adv),) = made
    found = accepted(referee, split, EVERYTHING, rows, x_adv.cpu())
    return _row("Foolbox PointwiseAttack, nearest", split, threat, found, plain.queries, took, median=True)


def _row(
    what: str,
    split: Split,
    threat: ThreatModel,
    found: Distances,
    queries: int,
    took: float,
    median: bool = False,
) -> Row:
    assert hasattr(threat, "r"), "distances are compared with a radius"
    row: Row = {
        "radius": str(threat),
        "search": what,
        "of": len(split),
        "found": len(found),
        "standing": len(split) - sum(far <= threat.r for far in found.values()),
        "median l1": float(torch.tensor([*found.values()]).median()) if found and median else "-",
        "queries": queries // len(split),
        "seconds": took,
    }
    print(row, file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
