"""Where the CPU time of an attack goes: the model, the attack's arithmetic by function, and the engine.

    python benchmarks/attack_overhead.py [--model NAME] [--examples N] [--only TEXT] [--rounds N]

Every attack runs on the correctly classified images through the engine, as in an evaluation: a search ends at its find.
Each part counts without the parts that it calls. `idle` is the share of the rows of all steps that no search held.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from measuring import write_results

from robench.evaluation.prepared import SLOTS
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.losses import misclassified
from robench.problem.split import Split
from robench.problem.threats import L1, L2, Ball, Linf, parse
from robench.search import targets
from robench.search.attack import AnyAttack
from robench.search.attacks import apgd, apgd_l1, brendel_bethge, build, fab, pgd, pointwise, slide
from robench.search.attacks import parse as parse_attack
from robench.search.engine import model_runner, slot_batch
from robench.search.engine.engine import Engine
from robench.search.engine.job import ActiveJob, Job
from robench.search.engine.scheduler import Item, Waiting
from robench.search.engine.trial import use_channels_last

THREATS = {"mnist": ("linf:0.3", "l2:2", "l1:10"), "digits": ("linf:0.2", "l2:2", "l1:10")}
ATTACKS = (
    "apgd",
    "apgd(loss=dlr, targets=3, target_order=first-order)",
    "pgd(loss=probability-margin, schedule=cosine)",
    "brendel-bethge",
    "fab(targets=3)",
    "slide",
    "pointwise",
)
MODEL, REST = "model", "engine"
GEOMETRY = ("project", "nearest", "steepest", "to_hyperplane", "size", "shortened", "sample")
NOISY = (apgd, apgd_l1, pgd, slide, fab)  # modules that compute normal noise


class Parts:
    """CPU seconds by part, each without the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open = [REST]
        self._since = time.process_time()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts as this part."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._open.pop()

        return wrapper

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Every part is timed, from here on."""
        self.seconds.clear()
        with ExitStack() as stack:
            for owner, name, part in _parts():
                stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            self._since = time.process_time()
            yield
            self._charge()


def _parts() -> Iterator[tuple[Any, str, str]]:
    """Owner and name of each timed function, and its part."""
    yield Classifier, "__call__", MODEL
    yield model_runner, "differentiate", MODEL
    yield ActiveJob, "loss", "loss"
    yield ActiveJob, "query", "query"
    yield ActiveJob, "start", "start"
    yield ActiveJob, "step", "step"
    yield ActiveJob, "inside", "membership"
    yield ActiveJob, "measure", "size of queries"
    yield slot_batch.SlotBatch, "observe", "best images"
    for ball in (Linf, L2, L1):
        yield from ((ball, name, f"{name} ({ball.name})") for name in GEOMETRY if name in vars(ball))
    yield Ball, "shortened", "shortened"
    yield Ball, "to_hyperplane", "to_hyperplane"
    yield from ((module, "normal", "noise") for module in NOISY)
    yield from ((module, "uniform", "noise") for module in (brendel_bethge, pointwise))
    yield apgd_l1, "largest_signs", "largest signs"
    yield slide, "sparse", "largest signs"
    yield brendel_bethge, "boldest", "boldest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits-eat")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument(
        "--only", default="", help="only attacks and threats whose texts contain this, without a file of results"
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load(args.model)
    assert loaded.card is not None, "a bundled model has a card"
    split = datasets.load(loaded.card.data).part(str(args.examples))
    use_channels_last(loaded.classifier, split.x)
    logits = torch.cat([loaded.classifier(x) for x in split.x.split(50)])
    correct = (~misclassified(logits, split.y)).nonzero().flatten()
    split, logits = split.take(correct.tolist()), logits[correct]
    rows = []
    for text in THREATS[loaded.card.data]:
        for given in ATTACKS:
            attack, threat = build(*parse_attack(given)), parse(text)
            assert isinstance(threat, Ball)
            if threat.name in attack.threats and (args.only in given or args.only in text):
                rows.append(
                    {"threat": text, "attack": given}
                    | _of(loaded.classifier, split, logits, threat, attack, args.rounds)
                )
                print(rows[-1], flush=True)
    if args.only:
        return
    notes = [
        f"{args.model}, the {len(split)} correct ones of the first {args.examples} images, {SLOTS['cpu']} slots,"
        f" float32, medians of {args.rounds} rounds. A step is one pass for all slots.",
        "Shares of the CPU time; the last column has the parts beside the model with 2 % or more.",
        f"Command: python benchmarks/attack_overhead.py --model {args.model} --examples {args.examples}"
        f" --rounds {args.rounds}",
    ]
    write_results(f"attack-overhead-{args.model}", "Where the time of an attack goes", rows, notes, torch.device("cpu"))


def _of(
    classifier: Classifier, split: Split, logits: torch.Tensor, threat: Ball, attack: AnyAttack, rounds: int
) -> dict[str, object]:
    items = _items(classifier, split, logits, threat, attack)
    taken = [_round(classifier, split, threat, attack, items) for _ in range(rounds)]
    seconds = {part: median(parts[part] for parts, *_ in taken) for part in {p for parts, *_ in taken for p in parts}}
    steps, idle, left = taken[0][1:]
    total = sum(seconds.values())
    shares = sorted(((part, 100 * value / total) for part, value in seconds.items()), key=lambda pair: -pair[1])
    return {
        "left": left,
        "steps": steps,
        "idle": idle,
        "ms a step": 1000 * total / steps,
        "model": seconds[MODEL] / total,
        "parts": ", ".join(f"{part} {share:.0f}" for part, share in shares if part != MODEL and share >= 2),
    }


def _items(classifier: Classifier, split: Split, logits: torch.Tensor, threat: Ball, attack: AnyAttack) -> list[Item]:
    if not attack.targets:
        return [Item(row, 0, 0) for row in range(len(split))]
    order = targets.by_logits(logits, split.y, attack.targets)
    if targets.is_first_order(attack):
        parts = zip(*(t.split(targets.ROWS) for t in (split.x, split.y, logits)), strict=True)
        order = torch.cat([targets.by_first_order(classifier, threat, *part, attack.targets) for part in parts])
    return [Item(row, n, 0, int(order[row, n])) for n in range(attack.targets) for row in range(len(split))]


def _round(
    classifier: Classifier, split: Split, threat: Ball, attack: AnyAttack, items: list[Item]
) -> tuple[Counter[str], int, float, int]:
    """Seconds by part, steps, the share of idle rows, and the images left."""
    engine = Engine(classifier, split, seed=0, rows=SLOTS["cpu"])
    job, parts, broken, steps, slots = Job(threat, attack, Waiting.of(items)), Parts(), set[int](), 0, 0
    with parts.watched():
        for ended in engine.work([job]):
            steps += 1
            slots += len(engine._batch.remaining)  # a batch goes on without idle slots
            for row in {end.item.row for end in ended if end.x_adv is not None}:
                broken.add(row)
                job.drop(row)
    assert not job.error, job.error
    return parts.seconds, steps, 1 - job.steps / slots, len(split) - len(broken)


if __name__ == "__main__":
    main()
