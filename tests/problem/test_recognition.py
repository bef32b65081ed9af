"""Bare state dicts with the keys of public code are recognised, with their depth, width, options and classes."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.architectures import ARCHITECTURES, FAMILIES, SINGLE, named
from robench.problem.checkpoints import load, recognition
from robench.problem.checkpoints.contents import Contents
from robench.problem.checkpoints.nested import nested

SMALL, IMAGENET = (3, 32, 32), (3, 224, 224)
ALONE = {
    "trades-mnist": (1, 28, 28),
    "lenet5-advertorch": (1, 28, 28),
    "wrn-34-20": SMALL,
    "wrn-40-4": SMALL,
    "wrn-16-8-trades": SMALL,
    "resnet18": SMALL,
    "resnet18-w16": SMALL,
    "resnet50": SMALL,
    "cifar-resnet20": SMALL,
    "cifar-resnet32-b": SMALL,
    "vgg11": SMALL,
    "vgg16-bn": (3, 64, 64),
    "vgg11-bn-imagenet": IMAGENET,
    "densenet121": SMALL,
    "densenet121-k12": SMALL,
    "densenet161-imagenet": IMAGENET,
    "mobilenetv2": SMALL,
    "resnet34-imagenet": IMAGENET,
    "vit-tiny-16": IMAGENET,
    "vit-base-32": (3, 384, 384),
    "vit-tiny-4": SMALL,
}
"""Networks that no other has the keys and shapes of, with images to read."""
WITH_OTHERS = {
    "dm-wrn-28-10": (SMALL, ["dm-wrn-28-10", "dm-wrn-28-10-relu"]),
    "preactresnet34": (SMALL, ["preactresnet34", "preactresnet34-softplus"]),
    "preactresnet50-no-final-bn": (SMALL, ["preactresnet50-no-final-bn", "preactresnet50-softplus-no-final-bn"]),
    "preactresnet18-narrow": (SMALL, ["preactresnet18-narrow", "preactresnet18-narrow-softplus"]),
    "resnet50-imagenet": (IMAGENET, ["resnet50-imagenet", "resnet50-imagenet-v1"]),
    "resnet50-32x4d-imagenet": (IMAGENET, ["resnet50-32x4d-imagenet", "resnet50-32x4d-imagenet-v1"]),
    "resnet18-imagenet-stem3-pool": (SMALL, ["resnet18-imagenet-stem3", "resnet18-imagenet-stem3-pool"]),
    "mobilenetv2-imagenet-small": (SMALL, ["mobilenetv2-imagenet", "mobilenetv2-imagenet-small"]),
    "vit-small-16-h12": (IMAGENET, ["vit-small-16", "vit-small-16-h12"]),
}
"""Networks of equal keys and shapes, the preferred one first."""


def weights(name, shape, classes=7, *prefixes):
    """A state dict of these shapes that takes no memory."""
    with torch.device("meta"):
        state = named(name).build(shape, classes).state_dict()
    return {"".join(prefixes) + key: torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()}


def recognised(tensors, *likely):
    return recognition.matches(Contents(tensors, nested=nested(tensors)), likely)


@pytest.mark.costly
@pytest.mark.parametrize("name", ALONE)
def test_a_state_dict_is_recognised_without_a_name(name):
    shape = ALONE[name]
    (match,) = recognised(weights(name, shape), shape)
    assert (match.architecture.name, match.shape, match.classes, match.beside) == (name, shape, 7, ())


@pytest.mark.costly
@pytest.mark.parametrize("name", WITH_OTHERS)
def test_of_networks_with_equal_keys_and_shapes_all_are_found_the_usual_one_first(name):
    shape, expected = WITH_OTHERS[name]
    assert [match.architecture.name for match in recognised(weights(name, shape), shape)] == expected


@pytest.mark.parametrize("name", ["wrn-40-4", "cifar-resnet20", "vit-tiny-4", "densenet121-k12"])
def test_prefixes_inner_wrappers_and_other_separators_do_not_hide_the_depth(name):
    tensors = weights(name, SMALL)
    for spelt in (
        weights(name, SMALL, 7, "module.", "model."),
        {key.replace(".", "/"): tensor for key, tensor in tensors.items()},
        {key.replace(".", "_"): tensor for key, tensor in tensors.items()},
        {key.replace("conv", "module.conv").replace("attn.", "attn.module."): t for key, t in tensors.items()},
    ):
        assert [match.architecture.name for match in recognised(spelt, SMALL)] == [name]


def test_channels_classes_and_the_size_of_images_follow_from_the_shapes():
    (match,) = recognised(weights("vit-tiny-4", (1, 28, 28), 5))
    assert (match.shape, match.classes) == ((1, 28, 28), 5)
    (match,) = recognised(weights("vit-base-32", (3, 384, 384), 1000))
    assert (match.shape, match.classes) == ((3, 384, 384), 1000)
    (match,) = recognised(weights("cifar-resnet20", (1, 32, 32), 3))
    assert (match.shape[0], match.classes) == (1, 3)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("wrn-28-10", "block2.layer.3.conv1.weight"),
        ("resnet18", "layer3.1.conv2.weight"),
        ("vit-tiny-4", "blocks.11.mlp.fc1.bias"),
        ("vgg16-bn", "features.4.running_mean"),
        ("densenet121", "dense3.23.bn2.weight"),
    ],
)
def test_a_network_that_lacks_a_weight_or_has_another_is_not_recognised(name, missing):
    tensors = weights(name, SMALL)
    assert not recognised({key: tensor for key, tensor in tensors.items() if key != missing}, SMALL)
    (match, *_) = recognised(tensors | {"gate.weight": torch.zeros(3)}, SMALL)
    assert match.beside == ("gate.weight",)


def test_a_vision_transformer_of_an_unusual_number_of_features_is_not_recognised():
    """Nothing shows its number of heads."""
    tensors = weights("vit-tiny-4", SMALL)
    odd = {k: torch.zeros(()).expand([256 * side // 192 if side % 192 == 0 else side for side in t.shape])
           for k, t in tensors.items()}  # fmt: skip
    assert not recognised(odd, SMALL)


@pytest.mark.costly
def test_weights_that_do_not_show_pooling_or_strides_are_refused_with_the_candidates(tmp_path):
    for name in ("resnet18-imagenet-stem3", "mobilenetv2-imagenet"):
        network = named(name).build(SMALL, 10)
        torch.save(network.state_dict(), tmp_path / "m.pt")
        others = [match.architecture.name for match in recognised(network.state_dict(), SMALL)]
        with pytest.raises(UserError) as error:
            load(tmp_path / "m.pt", shape=SMALL, classes=10)
        assert "\n" not in str(error.value)
        assert f"type --arch {others[0]} or --arch {others[1]}" in str(error.value)
        for other in others:
            loaded = load(tmp_path / "m.pt", shape=SMALL, classes=10, arch=other)
            assert loaded.classifier.architecture == other
            expected = named(other).build(SMALL, 10).eval()
            expected.load_state_dict(network.state_dict())
            x = torch.rand(2, *SMALL, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                assert torch.equal(loaded.classifier(x), expected(x))


def test_the_usual_one_of_two_is_taken_and_the_other_named(tmp_path):
    network = named("mobilenetv2-imagenet").build((3, 64, 64), 10)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=(3, 64, 64), classes=10)
    assert loaded.classifier.architecture == "mobilenetv2-imagenet"
    assert "mobilenetv2-imagenet-small would fit as well, and --arch chooses" in loaded.notes[0]


def test_members_that_no_list_shows_are_named_and_loaded_too(tmp_path):
    network = named("wrn-16-1").build(SMALL, 10).eval()
    torch.save({"state_dict": {f"module.{key}": t for key, t in network.state_dict().items()}}, tmp_path / "m.pt")
    for arch in (None, "wrn-16-1"):
        loaded = load(tmp_path / "m.pt", shape=SMALL, classes=10, arch=arch)
        assert loaded.classifier.architecture == "wrn-16-1"
    with pytest.raises(UserError, match="its weights are those of wrn-16-1: type --arch wrn-16-1"):
        load(tmp_path / "m.pt", shape=SMALL, classes=10, arch="wrn-22-1")


@pytest.mark.parametrize(
    "name",
    ["wrn-29-10", "wrn-28-0", "wrn-4-1", "resnet19", "cifar-resnet21", "cifar-resnet2", "vgg12", "vit-tiny-0",
     "vit-tiny-4-h5", "vit-huge-14", "densenet120", "resnet18-32x4d-imagenet", "resnet34-imagenet-v1",
     "preactresnet20", "wrn-28-10 ", "WRN-28-10"],
)  # fmt: skip
def test_depths_and_widths_that_no_network_has_are_no_names(name):
    assert named(name) is None


def test_every_listed_name_is_a_name_and_no_two_families_share_one():
    assert list(ARCHITECTURES) == [a.name for a in SINGLE] + [name for f in FAMILIES for name in f.listed]
    for name in ARCHITECTURES:
        assert named(name) == ARCHITECTURES[name]
        assert sum(family.named(name) is not None for family in FAMILIES) == (ARCHITECTURES[name] not in SINGLE)
