import argparse
import collections
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from robench.errors import UserError
from robench.problem import durable
from robench.problem.architectures import SINGLE, named
from robench.problem.checkpoints import load, save
from robench.problem.checkpoints import zoo as bundled
from robench.problem.checkpoints.cards import Card, read_card, write_card
from robench.problem.classifier import Classifier

SHAPE = (1, 28, 28)


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(name="digits-cnn", shape=SHAPE, classes=10, seed=0):
    torch.manual_seed(seed)
    return named(name).build(shape, classes).eval()


def with_moved_statistics(model):
    """As after training: batch norm's statistics and counters differ from fresh ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.num_batches_tracked += 7
    return model


def scripted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is on its way out; people's files are not
        return torch.jit.script(model)


def sequential(classes=10, channels=1, features=None):
    torch.manual_seed(0)
    hidden = features or 4 * 26 * 26
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(hidden, classes)).eval()


def same_function(classifier, model, shape=SHAPE):
    x = images(5, *shape)
    with torch.no_grad():
        return torch.equal(classifier(x), model(x))


def refusal(path, **settings):
    """The one sentence that loading ends with."""
    with pytest.raises(UserError) as error:
        load(path, **settings)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def prefixed(*prefixes):
    return lambda state: {"".join(prefixes) + key: value for key, value in state.items()}


def under(*keys):
    def wrapped(state):
        for key in reversed(keys):
            state = {key: state, "epoch": 3, "loss": torch.tensor(0.5), "optimizer": {"lr": 0.1}}
        return state

    return wrapped


WRAPPINGS = {
    "bare": lambda state: state,
    "ordered": collections.OrderedDict,
    "state_dict": under("state_dict"),
    "model": under("model"),
    "net": under("net"),
    "model_state_dict": under("model_state_dict"),
    "model_state": under("model_state"),
    "ema": under("ema"),
    "twice": under("model", "state_dict"),
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "model.": prefixed("model."),
    "all three": lambda state: under("state_dict")(prefixed("_orig_mod.", "module.", "model.")(state)),
    "averaged": lambda state: {"n_averaged": torch.tensor(9), **prefixed("module.")(state)},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_back_the_same_logits(tmp_path, wrapping, zipped):
    model = network()
    path = tmp_path / "model.pt"
    torch.save(WRAPPINGS[wrapping](model.state_dict()), path, _use_new_zipfile_serialization=zipped)
    loaded = load(path, shape=SHAPE, classes=10)
    assert same_function(loaded.classifier, model)
    assert loaded.notes[0] == "recognised as digits-cnn by its key names and shapes"


@pytest.mark.costly
@pytest.mark.parametrize(
    "name",
    ["madry-mnist", "digits-cnn", "wong-kolter-mnist", "wong-kolter-mnist-wide", "lenet", "trades-mnist",
     "lenet5-advertorch", "strided-cnn",
     "preactresnet18", "preactresnet18-softplus", "preactresnet18-no-final-bn", "preactresnet18-narrow", "wrn-10-2",
     "wrn-16-4", "wrn-10-2-trades", "resnet18", "resnet18-imagenet", "cifar-resnet20", "vgg11-bn", "densenet121-k12",
     "mobilenetv2", "mobilenetv2-imagenet", "vit-tiny-16"],
)  # fmt: skip
def test_saved_models_come_back_without_a_word(tmp_path, name):
    shape = SHAPE if named(name) in SINGLE else (3, 32, 32)
    model = with_moved_statistics(network(name, shape, classes=7))
    text = ",".join(["0.5"] * shape[0]) + "/" + ",".join(["0.25"] * shape[0])
    digest = save(
        model, tmp_path / "m.safetensors", architecture=name, normalisation="0.5/0.25", shape=shape, classes=7
    )
    assert digest == durable.sha256(tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    classifier = loaded.classifier
    assert loaded.notes == ()
    assert loaded.card is None
    assert (classifier.architecture, classifier.normalisation) == (name, text)
    assert (classifier.name, classifier.shape, classifier.classes) == ("m", shape, 7)
    x = images(2, *shape)
    assert torch.equal(classifier(x), model((x - 0.5) / 0.25))
    assert not classifier.module.training
    assert not any(p.requires_grad for p in classifier.module.parameters())
    in_memory = Classifier(model, name="", architecture=name, shape=shape, classes=7, normalisation=text)
    assert classifier.identity().weights_sha256 == in_memory.identity().weights_sha256


def test_equal_weights_are_equal_files(tmp_path):
    model = network("digits-cnn", SHAPE, classes=7)
    kept = {"architecture": "digits-cnn", "normalisation": "none", "shape": SHAPE, "classes": 7}
    assert len({save(model, tmp_path / "m.safetensors", **kept) for _ in range(12)}) == 1


def test_half_precision_weights_are_read_as_the_float32_they_round_to(tmp_path):
    model = network()
    save(model, tmp_path / "m.safetensors", architecture="digits-cnn", normalisation="none", shape=SHAPE, classes=10,
         dtype=torch.float16)  # fmt: skip
    assert (tmp_path / "m.safetensors").stat().st_size < 120_000
    loaded = load(tmp_path / "m.safetensors")
    assert same_function(loaded.classifier, model.half().float())
    assert loaded.notes == ("the weights were float16 and are read as float32",)


@pytest.mark.parametrize("cast", ["half", "double"])
def test_a_network_made_in_another_precision_returns_float32(tmp_path, monkeypatch, cast):
    monkeypatch.chdir(tmp_path)
    layers = "nn.Flatten(), nn.Linear(784, 10)"
    Path("net.py").write_text(f"from torch import nn\ndef cast(): return nn.Sequential({layers}).{cast}()\n")
    model = getattr(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval(), cast)()
    torch.save(model.state_dict(), "m.pt")
    assert same_function(load("m.pt", arch="net.py:cast", shape=SHAPE).classifier, model.float())


def test_torchscript_brings_its_own_code(tmp_path):
    model = sequential()
    scripted(model).save(str(tmp_path / "script.pt"))
    loaded = load(tmp_path / "script.pt", shape=SHAPE, classes=10)
    assert same_function(loaded.classifier, model)
    assert loaded.classifier.architecture.startswith("torchscript:")
    x = images(2, *SHAPE).requires_grad_(True)
    loaded.classifier(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.freeze` is deprecated")
def test_two_frozen_torchscript_programs_are_two_models_although_neither_has_weights_by_name(tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
        torch.jit.freeze(scripted(model)).save(str(tmp_path / f"{seed}.pt"))
    first, second = (load(tmp_path / f"{seed}.pt", shape=SHAPE).classifier for seed in (0, 1))
    assert first.identity().weights_sha256 == second.identity().weights_sha256
    assert not first.identity().same_as(second.identity())


def test_the_weights_of_a_torchscript_file_are_loaded_into_the_requested_architecture(tmp_path, monkeypatch):
    model = sequential()
    scripted(model).save(str(tmp_path / "script.pt"))
    write_factory(tmp_path / "net.py", "nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2704, 10)")
    monkeypatch.chdir(tmp_path)
    loaded = load("script.pt", arch="net.py:make", shape=SHAPE)
    model[1] = nn.Tanh()
    assert same_function(loaded.classifier, model)
    assert loaded.classifier.architecture == "net.py:make"


def test_an_exported_program_that_is_trusted_is_read_by_torch(tmp_path):
    model = sequential()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (images(2, *SHAPE),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    loaded = load(tmp_path / "m.pt2", shape=SHAPE, trust_pickle=True)
    x = images(5, *SHAPE)
    assert torch.allclose(loaded.classifier(x), model(x), atol=1e-6)


def test_a_whole_module_is_read_when_it_is_trusted_and_not_before(tmp_path):
    model = sequential()
    for saved in (model, {"model": model, "epoch": 3}):
        torch.save(saved, tmp_path / "m.pt")
        assert "torch.nn.modules.container.Sequential" in refusal(tmp_path / "m.pt", shape=SHAPE)
        loaded = load(tmp_path / "m.pt", shape=SHAPE, trust_pickle=True)
        assert same_function(loaded.classifier, model)
        assert loaded.classifier.architecture == "torch.nn.modules.container.Sequential"


def test_a_module_without_any_weights_is_a_classifier_too(tmp_path):
    model = nn.Sequential(nn.AvgPool2d((28, 14)), nn.Flatten())
    torch.save(model, tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=SHAPE, trust_pickle=True)
    assert same_function(loaded.classifier, model)
    assert loaded.classifier.device == torch.device("cpu")
    loaded.classifier.identity()


TIED = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(784, 784, bias=False)
        self.second = nn.Linear(784, 784, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x.flatten(1)).relu())
"""


