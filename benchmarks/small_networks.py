"""Small networks for CIFAR-10 on one thread: images per second, and accuracies after equal training times.

    python benchmarks/small_networks.py [--minutes 2] [--network NAME] [--set KEY=VALUE] [--examples 1000]

Images per second count a pass forward and a gradient of the image, in batches of 128. With --minutes every network is
trained by `sat` against linf:8/255, l2:128/255 and l1:2000/255 for as many steps as this CPU time allows, in bfloat16,
and measured on training images that were held out, by 20 steps of PGD on the margin of probabilities (under l1 APGD).
No test image is read.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from measuring import seconds, write_results
from recipes import InTurn, Quiet, Unsaved
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.problem import datasets
from robench.problem.architectures import named
from robench.problem.architectures.strided_cnn import StridedCNN
from robench.problem.architectures.wong_kolter import WongKolterCNN
from robench.problem.losses import cross_entropy
from robench.problem.split import Split
from robench.problem.subsets import held_out
from robench.problem.threats import Ball, parse
from robench.recipes import Recipe, configure
from robench.recipes.making import InBFloat16
from robench.recipes.training import TrainingData
from robench.search.attack import Batch, differentiate, unroll
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD

CPU = torch.device("cpu")
THREATS = tuple(map(parse, ("linf:8/255", "l2:128/255", "l1:2000/255")))
SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 128
Build = Callable[[], nn.Module]


def strided(*maps: int) -> nn.Module:
    """Three convolutions with batch norm and so many maps."""
    first, second, third = maps
    return StridedCNN(SHAPE, CLASSES, (first, second, third))


def registered(name: str) -> nn.Module:
    """A network that robench has under this name."""
    architecture = named(name)
    assert architecture is not None
    return architecture.build(SHAPE, CLASSES)


def convolutional(first: int, second: int) -> nn.Module:
    """Wong and Kolter's network with so many maps."""
    return WongKolterCNN(SHAPE, CLASSES, (first, second))


TRAINED: Mapping[str, Build] = {
    "two convolutions, 16 and 32 maps (Wong and Kolter)": partial(convolutional, 16, 32),
    "two convolutions, 32 and 64 maps": partial(convolutional, 32, 64),
    "three convolutions with batch norm, 16, 32 and 64 maps": partial(strided, 16, 32, 64),
    "three convolutions with batch norm, 32, 64 and 64 maps": partial(strided, 32, 64, 64),
}
TIMED: Mapping[str, Build] = {name: partial(registered, name) for name in ("cifar-resnet20", "wrn-10-2")}


def built(build: Build) -> nn.Module:
    """The network with the same random numbers each time, laid out as in training."""
    torch.manual_seed(0)
    module = build()
    convert_conv2d_weight_memory_format(module, torch.channels_last)
    return module


def rate(module: nn.Module, rounds: int = 5) -> int:
    """Images per second, forward and back to the image; the best of some rounds."""
    x, y = torch.rand(BATCH, *SHAPE), torch.arange(BATCH) % CLASSES
    module.eval()

    def work() -> None:
        for _ in range(3):
            differentiate(module, cross_entropy, x, y, y)

    work()
    return round(3 * BATCH / min(seconds(work, CPU) for _ in range(rounds)))


def sat(steps: int, changed: dict[str, object]) -> Recipe:
    return configure("sat", "cifar10", {"steps": steps, "batch": BATCH, **changed})


def trained(build: Build, split: Split, examples: int, minutes: float, changed: dict[str, object]) -> dict[str, object]:
    """The accuracies after a training of this length."""
    module = built(build)
    out = held_out(len(split), examples)
    data = TrainingData.of(split, BATCH, 0, CPU, sat(3, changed).augment, out)

    def train(recipe: Recipe, module: nn.Module, data: TrainingData) -> None:
        training = Unsaved(InBFloat16(module), recipe.optimiser_for(module.parameters()), Path("none"), "", Quiet())
        recipe.train(training, data, THREATS)

    trial = InTurn(data.x, data.y, BATCH, 0, sat(3, changed).augment, sides=len(THREATS))
    cost = min(
        seconds(lambda: train(sat(6, {**changed, "warmup": 0.0}), built(build), trial), CPU) / 6 for _ in range(3)
    )
    steps = round(minutes * 60 / cost)
    taken = seconds(lambda: train(sat(steps, changed), module, data), CPU)
    seen = accuracies(module, split.take(sorted(out)))
    return {"lr": sat(3, changed).lr, "steps": steps, "minutes": taken / 60} | seen


def accuracies(module: nn.Module, held: Split) -> dict[str, object]:
    """In percent of the held-out images."""
    module.eval()
    learner = InBFloat16(module)
    stand: dict[str, Tensor] = {}
    with torch.no_grad():
        stand["clean"] = module(held.x).argmax(dim=1) == held.y
    keys = torch.arange(len(held))
    for threat in THREATS:
        assert isinstance(threat, Ball)
        right = stand["clean"].clone()
        for rows in keys.split(250):
            batch = Batch(held.x[rows], held.y[rows], torch.zeros_like(rows), rows)
            if threat.sparse_steps:
                delta = unroll(learner, threat, APGD(steps=40, loss="probability-margin", staged=False), batch).top
            else:
                attack = PGD(steps=20, loss="probability-margin", schedule="cosine")
                delta = unroll(learner, threat, attack, batch).delta
            with torch.no_grad():
                right[rows] &= module(batch.x + delta).argmax(dim=1) == batch.y
        stand[str(threat)] = right
    stand["union"] = torch.stack([*stand.values()]).all(dim=0)
    return {name: 100 * mask.float().mean().item() for name, mask in stand.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--network", default="", help="part of the name of the networks to measure")
    parser.add_argument("--set", action="append", default=[], help="a setting of sat")
    parser.add_argument("--examples", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    changed = {key: typed(value) for key, value in (text.split("=", 1) for text in args.set)}
    split = datasets.load("cifar10", "train") if args.minutes else None
    rows: list[dict[str, object]] = []
    for name, build in {**TRAINED, **TIMED}.items():
        if args.network not in name:
            continue
        module = built(build)
        row: dict[str, object] = {"network": name, "weights": sum(weight.numel() for weight in module.parameters())}
        row |= {"images per second": rate(module), "in bfloat16": rate(InBFloat16(module))}
        if split is not None and name in TRAINED:
            row |= trained(build, split, args.examples, args.minutes, changed)
        rows.append(row)
        print(row, flush=True)
    settings = " ".join(f"--set {text}" for text in args.set)
    notes = [
        "Images per second: a pass forward and a gradient of the image, batches of 128, float32 and bfloat16.",
        f"Accuracies: percent of {args.examples} training images held out, after so many minutes of sat.",
        f"Command: python benchmarks/small_networks.py --minutes {args.minutes:g} {settings}".rstrip(),
    ]
    write_results("small-networks-cifar10", "Small networks for CIFAR-10", rows, notes, CPU)


def typed(value: str) -> object:
    """The number, the truth value or the text that was written."""
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


if __name__ == "__main__":
    main()
