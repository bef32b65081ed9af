"""What is shown of an architecture, also of a member of a family that no list has. Imports torch."""

import torch

from ..catalogue import Entry
from ..errors import UserError
from ..problem.architectures import FAMILIES, Architecture, named
from ..problem.datasets import DATASETS, DataSet


def member(name: str) -> list[Entry]:
    """The member of a family that has this name, if any."""
    architecture = named(name)
    return [] if architecture is None else [architecture_entry(architecture)]


def architecture_entry(architecture: Architecture) -> Entry:
    """What is listed and shown of an architecture."""
    smallest, multiple = architecture.smallest, architecture.multiple
    multiples = f", sides that are multiples of {multiple}" if multiple > 1 else ""
    facts = {"images": f"at least {smallest}x{smallest} pixels{multiples}", "weights": _weights(architecture)}
    family = next((family for family in FAMILIES if family.named(architecture.name)), None)
    if family is not None and family.others:
        facts["other names"] = family.others
    data = next(name for name in ("mnist", "cifar10") if _reads(architecture, DATASETS[name]))
    example = f"robench train nat --data {data} --arch {architecture.name}"
    return Entry(architecture.name, architecture.description, facts, example=example)


def _reads(architecture: Architecture, data: DataSet) -> bool:
    """Whether the images of the data set fit it."""
    try:
        architecture.check(data.shape)
    except UserError:
        return False
    return True


def _weights(architecture: Architecture) -> str:
    """The number of weights, without making any."""
    with torch.device("meta"):
        network = architecture.build((3, 32, 32), 10)
    number = sum(weight.numel() for weight in network.parameters())
    return f"{number:,} for images of 3x32x32 and 10 classes"