def test_tied_weights_are_saved_twice_and_may_be_missing_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tied.py").write_text(TIED)
    torch.manual_seed(0)
    first = nn.Linear(784, 784, bias=False)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), first)
    torch.save({"first.weight": first.weight}, "once.pt")
    once = load("once.pt", arch="tied.py:Tied", shape=SHAPE).classifier
    assert same_function(once, model)
    save(once.module, Path("twice.safetensors"), architecture="tied.py:Tied", normalisation="none", shape=SHAPE,
         classes=784)  # fmt: skip
    assert set(safetensors.torch.load_file("twice.safetensors")) == {"first.weight", "second.weight"}
    twice = load("twice.safetensors", arch="tied.py:Tied").classifier
    assert twice.identity() == once.identity()


def write_factory(path, layers, head="def make():"):
    path.write_text(f"from torch import nn\n\n{head}\n    return nn.Sequential({layers})\n")


def test_a_network_of_ones_own_is_filled_even_where_its_keys_begin_like_a_wrapping(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "class make(nn.Module):\n    def forward(self, x): return self.model(x)\n    def __init__(self):"
    body = "super().__init__(); self.model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"
    Path("own.py").write_text(f"from torch import nn\n\n{head}\n        {body}\n")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    for wrapping in (prefixed("model."), prefixed("module.", "model.")):
        torch.save(wrapping(model.state_dict()), "m.pt")
        assert same_function(load("m.pt", arch="own.py:make", shape=SHAPE).classifier, model)


# Recognition


@pytest.mark.costly
def test_a_network_is_recognised_by_its_shapes_in_order_under_other_names(tmp_path):
    model = with_moved_statistics(network("preactresnet18", (3, 32, 32)))
    without_counters = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    torch.save({f"w{i}": tensor for i, tensor in enumerate(without_counters.values())}, tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=(3, 32, 32), classes=10)
    assert same_function(loaded.classifier, model, (3, 32, 32))
    assert loaded.notes[0].startswith(
        "recognised as preactresnet18 by the shapes of its tensors, because its key names differ"
    )


@pytest.mark.parametrize("name", ["madry-mnist", "digits-cnn", "lenet"])
def test_a_network_whose_shapes_all_differ_is_recognised_in_any_order(tmp_path, name):
    model = network(name)
    layers = sorted(model.state_dict().items())  # as safetensors does
    shapes = [tensor.shape for _, tensor in layers]
    renamed = {f"layer-{i}": tensor.clone() for i, (_, tensor) in enumerate(layers)}
    safetensors.torch.save_file(renamed, tmp_path / "m.safetensors")
    if len(set(shapes)) == len(shapes):
        assert same_function(load(tmp_path / "m.safetensors", shape=SHAPE).classifier, model)
    else:  # which of two equal shapes comes first is not known: no guess
        assert "--arch" in refusal(tmp_path / "m.safetensors", shape=SHAPE)


@pytest.mark.costly
def test_if_two_architectures_fit_the_plain_one_is_used_and_the_other_named(tmp_path):
    model = network("preactresnet18", (3, 32, 32))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=(3, 32, 32))
    assert loaded.classifier.architecture == "preactresnet18"
    assert "preactresnet18-softplus would fit as well, and --arch chooses" in loaded.notes[0]
    smooth = load(tmp_path / "m.pt", shape=(3, 32, 32), arch="preactresnet18-softplus")
    softplus = network("preactresnet18-softplus", (3, 32, 32))
    softplus.load_state_dict(model.state_dict())
    assert same_function(smooth.classifier, softplus, (3, 32, 32))
    assert not same_function(smooth.classifier, model, (3, 32, 32))


