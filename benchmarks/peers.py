"""robench, Foolbox and AutoAttack's own code on the same model, images and budget, in one run.

    python benchmarks/peers.py [--model NAME] [--examples N] [--threads N] [--part foolbox|autoattack]

Foolbox: PGD 40 steps from 100 random starts (`--restarts`), as people run it: a loop over starts that drops the
broken images. AutoAttack: APGD on cross-entropy, then targeted APGD, with the published counts, three seeds.
What robench breaks is what its referee accepts; what the others break is looked at by the same referee.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable

import torch
from measuring import keep, seconds
from torch import Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.api import LANES, pick_device
from robench.evidence.referee import Referee, fooled
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.search.attacks import AnyAttack
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.loop import search
from robench.search.queue import Item, Queue

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", choices=["foolbox", "autoattack"], required=True)
    parser.add_argument("--threat", action="append", help="default: the usual MNIST radii")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)
    loaded = load(asked.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier, referee = loaded.classifier, Referee(load(asked.model, device=device).classifier)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(asked.examples))
    right = (~fooled(referee.logits(split.x), split.y)).nonzero().flatten().tolist()
    split = split.take(right)

    threats = list(map(parse, asked.threat or ["linf:0.3", "l2:2", "l1:10"]))
    if asked.part == "foolbox":
        rows = [_foolbox(classifier, referee, split, threat, asked.restarts, device) for threat in threats]
        title = f"PGD 40 x {asked.restarts}: robench and Foolbox"
    else:
        pairs = [(threat, seed) for threat in threats for seed in range(asked.seeds)]
        rows = [_autoattack(classifier, referee, split, threat, seed, device) for threat, seed in pairs]
        title = "APGD-CE, then APGD-T: robench and the authors' code"
    notes = [
        f"{asked.model}, the {len(split)} right ones of the first {asked.examples} images, float32, in one run."
        f" Command: python benchmarks/peers.py --part {asked.part} --model {asked.model}"
        f" --examples {asked.examples} --threads {asked.threads}"
        + "".join(f" --threat {t}" for t in asked.threat or [])
        + (f" --restarts {asked.restarts}" if asked.part == "foolbox" else f" --seeds {asked.seeds}")
    ]
    keep(f"{asked.part}-{asked.model}", title, rows, notes, device)


def robench(
    classifier: Classifier,
    referee: Referee,
    split: Split,
    threat: ThreatModel,
    attacks: list[tuple[AnyAttack, int]],
    seed: int,
) -> set[int]:
    """The rows that still stand after these attacks with so many draws each, one after the other."""
    standing = set(range(len(split)))
    for attack, draws in attacks:
        queue = Queue(_items(classifier, split, sorted(standing), attack, draws), LANES[classifier.device.type])
        for ended in search(classifier, threat, attack, split, queue, seed):
            for end in ended:
                if end.x_adv is None or end.item.row not in standing:
                    continue
                row = [end.item.row]
                if referee.judge(threat, split.x[row], split.y[row], end.x_adv[None])[0].accepted:
                    standing.discard(end.item.row)
                    queue.drop(end.item.row)
    return standing


def _items(classifier: Classifier, split: Split, rows: list[int], attack: AnyAttack, draws: int) -> Iterable[Item]:
    aims: list[list[int]] = [[-1] for _ in rows]
    if attack.targets and rows:
        with torch.no_grad():
            logits = (
                classifier(split.x[rows].to(classifier.device)).cpu().scatter(1, split.y[rows][:, None], -torch.inf)
            )
        aims = logits.topk(min(attack.targets, logits.shape[1] - 1), dim=1).indices.tolist()
    for draw in range(draws):
        for rank in range(max(map(len, aims), default=0)):
            for row, targets in zip(rows, aims, strict=True):
                yield Item(row, draw * len(targets) + rank, draw, targets[rank])


def _foolbox(
    classifier: Classifier, referee: Referee, split: Split, threat: ThreatModel, restarts: int, device: torch.device
) -> Row:
    import foolbox

    attacks = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
        "l1": foolbox.attacks.SparseL1DescentAttack,
    }
    theirs = attacks[threat.name](steps=40, rel_stepsize=2.5 / 40, random_start=True)
    model = foolbox.PyTorchModel(classifier.module, bounds=(0, 1), device=device)
    left: list[set[int]] = []

    def loop() -> None:
        torch.manual_seed(0)
        standing = list(range(len(split)))
        for _ in range(restarts):
            if not standing:
                break
            x, y = split.x[standing].to(device), split.y[standing].to(device)
            _, x_adv, _ = theirs(model, x, y, epsilons=threat.r)
            standing = [
                row for row, broken in zip(standing, _broken(referee, threat, x, y, x_adv), strict=True) if not broken
            ]
        left.append(set(standing))

    ours = PGD(steps=40, loss="cross-entropy")
    mine: list[set[int]] = []
    a = seconds(lambda: mine.append(robench(classifier, referee, split, threat, [(ours, restarts)], 0)), device)
    b = seconds(loop, device)
    return _row(threat, mine[0], left[0], a, b)


def _autoattack(
    classifier: Classifier, referee: Referee, split: Split, threat: ThreatModel, seed: int, device: torch.device
) -> Row:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    l1 = threat.name == "l1"
    starts, targets = (5, 5) if l1 else (1, 9)
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.name]
    settings = {"n_iter": 100, "norm": norm, "eps": threat.r, "seed": seed, "device": device, "use_largereps": l1}
    quiet = logging.getLogger("quiet")
    quiet.addHandler(logging.NullHandler())
    theirs: list[Callable[[Tensor, Tensor], Tensor]] = [
        APGDAttack(classifier.module, n_restarts=starts, loss="ce", logger=quiet, **settings).perturb,
        APGDAttack_targeted(
            classifier.module, n_restarts=1, n_target_classes=targets, logger=quiet, **settings
        ).perturb,
    ]
    left: list[set[int]] = []

    def suite() -> None:
        standing = list(range(len(split)))
        for attack in theirs:
            if not standing:
                break
            x, y = split.x[standing].to(device), split.y[standing].to(device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x_adv = attack(x, y)
            standing = [
                row for row, broken in zip(standing, _broken(referee, threat, x, y, x_adv), strict=True) if not broken
            ]
        left.append(set(standing))

    ours: list[tuple[AnyAttack, int]] = [(APGD(), starts), (APGD(loss="dlr", targets=targets), 1)]
    mine: list[set[int]] = []
    a = seconds(lambda: mine.append(robench(classifier, referee, split, threat, ours, seed)), device)
    b = seconds(suite, device)
    return {"seed": seed, **_row(threat, mine[0], left[0], a, b)}


def _broken(referee: Referee, threat: ThreatModel, x: Tensor, y: Tensor, x_adv: Tensor) -> list[bool]:
    return [ruling.accepted for ruling in referee.judge(threat, x.cpu(), y.cpu(), x_adv.detach().cpu())]


def _row(threat: ThreatModel, mine: set[int], theirs: set[int], a: float, b: float) -> Row:
    return {
        "threat": str(threat),
        "robench leaves": len(mine),
        "theirs leaves": len(theirs),
        "only robench breaks": " ".join(map(str, sorted(theirs - mine))) or "-",
        "only theirs breaks": " ".join(map(str, sorted(mine - theirs))) or "-",
        "robench s": a,
        "theirs s": b,
        "times faster": b / a,
    }


if __name__ == "__main__":
    main()
