"""What every recipe reaches on digits, and how much of that is the seed.

    python benchmarks/recipe_seeds.py [--seeds N] [--steps N] [--examples N] [--keep DIR]

A model per recipe and seed, all with the same number of steps and the recipe's other default numbers; a seed draws
weights, order of the images and noise. Each is measured by the protocol quick on the same examples, under the three
norms, or under rotations and translations where it was trained for them. With `--keep` the same command goes on where
it was stopped, a training in its midst too, and more seeds add to what is there.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import torch
from kept import Kept, Row, add_option
from measuring import keep
from recipes import Quiet

from robench.evaluation.model_source import source_of
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest
from robench.problem import checkpoints, datasets
from robench.problem.threats import parse
from robench.recipes import RECIPES, configure
from robench.recipes.making import Order, default_architecture, make

DATA, PROTOCOL = "digits", "quick"
NORMS, POSES = ("linf:0.2", "l2:2", "l1:10"), ("rt:3px,30deg",)
SINGLE = {"nat": [()], "pgd_at": [(norm,) for norm in NORMS], "spatial_at": [POSES], "trades": [NORMS[:1]]}
SINGLE["eat"] = [(NORMS[0], NORMS[2])]  # the extremes
SEED = 0  # of the attacks, whatever that of the training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--examples", type=int, default=100)
    add_option(parser)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kept, rows = Kept(asked.keep), []
    with tempfile.TemporaryDirectory() as passing:
        folder = (asked.keep or Path(passing)) / "models"
        for recipe, threats in _models():
            found: list[Row] = []
            for seed in range(asked.seeds):
                out = folder / "-".join([recipe, *threats, str(seed)]).replace(":", "").replace(",", "-")
                question: Row = {"steps": asked.steps, "examples": asked.examples}
                found += kept.rows(
                    out.name,
                    question,
                    lambda r=recipe, t=threats, s=seed, o=out: [
                        {"seconds": trained(r, t, s, asked.steps, o), **measured(o, t, asked.examples)}
                    ],
                )
            rows.append({"recipe": recipe, "trained on": ", ".join(threats) or "none", **_over_seeds(found)})
            print(rows[-1], flush=True)
    notes = [
        f"{default_architecture(DATA)} on {DATA}, {asked.steps} steps of 64 images, {asked.seeds} seeds;"
        f" {asked.examples} examples of {DATA}:test, protocol {PROTOCOL}. Percent of all examples standing: the mean of"
        " the seeds, and the lowest and the highest. Union and average are of the threats that have a number. Seconds:"
        " of one training, the mean.",
        *kept.note(),
        f"Command: python benchmarks/recipe_seeds.py --seeds {asked.seeds} --steps {asked.steps}"
        f" --examples {asked.examples}",
    ]
    keep(f"recipe-seeds-{DATA}", "Every recipe on digits, over seeds", rows, notes, torch.device("cpu"))


def _models() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Recipes, and the threats that each is trained against."""
    for recipe in RECIPES:
        for threats in SINGLE.get(recipe, [NORMS]):
            yield recipe, threats


def trained(recipe: str, threats: Sequence[str], seed: int, steps: int, out: Path) -> float:
    """Make the model; the seconds that took."""
    begun = time.process_time()
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
    return time.process_time() - begun


def measured(out: Path, threats: Sequence[str], examples: int) -> Row:
    """Percent standing: clean, under each threat, under all of them, and on average."""
    module = checkpoints.load(f"{out}.safetensors").classifier.module
    ask = EvalRequest(DATA, PROTOCOL, POSES if tuple(threats) == POSES else NORMS, examples=str(examples), seed=SEED)
    summary = prepare(ask, source_of(module)).answer().summary
    told = {threat.threat: threat.accuracy for threat in summary.threats}
    shares = {"clean": summary.clean.accuracy, **told, "union": summary.union.accuracy}
    shares["average"] = sum(told.values()) / len(told)
    return {name: 100 * share for name, share in shares.items()}


def _over_seeds(found: Sequence[Row]) -> Row:
    columns = ("clean", *NORMS, *POSES, "union", "average")
    spread: Row = {column: _spread([float(str(row[column])) for row in found if column in row]) for column in columns}
    return spread | {"seconds": round(mean(float(str(row["seconds"])) for row in found))}


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.0f} to {max(values):.0f})" if values else ""


if __name__ == "__main__":
    main()