def test_image_sizes_are_tried_if_nothing_specifies_them(tmp_path):
    model = network("lenet", (3, 64, 64), classes=200)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt")
    assert loaded.classifier.shape == (3, 64, 64)
    assert "its images are assumed to be 3x64x64" in loaded.notes
    assert same_function(loaded.classifier, model, (3, 64, 64))


def test_images_that_are_not_square_are_recognised_from_the_shape_of_the_data(tmp_path):
    model = network("madry-mnist", (2, 20, 36), classes=3)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert same_function(load(tmp_path / "m.pt", shape=(2, 20, 36), classes=3).classifier, model, (2, 20, 36))
    assert "no architecture that robench knows" in refusal(tmp_path / "m.pt")


def test_unknown_normalisation_and_shape_are_noted(tmp_path):
    torch.save(network().state_dict(), tmp_path / "m.pt")
    notes = load(tmp_path / "m.pt").notes
    assert any("its images are assumed to be 1x28x28" in note for note in notes)
    assert any("--normalise" in note for note in notes)
    assert not any("--normalise" in note for note in load(tmp_path / "m.pt", normalise="none").notes)


# Identity


@pytest.mark.costly
def test_the_identity_does_not_depend_on_the_file_format(tmp_path):
    model = with_moved_statistics(network("preactresnet18", (3, 32, 32)))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save(
        {"net": prefixed("module.")(model.state_dict())}, tmp_path / "b.pth", _use_new_zipfile_serialization=False
    )
    save(model, tmp_path / "c.safetensors", architecture="preactresnet18", normalisation="none", shape=(3, 32, 32),
         classes=10)  # fmt: skip
    first, *others = [load(path, shape=(3, 32, 32)).classifier.identity() for path in sorted(tmp_path.iterdir())]
    assert len(others) == 2
    assert all(first.same_as(other) and first.weights_sha256 == other.weights_sha256 for other in others)


