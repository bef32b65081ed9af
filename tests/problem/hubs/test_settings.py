"""What config.json and preprocessor_config.json declare about a model of the hub."""

import json

import pytest
import torch
from safetensors.torch import save

from robench.errors import UserError
from robench.problem.architectures import named
from robench.problem.architectures.normalise import normalised
from robench.problem.checkpoints import load
from robench.problem.checkpoints.hubs import huggingface
from robench.problem.checkpoints.hubs.settings import own_name

NAME = "hf:timm/tiny.in1k"
MEAN, STD = [0.5, 0.25, 0.125], [0.5, 0.25, 0.2]
TEXT = "0.5,0.25,0.125/0.5,0.25,0.2"
PRETRAINED = {
    "tag": "in1k", "input_size": [3, 48, 48], "fixed_input_size": False, "interpolation": "bicubic", "crop_pct": 0.95,
    "crop_mode": "center", "mean": MEAN, "std": STD, "num_classes": 10, "pool_size": [2, 2], "first_conv": "conv1",
    "classifier": "fc",
}  # fmt: skip
CONFIG = {"architecture": "resnet18", "num_classes": 10, "num_features": 512, "pretrained_cfg": PRETRAINED}
OLD = {"architecture": "resnet18", "num_features": 512, "global_pool": "avg", **PRETRAINED}  # before timm 0.9


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(huggingface, "_FOUND", {})


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return named("resnet18-imagenet").build((3, 48, 48), 10).eval()


@pytest.fixture
def publish(hub, resnet):
    """Publishes a ResNet-18 with these settings."""
    weights = save(resnet.state_dict(), {"format": "pt"})

    def publish(config=None, **files):
        found = {"model.safetensors": weights}
        found |= {} if config is None else {"config.json": json.dumps(config).encode()}
        found |= {f"{name}.json": json.dumps(content).encode() for name, content in files.items()}
        hub.add("timm/tiny.in1k", found)

    return publish


@pytest.mark.costly
@pytest.mark.parametrize("config", [CONFIG, OLD], ids=["today's form", "before 0.9"])
def test_a_model_of_timm_gives_its_logits_without_timm(publish, resnet, config):
    publish(config)
    found = load(NAME)
    x = torch.rand(3, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(found.classifier(x), normalised(resnet, TEXT, 3)(x))
    model = found.classifier
    assert (model.name, model.architecture, model.normalisation) == ("tiny.in1k", "resnet18-imagenet", TEXT)
    assert (model.shape, model.classes) == ((3, 48, 48), 10)
    assert found.notes == (
        "taken as resnet18-imagenet: config.json of timm/tiny.in1k names resnet18 of timm",
        f"normalisation {TEXT}, from config.json of timm/tiny.in1k",
        "its publishers prepare the images of a folder with --resize 50 --crop 48 --interpolation bicubic",
    )


def test_images_of_another_size_than_in_training_are_noted(publish):
    publish(CONFIG)
    notes = load(NAME, shape=(3, 32, 32), classes=10).notes
    assert "it was trained on images of 3x48x48 according to config.json of timm/tiny.in1k, and gets 3x32x32" in notes
    assert not any("--resize" in note for note in notes)


def test_images_with_other_channels_are_refused(publish):
    publish(CONFIG)
    with pytest.raises(UserError, match="1x48x48"):
        load(NAME, shape=(1, 48, 48), classes=10)


def test_what_the_user_types_takes_precedence_and_is_noted(publish):
    publish(CONFIG)
    found = load(NAME, arch="resnet18-imagenet", normalise="none")
    assert found.classifier.normalisation == "none"
    taken = f"--normalise none takes precedence over the normalisation {TEXT}, from config.json of timm/tiny.in1k"
    assert taken in found.notes
    assert not any("taken as" in note for note in found.notes)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        # The same keys and shapes as resnet18: a blur before each stride has no weights.
        ({"architecture": "resnetblur18"}, "resnetblur18 of timm, a network that robench does not have"),
        ({"model_args": {"output_stride": 8}}, "resnet18 of timm, with output_stride, which robench does not have"),
        ({"model_args": {"global_pool": "max"}}, "resnet18 of timm, with global_pool, which"),
        ({"global_pool": "max"}, "resnet18 of timm, with global_pool, which"),
        ({"model_args": ["x"]}, "resnet18 of timm, with unreadable model_args, which"),
        ({"pretrained_cfg": {**PRETRAINED, "label_offset": 1}}, "resnet18 of timm, with label_offset, which"),
    ],
)
def test_a_network_of_timm_that_is_another_function_is_never_taken_for_one_of_ours(publish, changes, why):
    publish(CONFIG | changes)
    with pytest.raises(UserError) as caught:
        load(NAME)
    assert f"timm/tiny.in1k is {why}" in str(caught.value)
    assert "type timm:hf-hub:timm/tiny.in1k@" in str(caught.value)
    assert load(NAME, arch="resnet18-imagenet").classifier.normalisation == TEXT  # the user takes it upon themselves


