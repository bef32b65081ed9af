"""The share of the device's raw rate that the engine achieves in attack steps.

    python benchmarks/engine.py [--device cuda] [--model NAME] [--precision bfloat16] [--threads N] [--rounds N]
    python benchmarks/engine.py --arch wrn-28-10 --data cifar10 ...

`--arch` takes a network with random weights; its own answers are the labels.

Raw: batched forward pass and input gradient, weights frozen, channels-last, in the same precision, at the best of
several batch sizes. Engine: the whole loop, with tracking of the best images, refills and records of costs, on examples
that cannot be broken at so small a radius, so that every search uses its whole budget. On CUDA it is also timed without
captured graphs. All are timed in turn, round by round.
"""

import argparse
import sys
from dataclasses import replace
from statistics import median

import torch
from measuring import seconds, write_results
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.problem import datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier, arithmetic
from robench.problem.losses import margin
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.search.attack import AnyAttack, Model, differentiate
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.rounding import rounded
from robench.search.engine.scheduler import Item, Waiting

CASES: list[tuple[str, type[AnyAttack]]] = [
    ("linf:1/100000", PGD),
    ("l2:1/10000", PGD),
    ("l1:1/10000", PGD),
    ("l1:1/10000", SLIDE),
    ("linf:1/100000", APGD),
    ("l2:1/10000", APGD),
    ("l1:1/10000", APGD),
]
RESTARTS = 2  # so that slots are refilled once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="random weights, in place of --model")
    parser.add_argument("--data", default="cifar10", help="the images for --arch")
    parser.add_argument("--attack", action="append", help="only these pairs, as linf/pgd; repeatable")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--slots", type=int, help="default: as in an evaluation")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    classifier, whole = untrained(args.arch, args.data) if args.arch else bundled(args.model)
    classifier.to(device)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    slots = args.slots or SLOTS[device.type]
    whole = whole.take(list(range(min(len(whole), 2 * slots))))
    answers = classified(classifier, whole)
    if args.arch:
        whole = replace(whole, y=answers)
    split = whole.take((answers == whole.y).nonzero().flatten()[:slots].tolist())

    batches = sorted({slots // 4, slots // 2, slots, 2 * slots, 4 * slots})
    rates = {rows: _raw_rate(classifier, split, rows, args.precision) for rows in batches}
    best = max(rates, key=lambda rows: rates[rows])
    rows = [
        _measured(classifier, split, parse(text), kind(steps=args.steps), best, args.precision, args.rounds)
        for text, kind in CASES
        if not args.attack or f"{text.partition(':')[0]}/{kind.name}" in args.attack
    ]
    raw_rates = ", ".join(f"{rate:,.0f} at {rows}" for rows, rate in rates.items())
    name = args.arch or args.model
    which = f"--arch {name} --data {args.data}" if args.arch else f"--model {name}"
    command = f"python benchmarks/engine.py {which} --precision {args.precision}"
    notes = [
        f"{name}, {args.precision}, {slots} slots, {args.steps} steps, {args.rounds} rounds of raw and engine"
        " in turn; rates in images per second and shares are medians of the rounds.",
        f"Raw rates by batch size: {raw_rates}. Compared with the best.",
        f"Command: {command} --steps {args.steps} --threads {args.threads} --rounds {args.rounds}",
    ]
    write_results(f"engine-{name}-{args.precision}", "The engine's share of the raw rate", rows, notes, device)


def bundled(name: str) -> tuple[Classifier, Split]:
    """A model of the zoo, and its images."""
    loaded = load(name)
    assert loaded.card is not None, "a bundled model has a card"
    return loaded.classifier, datasets.load(loaded.card.data)


def untrained(architecture: str, data: str) -> tuple[Classifier, Split]:
    """A network with random weights, and images for it."""
    split = datasets.load(data)
    shape, classes = tuple(split.x.shape[1:]), int(split.y.max()) + 1
    torch.manual_seed(0)
    module = ARCHITECTURES[architecture].build(shape, classes)
    classifier = Classifier(module, name=architecture, architecture=architecture, shape=shape, classes=classes)
    return classifier, split


def classified(classifier: Classifier, split: Split) -> torch.Tensor:
    """The classes that the model predicts."""
    with torch.no_grad(), arithmetic(classifier.device):
        return torch.cat([classifier(x.to(classifier.device)).argmax(dim=1).cpu() for x in split.x.split(256)])


def _raw_rate(classifier: Classifier, split: Split, rows: int, precision: str) -> float:
    model = rounded(classifier) if precision == "bfloat16" else classifier
    at = torch.arange(rows) % len(split)
    x, y = split.x[at].to(classifier.device), split.y[at].to(classifier.device)
    _raw(model, x, y, precision, 1)
    return rows / median(seconds(lambda: _raw(model, x, y, precision, 1), classifier.device) for _ in range(5))


def _raw(model: Model, x: torch.Tensor, y: torch.Tensor, precision: str, times: int) -> None:
    with arithmetic(x.device, tf32=precision == "tf32"):
        for _ in range(times):
            differentiate(model, margin, x, y, y)


def _measured(
    classifier: Classifier,
    split: Split,
    threat: ThreatModel,
    attack: AnyAttack,
    batch: int,
    precision: str,
    rounds: int,
) -> dict[str, object]:
    model = rounded(classifier) if precision == "bfloat16" else classifier
    at = torch.arange(batch) % len(split)
    x, y = split.x[at].to(classifier.device), split.y[at].to(classifier.device)
    count = RESTARTS * attack.max_queries(threat) * len(split)
    times = max(1, count // batch)

    def engine(*, graphs: bool = True) -> int:
        items = [Item(row, restart, restart) for restart in range(RESTARTS) for row in range(len(split))]
        made = Engine(classifier, split, 0, len(split), precision)
        if not graphs:
            made._runner.record = None
        queries = sum(end.forwards for some in made.work([Job(threat, attack, Waiting.of(items))]) for end in some)
        if made.notes:
            print(made.notes, file=sys.stderr)
        return queries

    def plain() -> int:
        return engine(graphs=False)

    def raw() -> None:
        _raw(model, x, y, precision, times)

    assert engine() == count, "a search ended early: the radius is not small enough"
    works = {"raw": (raw, times * batch), "engine": (engine, count)}
    if classifier.device.type == "cuda":
        works["without graphs"] = plain, count
    timed: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, images) in works.items():
            timed[name].append(seconds(work, classifier.device) / images)
    shares = [one / ours for one, ours in zip(timed["raw"], timed["engine"], strict=True)]
    return {
        "attack": attack.name,
        "norm": threat.name,
        **{f"{name} per second": round(1 / median(each)) for name, each in timed.items()},
        "share": median(shares),
        "lowest": min(shares),
        "highest": max(shares),
    }


if __name__ == "__main__":
    main()
