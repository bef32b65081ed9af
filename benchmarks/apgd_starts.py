"""Whether robench's APGD and the authors' code differ by more than their random starts.

    python benchmarks/apgd_starts.py [--model NAME] [--threat linf:0.3] [--rows N ...] [--seeds N]

Both search the same images with many seeds, APGD-CE and then APGD-T with the published budgets. For each image the
table has the number of seeds with which each code breaks it; the last line tests the sum of the differences against
exchange of the two codes within each image.
"""

import argparse
import copy
import sys
from collections.abc import Sequence

import numpy as np
import torch
from measuring import write_results
from peers import reference_apgd, robench, same_apgd
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evidence.referee import Referee
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.threats import parse

FIRST_SEED = 100  # none of those whose results chose the images
PERMUTATIONS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--threat", default="l2:2")
    parser.add_argument("--rows", type=int, nargs="+", required=True, help="numbers of the images in the test set")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device, threat = torch.device("cpu"), parse(args.threat)
    loaded = load(args.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier, referee = loaded.classifier, Referee(load(args.model, device=device).classifier)
    plain = copy.deepcopy(classifier.module).requires_grad_()
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(max(args.rows) + 1)).take(args.rows)

    ours = np.zeros(len(split), dtype=int)
    theirs = np.zeros(len(split), dtype=int)
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        for counts, standing in (
            (ours, robench(classifier, referee, split, threat, same_apgd(threat), seed)[0]),
            (theirs, reference_apgd(plain, referee, split, threat, seed)),
        ):
            counts += [row not in standing for row in range(len(split))]
        print(seed, ours.tolist(), theirs.tolist(), file=sys.stderr, flush=True)
    rows: list[dict[str, object]] = [
        {"image": number, "robench breaks": a, "the reference breaks": b, "of": args.seeds}
        for number, a, b in zip(args.rows, ours.tolist(), theirs.tolist(), strict=True)
    ]
    total = {"image": "sum", "robench breaks": int(ours.sum()), "the reference breaks": int(theirs.sum())}
    rows.append({**total, "of": args.seeds * len(split)})
    p = exchange_test(ours.tolist(), theirs.tolist(), args.seeds)
    numbers = " ".join(map(str, args.rows))
    notes = [
        f"Exchanging the two codes at random within each image gives a difference of sums at least as large with"
        f" p = {p:.2f}. Command: python benchmarks/apgd_starts.py --model {args.model} --threat {args.threat}"
        f" --rows {numbers} --seeds {args.seeds}"
    ]
    title = f"APGD-CE, then APGD-T, with {args.seeds} seeds: robench and the authors' code"
    write_results(f"apgd-starts-{args.model}-{threat.name}", title, rows, notes, device)


def exchange_test(ours: Sequence[int], theirs: Sequence[int], seeds: int) -> float:
    """The two-sided p-value of the difference of sums, if each image's breaks fall to either code by chance."""
    generator = np.random.default_rng(0)
    both = np.add(ours, theirs)
    drawn = generator.hypergeometric(both, 2 * seeds - both, seeds, size=(PERMUTATIONS, len(both)))
    differences = np.abs((2 * drawn - both).sum(axis=1))
    return float((1 + (differences >= abs(sum(ours) - sum(theirs))).sum()) / (1 + PERMUTATIONS))


if __name__ == "__main__":
    main()