def test_the_identity_changes_with_one_weight_and_with_the_normalisation(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with torch.no_grad():
        model.fc2.bias[3] += 2**-20
    torch.save(model.state_dict(), tmp_path / "b.pt")
    a, b = (load(tmp_path / name, shape=SHAPE).classifier.identity() for name in ("a.pt", "b.pt"))
    normalised = load(tmp_path / "a.pt", shape=SHAPE, normalise="mnist").classifier.identity()
    same = load(tmp_path / "a.pt", shape=SHAPE, normalise="0.1307/0.3081").classifier.identity()
    assert not a.same_as(b)
    assert not a.same_as(normalised)
    assert a.weights_sha256 == normalised.weights_sha256
    assert normalised == same


# Cards and the zoo


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo of one model, and the model."""
    folder = tmp_path / "model_zoo"
    folder.mkdir()
    monkeypatch.setattr(bundled, "zoo_folder", lambda: folder)
    model = network()
    weights = folder / "digits-adv-linf.safetensors"
    digest = save(model, weights, architecture="digits-cnn", normalisation="none", shape=SHAPE, classes=10)
    write_card(folder / "digits-adv-linf.toml", card_for(weights, digest))
    return folder, model


def card_for(weights, digest, **fields):
    return Card(
        **{"name": "digits-adv-linf", "data": "digits", "architecture": "digits-cnn", "normalisation": "0.25/0.5"}
        | {"shape": SHAPE, "classes": 10, "weights": weights.name, "sha256": digest}
        | fields
    )


def test_a_bundled_model_is_loaded_by_name_as_its_card_describes_it(zoo, tmp_path, monkeypatch):
    folder, model = zoo
    monkeypatch.chdir(tmp_path)
    assert bundled.zoo_names() == ("digits-adv-linf",)
    Path("digits-adv-linf").mkdir()  # a training folder of that name is not in the way
    for text in ("digits-adv-linf", folder / "digits-adv-linf.safetensors", folder / "digits-adv-linf.toml"):
        loaded = load(text)
        assert loaded.card.data == "digits"
        assert loaded.notes == ()
        assert (loaded.classifier.name, loaded.classifier.normalisation) == ("digits-adv-linf", "0.25/0.5")
        x = images(3, *SHAPE)
        assert torch.equal(loaded.classifier(x), model((x - 0.25) / 0.5))


def test_a_card_that_states_other_classes_is_refused_and_other_images_are_a_note(zoo):
    folder, _ = zoo
    card = read_card(folder / "digits-adv-linf.toml")
    write_card(folder / "digits-adv-linf.toml", msgspec.structs.replace(card, shape=(1, 9, 9)))
    (note,) = load("digits-adv-linf", shape=SHAPE).notes
    assert note == "the card of digits-adv-linf states images of 1x9x9, and these are 1x28x28"
    write_card(folder / "digits-adv-linf.toml", msgspec.structs.replace(card, classes=12))
    assert "states 12 classes, and the model has 10 outputs" in refusal("digits-adv-linf")


def test_options_take_precedence_over_the_card(zoo):
    _, model = zoo
    loaded = load("digits-adv-linf", normalise="none")
    assert same_function(loaded.classifier, model)


def test_weights_that_are_not_those_of_the_card_are_refused(zoo):
    folder, _ = zoo
    weights = folder / "digits-adv-linf.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for text in ("digits-adv-linf", weights):
        assert "has SHA-256" in refusal(text)


def test_an_unknown_name_suggests_the_nearest_models_and_files(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean digits-adv-linf?" in refusal("digits-adv-lnf")
    Path("runs").mkdir()
    Path("runs/last.pt").write_bytes(b"")
    assert "did you mean runs/last.pt?" in refusal("runs/lats.pt")
    assert "there is no file nowhere/x.pt" in refusal("nowhere/x.pt")


AWKWARD = 'quotes " and \\ and \n lines, \t tabs, a bell \x07, DEL \x7f, é, 😀, # = []'


def test_a_card_is_read_back_as_it_was_written(tmp_path):
    card = card_for(
        tmp_path / "w.pt",
        "00",
        notes=AWKWARD,
        command="robench train pgd_at --threat linf:0.2",
        protocol="quick",
        seed=0,
        minutes=1e-7,
        settings={"lr": 1e22, "steps": -3, "nesterov": True, "a key = odd": AWKWARD, "milestones": [1, 2], "empty": []},
        claimed={},
        measured={"linf:0.2": {"accuracy": 0.5, "examples": 500}, "clean": 0.97},
    )
    write_card(tmp_path / "w.toml", card)
    assert read_card(tmp_path / "w.toml") == card


def test_a_card_with_unknown_keys_is_read_and_one_with_missing_keys_is_refused(tmp_path):
    card = card_for(tmp_path / "w.pt", "00")
    path = tmp_path / "w.toml"
    write_card(path, card)
    text = path.read_text()
    path.write_text('invented = "later"\n' + text + "[licence]\nname = 'MIT'\n")
    assert read_card(path) == card
    for damaged in (text.replace("classes = 10", ""), text.replace("classes = 10", "classes = 'ten'"), "= [", "\ud800"):
        path.write_text(damaged, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(UserError, match="cannot be read"):
            read_card(path)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("parameters = -1", "parameters"),
        ("[claimed.a]\nsource = 's'\nthreats = []\naccuracy = {clean = 99.4}", "accuracy"),
        ("[claimed.a]\nsource = 's'\nthreats = []\naccuracy = {clean = nan}", "accuracy"),
        ("[certified.'linf:0.1']\naccuracy = 1.01\nsource = 's'", "accuracy"),
        ("[certified.'linf:0.1']\naccuracy = -0.1\nsource = 's'", "accuracy"),
        ("[certified.'linf:0.1']\naccuracy = 0.5\nsource = ' '", "source"),
        ("[certified.'linf:0.1']\naccuracy = 0.5", "source"),
    ],
)
def test_a_card_states_accuracies_as_fractions_and_certificates_with_a_source(tmp_path, part, message):
    path = tmp_path / "w.toml"
    write_card(path, card_for(tmp_path / "w.pt", "00"))
    text = path.read_text()
    path.write_text(f"{text}[certified.'linf:0.1']\naccuracy = 0.5\nsource = 'interval bounds, by verify.py'\n")
    assert read_card(path).certified["linf:0.1"].accuracy == 0.5
    path.write_text(f"{part}\n{text}" if "=" in part.splitlines()[0] else f"{text}{part}\n")
    with pytest.raises(UserError, match=f"the card .* cannot be read: .*{message}") as caught:
        read_card(path)
    assert "\n" not in str(caught.value)


def test_a_card_cannot_point_out_of_its_folder_nor_be_for_another_file(tmp_path):
    card = card_for(tmp_path / "w.pt", "00")
    write_card(tmp_path / "w.toml", msgspec.structs.replace(card, weights="../w.pt"))
    with pytest.raises(UserError, match="calls its weights"):
        read_card(tmp_path / "w.toml")
    torch.save(network().state_dict(), tmp_path / "other.pt")
    shutil.copy(tmp_path / "other.pt", tmp_path / "w.pt")
    write_card(
        tmp_path / "w.toml",
        msgspec.structs.replace(card, weights="other.pt", sha256=durable.sha256(tmp_path / "other.pt")),
    )
    assert "lies beside a card for other.pt" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("where", ["card", "metadata"])
def test_neither_a_card_nor_metadata_chooses_which_code_runs(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("open('ran', 'w')\n")
    text = "evil.py:make"
    if where == "card":
        torch.save(network().state_dict(), "m.pt")
        write_card(Path("m.toml"), card_for(Path("m.pt"), durable.sha256(Path("m.pt")), architecture=text))
        sentence = refusal("m.pt", shape=SHAPE)
    else:
        save(network(), Path("m.safetensors"), architecture=text, normalisation="none", shape=SHAPE, classes=10)
        sentence = refusal("m.safetensors", shape=SHAPE)
    assert "--arch evil.py:make" in sentence
    assert not Path("ran").exists()


# Writing


def test_a_failed_write_is_reported_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.bin"
    durable.replace(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="No space left"):
            durable.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot be written"):
        durable.replace(tmp_path / "no folder" / "m.bin", b"new")


# Refusals: one sentence each


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4", "nested"])
def test_a_hostile_pickle_runs_nothing(tmp_path, form):
    path, trace = tmp_path / "m.pt", tmp_path / "was-here"
    hostile = Hostile(trace)
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(hostile, protocol=int(form[-1])))
    else:
        state = {"state_dict": {"conv1.weight": torch.ones(2), "b": hostile}} if form == "nested" else hostile
        torch.save(state, path, _use_new_zipfile_serialization=form != "legacy")
    sentence = refusal(path, shape=SHAPE)
    assert "pickle that would run code" in sentence
    assert "--trust-pickle" in sentence
    assert not trace.exists()
    if form == "zip":  # the file is as hostile as it claims to be
        with pytest.raises(UserError):
            load(path, shape=SHAPE, trust_pickle=True)
        assert trace.exists()


class Written(nn.Module):
    """Writes a file in every forward pass."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.zeros(784, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x.flatten(1) @ self.weight


class WrittenAtLoad(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), self.path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


@pytest.mark.parametrize("kind", [Written, WrittenAtLoad])
def test_hostile_torchscript_writes_nothing(tmp_path, kind):
    trace = tmp_path / "was-here"
    scripted(kind(str(trace))).save(str(tmp_path / "m.pt"))
    assert "aten::save" in refusal(tmp_path / "m.pt", shape=SHAPE)
    assert not trace.exists()
    load(tmp_path / "m.pt", shape=SHAPE, trust_pickle=True)
    assert trace.exists()


def test_the_class_that_stands_in_the_way_is_named(tmp_path):
    torch.save({"state_dict": network().state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "m.pt")
    assert "argparse.Namespace" in refusal(tmp_path / "m.pt", shape=SHAPE)
    assert load(tmp_path / "m.pt", shape=SHAPE, trust_pickle=True).classifier.architecture == "digits-cnn"


def test_a_pickle_whose_classes_cannot_be_imported_is_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gone_nets.py").write_text(TIED)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import gone_nets

        torch.save(gone_nets.Tied(), "m.pt")
    # found again in the current folder
    sys.modules.pop("gone_nets")
    assert load("m.pt", shape=SHAPE, trust_pickle=True).classifier.architecture == "gone_nets.Tied"
    sys.modules.pop("gone_nets")
    Path("gone_nets.py").unlink()
    shutil.rmtree("__pycache__", ignore_errors=True)
    assert "No module named 'gone_nets'" in refusal("m.pt", shape=SHAPE, trust_pickle=True)


def whole_files(folder):
    """One sound file of each format."""
    model = network()
    torch.save(model.state_dict(), folder / "zip.pt")
    torch.save(model.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save(model, folder / "m.safetensors", architecture="digits-cnn", normalisation="none", shape=SHAPE, classes=10)
    scripted(sequential()).save(str(folder / "script.pt"))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "m.safetensors", "script.pt"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name, share):
    whole_files(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(share * len(data)))])
    sentence = refusal(path, shape=SHAPE)
    assert any(words in sentence for words in ("cut off or damaged", "not a checkpoint that PyTorch reads"))


PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.pt", b"", "is empty"),
        ("m.pt", PAGE, "is an HTML page, not a checkpoint; download the file itself"),
        ("m.safetensors", PAGE, "is an HTML page"),
        ("m.pt", POINTER, "git lfs pull"),
        ("m.onnx", b"\x08\x07\x12\x07pytorch", "is not an ONNX file with a graph"),
        ("m.pt", b"the weights are in the other folder", "not a checkpoint that PyTorch reads"),
        ("m.bin", bytes(range(256)) * 4, "not a checkpoint that PyTorch reads"),
        ("m.pt", b"\x80\x02", "cut off"),
        ("m.safetensors", b"\xff" * 100, "cut off or damaged"),
        ("m.toml", b"x = 1", "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused_with_its_format(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name, shape=SHAPE)


def test_a_data_file_and_a_folder_are_no_checkpoints(tmp_path):
    np.savez(tmp_path / "m.npz", x=np.zeros((3, 1, 28, 28)), y=np.zeros(3))
    assert "holds images and labels, not weights" in refusal(tmp_path / "m.npz", shape=SHAPE)
    assert "is a folder; name a file" in refusal(tmp_path)
    torch.save({}, tmp_path / "last.pt")
    assert f"like {tmp_path / 'last.pt'}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "holds no tensors"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        (torch.zeros(3), "holds Tensor, not weights by name"),
        ([torch.zeros(3)], "holds a list, not weights by name"),
        ({"weight": torch.zeros(10, 784), "bias": torch.zeros(10)}, "weight (10x784), bias (10)"),
    ],
)
def test_a_file_without_known_weights_is_refused(tmp_path, held, message):
    torch.save(held, tmp_path / "m.pt")
    sentence = refusal(tmp_path / "m.pt", shape=SHAPE)
    assert message in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value):
    model = network()
    with torch.no_grad():
        model.fc1.weight[3, 4] = value
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert "NaN or infinite weights in fc1.weight" in refusal(tmp_path / "m.pt", shape=SHAPE)


