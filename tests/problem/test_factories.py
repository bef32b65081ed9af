"""Networks of the user's own: arguments behind a factory's name, what is filled in, and modules that scripts saved."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.architectures import factories
from robench.problem.architectures.factories import Factory
from robench.problem.checkpoints import load

from .test_layouts import CODE as NET
from .test_layouts import SHAPE, made

CODE = (
    NET
    + """
class Kept(nn.Module):
    \"\"\"Keeps what it was called with.\"\"\"
    def __init__(self, **given):
        super().__init__()
        self.given = given

def build(depth, width=2.5, name="x", num_classes=1000): return Kept(**locals())
def positional(a, b, /, c=3): return Kept(**locals())
def rest(*sizes, **more): return Kept(sizes=sizes, **more)
def resnet(num_classes=1000, in_channels=3): return Kept(**locals())
def timm(in_chans=3, img_size=224, n_classes=1000): return Kept(**locals())
def required(input_shape, nb_classes): return Kept(**locals())
def channels_alone(channels, width): return Kept(**locals())
class Class(Kept):
    def __init__(self, in_chans, num_classes, *, shape):
        super().__init__(in_chans=in_chans, num_classes=num_classes, shape=shape)
class Holder:
    class Inner(Kept):
        def __init__(self): super().__init__()
    @staticmethod
    def make(num_classes): return Kept(num_classes=num_classes)
