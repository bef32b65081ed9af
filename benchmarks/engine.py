"""Which share of the device's raw rate the engine turns into attack steps.

    python benchmarks/engine.py [--device cuda] [--model NAME] [--threads N] [--rounds N]

Raw: batched forward and input gradient, weights frozen, channels-last, the same number of rows. Engine: the whole
loop, with watcher, refills and records of costs, on examples that cannot be broken at so small a radius, so that
every lane works to the end. Both are timed in turn, round by round; the table gives medians.
"""

import argparse
from statistics import median

import torch
from measuring import keep, seconds
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.api import LANES, pick_device
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.search.attack import differentiate
from robench.search.attacks import AnyAttack
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE
from robench.search.loop import batch_of, search
from robench.search.queue import Item, Queue

CASES: list[tuple[str, AnyAttack]] = [
    ("linf:1/100000", PGD(steps=50)),
    ("l2:1/10000", PGD(steps=50)),
    ("l1:1/10000", PGD(steps=50)),
    ("l1:1/10000", SLIDE(steps=50)),
    ("linf:1/100000", APGD(steps=50)),
    ("l2:1/10000", APGD(steps=50)),
    ("l1:1/10000", APGD(steps=50)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)
    loaded = load(asked.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier = loaded.classifier
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    lanes = LANES["cuda" if device.type == "cuda" else "cpu"]
    whole = datasets.load(loaded.card.data)
    with torch.no_grad():
        right = (classifier(whole.x[: 2 * lanes].to(device)).argmax(dim=1).cpu() == whole.y[: 2 * lanes]).nonzero()
    split = whole.take(right.flatten()[:lanes].tolist())

    rows = [_measured(classifier, split, parse(text), attack, asked.rounds) for text, attack in CASES]
    notes = [
        f"{asked.model}, float32, {lanes} lanes, {asked.rounds} rounds of raw and engine in turn; shares are medians",
        f"of the rounds. Command: python benchmarks/engine.py --model {asked.model} --threads {asked.threads}",
    ]
    keep(f"engine-{asked.model}", "The engine's share of the raw rate", rows, notes, device)


def _measured(
    classifier: Classifier, split: Split, threat: ThreatModel, attack: AnyAttack, rounds: int
) -> dict[str, object]:
    waiting = [Item(row, 0, 0) for row in range(len(split))]
    batch = batch_of(classifier, threat, attack, split, waiting, seed=0)
    delta = attack.start(threat, batch).delta
    count = attack.visits(threat) * len(split)

    def raw() -> None:
        for _ in range(attack.visits(threat)):
            differentiate(classifier, attack.objective, batch, delta)

    def engine() -> int:
        ended = search(classifier, threat, attack, split, Queue(waiting, len(split)), 0)
        return sum(end.forwards for some in ended for end in some)

    assert engine() == count, "a lane fell free early: the radius is not small enough"
    raw()
    pairs = [(seconds(raw, classifier.device), seconds(engine, classifier.device)) for _ in range(rounds)]
    shares = [r / e for r, e in pairs]
    return {
        "attack": attack.name,
        "norm": threat.name,
        "raw per second": round(count / median(r for r, _ in pairs)),
        "engine per second": round(count / median(e for _, e in pairs)),
        "share": median(shares),
        "lowest": min(shares),
        "highest": max(shares),
    }


if __name__ == "__main__":
    main()