def test_a_model_that_returns_nan_is_refused(tmp_path):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(784, 10), Logarithm()), tmp_path / "m.pt")
    assert "NaN or infinite logits" in refusal(tmp_path / "m.pt", shape=SHAPE, trust_pickle=True)


class Logarithm(nn.Module):
    def forward(self, x):
        return (-x.abs() - 1).log()


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), "labels reach 9 but the model"),
        (nn.Identity(), "returns a tensor of 2x1x28x28 for 2 images"),
        (nn.Flatten(0), "a tensor of 1568"),
        (Pair(), "returns tuple, in which no tensor has a row"),
        (nn.Sequential(nn.Conv2d(3, 1, 28), nn.Flatten()), "reads 3-channel images, but those of the data are 1x28x28"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), "3072"),
    ],
)
def test_a_model_that_does_not_suit_the_data_is_refused(tmp_path, module, message):
    torch.save(module, tmp_path / "m.pt")
    assert message in refusal(tmp_path / "m.pt", shape=SHAPE, classes=10, trust_pickle=True)


def test_data_that_do_not_suit_a_known_architecture_are_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "one.pt")
    assert "reads 1-channel images, but those of the data are 3x32x32" in refusal(
        tmp_path / "one.pt", shape=(3, 32, 32)
    )
    assert "reads 1x28x28 images, but those of the data are 1x32x32" in refusal(tmp_path / "one.pt", shape=(1, 32, 32))
    torch.save(network(classes=5).state_dict(), tmp_path / "five.pt")
    assert "labels reach 9 but" in refusal(tmp_path / "five.pt", shape=SHAPE, classes=10)
    spare = load(tmp_path / "one.pt", shape=SHAPE, classes=7)
    assert spare.classifier.classes == 10
    assert "the model has 10 outputs for 7 classes" in spare.notes


