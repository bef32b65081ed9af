"""Writes tests/problem/reference_logits.json: what torchvision and timm compute with weights that a rule fills.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31   # in an environment of its own
    python scripts/reference_logits.py

Needs no robench. The rule depends on the key and the shape of a weight alone, so that a test fills the networks of
robench with the same weights, and only the logits are committed.
"""

import argparse
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FILE = Path(__file__).parents[1] / "tests" / "problem" / "reference_logits.json"
CLASSES, SIDE, BATCH = 10, 64, 2
PERIOD = 65_537  # a prime, so that no axis of a weight is a multiple of it
TORCHVISION = {
    "resnet18-imagenet": "resnet18",
    "resnet34-imagenet": "resnet34",
    "resnet50-imagenet": "resnet50",
    "resnet101-imagenet": "resnet101",
    "resnet152-imagenet": "resnet152",
    "resnet50-1x128d-imagenet": "wide_resnet50_2",
    "resnet50-32x4d-imagenet": "resnext50_32x4d",
    "vgg11-imagenet": "vgg11",
    "vgg13-imagenet": "vgg13",
    "vgg16-imagenet": "vgg16",
    "vgg19-imagenet": "vgg19",
    "vgg11-bn-imagenet": "vgg11_bn",
    "vgg13-bn-imagenet": "vgg13_bn",
    "vgg16-bn-imagenet": "vgg16_bn",
    "vgg19-bn-imagenet": "vgg19_bn",
    "densenet121-imagenet": "densenet121",
    "densenet161-imagenet": "densenet161",
    "densenet169-imagenet": "densenet169",
    "densenet201-imagenet": "densenet201",
    "mobilenetv2-imagenet": "mobilenet_v2",
}
TIMM = {
    "vit-tiny-16": "vit_tiny_patch16_224",
    "vit-small-16": "vit_small_patch16_224",
    "vit-base-16": "vit_base_patch16_224",
    "vit-large-16": "vit_large_patch16_224",
    "vit-small-32": "vit_small_patch32_224",
    "vit-base-8": "vit_base_patch8_224",
    "resnet18-imagenet": "resnet18",
    "resnet50-imagenet": "resnet50",
    "densenet121-imagenet": "densenet121",
}
ALSO_LOGITS = {
    "resnet18-imagenet", "resnet34-imagenet", "resnet50-imagenet", "resnet50-1x128d-imagenet",
    "resnet50-32x4d-imagenet", "vgg11-imagenet", "vgg16-bn-imagenet", "densenet121-imagenet", "densenet161-imagenet",
    "mobilenetv2-imagenet", "vit-tiny-16", "vit-small-16", "vit-base-16", "vit-small-32", "vit-base-8",
}  # fmt: skip
"""Of the others only keys, shapes and the number of weights: their layers are the same."""


def uniform(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers from -0.5 to 0.5 that depend on the key and the place alone."""
    mixed = np.arange(PERIOD, dtype=np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
    for _ in range(2):
        mixed = (mixed ^ mixed >> np.uint64(16)) * np.uint64(0x45D9F3B) & np.uint64(0xFFFFFFFF)
    table = (mixed / 2**32 - 0.5).astype(np.float32)
    return np.resize(np.roll(table, zlib.crc32(key.encode()) % PERIOD), shape)


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict of these shapes: weights of variance 2 / fan-in, norms near 1 with small shifts."""
    state = {}
    for key, shape in shapes.items():
        numbers = uniform(key, shape)
        if key.endswith("num_batches_tracked"):
            numbers = np.zeros(shape, dtype=np.int64)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            numbers = 1 + 0.5 * numbers
        elif len(shape) < 2 or key.endswith(("cls_token", "pos_embed")):
            numbers = 0.5 * numbers
        else:
            numbers = numbers * np.sqrt(24 / np.prod(shape[1:])).astype(np.float32)
        state[key] = torch.from_numpy(np.asarray(numbers))
    return state


def images() -> Tensor:
    """The images of the logits, (2, 3, 64, 64) in [0, 1]."""
    return torch.from_numpy(uniform("images", (BATCH, 3, SIDE, SIDE)) + np.float32(0.5))


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's state dict."""
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A hash of the keys and shapes, in any order."""
    return hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()[:16]


def weights(network: nn.Module) -> int:
    """The number of trained weights."""
    return sum(weight.numel() for weight in network.parameters())


def logits(network: nn.Module) -> list[list[float]]:
    """The logits of the network with filled weights."""
    network.load_state_dict(filled(shapes_of(network)), assign=True)
    with torch.no_grad():
        found = network.eval()(images())
    return [[float(f"{value:.7g}") for value in row] for row in found.tolist()]


def main() -> None:
    """Writes the file."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import timm
    import torchvision

    torch.manual_seed(0)
    entries: dict[str, dict[str, object]] = {}
    for library, names in (("torchvision", TORCHVISION), ("timm", TIMM)):
        for name, reference in names.items():
            sized = {"img_size": SIDE} if name.startswith("vit") else {}

            def make(classes: int, *, of: str = reference, library: str = library, sized: dict = sized) -> nn.Module:
                if library == "timm":
                    return timm.create_model(of, num_classes=classes, **sized)
                return torchvision.models.get_model(of, num_classes=classes)

            print(library, reference)
            usual = make(1000) if not sized else timm.create_model(reference)
            entry: dict[str, object] = {"weights": weights(usual), "layout": digest(shapes_of(make(CLASSES)))}
            if name in ALSO_LOGITS:
                entry["logits"] = logits(make(CLASSES))
            entries[f"{name} {library} {reference}"] = entry
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
    FILE.write_text(json.dumps({"versions": versions, "networks": entries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
