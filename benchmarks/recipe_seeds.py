"""The robust accuracy of every recipe on digits, and its variation with the seed.

    python benchmarks/recipe_seeds.py [--seeds N] [--steps N] [--examples N] [--keep DIR]

Trains a model for each recipe and seed, with the same number of steps and otherwise the recipe's defaults; the seed
determines weights, order of the images and noise. The protocol quick evaluates each on the same examples, under the
three norms, or under rotations and translations if it was trained for them. With `--keep`, the same command resumes,
even within a training, and more seeds are added to the saved ones.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import torch
from measuring import write_results
from recipes import Quiet
from resumable import Row, SavedRows, add_option

from robench.evaluation.model_source import source_of
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest
from robench.problem import checkpoints, datasets
from robench.problem.threats import parse
from robench.recipes import RECIPES, configure
from robench.recipes.making import Order, default_architecture, make

DATA, PROTOCOL = "digits", "quick"
NORMS, TRANSFORMS = ("linf:0.2", "l2:2", "l1:10"), ("rt:3px,30deg",)
SINGLE = {
    "nat": [()],
    "ant": [()],
    "pgd_at": [(norm,) for norm in NORMS],
    "spatial_at": [TRANSFORMS],
    "trades": [NORMS[:1]],
}
SINGLE |= {recipe: [(NORMS[0], NORMS[2])] for recipe in ("eat", "ramp")}  # the extremes
SEED = 0  # of the attacks, independent of that of the training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--examples", type=int, default=100)
    add_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    saved, rows = SavedRows(args.keep), []
    with tempfile.TemporaryDirectory() as passing:
        folder = (args.keep or Path(passing)) / "models"
        for recipe, threats in _models():
            found: list[Row] = []
            for seed in range(args.seeds):
                out = folder / "-".join([recipe, *threats, str(seed)]).replace(":", "").replace(",", "-")
                question: Row = {"steps": args.steps, "examples": args.examples}
                found += saved.rows(
                    out.name,
                    question,
                    lambda r=recipe, t=threats, s=seed, o=out: [
                        {"seconds": trained(r, t, s, args.steps, o), **measured(o, t, args.examples)}
                    ],
                )
            rows.append({"recipe": recipe, "trained on": ", ".join(threats) or "none", **_over_seeds(found)})
            print(rows[-1], flush=True)
    notes = [
        f"{default_architecture(DATA)} on {DATA}, {args.steps} steps of 64 images, {args.seeds} seeds;"
        f" {args.examples} examples of {DATA}:test, protocol {PROTOCOL}. Percent of all examples standing: the mean of"
        " the seeds, and the lowest and the highest. Union and average are of the threats that have a number. Seconds:"
        " of one training, the mean.",
        *saved.note(),
        f"Command: python benchmarks/recipe_seeds.py --seeds {args.seeds} --steps {args.steps}"
        f" --examples {args.examples}",
    ]
    write_results(f"recipe-seeds-{DATA}", "Every recipe on digits, over seeds", rows, notes, torch.device("cpu"))


def _models() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each recipe with the threats that it is trained against."""
    for recipe in (name for name, kind in RECIPES.items() if not kind.self_training):
        for threats in SINGLE.get(recipe, [NORMS]):
            yield recipe, threats


def trained(recipe: str, threats: Sequence[str], seed: int, steps: int, out: Path) -> float:
    """Trains the model; returns the CPU seconds."""
    start_time = time.process_time()
    order = Order(
        recipe=configure(recipe, DATA, {"steps": steps}),
        threats=tuple(map(parse, threats)),
        data=DATA,
        architecture=default_architecture(DATA),
        seed=seed,
        out=out,
        command="",
    )
    make(order, datasets.load(DATA, "train"), torch.device("cpu"), Quiet())
    return time.process_time() - start_time


def measured(out: Path, threats: Sequence[str], examples: int) -> Row:
    """The accuracy in percent: clean, under each threat, under their union, and on average."""
    module = checkpoints.load(f"{out}.safetensors").classifier.module
    request = EvalRequest(
        DATA, PROTOCOL, TRANSFORMS if tuple(threats) == TRANSFORMS else NORMS, examples=str(examples), seed=SEED
    )
    summary = prepare(request, source_of(module)).answer().summary
    accuracies = {threat.threat: threat.accuracy for threat in summary.threats}
    shares = {"clean": summary.clean.accuracy, **accuracies, "union": summary.union.accuracy}
    shares["average"] = sum(accuracies.values()) / len(accuracies)
    return {name: 100 * share for name, share in shares.items()}


def _over_seeds(found: Sequence[Row]) -> Row:
    columns = ("clean", *NORMS, *TRANSFORMS, "union", "average")
    spread: Row = {column: _spread([float(str(row[column])) for row in found if column in row]) for column in columns}
    return spread | {"seconds": round(mean(float(str(row["seconds"])) for row in found))}


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.0f} to {max(values):.0f})" if values else ""


if __name__ == "__main__":
    main()