def test_a_torchscript_model_for_other_images_is_refused(tmp_path):
    scripted(sequential(channels=3)).save(str(tmp_path / "m.pt"))
    assert "reads 3-channel images" in refusal(tmp_path / "m.pt", shape=SHAPE)
    scripted(sequential(features=99)).save(str(tmp_path / "m.pt"))
    assert "99" in refusal(tmp_path / "m.pt", shape=SHAPE)
    assert "--data" in refusal(tmp_path / "m.pt")


def test_a_wrong_normalisation_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "m.pt")
    assert "is for 3 channels, but the images have 1" in refusal(tmp_path / "m.pt", shape=SHAPE, normalise="cifar10")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc1.weight"), "it lacks fc1.weight (120x400)"),
        (lambda state: state.update(extra=torch.zeros(2, 3)) or state.pop("conv1.bias"), "it also has extra (2x3)"),
        (lambda state: state.update({"fc1.bias": torch.zeros(7)}), "fc1.bias is 7 where 120 is needed"),
        (lambda state: state.pop("fc3.weight"), "it lacks fc3.weight (10x84)"),
    ],
)
def test_a_misfit_names_the_keys_that_differ(tmp_path, change, message):
    state = network("lenet").state_dict()
    change(state)
    torch.save(state, tmp_path / "m.pt")
    sentence = refusal(tmp_path / "m.pt", arch="lenet", shape=SHAPE)
    assert message in sentence
    assert "--arch" in sentence