network = Net(5)
def imagenet(num_classes=1000): return Net(num_classes)
def of_hundred(): return Net(100)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
def lazy_maps(): return nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.LazyLinear(5))
"""
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def sentence(call):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def refusal(arch, path=None, **settings):
    """What building it ends with, or loading a file into it."""
    if path is None:
        return sentence(lambda: factories.build(arch, SHAPE, 10))
    return sentence(lambda: load(path, arch=arch, shape=SHAPE, **{"classes": 5} | settings))


# Arguments


@pytest.mark.parametrize(
    ("call", "given"),
    [
        ("build(depth=20)", {"depth": 20, "width": 2.5, "name": "x", "num_classes": 10}),
        ('build(depth=20, width=-1e-3, name="a:b(c)")', {"depth": 20, "width": -1e-3, "name": "a:b(c)",
                                                         "num_classes": 10}),
        ("build(20, num_classes=7)", {"depth": 20, "width": 2.5, "name": "x", "num_classes": 7}),
        ("build(depth=[1, (2, None)], width={'a': True})", {"depth": [1, (2, None)], "width": {"a": True}, "name": "x",
                                                           "num_classes": 10}),
        ("positional(1, 2)", {"a": 1, "b": 2, "c": 3}),
        ("rest(1, 2, x=3)", {"sizes": (1, 2), "x": 3}),
        ("resnet", {"num_classes": 10, "in_channels": 1}),
        ("resnet()", {"num_classes": 10, "in_channels": 1}),
        ("resnet(in_channels=3)", {"num_classes": 10, "in_channels": 3}),
        ("resnet(7)", {"num_classes": 7, "in_channels": 1}),
        ("timm", {"in_chans": 1, "img_size": 8, "n_classes": 10}),
        ("required", {"input_shape": SHAPE, "nb_classes": 10}),
        ("Class", {"in_chans": 1, "num_classes": 10, "shape": SHAPE}),
        ("Holder.make", {"num_classes": 10}),
    ],
)  # fmt: skip
def test_a_factory_is_called_with_written_and_known_arguments(folder, call, given):
    for target in ("net.py", f"{folder}/net.py"):
        made = factories.build(f"{target}:{call}", SHAPE, 10)
        assert made.given == given


def test_the_sides_of_an_image_that_is_not_square_are_both_filled_in(folder):
    assert factories.build("net.py:timm", (3, 2, 128), 4).given == {"in_chans": 3, "img_size": (2, 128), "n_classes": 4}


def test_a_network_that_the_file_has_made_is_copied(folder):
    factory = Factory.parse("net.py:network")
    first, second = factory.build(SHAPE, 5), factory.build(SHAPE, 5)
    assert first is not second
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("build", "build needs depth; write --arch 'net.py:build(depth=...)'"),
        ("channels_alone(width=3)", "needs channels; write --arch 'net.py:channels_alone(width=3, channels=...)'"),
        ("build(1, dept=2)", "build has no argument 'dept'; did you mean depth? it takes depth, width=2.5, name='x'"),
        ("build(1, 2, 3, 4, 5)", "has 5 positional arguments; it takes depth"),
        ("build(1, depth=2)", "gives depth twice"),
        ("build(depth=os.getcwd())", "write literals, like"),
        ("build(depth=__import__('os'))", "write literals, like"),
        ("build(**{'depth': 1})", "write literals, like"),
        ("build(*[1])", "write literals, like"),
        ("build(depth=1, depth=2)", "write literals, like"),
        ("build(depth=" + "(" * 300 + ")" * 300 + ")", "write literals, like"),
        ("build(depth=1", "cannot be read; write file.py:factory"),
        ("build(depth=1).float()", "cannot be read"),
        ("", "cannot be read"),
        ("Holder.mak", "no factory in net.py is called 'Holder.mak'"),
        ("Net(num_classes='many')", "failed with TypeError"),
    ],
)
def test_arguments_that_cannot_be_given_are_named(folder, call, message):
    assert message in refusal(f"net.py:{call}")


def test_a_missing_file_is_refused_with_the_most_similar_name(folder):
    (folder / "nets").mkdir()
    (folder / "nets" / "models.py").write_text(CODE)
    assert "did you mean nets/models.py?" in refusal("nets/model.py:build")
    assert "there is no file nowhere.py; write file.py:factory" in refusal("nowhere.py:build")
    assert (
        refusal("net.py", saved(made(0))) == "--arch net.py names no network in that file; write --arch net.py:NETWORK"
    )


def saved(network, path="m.pt"):
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("some/net.py:build", "net.py:build"),
        ("some/net.py:build()", "net.py:build"),
        ("net.py:build( width = 2.50,depth=20 )", "net.py:build(depth=20, width=2.5)"),
        ("/a/net.py:build('x:y', b=1)", "net.py:build('x:y', b=1)"),
        ("my(1).py:build(1)", "my(1).py:build(1)"),
        ("package.nets:build(1)", "package.nets:build(1)"),
    ],
)
def test_the_identity_of_a_network_has_its_arguments_and_no_folder(text, canonical):
    assert factories.canonical(text) == canonical
    assert factories.canonical(canonical) == canonical


def test_networks_made_with_other_arguments_are_other_models(folder):
    network = made(0)
    saved(network)
    identities = [
        load("m.pt", arch=f"net.py:{call}", shape=SHAPE).classifier.identity() for call in ("Net(5)", "network")
    ]
    assert identities[0].weights_sha256 == identities[1].weights_sha256
    assert not identities[0].same_as(identities[1])
    assert load("m.pt", arch="net.py:Net(5)", shape=SHAPE).classifier.architecture == "net.py:Net(5)"


# What the weights say


def test_a_network_has_as_many_classes_as_its_weights(folder):
    torch.manual_seed(0)
    saved(factories.build("net.py:Net(7)", SHAPE, None))
    loaded = load("m.pt", arch="net.py:imagenet", shape=SHAPE, classes=5)
    assert loaded.classifier.classes == 7
    assert "the model has 7 outputs for 5 classes" in loaded.notes
    assert "labels reach 9 but the model m.pt has 7 outputs" in refusal("net.py:imagenet", "m.pt", classes=10)


def test_if_only_a_factorys_defaults_fit_they_are_used_with_a_note(folder):
    (folder / "sizes.py").write_text(
        "from torch import nn\ndef make(img_size=4): return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(),"
        " nn.Linear(img_size ** 2, 5))\n"
    )
    saved(nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(16, 5)))
    loaded = load("m.pt", arch="sizes.py:make", shape=SHAPE, classes=5)
    assert loaded.notes[0] == "make is called without img_size: with the values of the data the weights would not fit"


def test_a_misfit_in_the_number_of_classes_says_what_to_type(folder):
    saved(made(0))
    message = refusal("net.py:of_hundred", "m.pt")
    assert "fc.weight is 5x144 where 100x144 is needed, and 1 more differs" in message
    assert "if it takes the number of classes, write it: --arch 'net.py:of_hundred(num_classes=5)'" in message


def test_lazy_layers_infer_their_size_from_an_image(folder):
    saved(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    loaded = load("m.pt", arch="net.py:lazy", shape=SHAPE, classes=5)
    weights = torch.load("m.pt")
    x = torch.rand(2, *SHAPE)
    assert torch.allclose(loaded.classifier(x), x.flatten(1) @ weights["1.weight"].T + weights["1.bias"], atol=1e-6)


def test_lazy_layers_need_data_of_a_fitting_shape(folder):
    saved(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    message = sentence(lambda: load("m.pt", arch="net.py:lazy"))
    assert "has layers that infer their size from an image; name the data with --data" in message
    message = sentence(lambda: load("m.pt", arch="net.py:lazy_maps", shape=(3, 8, 8)))
    assert "fails on images of 3x8x8 with RuntimeError" in message


def test_a_network_that_does_not_take_weights_is_named(folder):
    (folder / "stubborn.py").write_text(
        NET
        + "class Stubborn(Net):\n    def load_state_dict(self, *args, **kwargs): raise ValueError('not from here')\n"
    )
    saved(made(0))
    message = refusal("stubborn.py:Stubborn", "m.pt")
    assert "stubborn.py:Stubborn does not take its weights from m.pt (ValueError: not from here)" in message


# Modules that a script saved whole

SCRIPT = (
    NET
    + """
