"""A real regression, and the result of the gate.

    python benchmarks/regression.py [--model NAME] [--steps N] [--examples N]

Fine-tunes an adversarially trained model on clean images, as a user might do for a point of clean accuracy. Then runs
`robench check` with the original model as baseline: on the original model, on the fine-tuned one, and on the fine-tuned
one with few examples.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import RESULTS

from robench.problem import checkpoints, datasets
from robench.recipes.training import TrainingData

BATCH = 64


def tuned(name: str, steps: int, lr: float, path: Path) -> None:
    """Saves the named model after some steps of plain training."""
    loaded = checkpoints.load(name)
    module, card = loaded.classifier.module.train(), loaded.card
    assert card is not None, "a bundled model has a card"
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    data = TrainingData.of(datasets.load(card.data, "train"), BATCH, seed=0, device=torch.device("cpu"))
    optimiser = torch.optim.Adam(module.parameters(), lr=lr)
    for step in range(steps):
        batch = data.at(step)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(module(batch.x), batch.y))
        optimiser.step()
    checkpoints.save(
        module.eval(),
        path,
        architecture=card.architecture,
        normalisation="none",
        shape=card.shape,
        classes=card.classes,
    )


def run_robench(*words: str, folder: Path) -> tuple[int, str, float]:
    """Exit code, output and seconds of a robench command."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "robench", *words, "--quiet"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout or done.stderr, time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="digits-adv-linf")
    arguments.add_argument("--steps", type=int, default=12)
    arguments.add_argument("--lr", type=float, default=3e-4)
    arguments.add_argument("--examples", type=int, default=200)
    arguments.add_argument("--few", type=int, default=25)
    args = arguments.parse_args()
    page = [f"# A regression made for real\n\n{args.model}, {args.steps} steps of plain training at {args.lr:g}."]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuned(args.model, args.steps, args.lr, folder / "tuned.safetensors")
        for examples in (args.examples, args.few):
            run_robench(
                "evaluate", args.model, "--examples", str(examples), "--json", f"{examples}.json", folder=folder
            )
        for model, examples in (
            (args.model, args.examples),
            ("tuned.safetensors", args.examples),
            ("tuned.safetensors", args.few),
        ):
            command = "check", model, "--baseline", f"{examples}.json"
            code, output, seconds = run_robench(*command, folder=folder)
            page.append(
                f"## `robench {' '.join(command)}`\n\nExit code {code} after {seconds:.0f} s.\n\n{output.strip()}"
            )
    text = "\n\n".join(page) + "\n"
    print(text)
    (RESULTS / f"regression-{args.model}.md").write_text(text)


if __name__ == "__main__":
    main()
