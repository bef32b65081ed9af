"""What each new attack and setting brings: images left, gradients and seconds, every part on the same images.

    python benchmarks/new_attacks.py --part PART [--model NAME] [--examples N] [--threads N] [--norm NORM]

    targets   targeted APGD, its classes ordered by clean logit or by first-order distance
    losses    one start of APGD and PGD with each loss, and PGD with the cosine schedule
    nearest   minimum-norm attacks with the same number of gradients: PDPGD and sigma-zero beside the others
    l0        images left under l0 at several radii

Each attack runs on every correctly classified image, and an image counts as broken if the referee accepts it. In part
`targets` a search stops when its image is broken; the row for 1 or 3 targets counts what these have broken and cost. If
adv-lib is installed, `nearest` runs its sigma-zero and PDPGD too, on all images as one batch.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import torch
from measuring import seconds, write_results
from nearest import accepted, robench

from robench.evidence.referee import Referee
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.losses import UNTARGETED, misclassified
from robench.problem.split import Split
from robench.problem.threats import Ball, parse
from robench.search import targets
from robench.search.attack import AnyAttack
from robench.search.attacks import build
from robench.search.attacks import parse as parse_attack
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Item, Waiting

Row = dict[str, object]

SLOTS = 64
STEPS = 200  # of minimum-norm attacks
EVERYTHING = {"linf": "linf:1", "l2": "l2:1000", "l1": "l1:100000", "l0": "l0:100000"}  # balls with every image
THREATS = {"mnist": ("linf:0.3", "l2:2", "l1:10"), "digits": ("linf:0.2", "l2:2", "l1:10")}
L0_RADII = {"mnist": (5, 10, 20), "digits": (2, 4, 8)}
NEAREST = {
    "linf": (f"pdpgd(steps={STEPS})", f"fmn(steps={STEPS})", f"fab(steps={STEPS // 9}, targets=9)"),
    "l2": (
        *(f"pdpgd(steps={STEPS})", f"fmn(steps={STEPS})", f"ddn(steps={STEPS})"),
        f"fab(steps={STEPS // 9}, targets=9)",
    ),
    "l1": (f"pdpgd(steps={STEPS})", f"fmn(steps={STEPS})", f"fab(steps={STEPS // 9}, targets=9)"),
    "l0": ("sigma-zero(steps=100)", "sigma-zero", "sigma-zero(steps=1000)", "pointwise", "salt-and-pepper"),
}
L0_ATTACKS = ("sigma-zero(steps=100)", "sigma-zero", "sigma-zero(steps=1000)", "pointwise", "salt-and-pepper")
REFERENCES = {"linf": ("pdpgd", STEPS), "l2": ("pdpgd", STEPS), "l1": ("pdpgd", STEPS), "l0": ("sigma_zero", 300)}


class Contest:
    """A model, its referee, and the correctly classified images."""

    def __init__(self, name: str, examples: int):
        loaded = load(name)
        assert loaded.card is not None, "a bundled model has a card"
        self.data = loaded.card.data
        self.classifier: Classifier = loaded.classifier
        self.referee = Referee(load(name).classifier)
        split = datasets.load(self.data).part(str(examples))
        correct = (~misclassified(self.referee.logits(split.x), split.y)).nonzero().flatten().tolist()
        self.split: Split = split.take(correct)

    @property
    def rows(self) -> list[int]:
        """The rows of the images."""
        return list(range(len(self.split)))

    def searched(self, threat: Ball, attack: AnyAttack, items: list[Item]) -> tuple[dict[int, int], dict[int, int]]:
        """The number of the item that breaks each broken image, and the passes of the items of each number."""
        job = Job(threat, attack, Waiting.of(items))
        broken: dict[int, int] = {}
        passes: dict[int, int] = {}
        for ended in Engine(self.classifier, self.split, seed=0, rows=SLOTS).work([job]):
            for end in ended:
                passes[end.item.number] = passes.get(end.item.number, 0) + end.forwards
                row = end.item.row
                if end.x_adv is not None and accepted(self.referee, self.split, threat, [row], end.x_adv[None]):
                    broken[row] = end.item.number
                    job.drop(row)
        assert not job.error, job.error
        return broken, passes


def of_targets(contest: Contest, norm: str | None) -> Iterator[Row]:
    """Targeted APGD by either order."""
    split, device = contest.split, contest.classifier.device
    logits = contest.referee.logits(split.x)
    classes = contest.classifier.classes - 1
    for text in THREATS[contest.data]:
        threat = parse(text)
        if norm not in (None, threat.name):
            continue
        for order in ("logits", "first-order"):
            attack = build("apgd", {"loss": "dlr", "targets": classes, "target_order": order})
            made: list[tuple[dict[int, int], dict[int, int]]] = []
            took = seconds(lambda m=made, t=threat, a=attack: m.append(targeted(contest, t, a, logits)), device)
            broken, passes = made[0]
            extra = len(split) * targets.gradients(attack, classes + 1)
            for n in (1, 3, classes):
                yield {
                    "threat": text,
                    "order": order,
                    "targets": n,
                    "of": len(split),
                    "left": len(split) - sum(number < n for number in broken.values()),
                    "gradients": extra + sum(count for number, count in passes.items() if number < n),
                    "s of all": took if n == classes else None,
                }


def targeted(
    contest: Contest, threat: Ball, attack: AnyAttack, logits: torch.Tensor
) -> tuple[dict[int, int], dict[int, int]]:
    """`Contest.searched` for an attack that aims at every wrong class, in its order."""
    parts = [contest.rows[i : i + targets.ROWS] for i in range(0, len(contest.rows), targets.ROWS)]
    aims = torch.cat([_aims(contest, threat, attack, part, logits) for part in parts])
    items = [Item(row, n, 0, int(aims[row, n])) for n in range(attack.targets) for row in contest.rows]
    return contest.searched(threat, attack, items)


def of_losses(contest: Contest, norm: str | None) -> Iterator[Row]:
    """One start of each attack with each loss."""
    texts = [f"apgd(loss={loss})" for loss in UNTARGETED]
    texts += [
        f"pgd(loss={loss}{more})" for loss in ("margin", "probability-margin") for more in ("", ", schedule=cosine")
    ]
    for text in THREATS[contest.data]:
        if norm in (None, parse(text).name):
            yield from (left(contest, text, attack) for attack in texts)


def of_l0(contest: Contest, norm: str | None) -> Iterator[Row]:
    """Images left under l0."""
    for radius in L0_RADII[contest.data]:
        yield from (left(contest, f"l0:{radius}", attack) for attack in L0_ATTACKS)


def left(contest: Contest, text: str, attack: str) -> Row:
    """The images that one start of an attack leaves."""
    made: list[tuple[dict[int, int], dict[int, int]]] = []
    built, items = build(*parse_attack(attack)), [Item(row, 0, 0) for row in contest.rows]
    took = seconds(lambda: made.append(contest.searched(parse(text), built, items)), contest.classifier.device)
    broken, passes = made[0]
    return {
        "threat": text,
        "attack": attack,
        "of": len(contest.split),
        "left": len(contest.split) - len(broken),
        "passes": sum(passes.values()),
        "s": took,
    }


def of_nearest(contest: Contest, norm: str | None) -> Iterator[Row]:
    """Distances of the nearest images that minimum-norm attacks find."""
    for name, texts in NEAREST.items():
        if norm not in (None, name):
            continue
        threat = parse(EVERYTHING[name])
        for text in texts:
            attack, made = build(*parse_attack(text)), []
            if attack.targets:
                took = seconds(lambda a=attack, t=threat, m=made: m.append(aimed(contest, t, a)), torch.device("cpu"))
            else:
                took = seconds(
                    lambda a=attack, t=threat, m=made: m.append(
                        robench(contest.classifier, contest.referee, contest.split, t, a)
                    ),
                    torch.device("cpu"),
                )
            yield distances(contest, name, text, *made[0], took)
        if find_spec("adv_lib"):
            yield reference(contest, name, threat, *REFERENCES[name])


def aimed(contest: Contest, threat: Ball, attack: AnyAttack) -> tuple[dict[int, float], int]:
    """The smallest distance over all wrong classes, and the number of queries."""
    wrong = [[k for k in range(contest.classifier.classes) if k != y] for y in contest.split.y.tolist()]
    items = [Item(row, n, 0, k) for row, some in enumerate(wrong) for n, k in enumerate(some)]
    job = Job(threat, attack, Waiting.of(items), smallest=True)
    found: dict[int, float] = {}
    for ended in Engine(contest.classifier, contest.split, seed=0, rows=SLOTS).work([job]):
        for end in ended:
            row = end.item.row
            if end.x_adv is not None:
                near = accepted(contest.referee, contest.split, threat, [row], end.x_adv[None])
                found |= {r: min(far, found.get(r, torch.inf)) for r, far in near.items()}
    return found, job.queries


def reference(contest: Contest, norm: str, threat: Ball, name: str, steps: int) -> Row:
    """The attack of adv-lib."""
    from adv_lib import attacks

    more = {"norm": threat.p} if name == "pdpgd" else {}
    x, y = contest.split.x, contest.split.y
    found: list[torch.Tensor] = []

    def work() -> None:
        attack = getattr(attacks, name)
        found.append(attack(contest.classifier.module, x.clone(), y, num_steps=steps, **more).detach())

    took = seconds(work, torch.device("cpu"))
    near = accepted(contest.referee, contest.split, threat, contest.rows, found[0])
    return distances(contest, norm, f"adv-lib {name}, {steps} steps", near, steps * len(y), took)


def distances(contest: Contest, norm: str, attack: str, near: dict[int, float], queries: int, took: float) -> Row:
    """One row of the table of distances."""
    sizes = torch.tensor([near.get(row, torch.inf) for row in contest.rows])
    return {
        "norm": norm,
        "attack": attack,
        "finds": f"{len(near)} of {len(contest.split)}",
        "median": sizes.median().item(),
        "mean": sizes[sizes.isfinite()].mean().item(),
        "passes": queries // len(contest.split),
        "s": took,
    }


def _aims(contest: Contest, threat: Ball, attack: AnyAttack, rows: list[int], logits: torch.Tensor) -> torch.Tensor:
    x, y, n = contest.split.x[rows], contest.split.y[rows], attack.targets
    if targets.is_first_order(attack):
        return targets.by_first_order(contest.referee.classifier, threat, x, y, logits[rows], n)
    return targets.by_logits(logits[rows], y, n)


PARTS = {"targets": of_targets, "losses": of_losses, "nearest": of_nearest, "l0": of_l0}
TITLES = {
    "targets": "Targeted APGD (DLR, 100 steps) with its classes in two orders",
    "losses": "Losses and schedules, one start of 100 steps",
    "nearest": "Minimum-norm attacks at the same budget",
    "l0": "Attacks under l0, one start",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--norm", choices=EVERYTHING, help="only this norm")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    contest = Contest(args.model, args.examples)
    rows = []
    for row in PARTS[args.part](contest, args.norm):
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    of = f" --norm {args.norm}" if args.norm else ""
    notes = [
        f"{args.model}, the {len(contest.split)} correct ones of the first {args.examples} images, float32, seed 0."
        f" Command: python benchmarks/new_attacks.py --part {args.part} --model {args.model}"
        f" --examples {args.examples} --threads {args.threads}{of}"
    ]
    name = f"new-{args.part}-{args.model}" + (f"-{args.norm}" if args.norm else "")
    write_results(name, TITLES[args.part], rows, notes, torch.device("cpu"))


if __name__ == "__main__":
    main()
