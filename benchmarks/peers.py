"""robench, Foolbox and AutoAttack's own code on the same model, images and budget, in one run.

    python benchmarks/peers.py --part foolbox|autoattack [--model NAME] [--examples N] [--threads N]

Foolbox: PGD, 40 steps from each of 100 random starts (`--restarts`), by its own `repeat`, and by a loop that drops
broken images, as careful users write it. AutoAttack: APGD on cross-entropy, then targeted APGD, with the published
budgets, three seeds. The other libraries get the network as it is loaded. The same referee verifies what each breaks.
"""

import argparse
import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from statistics import median

import torch
from measuring import seconds, write_results
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.evidence.referee import Referee
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.losses import misclassified
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
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    loaded = load(args.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier, referee = loaded.classifier, Referee(load(args.model, device=device).classifier)
    plain = copy.deepcopy(classifier.module).requires_grad_()  # as after loading a checkpoint
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(args.examples))
    correct = (~misclassified(referee.logits(split.x), split.y)).nonzero().flatten().tolist()
    split = split.take(correct)

    threats = list(map(parse, args.threat or ["linf:0.3", "l2:2", "l1:10"]))
    if args.part == "foolbox":
        rows = [_foolbox(classifier, plain, referee, split, threat, args.restarts) for threat in threats]
        title = f"PGD 40 x {args.restarts}: robench and Foolbox"
    else:
        pairs = [(threat, seed) for threat in threats for seed in range(args.seeds)]
        rows = [_autoattack(classifier, plain, referee, split, threat, seed) for threat, seed in pairs]
        rows.append(_summed(rows))
        title = "APGD-CE, then APGD-T: robench and the authors' code"
    notes = [
        f"{args.model}, the {len(split)} correct ones of the first {args.examples} images, float32, in one run."
        f" Command: python benchmarks/peers.py --part {args.part} --model {args.model}"
        f" --examples {args.examples} --threads {args.threads}"
        + "".join(f" --threat {t}" for t in args.threat or [])
        + (f" --restarts {args.restarts}" if args.part == "foolbox" else f" --seeds {args.seeds}")
    ]
    names = "-".join(dict.fromkeys(threat.name for threat in threats))
    write_results(f"{args.part}-{args.model}-{names}", title, rows, notes, device)


def robench(
    classifier: Classifier,
    referee: Referee,
    split: Split,
    threat: ThreatModel,
    attacks: list[tuple[AnyAttack, int]],
    seed: int,
) -> tuple[set[int], int]:
    """The rows that stand after these attacks, each with its number of restarts, and the number of queries."""
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
                standing = [row for row, is_broken in zip(standing, broken, strict=True) if not is_broken]
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
    """Images per second forward and backward: with frozen weights (robench), or with trainable ones (Foolbox)."""
    frozen = not next(module.parameters()).requires_grad
    rows = torch.arange(64 if frozen else len(x)) % len(x)

    def step() -> None:
        leaf = x[rows].clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(module(leaf), y[rows], reduction="sum")
        if frozen:
            torch.autograd.grad(loss, leaf)
        else:
            torch.autograd.backward(loss)  # also computes the gradients of the weights

    step()
    rate = len(rows) / median(seconds(step, x.device) for _ in range(9))
    module.zero_grad(set_to_none=True)
    return rate


def _autoattack(
    classifier: Classifier, plain: nn.Module, referee: Referee, split: Split, threat: ThreatModel, seed: int
) -> Row:
    mine: list[tuple[set[int], int]] = []
    left: list[set[int]] = []
    a = seconds(
        lambda: mine.append(robench(classifier, referee, split, threat, same_apgd(threat), seed)), classifier.device
    )
    b = seconds(lambda: left.append(reference_apgd(plain, referee, split, threat, seed)), classifier.device)
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


def _counts(threat: ThreatModel) -> tuple[int, int]:
    """Starts of APGD-CE and targets of APGD-T, as published."""
    return (5, 5) if threat.name == "l1" else (1, 9)


def same_apgd(threat: ThreatModel) -> list[tuple[AnyAttack, int]]:
    """robench's APGD-CE and APGD-T with the published budgets, each with its number of restarts."""
    starts, targets = _counts(threat)
    return [(APGD(), starts), (APGD(loss="dlr", targets=targets), 1)]


def reference_apgd(plain: nn.Module, referee: Referee, split: Split, threat: ThreatModel, seed: int) -> set[int]:
    """The rows that stand after the authors' APGD-CE and APGD-T with the published budgets."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    device = next(plain.parameters()).device
    starts, targets = _counts(threat)
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.name]
    large = threat.name == "l1"
    settings = {"n_iter": 100, "norm": norm, "eps": threat.r, "seed": seed, "device": device, "use_largereps": large}
    quiet = logging.getLogger("quiet")
    quiet.addHandler(logging.NullHandler())
    attacks: list[Callable[[Tensor, Tensor], Tensor]] = [
        APGDAttack(plain, n_restarts=starts, loss="ce", logger=quiet, **settings).perturb,
        APGDAttack_targeted(plain, n_restarts=1, n_target_classes=targets, logger=quiet, **settings).perturb,
    ]
    standing = list(range(len(split)))
    for attack in attacks:
        if not standing:
            break
        x, y = split.x[standing].to(device), split.y[standing].to(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x_adv = attack(x, y)
        broken = _broken(referee, threat, x, y, x_adv)
        standing = [row for row, is_broken in zip(standing, broken, strict=True) if not is_broken]
    return set(standing)


def _summed(rows: list[Row]) -> Row:
    total: Row = {key: sum(float(str(row[key])) for row in rows) for key in ("robench s", "reference s")}
    total |= {key: sum(int(str(row[key])) for row in rows) for key in ("robench leaves", "reference leaves")}
    return {"threat": "sum", **total, "times faster": float(str(total["reference s"])) / float(str(total["robench s"]))}


def _broken(referee: Referee, threat: ThreatModel, x: Tensor, y: Tensor, x_adv: Tensor) -> list[bool]:
    return [decision.accepted for decision in referee.judge(threat, x.cpu(), y.cpu(), x_adv.detach().cpu())]


if __name__ == "__main__":
    main()
