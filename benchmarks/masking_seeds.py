"""Gradient masking: how often the verdict of `--masking on` changes with the seed.

    python benchmarks/masking_seeds.py [--seeds N] [--examples N] [--keep DIR]

Five honest digits models under the threats of `benchmarks/masking.py`, a mask that is `masked` there and one that is
`suspect`, with the same examples under every seed. A seed changes the starts of all attacks, the sampled examples, and
the random numbers of the diagnostics. With `--keep`, the same command resumes, and more seeds are added to the saved
ones.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator

import torch
from masking import BASE, HONEST, THREAT, evaluated, loaded, without_time_limit
from measuring import write_results
from resumable import Row, SavedRows, add_option
from torch import nn

from robench.testing.masked import masked

MASKS = ("staircase", "large-logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=100)
    add_option(parser)
    args = parser.parse_args()
    without_time_limit(args.examples)
    models: list[tuple[str, nn.Module, tuple[str, ...]]] = [(n, loaded(n), threats) for n, threats in HONEST.items()]
    models += [(name, masked(name, loaded(BASE)), (THREAT,)) for name in MASKS]
    saved, rows = SavedRows(args.keep), []
    for name, module, threats in models:
        found: list[Row] = []
        for seed in range(args.seeds):
            question: Row = {"examples": args.examples, "seed": seed}
            found += saved.rows(
                f"{name} seed {seed}",
                question,
                lambda m=module, t=threats, s=seed: list(seen(m, t, args.examples, s)),
            )
        for threat in threats:
            rows.append({"model": name, "threat": threat, **_over_seeds([f for f in found if f["threat"] == threat])})
            print(rows[-1], flush=True)
    honest = [row for row in rows if row["model"] in HONEST]
    notes = [
        f"{args.examples} examples of digits:test, protocol quick with these threats, {args.seeds} seeds; without the"
        " time limit of `on`. Changed: seeds whose verdict is not the most common one. Accuracy in percent,"
        " from the lowest to the highest. Seconds are the mean of a seed, with all threats of the model.",
        "",
        f"Of {len(honest) * args.seeds} verdicts on honest models {sum(int(str(r['changed'])) for r in honest)} differ"
        f" from the most common one of their row; {sum('masked' in str(r['verdicts']) for r in honest)} rows of"
        f" {len(honest)} have a `masked` among them.",
        "",
        *saved.note(),
        f"Command: python benchmarks/masking_seeds.py --seeds {args.seeds} --examples {args.examples}",
    ]
    write_results("masking-seeds-digits", "Gradient masking: the verdict over seeds", rows, notes, torch.device("cpu"))


def seen(module: nn.Module, threats: tuple[str, ...], examples: int, seed: int) -> Iterator[Row]:
    """The verdict and the accuracy under each threat."""
    start_time = time.process_time()
    summary = evaluated(module, threats, examples, "on", seed=seed)
    seconds = time.process_time() - start_time
    for t in summary.threats:
        accuracy = round(100 * t.accuracy, 1)
        yield {"threat": t.threat, "verdict": t.masking.verdict, "accuracy": accuracy, "seconds": round(seconds, 1)}


def _over_seeds(found: list[Row]) -> Row:
    counts = Counter(str(row["verdict"]) for row in found).most_common()
    accuracies = [float(str(row["accuracy"])) for row in found]
    return {
        "verdicts": ", ".join(f"{verdict} {n}" for verdict, n in counts),
        "changed": len(found) - counts[0][1],
        "accuracy": f"{min(accuracies):.1f} to {max(accuracies):.1f}",
        "seconds": round(sum(float(str(row["seconds"])) for row in found) / len(found), 1),
    }


if __name__ == "__main__":
    main()
