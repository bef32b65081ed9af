"""Gradient masking: how often the verdict of `--masking on` changes with the seed.

    python benchmarks/masking_seeds.py [--seeds N] [--examples N] [--keep DIR]

Five honest digits models under the threats of `benchmarks/masking.py`, and a mask that is `masked` there and one that
is `suspect`, the same examples under every seed. A seed changes the starts of all attacks, which examples are sampled,
and the random numbers of the probes. With `--keep` the same command goes on where it was stopped, and more seeds add to
what is there.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator

import torch
from kept import Kept, Row, add_option
from masking import BASE, HONEST, THREAT, evaluated, loaded, unhurried
from measuring import keep
from torch import nn

from robench.testing.masked import masked

MASKS = ("staircase", "large-logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=100)
    add_option(parser)
    asked = parser.parse_args()
    unhurried(asked.examples)
    models: list[tuple[str, nn.Module, tuple[str, ...]]] = [(n, loaded(n), threats) for n, threats in HONEST.items()]
    models += [(name, masked(name, loaded(BASE)), (THREAT,)) for name in MASKS]
    kept, rows = Kept(asked.keep), []
    for name, module, threats in models:
        found: list[Row] = []
        for seed in range(asked.seeds):
            question: Row = {"examples": asked.examples, "seed": seed}
            found += kept.rows(
                f"{name} seed {seed}",
                question,
                lambda m=module, t=threats, s=seed: list(seen(m, t, asked.examples, s)),
            )
        for threat in threats:
            rows.append({"model": name, "threat": threat, **_over_seeds([f for f in found if f["threat"] == threat])})
            print(rows[-1], flush=True)
    honest = [row for row in rows if row["model"] in HONEST]
    notes = [
        f"{asked.examples} examples of digits:test, protocol quick with these threats, {asked.seeds} seeds; without the"
        " limit in time that `on` has. Changed: seeds whose verdict is not the most common one. Accuracy in percent,"
        " from the lowest to the highest. Seconds are the mean of a seed, with all threats of the model.",
        "",
        f"Of {len(honest) * asked.seeds} verdicts on honest models {sum(int(str(r['changed'])) for r in honest)} differ"
        f" from the most common one of their row; {sum('masked' in str(r['verdicts']) for r in honest)} rows of"
        f" {len(honest)} have a `masked` among them.",
        "",
        *kept.note(),
        f"Command: python benchmarks/masking_seeds.py --seeds {asked.seeds} --examples {asked.examples}",
    ]
    keep("masking-seeds-digits", "Gradient masking: the verdict over seeds", rows, notes, torch.device("cpu"))


def seen(module: nn.Module, threats: tuple[str, ...], examples: int, seed: int) -> Iterator[Row]:
    """The verdict under each threat, and what is left standing."""
    begun = time.process_time()
    summary = evaluated(module, threats, examples, "on", seed=seed)
    seconds = time.process_time() - begun
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
