"""What the attacks of adversarial training leave standing on a finished model, beside a whole protocol.

    python benchmarks/inner_attacks.py [--model NAME] [--examples 300] [--steps N ...] [--threat THREAT ...]
        [--precision float32]

The images are training images, those that `--validation` holds out; the attacks are those that `--set inner_attack=...`
and `l1_steps=...` choose, each with its one start. A training sees only what its attack finds, so an attack that leaves
much more standing than `standard` teaches a network to withstand that attack alone. No test image is read.
"""

import argparse
from typing import Any

import torch
from measuring import write_results

import robench
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.noise import keyed, text_key
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.recipes import configure
from robench.recipes.adversarial import AdversarialTraining, TrainingStep
from robench.recipes.making import InBFloat16
from robench.search.attack import Batch, Model

CPU = torch.device("cpu")
ATTACKS: dict[str, dict[str, Any]] = {
    "PGD, under l1 SLIDE": {},
    "PGD, under l1 Euclidean": {"l1_steps": "euclidean"},
    "APGD": {"inner_attack": "apgd"},
    "APGD in stages": {"inner_attack": "staged-apgd"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-eat-l1r14")
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 100])
    parser.add_argument("--threat", action="append", default=[])
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threats = [*map(parse, args.threat or ("linf:0.3", "l2:2", "l1:10"))]
    loaded = load(args.model)
    assert loaded.card is not None, "a bundled model has a card"
    whole = datasets.load(f"{loaded.card.data}:train")
    split = whole.part(f"held-out:{args.examples}")
    exact = loaded.classifier.module.eval()
    module = InBFloat16(exact) if args.precision == "bfloat16" else exact

    rows: list[dict[str, object]] = []
    for steps in args.steps:
        for name, chosen in ATTACKS.items():
            recipe = configure("sat", loaded.card.data, {"inner_steps": steps} | chosen | sizes(chosen, steps))
            assert isinstance(recipe, AdversarialTraining)
            row: dict[str, object] = {"attack": name, "steps": steps}
            row |= {str(threat): standing(module, recipe, threat, split) for threat in threats}
            rows.append(row)
            print(row, flush=True)
    summary = robench.evaluate(
        args.model, split, "standard", threats=[str(threat) for threat in threats], masking="off"
    )
    left = {entry.threat: round(entry.accuracy * len(split)) for entry in summary.threats}
    rows.append({"attack": "protocol standard", "steps": ""} | left)
    notes = [
        f"Of {len(split)} images of {whole.name}, how many {args.model} has right at the image an attack ends with.",
        f"Products in {args.precision}, as in a training with `--precision {args.precision}`. Stages begin in balls of",
        "three radii and then two under l2 and l1; under linf they are plain APGD.",
        f"Command: python benchmarks/inner_attacks.py --model {args.model} --examples {args.examples} --steps "
        + " ".join(map(str, args.steps))
        + "".join(f" --threat {threat}" for threat in args.threat)
        + (" --precision float32" if args.precision == "float32" else ""),
    ]
    write_results(f"inner-attacks-{args.model}", f"Attacks of a training, on {args.model}", rows, notes, CPU)


def sizes(chosen: dict[str, Any], steps: int) -> dict[str, float]:
    """Step sizes that add up to 2.5 radii, where the attack does not adapt them."""
    return {} if "inner_attack" in chosen else {"inner_step_size": 2.5 / steps}


def standing(module: Model, recipe: AdversarialTraining, threat: ThreatModel, split: Split) -> int:
    """The number of images that are still right."""
    keys = keyed(0, torch.tensor(split.numbers), text_key("inner attacks"), restart=0)
    count = 0
    for rows in torch.arange(len(split)).split(100):
        batch = Batch(x=split.x[rows], y=split.y[rows], target=split.y[rows], keys=keys[rows])
        with torch.no_grad():
            logits = module(recipe.images(TrainingStep(module, batch, (threat,), 0.0, {}), threat))
        count += int((logits.argmax(dim=1) == batch.y).sum())
    return count


if __name__ == "__main__":
    main()
