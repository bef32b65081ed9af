"""How many random chains, and how many unknown normalisations, are inferred from clean images: correctly, or wrongly.

    python benchmarks/chain_inference.py 100

Each network has 2 to 5 layers with weights, of random kernels, strides, paddings and widths, and is trained on digits
for a few epochs, on pixels in [0, 1] or normalised ones. Its bare state dict is loaded twice: without any hint, and
with its architecture but without its normalisation. `--rows FILE` keeps the outcomes, so that a stopped measurement
goes on.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import write_results
from torch import nn

from robench.errors import UserError
from robench.problem import datasets
from robench.problem.architectures import chain as chains
from robench.problem.architectures.chain import Chain, Shape
from robench.problem.architectures.normalise import canonical, normalised
from robench.problem.checkpoints import load
from robench.problem.checkpoints.comparison import sample
from robench.results.stats.intervals import clopper_pearson

NORMALISATIONS = ("none", "none", "digits", "0.5/0.5")
SIDE, CLASSES = 28, 10
SMALLEST, LARGEST = 2, 14  # pixels of the maps that the first dense layer gets
EPOCHS = 6


def random_chain(rng: random.Random) -> tuple[Chain, list[Mapping[str, Shape]]]:
    """A chain of 2 to 5 layers with weights, and the shapes of its weights."""
    while True:
        depth = rng.randint(2, 5)
        words: list[str] = []
        shapes: list[Mapping[str, Shape]] = []
        channels, size = 1, SIDE
        for _ in range(rng.randint(1, min(3, depth - 1))):
            kernel, stride, padding = rng.randint(2, 5), rng.choice((1, 1, 2, 2, 3)), rng.randint(0, 2)
            width = rng.choice((4, 8, 16))
            size = (size + 2 * padding - kernel) // stride + 1
            words += [f"conv{kernel}/{stride}p{padding}", "relu"]
            shapes.append({"weight": (width, channels, kernel, kernel), "bias": (width,)})
            channels = width
            if size < SMALLEST:
                break
            if size >= 4 and rng.random() < 0.25:
                words.append("maxpool2")
                size //= 2
        features = channels * size * size
        words.append("flatten")
        for _dense in range(depth - len(shapes)):
            last = len(shapes) == depth - 1
            width = CLASSES if last else rng.choice((16, 32, 64))
            words += ["fc"] if last else ["fc", "relu"]
            shapes.append({"weight": (width, features), "bias": (width,)})
            features = width
        if SMALLEST <= size <= LARGEST:
            return chains.parse(chains.PREFIX + ",".join(words)), shapes


def trained(network: nn.Module, normalisation: str) -> nn.Module:
    """The network after a brief training on digits."""
    data = datasets.load("digits:train")
    whole = normalised(network, normalisation, 1)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(data)), 64):
            optimiser.zero_grad()
            F.cross_entropy(whole(data.x[rows]), data.y[rows]).backward()
            optimiser.step()
    return network.eval()


def outcomes(number: int, folder: Path) -> dict[str, str]:
    """What is inferred of the random network of this number."""
    rng = random.Random(number)
    torch.manual_seed(number)
    chain, shapes = random_chain(rng)
    normalisation = rng.choice(NORMALISATIONS)
    network = trained(chains.build(chain, shapes, (1, SIDE, SIDE)), normalisation)
    path = folder / "network.pt"
    torch.save(network.state_dict(), path)
    text, wanted = chains.written(chain), canonical(normalisation, 1)
    clean = sample(datasets.load("digits:test"))
    row = {"chain": text, "normalisation": normalisation}
    try:
        found = load(path, shape=clean.shape, classes=CLASSES, clean=clean).classifier
        alike = (found.architecture, found.normalisation) == (text, wanted)
        row["without a hint"] = "inferred correctly" if alike else f"wrong: {found.architecture} {found.normalisation}"
    except UserError as error:
        row["without a hint"] = "refused"
        row["why"] = str(error).replace(str(path), "network.pt")
    with_chain = load(path, arch=text, shape=clean.shape, classes=CLASSES, clean=clean)
    inferred = with_chain.inferred.normalisation if with_chain.inferred else None
    given = with_chain.classifier.normalisation
    row["with --arch"] = (
        ("[0, 1] kept, correctly" if wanted == "none" else "not inferred: [0, 1] kept, with a note")
        if inferred is None
        else ("inferred correctly" if given == wanted else f"wrong: {given}")
    )
    return row


def measured(count: int, rows: Path | None) -> list[dict[str, str]]:
    """The outcomes of the first `count` networks; those in the file `rows` are not computed again."""
    known = {}
    if rows is not None and rows.exists():
        known = {row["number"]: row for row in map(json.loads, rows.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            if number not in known:
                known[number] = {"number": number, **outcomes(number, Path(folder))}
                if rows is not None:
                    with rows.open("a") as file:
                        file.write(json.dumps(known[number]) + "\n")
    return [known[number] for number in range(count)]


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", type=int)
    parser.add_argument("--rows", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.networks, options.rows)
    table: list[dict[str, object]] = []
    for what in ("without a hint", "with --arch"):
        tally = Counter("wrong" if row[what].startswith("wrong") else row[what] for row in found)
        tally.setdefault("wrong", 0)
        table += [{"loaded": what, "outcome": name, "networks": n} for name, n in sorted(tally.items())]
    wrong = sum(row["without a hint"].startswith("wrong") for row in found)
    notes = [
        f"Wrong without a hint: {wrong} of {len(found)} (95 %: at most"
        f" {100 * clopper_pearson(wrong, len(found))[1]:.1f} %). The normalisation was one of"
        f" {', '.join(NORMALISATIONS)}, at random."
    ]
    title = "Chains and normalisations inferred from clean images of digits"
    write_results("chain-inference-digits", title, table, notes, torch.device("cpu"))


if __name__ == "__main__":
    main()
