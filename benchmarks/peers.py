"""robench, Foolbox and AutoAttack's own code on the same model, images and budget, in one run.

    python benchmarks/peers.py --part foolbox|autoattack [--model NAME] [--examples N] [--threads N]

Foolbox: PGD, 40 steps from each of 100 random starts (`--restarts`), by its own `repeat`, and by a loop as careful
people write it, which drops the images that are broken. AutoAttack: APGD on cross-entropy, then targeted APGD, with
the published counts, three seeds. The others get the network as it is loaded. What robench breaks is what its
referee accepts; what the others break is looked at by the same referee.
"""

import argparse
import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from statistics import median

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
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Item, Waiting

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
    plain = copy.deepcopy(classifier.module).requires_grad_()  # as anybody has it who loads a checkpoint
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(asked.examples))
    right = (~fooled(referee.logits(split.x), split.y)).nonzero().flatten().tolist()
    split = split.take(right)

    threats = list(map(parse, asked.threat or ["linf:0.3", "l2:2", "l1:10"]))
    if asked.part == "foolbox":
        rows = [_foolbox(classifier, plain, referee, split, threat, asked.restarts) for threat in threats]
        title = f"PGD 40 x {asked.restarts}: robench and Foolbox"
    else:
        pairs = [(threat, seed) for threat in threats for seed in range(asked.seeds)]
        rows = [_autoattack(classifier, plain, referee, split, threat, seed) for threat, seed in pairs]
        rows.append(_summed(rows))
        title = "APGD-CE, then APGD-T: robench and the authors' code"
    notes = [
        f"{asked.model}, the {len(split)} right ones of the first {asked.examples} images, float32, in one run."
        f" Command: python benchmarks/peers.py --part {asked.part} --model {asked.model}"
        f" --examples {asked.examples} --threads {asked.threads}"
        + "".join(f" --threat {t}" for t in asked.threat or [])
        + (f" --restarts {asked.restarts}" if asked.part == "foolbox" else f" --seeds {asked.seeds}")
    ]
    names = "-".join(dict.fromkeys(threat.name for threat in threats))
    keep(f"{asked.part}-{asked.model}-{names}", title, rows, notes, device)


def robench(
    classifier: Classifier,
    referee: Referee,
    split: Split,
    threat: ThreatModel,
    attacks: list[tuple[AnyAttack, int]],
    seed: int,
) -> tuple[set[int], int]:
    """The rows that still stand after these attacks with so many draws each, and the queries that took."""
    standing, jobs = set(range(len(split))), list[Job]()

    def line() -> Iterator[Job]:
        for attack, restarts in attacks:
            items = list(_items(classifier, split, sorted(standing), attack, restarts))
            jobs.append(Job(threat, attack, Waiting.of(items)))
            yield jobs[-1]

    for ended in Engine(classifier, split, seed, SLOTS[classifier.device.type]).work(line()):
        for end in ended:
            if end.x_adv is None or end.item.row not in standing:
                continue
            row = [end.item.row]
            if referee.judge(threat, split.x[row], split.y[row], end.x_adv[None])[0].accepted:
                standing.discard(end.item.row)
                for job in jobs:
                    job.drop(end.item.row)
    return standing, sum(job.queries for job in jobs)


def _items(classifier: Classifier, split: Split, rows: list[int], attack: AnyAttack, restarts: int) -> Iterable[Item]:
    aims: list[list[int]] = [[-1] for _ in rows]
    if attack.targets and rows:
        x, y = split.x[rows].to(classifier.device), split.y[rows]
        with torch.no_grad():
            logits = classifier(x).cpu().scatter(1, y[:, None], -torch.inf)
        aims = logits.topk(min(attack.targets, logits.shape[1] - 1), dim=1).indices.tolist()
    for restart in range(restarts):
        for rank in range(max(map(len, aims), default=0)):
            for row, targets in zip(rows, aims, strict=True):
                yield Item(row, restart * len(targets) + rank, restart, targets[rank])


