"""Accuracy of a model in the course of its training, as in Figure 1 of Tramèr and Boneh 2019: runs for the figure.

    python benchmarks/training_course.py FOLDER

Trains `cifar10-small-max` once more, by the settings of its card, and stores its weights after eight shares of the
training. Each is evaluated under the three threats on the 500 training images that no training has seen, and so are
the bundled models of a single threat, each under its own. FOLDER receives a slim run file for each and figure-1.json
with their summaries, from which `robench reproduce` draws the figure: it is reports/runs/tramer2019/figure-1.json. No
test image is read. A second call continues.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from recipes import Quiet
from torch.nn.utils import convert_conv2d_weight_memory_format

import robench
from robench.problem import checkpoints, datasets
from robench.problem.architectures import named
from robench.problem.checkpoints.cards import Card, read_card
from robench.problem.checkpoints.zoo import zoo_card
from robench.problem.split import Split
from robench.problem.subsets import held_out
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes.making import InBFloat16
from robench.recipes.training import Training, TrainingData

MODEL = "cifar10-small-max"
SINGLE = ("cifar10-small-adv-linf", "cifar10-small-adv-l2", "cifar10-small-adv-l1")
SNAPSHOTS = 8
ATTACKS = ("pgd(steps=40, random_start=False)", "apgd", "apgd(loss=probability-margin)")


class Course(Training):
    """A training that stores its weights at some steps."""

    snapshots: dict[int, Path]
    card: Card

    def steps(self, total: int) -> Iterator[int]:
        for step in super().steps(total):
            yield step
            if step + 1 in self.snapshots:
                self.store(self.snapshots[step + 1])

    def store(self, path: Path) -> None:
        """Writes the weights to a file."""
        assert isinstance(self.module, InBFloat16)
        card = self.card
        checkpoints.save(
            self.module.module,
            path,
            architecture=card.architecture,
            normalisation="none",
            shape=card.shape,
            classes=card.classes,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    card = read_card(zoo_card(MODEL))
    total = int(card.settings["steps"])
    steps = [round(total * (i + 1) / SNAPSHOTS) for i in range(SNAPSHOTS)]
    split = datasets.load(card.data, "train")
    without = held_out(len(split), int(card.settings["validation"]))
    snapshots = {step: folder / f"{MODEL}-{step:04}.safetensors" for step in steps}
    if not all(path.exists() for path in snapshots.values()):
        train(card, split, without, snapshots, folder / f"{MODEL}.training")
    images = split.take(sorted(without))
    threats = tuple(card.settings["threats"])
    for path in snapshots.values():
        measure(str(path), images, threats, folder / f"{path.stem}.robench")
    for name in SINGLE:
        measure(name, images, tuple(read_card(zoo_card(name)).settings["threats"]), folder / f"{name}.robench")
    runs = sorted(folder.glob("*.robench"))
    command = [sys.executable, "-m", "robench", "report", *runs, "--format", "json"]
    (folder / "figure-1.json").write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def train(card: Card, split: Split, without: frozenset[int], snapshots: dict[int, Path], state: Path) -> None:
    """Trains the model of the card from its seed, and stores the snapshots by step."""
    defined = {"steps", "batch", "augment", "lr", "inner_steps", "inner_step_size", "warmup", "transforms", "schedule"}
    recipe = configure(card.recipe, card.data, {k: v for k, v in card.settings.items() if k in defined})
    network = named(card.architecture)
    assert network is not None
    torch.manual_seed(card.seed)
    module = network.build(card.shape, card.classes)
    convert_conv2d_weight_memory_format(module, torch.channels_last)
    optimiser = recipe.optimiser_for(module.parameters())
    training = Course(InBFloat16(module), optimiser, state, f"course of {card.name}", Quiet(), data=split.sha256)
    training.snapshots, training.card = snapshots, card
    data = TrainingData.of(split, recipe.batch, card.seed, torch.device("cpu"), recipe.augment, without)
    recipe.train(training, data, tuple(map(parse, card.settings["threats"])))
    state.unlink(missing_ok=True)


def measure(model: str, images: Split, threats: tuple[str, ...], out: Path) -> None:
    """Evaluates the model into a slim run file, unless it is there."""
    if out.exists():
        return
    whole = out.with_suffix(".whole")
    summary = robench.evaluate(model, images, threats=threats, attacks=ATTACKS, examples=len(images), run=whole)
    subprocess.run([sys.executable, "-m", "robench", "merge", whole, "--slim", "--compress", "--out", out], check=True)
    whole.unlink()
    print(model, {t.threat: t.accuracy for t in summary.threats}, summary.union.accuracy, flush=True)


if __name__ == "__main__":
    main()
