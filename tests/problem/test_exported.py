"""Programs of torch.export are read without a pickle and without torch's reader, or refused in one sentence."""

import json
import zipfile

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.checkpoints import load

from .programs import PROGRAMS

SHAPE = (1, 8, 8)


def saved(network, path, *, images=2, any_number=True):
    axes = ({0: torch.export.Dim("N")},) if any_number else None
    program = torch.export.export(network.eval(), (torch.zeros(images, *SHAPE),), dynamic_shapes=axes)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A sound file."""
    torch.manual_seed(0)
    return saved(PROGRAMS["small"](), tmp_path_factory.mktemp("exported") / "m.pt2")


def rewritten(source, path, change):
    """A copy of an archive with some parts changed: `change` gets a part's name and bytes, and returns its bytes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = change(entry.filename.partition("/")[2], old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return path


def with_graph(change):
    def of_part(name, data):
        if name != "models/model.json":
            return data
        program = json.loads(data)
        change(program)
        return json.dumps(program).encode()

    return of_part


def refusal(path):
    with pytest.raises(UserError) as caught:
        load(path, shape=SHAPE, classes=10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.costly
@pytest.mark.parametrize("name", ["small", "residual", "attention, fused"])
def test_a_program_answers_as_its_module_and_has_the_identity_that_consent_gives_it(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = PROGRAMS[name]().eval()
    path = saved(network, tmp_path / "m.pt2")
    trusted = load(path, shape=SHAPE, classes=10, trust_pickle=True).classifier
    monkeypatch.setattr(torch.export, "load", None)
    monkeypatch.setattr(torch, "load", None)
    classifier = load(path, shape=SHAPE, classes=10).classifier
    x = torch.rand(5, *SHAPE, requires_grad=True)
    torch.testing.assert_close(classifier(x), network(x))
    assert classifier.identity() == trusted.identity()
    here, there = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (classifier, network))
    torch.testing.assert_close(here, there)


def test_a_program_for_three_images_gets_three(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    loaded = load(saved(network, tmp_path / "m.pt2", images=3, any_number=False), shape=SHAPE, classes=10)
    assert "the model accepts only batches of exactly 3 images: batches are padded" in loaded.notes
    x = torch.rand(7, *SHAPE)
    torch.testing.assert_close(loaded.classifier(x), network(x))


def operator(name):
    return with_graph(lambda program: program["graph_module"]["graph"]["nodes"][0].update(target=name))


def pickled(name, data):
    return data.replace(b'"use_pickle": false', b'"use_pickle": true')


def repeated(data):
    table = json.loads(data)
    for entry in table["config"].values():
        entry["tensor_meta"] |= {"sizes": [{"as_int": 2**20}] * 2, "strides": [{"as_int": 0}] * 2}
    return json.dumps(table).encode()


def text_of_size(program):
    size = program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]
    size["as_expr"]["expr_str"] = "__import__('os').system('touch run')"


CHANGES = {
    "another version": (
        with_graph(lambda program: program["schema_version"].update(major=9)),
        "in version 9 of the format; robench reads version 8",
    ),
    "a pickle": (pickled, "in a pickle"),
    "an operator that writes files": (operator("torch.ops.aten.save.default"), "has the operator torch.ops.aten.save"),
    "an operator of Python": (operator("os.system"), "has the operator os.system"),
    "code for a size": (with_graph(text_of_size), "has images of a computed size"),
    "a list of weights less": (
        lambda name, data: None if name.endswith("weights_config.json") else data,
        "torch.export program that lacks its part data/weights/model_weights_config.json",
    ),
    "damaged JSON": (lambda name, data: data[:-9] if name == "models/model.json" else data, "is not written as torch"),
    "deep JSON": (lambda name, data: b"[" * 10**6 if name == "models/model.json" else data, "is not written as torch"),
    "no weights": (
        lambda name, data: b"" if name.startswith("data/weights/weight_") else data,
        "has fewer numbers in its weights than their shapes need",
    ),
    "a tensor of one number, very often": (
        lambda name, data: repeated(data) if name == "data/weights/model_weights_config.json" else data,
        "has fewer numbers in its weights than their shapes need",
    ),
    "cut weights": (
        lambda name, data: data[:4] if name.startswith("data/weights/weight_") else data,
        "has fewer numbers in its weights than their shapes need",
    ),
}


@pytest.mark.costly
@pytest.mark.parametrize("change", CHANGES)
def test_a_program_that_cannot_be_read_without_consent_is_refused(change, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how, message = CHANGES[change]
    sentence = refusal(rewritten(small, tmp_path / "m.pt2", how))
    assert message in sentence
    assert "add --trust-pickle" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_images_of_another_size_are_refused(small):
    with pytest.raises(UserError, match="reads 1x8x8 images, but those of the data are 1x9x9"):
        load(small, shape=(1, 9, 9), classes=10)


@pytest.mark.parametrize("trust", [False, True])
def test_the_shape_of_the_images_is_read_from_the_graph(trust, small):
    assert load(small, trust_pickle=trust).classifier.shape == SHAPE


def test_a_program_for_two_images_or_more_answers_one(tmp_path):
    program = PROGRAMS["small"]().eval()
    exported = torch.export.export(program, (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(exported, tmp_path / "m.pt2")
    network = load(tmp_path / "m.pt2", shape=SHAPE, classes=10).classifier
    x = torch.rand(2, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(network(x[:1]), program(x[:1]), atol=1e-5)
