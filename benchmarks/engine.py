"""The share of the device's raw rate that the engine achieves in attack steps.

    python benchmarks/engine.py [--device cuda] [--model NAME] [--precision bfloat16] [--threads N] [--rounds N]

Raw: batched forward pass and input gradient, weights frozen, channels-last, in the same precision, at the best of
several batch sizes. Engine: the whole loop, with tracking of the best images, refills and records of costs, on examples
that cannot be broken at so small a radius, so that every search uses its whole budget. Both are timed in turn, round by
round.
"""

import argparse
from statistics import median

import torch
from measuring import seconds, write_results
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.problem import datasets
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
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--slots", type=int, help="default: as in an evaluation")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    loaded = load(args.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier = loaded.classifier
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    slots = args.slots or SLOTS[device.type]
    whole = datasets.load(loaded.card.data)
    with torch.no_grad():
        correct = (classifier(whole.x[: 2 * slots].to(device)).argmax(dim=1).cpu() == whole.y[: 2 * slots]).nonzero()
    split = whole.take(correct.flatten()[:slots].tolist())

    batches = sorted({slots // 4, slots // 2, slots, 2 * slots, 4 * slots})
    rates = {rows: _raw_rate(classifier, split, rows, args.precision) for rows in batches}
    best = max(rates, key=lambda rows: rates[rows])
    rows = [
        _measured(classifier, split, parse(text), kind(steps=args.steps), best, args.precision, args.rounds)
        for text, kind in CASES
    ]
    raw_rates = ", ".join(f"{rate:,.0f} at {rows}" for rows, rate in rates.items())
    command = f"python benchmarks/engine.py --model {args.model} --precision {args.precision}"
    notes = [
        f"{args.model}, {args.precision}, {slots} slots, {args.steps} steps, {args.rounds} rounds of raw and engine"
        " in turn; rates in images per second and shares are medians of the rounds.",
        f"Raw rates by batch size: {raw_rates}. Compared with the best.",
        f"Command: {command} --steps {args.steps} --threads {args.threads} --rounds {args.rounds}",
    ]
    write_results(f"engine-{args.model}-{args.precision}", "The engine's share of the raw rate", rows, notes, device)


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

    def engine() -> int:
        items = [Item(row, restart, restart) for restart in range(RESTARTS) for row in range(len(split))]
        work = Engine(classifier, split, 0, len(split), precision).work([Job(threat, attack, Waiting.of(items))])
        return sum(end.forwards for some in work for end in some)

    assert engine() == count, "a search ended early: the radius is not small enough"
    pairs = [
        (
            seconds(lambda: _raw(model, x, y, precision, times), classifier.device) / times / batch,
            seconds(engine, classifier.device) / count,
        )
        for _ in range(rounds)
    ]
    shares = [raw / ours for raw, ours in pairs]
    return {
        "attack": attack.name,
        "norm": threat.name,
        "raw per second": round(1 / median(raw for raw, _ in pairs)),
        "engine per second": round(1 / median(ours for _, ours in pairs)),
        "share": median(shares),
        "lowest": min(shares),
        "highest": max(shares),
    }


if __name__ == "__main__":
    main()