def _foolbox(
    classifier: Classifier, plain: nn.Module, referee: Referee, split: Split, threat: ThreatModel, restarts: int
) -> Row:
    import foolbox

    attacks = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
        "l1": foolbox.attacks.L1ProjectedGradientDescentAttack,
    }
    device = classifier.device
    theirs = attacks[threat.name](steps=40, rel_stepsize=2.5 / 40, random_start=True)
    model = foolbox.PyTorchModel(plain.eval(), bounds=(0, 1), device=device)
    x, y = split.x.to(device), split.y.to(device)
    left: dict[str, set[int]] = {}

    def repeat() -> None:
        torch.manual_seed(0)
        _, x_adv, _ = theirs.repeat(restarts)(model, x, y, epsilons=threat.r)
        broken = _broken(referee, threat, x, y, x_adv)
        left["repeat"] = {row for row in range(len(split)) if not broken[row]}

    def loop() -> None:
        torch.manual_seed(0)
        standing = list(range(len(split)))
        for _ in range(restarts):
            if standing:
                _, x_adv, _ = theirs(model, x[standing], y[standing], epsilons=threat.r)
                broken = _broken(referee, threat, x[standing], y[standing], x_adv)
                standing = [row for row, fell in zip(standing, broken, strict=True) if not fell]
        left["loop"] = set(standing)

    mine: list[tuple[set[int], int]] = []
    ours = [(PGD(steps=40, loss="cross-entropy"), restarts)]
    a = seconds(lambda: mine.append(robench(classifier, referee, split, threat, ours, 0)), device)
    b, c = seconds(repeat, device), seconds(loop, device)
    standing, queries = mine[0]
    raw, theirs_raw = _rate(classifier.module, x, y), _rate(plain, x, y)
    predicted = len(split) * restarts * 40 / theirs_raw / (queries / raw)
    row: Row = {
        "threat": str(threat),
        "robench leaves": len(standing),
        "repeat leaves": len(left["repeat"]),
        "loop leaves": len(left["loop"]),
        "of": len(split),
        "robench s": a,
        "repeat s": b,
        "loop s": c,
        "repeat/robench": b / a,
        "loop/robench": c / a,
        "predicted": predicted,
        "queries fewer": len(split) * restarts * 40 / queries,
        "raw rate": raw / theirs_raw,
    }
    print(row, file=sys.stderr, flush=True)
    return row


def _rate(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Images per second forward and backward: as robench asks a frozen network, or as Foolbox asks one in training."""
    frozen = not next(module.parameters()).requires_grad
    rows = torch.arange(64 if frozen else len(x)) % len(x)

    def step() -> None:
        leaf = x[rows].clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(module(leaf), y[rows], reduction="sum")
        if frozen:
            torch.autograd.grad(loss, leaf)
        else:
            torch.autograd.backward(loss)  # the gradients of the weights with it

    step()
    rate = len(rows) / median(seconds(step, x.device) for _ in range(9))
    module.zero_grad(set_to_none=True)
    return rate


def _autoattack(
    classifier: Classifier, plain: nn.Module, referee: Referee, split: Split, threat: ThreatModel, seed: int
) -> Row:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    device, l1 = classifier.device, threat.name == "l1"
    starts, targets = (5, 5) if l1 else (1, 9)
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.name]
    settings = {"n_iter": 100, "norm": norm, "eps": threat.r, "seed": seed, "device": device, "use_largereps": l1}
    quiet = logging.getLogger("quiet")
    quiet.addHandler(logging.NullHandler())
    theirs: list[Callable[[Tensor, Tensor], Tensor]] = [
        APGDAttack(plain, n_restarts=starts, loss="ce", logger=quiet, **settings).perturb,
        APGDAttack_targeted(plain, n_restarts=1, n_target_classes=targets, logger=quiet, **settings).perturb,
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
            broken = _broken(referee, threat, x, y, x_adv)
            standing = [row for row, fell in zip(standing, broken, strict=True) if not fell]
        left.append(set(standing))

    ours: list[tuple[AnyAttack, int]] = [(APGD(), starts), (APGD(loss="dlr", targets=targets), 1)]
    mine: list[tuple[set[int], int]] = []
    a = seconds(lambda: mine.append(robench(classifier, referee, split, threat, ours, seed)), device)
    b = seconds(suite, device)
    (standing, _), reference = mine[0], left[0]
    row: Row = {
        "threat": str(threat),
        "seed": seed,
        "of": len(split),
        "robench leaves": len(standing),
        "reference leaves": len(reference),
        "only robench breaks": " ".join(map(str, sorted(reference - standing))) or "-",
        "only the reference breaks": " ".join(map(str, sorted(standing - reference))) or "-",
        "robench s": a,
        "reference s": b,
        "times faster": b / a,
    }
    print(row, file=sys.stderr, flush=True)
    return row


def _summed(rows: list[Row]) -> Row:
    total: Row = {key: sum(float(str(row[key])) for row in rows) for key in ("robench s", "reference s")}
    total |= {key: sum(int(str(row[key])) for row in rows) for key in ("robench leaves", "reference leaves")}
    return {"threat": "sum", **total, "times faster": float(str(total["reference s"])) / float(str(total["robench s"]))}


def _broken(referee: Referee, threat: ThreatModel, x: Tensor, y: Tensor, x_adv: Tensor) -> list[bool]:
    return [decision.accepted for decision in referee.judge(threat, x.cpu(), y.cpu(), x_adv.detach().cpu())]


if __name__ == "__main__":
    main()