def test_arguments_that_the_weights_show_change_nothing(publish):
    publish(CONFIG | {"model_args": {"num_classes": 10, "in_chans": 3, "global_pool": "avg"}, "global_pool": "avg"})
    assert load(NAME).classifier.architecture == "resnet18-imagenet"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("resnet50", "resnet50-imagenet"),
        ("wide_resnet50_2", "resnet50-1x128d-imagenet"),
        ("resnext50_32x4d", "resnet50-32x4d-imagenet"),
        ("resnext101_32x8d", "resnet101-32x8d-imagenet"),
        ("densenet161", "densenet161-imagenet"),
        ("vit_base_patch16_224", "vit-base-16"),
        ("deit_tiny_patch16_224", "vit-tiny-16"),
        ("vit_base_patch16_clip_224", ""),
        ("vit_small_patch16_224_miil", ""),
        ("resnet50d", ""),
        ("resnetaa50", ""),
    ],
)
def test_names_of_timm_are_ours_only_where_the_function_is(name, own):
    assert own_name(name) == own
    assert not own or named(own) is not None


def test_a_model_of_transformers_is_refused_and_its_normalisation_used_with_a_factory(publish, tmp_path):
    publish(
        {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"},
        preprocessor_config={"image_mean": MEAN, "image_std": STD, "do_rescale": True, "rescale_factor": 1 / 255},
    )
    with pytest.raises(UserError, match=r"a model of transformers \(ResNetForImageClassification\), whose networks"):
        load(NAME)
    (tmp_path / "net.py").write_text(
        "from robench.problem.architectures import named\n"
        "def build(num_classes):\n    return named('resnet18-imagenet').build((3, 48, 48), num_classes)\n"
    )
    found = load(NAME, arch=f"{tmp_path}/net.py:build", shape=(3, 48, 48), classes=10)
    assert found.classifier.normalisation == TEXT
    assert f"normalisation {TEXT}, from preprocessor_config.json of timm/tiny.in1k" in found.notes


@pytest.mark.costly
@pytest.mark.parametrize(
    ("settings", "normalisation", "note"),
    [
        ({"do_normalize": False}, "none", "normalisation none, from"),
        ({"do_normalize": True, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, "none", "normalisation none, from"),
        ({"rescale_factor": 1 / 127.5, "image_mean": MEAN, "image_std": STD}, "none", "scales pixels in another way"),
        ({"do_rescale": False, "image_mean": MEAN, "image_std": STD}, "none", "scales pixels in another way"),
        ({"image_mean": MEAN}, "none", "no normalisation is known"),
        ({"image_mean": "abc", "image_std": "abc"}, "none", "no normalisation is known"),
    ],
)
def test_settings_that_say_something_else_are_not_taken_for_a_mean_and_a_deviation(
    publish, settings, normalisation, note
):
    publish(preprocessor_config=settings)
    found = load(NAME, shape=(3, 48, 48), classes=10)
    assert found.classifier.normalisation == normalisation
    assert any(note in one for one in found.notes)


@pytest.mark.costly
@pytest.mark.parametrize(
    "config",
    [
        [],
        "x",
        {"architecture": 3},
        {"architecture": "of another tool"},
        {"architecture": "resnet18", "pretrained_cfg": {"mean": [1, "x"], "input_size": [3]}},
    ],
)
def test_settings_that_are_damaged_declare_nothing(publish, config):
    publish(config)
    found = load(NAME, shape=(3, 48, 48), classes=10)
    assert (found.classifier.architecture, found.classifier.normalisation) == ("resnet18-imagenet", "none")
    assert any("no normalisation is known" in note for note in found.notes)


def test_impossible_numbers_in_the_settings_are_refused(publish):
    publish(CONFIG | {"pretrained_cfg": PRETRAINED | {"std": [0.0, 0.1, 0.1]}})
    with pytest.raises(UserError, match="standard deviations above 0"):
        load(NAME)
