"""Gradient masking: how often the verdict of `--masking on` changes with the seed.

    python benchmarks/masking_seeds.py [--seeds N] [--examples N]

Five honest digits models under the threats of `benchmarks/masking.py`, and one mask of each verdict, the same examples
under every seed. A seed changes the starts of all attacks, which examples are sampled, and the random numbers of the
probes.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
from masking import BASE, HONEST, THREAT, loaded
from measuring import keep
from torch import nn

import robench
from robench import scrutiny
from robench.testing.masked import masked

MASKS = ("staircase", "large-logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scrutiny.LEAST = float("inf")  # what is found must not depend on how busy the machine is
    models: list[tuple[str, nn.Module, tuple[str, ...]]] = [(n, loaded(n), threats) for n, threats in HONEST.items()]
    models += [(name, masked(name, loaded(BASE)), (THREAT,)) for name in MASKS]
    rows: list[dict[str, object]] = []
    for name, module, threats in models:
        verdicts = [seen(module, threats, asked.examples, seed) for seed in range(asked.seeds)]
        for place, threat in enumerate(threats):
            counts = Counter(verdict[place] for verdict in verdicts)
            common = counts.most_common(1)[0][1]
            told = ", ".join(f"{verdict} {n}" for verdict, n in counts.most_common())
            rows.append({"model": name, "threat": threat, "verdicts": told, "changed": asked.seeds - common})
            print(rows[-1], flush=True)
    notes = [
        f"{asked.examples} examples of digits:test, protocol quick with these threats, {asked.seeds} seeds; without the"
        " limit in time that `on` has.",
        f"Command: python benchmarks/masking_seeds.py --seeds {asked.seeds} --examples {asked.examples}",
    ]
    keep("masking-seeds-digits", "Gradient masking: the verdict over seeds", rows, notes, torch.device("cpu"))


def seen(module: nn.Module, threats: tuple[str, ...], examples: int, seed: int) -> list[str]:
    """The verdict under each threat."""
    with tempfile.TemporaryDirectory() as folder:
        summary = robench.evaluate(
            module,
            "digits",
            "quick",
            threats=threats,
            examples=examples,
            seed=seed,
            masking="on",
            run=Path(folder) / "run.robench",
        )
    return [t.masking.verdict for t in summary.threats]


if __name__ == "__main__":
    main()