import pickle, torch
class Meter:
    value = 3
class Deep(Net):
    def __init__(self, depth):
        super().__init__(5)
        self.depth = depth
def act(x): return x
if __name__ == "__main__":
    torch.manual_seed(0)
    net, deep = Net(5), Deep(3)
    net.act = deep.act = act
    torch.save(net.state_dict(), "net-weights.pt")
    torch.save(deep.state_dict(), "deep-weights.pt")
    torch.save(net, "net.pt")
    torch.save(deep, "deep.pt")
    torch.save(nn.DataParallel(deep), "parallel.pt")
    torch.save({"state_dict": net.state_dict(), "meter": Meter()}, "meter.pt")
    torch.save({"ema": deep, "model": net, "best": Meter()}, "several.pt")
    pickle.dump(net, open("net.pkl", "wb"))
"""
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with files that a script wrote of classes of its own."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "train.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True)
    return folder


def answers(path, expected, **settings):
    """Whether the model of a file answers as a network with the weights in another."""
    loaded = load(path, shape=SHAPE, classes=5, **settings)
    network = made(0)
    network.load_state_dict(torch.load(expected))
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        return torch.equal(loaded.classifier(x), network.eval()(x))


@pytest.mark.costly
@pytest.mark.parametrize("name", ["net.pt", "net.pkl", "deep.pt", "parallel.pt", "meter.pt", "several.pt"])
@pytest.mark.parametrize("from_afar", [False, True])
def test_names_of_a_script_are_found_in_the_file_that_the_user_names(written, name, from_afar, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path if from_afar else written)
    place = f"{written}/" if from_afar else ""
    which = "Deep" if name in ("deep.pt", "parallel.pt") else "Net"
    settings = {"arch": f"{place}train.py:{which}", "trust_pickle": True}
    assert answers(f"{place}{name}", written / f"{'deep' if which == 'Deep' else 'net'}-weights.pt", **settings)


@pytest.mark.costly
def test_among_modules_in_one_file_the_class_or_the_key_selects(written, monkeypatch):
    monkeypatch.chdir(written)
    assert answers("several.pt", "deep-weights.pt", arch="train.py:Deep", trust_pickle=True)
    assert answers("several.pt", "deep-weights.pt", arch="train.py:Net", weights="ema", trust_pickle=True)
    assert "several.pt has no weights under last" in refusal(
        "train.py:Net", "several.pt", trust_pickle=True, weights="last"
    )


@pytest.mark.parametrize("name", ["net.pt", "net.pkl", "meter.pt"])
def test_without_trust_nothing_is_imported_and_the_message_names_what_to_type(written, name, monkeypatch):
    monkeypatch.chdir(written)
    what = {"meter.pt": "Meter", "net.pt": "Net, act", "net.pkl": "Net"}[name]
    message = refusal(None, name)
    assert f"--trust-pickle --arch SCRIPT.py:NETWORK, of the script that defines {what}," in message
    assert refusal("train.py:Net", name).endswith("or add --trust-pickle if you trust who made the file")


def test_a_missing_or_wrong_script_is_requested(written, monkeypatch):
    monkeypatch.chdir(written)
    (written / "other.py").write_text(NET)
    message = refusal(None, "meter.pt", trust_pickle=True)
    assert message == (
        "meter.pt was saved by a script that defines Meter itself; name the network in that script with "
        "--arch SCRIPT.py:NETWORK"
    )
    message = refusal("other.py:Net", "meter.pt", trust_pickle=True)
    assert "was saved by a script that defines Meter, and other.py does not" in message


def test_the_main_module_of_this_process_is_unchanged(written, monkeypatch):
    monkeypatch.chdir(written)
    before = sys.modules["__main__"], pickle.Unpickler
    load("net.pt", arch="train.py:Net", shape=SHAPE, classes=5, trust_pickle=True)
    assert (sys.modules["__main__"], pickle.Unpickler) == before