def test_an_unknown_architecture_suggests_the_nearest(tmp_path):
    torch.save(network().state_dict(), tmp_path / "m.pt")
    assert "did you mean digits-cnn" in refusal(tmp_path / "m.pt", arch="digit-cnn")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_refused(tmp_path):
    state = {"weight": torch.quantize_per_tensor(torch.zeros(4, 4), 0.1, 0, torch.qint8)}
    torch.save(state, tmp_path / "m.pt")
    assert "is quantised" in refusal(tmp_path / "m.pt", shape=SHAPE)


def test_a_note_names_which_of_several_sets_of_weights_is_used(tmp_path):
    model, average = network(seed=0), network(seed=1)
    torch.save({"ema": average.state_dict(), "model": model.state_dict()}, tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=SHAPE)
    assert same_function(loaded.classifier, model)
    assert "(model, ema): model is used" in loaded.notes[1]


def test_a_loaded_model_can_be_replaced_on_disk_without_changing(tmp_path):
    model = network()
    path = tmp_path / "m.safetensors"
    save(model, path, architecture="digits-cnn", normalisation="none", shape=SHAPE, classes=10)
    loaded = load(path)
    save(network(seed=1), path, architecture="digits-cnn", normalisation="none", shape=SHAPE, classes=10)
    assert same_function(loaded.classifier, model)
