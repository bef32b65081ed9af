"""What `standard` and AutoAttack leave of models with misleading gradients, and in which time.

    python benchmarks/masked_truth.py [--base NAME] [--examples N] [--threat THREAT ...]

Each mask of `robench.testing.masked` that keeps every prediction hides the same honest model, so the truth is what
stands of that one: what an evaluation leaves more is due to the mask. `standard` runs as a user types it, so the check
for gradient masking follows where a note points to it; what the planned attacks alone leave is a column.
"""

import argparse
import re
from contextlib import suppress

import torch
from measuring import seconds, write_results
from time_to_truth import RADII, data_of, warm_up
from torch import nn

import robench
from robench.evaluation.model_source import CheckpointSource
from robench.problem import datasets
from robench.results.measured import NotMeasuredError
from robench.testing.masked import MASKED, masked

CPU = torch.device("cpu")
THEIRS = "autoattack-reference"
WARNING = re.compile("too high|no gradients")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="digits-adaptive", help="a bundled model")
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--threat", action="append", help="default: linf, l2 and l1 at the radii of time_to_truth.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = data_of(args.base)
    base = CheckpointSource(args.base).load(datasets.load(data)).classifier.module
    masks = [mask.name for mask in MASKED.values() if mask.keeps]
    rows: list[dict[str, object]] = []
    for threat in args.threat or RADII[data]:
        warm_up("AutoAttack", threat.partition(":")[0])
        truth, _, _ = left(base, data, threat, args.examples, protocol="standard")
        rows += [row(name, base, data, threat, args.examples, truth) for name in masks]
    note = (
        "Failed: images on which attacks ended with an error, for want of a gradient."
        f" {args.base} behind masks that keep its predictions, the first {args.examples} images, float32, seed 0."
        f" Command: python benchmarks/masked_truth.py --base {args.base} --examples {args.examples}"
        + "".join(f" --threat {threat}" for threat in args.threat or ())
    )
    write_results(f"masked-truth-{args.base}", "What is left of masked models", rows, [note], CPU)


def row(name: str, base: nn.Module, data: str, threat: str, examples: int, truth: str) -> dict[str, object]:
    """One mask under one threat."""
    hidden = masked(name, base)
    planned, warned, _ = left(hidden, data, threat, examples, protocol="standard", masking="off")
    ours, _, our_seconds = left(hidden, data, threat, examples, protocol="standard")
    theirs, _, their_seconds = left(hidden, data, threat, examples, attacks=(THEIRS,))
    return {
        "mask": name,
        "threat": threat,
        "the model inside": truth,
        "planned attacks leave": planned,
        "a note warns": "yes" if warned else "no",
        "standard leaves": ours,
        "AutoAttack leaves": theirs,
        "standard s": our_seconds,
        "AutoAttack s": their_seconds,
    }


def left(
    model: nn.Module,
    data: str,
    threat: str,
    examples: int,
    protocol: str | None = None,
    attacks: tuple[str, ...] = (),
    masking: str = "auto",
) -> tuple[str, bool, float]:
    """How many examples are not broken, with those that attacks failed on, whether a note warns, and CPU seconds."""
    found: list[tuple[str, bool]] = []

    def work() -> None:
        with suppress(NotMeasuredError):
            summary = robench.evaluate(
                model,
                data=data,
                threats=[threat],
                protocol=protocol,
                attacks=attacks,
                examples=examples,
                masking=masking,
                precision="float32",
            )
            standing, failed = summary.union.standing, summary.union.open
            text = f"{standing + failed} ({failed} failed)" if failed else str(standing)
            found.append((text, any(WARNING.search(note) for note in summary.notes)))

    taken = seconds(work, CPU)
    text, warned = found[0] if found else ("all failed", True)
    return text, warned, taken


if __name__ == "__main__":
    main()
