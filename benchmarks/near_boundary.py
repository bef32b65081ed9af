"""How near to the boundary a standing example is that something else breaks: the basis of `near` in the protocols.

    python benchmarks/near_boundary.py [--model NAME ...]

The first attacks of the standard search every example, then with one and with three targets more. For each that still
stands they leave some share of its clean margin. The table compares these shares with what anything known here breaks:
the protocols with every seed (benchmarks/results/time-to-truth-rows.json), and AutoAttack and Foolbox in their authors'
code (benchmarks/references). A bound on the share is safe where it is above that of every example that falls later; it
saves the searches of all examples above it.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from measuring import write_results
from time_to_truth import EXAMPLES, MODELS, RADII, REFERENCES, ROWS, data_of, norm_of
from truth_rows import read

import robench
from robench.evidence.store import RunFile

CPU = torch.device("cpu")
ASCENTS = {  # those of the standard protocols
    "linf": ['{ attack = "pgd", steps = 40, random_start = false }'],
    "l2": [
        '{ attack = "pgd", loss = "probability-margin", schedule = "cosine", steps = 100 }',
        '{ attack = "ddn", steps = 100 }',
    ],
    "l1": ['{ attack = "apgd", loss = "probability-margin" }'],
}
TARGETED = '{{ attack = "apgd", loss = "margin", targets = {}, target_order = "first-order" }}'
LAST = '{ attack = "square", steps = 1, near = 0.0001 }'  # shares are noted where an attack of near examples follows
STAGES = {"ascent": (), "ascent, 1 target": (1,), "ascent, 3 targets": (3,)}
BOUNDS = (0.1, 0.2, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all of digits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = args.model or [name for name in MODELS if data_of(name) == "digits"]
    rows = [row(model, threat, stage) for model in models for threat in RADII[data_of(model)] for stage in STAGES]
    of = "-".join(sorted({data_of(model) for model in models}))
    words = "".join(f" --model {model}" for model in args.model or ())
    note = f"The first {EXAMPLES} images, float32, seed 0. Command: python benchmarks/near_boundary.py{words}"
    write_results(f"near-boundary-{of}", "Shares of the clean margin left, and what breaks later", rows, [note], CPU)


def row(model: str, threat: str, stage: str) -> dict[str, object]:
    """What stands after a stage, how near it came, and what of it is known to break."""
    left = shares(model, threat, stage)
    later = sorted((left[example] for example in left.keys() & breakable(model, threat)), reverse=True)
    return {
        "model": model,
        "threat": threat,
        "after": stage,
        "standing": len(left),
        **{f"share at most {bound}": sum(share <= bound for share in left.values()) for bound in BOUNDS},
        "break later": len(later),
        "their largest shares": " ".join(f"{share:.2f}" for share in later[:4]),
    }


def shares(model: str, threat: str, stage: str) -> dict[int, float]:
    """The share of the clean margin that the attacks of a stage leave of each example that stands."""
    attacks = [*ASCENTS[norm_of(threat)], *(TARGETED.format(count) for count in STAGES[stage]), LAST]
    with tempfile.TemporaryDirectory() as folder:
        protocol, path = Path(folder) / "stage.toml", Path(folder) / "run.robench"
        protocol.write_text(
            f'name = "stage"\ndata = "{data_of(model)}"\nexamples = {EXAMPLES}\n'
            f'[[threat]]\nthreat = "{threat}"\nattacks = [{", ".join(attacks)}]\n'
        )
        found = robench.evaluate(model, protocol=protocol, run=path, precision="float32")
        with RunFile.read(path) as run:
            left = {record.example: record.left for record in run.evidence().nearest}
    return {example: left[example] for example, letter in enumerate(found.union.outcomes) if letter == "S"}


def breakable(model: str, threat: str) -> set[int]:
    """The examples that a protocol of this project or a reference breaks with some seed."""
    known = [
        outcomes
        for measured in read(ROWS).values()
        if measured.pair == (model, threat)
        for outcomes in measured.outcomes
    ]
    runs = REFERENCES.glob(f"*{model}-{norm_of(threat)}.robench")
    known += [robench.load_run(path).union.outcomes for path in runs]
    return {example for outcomes in known for example, letter in enumerate(outcomes) if letter == "B"}


if __name__ == "__main__":
    main()
