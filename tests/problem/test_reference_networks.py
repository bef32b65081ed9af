"""The networks with torchvision's and timm's keys compute what these libraries compute.

`scripts/reference_logits.py` made the file of reference logits in an environment of its own.
"""

import json

import pytest
import torch

from robench.problem.architectures import named
from scripts import reference_logits as reference

ENTRIES = {tuple(key.split()): entry for key, entry in json.loads(reference.FILE.read_text())["networks"].items()}
COMPARED = [key for key, entry in ENTRIES.items() if "logits" in entry]
SHAPE = (3, reference.SIDE, reference.SIDE)


def built(name, classes=reference.CLASSES, shape=SHAPE):
    """The network without values."""
    with torch.device("meta"):
        return named(name).build(shape, classes).eval()


def error(name, logits):
    """The largest difference from the logits, relative to the largest of them."""
    expected = torch.tensor(logits)
    found = torch.tensor(reference.logits(built(name)))
    return float((found - expected).abs().max() / expected.abs().max())


def test_every_network_with_the_keys_of_a_library_was_compared_with_it():
    assert {name for name, *_ in ENTRIES} == {*reference.TORCHVISION, *reference.TIMM}
    assert {name for name, *_ in COMPARED} == reference.ALSO_LOGITS


@pytest.mark.costly
@pytest.mark.parametrize(("name", "library", "of"), ENTRIES, ids=map(" ".join, ENTRIES))
def test_keys_shapes_and_number_of_weights_are_those_of_the_library(name, library, of):
    entry = ENTRIES[name, library, of]
    assert reference.digest(reference.shapes_of(built(name))) == entry["layout"]
    assert reference.weights(built(name, 1000, (3, 224, 224))) == entry["weights"]


@pytest.mark.costly
@pytest.mark.parametrize(("name", "library", "of"), COMPARED, ids=map(" ".join, COMPARED))
def test_the_logits_are_those_of_the_library(name, library, of):
    assert error(name, ENTRIES[name, library, of]["logits"]) < 1e-4


@pytest.mark.parametrize(
    ("other", "name", "library", "of"),
    [
        ("resnet50-imagenet-v1", "resnet50-imagenet", "torchvision", "resnet50"),
        ("mobilenetv2-imagenet-small", "mobilenetv2-imagenet", "torchvision", "mobilenet_v2"),
        ("vit-small-16-h12", "vit-small-16", "timm", "vit_small_patch16_224"),
    ],
)
def test_the_comparison_sees_strides_and_heads_that_no_shape_shows(other, name, library, of):
    entry = ENTRIES[name, library, of]
    assert reference.digest(reference.shapes_of(built(other))) == entry["layout"]
    assert error(other, entry["logits"]) > 0.01
