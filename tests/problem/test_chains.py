"""Chains of layers: written with --arch, or inferred from clean images."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robench.errors import UserError
from robench.problem import datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.architectures import chain as chains
from robench.problem.architectures.factories import named_factory
from robench.problem.architectures.normalise import normalised
from robench.problem.checkpoints import load
from robench.problem.checkpoints.candidates import Candidates
from robench.problem.checkpoints.comparison import Answers, exact_p, same_function, sample
from robench.problem.checkpoints.contents import Contents
from robench.problem.checkpoints.inference import inferred_normalisation
from robench.problem.checkpoints.nested import nested
from robench.problem.checkpoints.numbered import numbered, weights_of_layers
from robench.problem.checkpoints.waiting import BATCH
from robench.problem.split import Split

SHAPE = (1, 28, 28)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLEAN = sample(datasets.load("digits:test"))

NETWORKS = {
    "chain:conv4/2p1,relu,conv4/2p1,relu,flatten,fc,relu,fc": lambda: nn.Sequential(
        *(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 49, 20), nn.ReLU(), nn.Linear(20, 10)),
    ),
    "chain:conv3p1,bn,relu,maxpool2,conv3x5/2p1x2,leakyrelu0.2,avgpool3/2p1,flatten,fc,bn,tanh,dropout,fc": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, (3, 5), 2, (1, 2)), nn.LeakyReLU(0.2), nn.AvgPool2d(3, 2, 1), nn.Flatten()),
            *(nn.Linear(96, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Dropout(), nn.Linear(20, 10)),
        )
    ),
    "chain:conv5/2,gelu,gap,flatten,fc": lambda: nn.Sequential(
        *(nn.Conv2d(1, 8, 5, 2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    ),
}


def saved(tmp_path, module, prefix="", **more):
    path = tmp_path / "net.pt"
    torch.save({prefix + key: value for key, value in module.state_dict().items()} | more, path)
    return path


def refusal(path, **settings):
    with pytest.raises(UserError) as error:
        load(path, shape=SHAPE, classes=10, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def trained(module, epochs=3, normalisation="none"):
    torch.manual_seed(0)
    data = datasets.load("digits:train")
    whole = normalised(module, normalisation, 1)
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(data)), 64):
            optimiser.zero_grad()
            F.cross_entropy(whole(data.x[rows]), data.y[rows]).backward()
            optimiser.step()
    return module.eval()


def built(text, *shapes, seed=0):
    torch.manual_seed(seed)
    return chains.build(chains.parse(text), [{"weight": shape, "bias": shape[:1]} for shape in shapes], SHAPE)


@pytest.fixture(scope="module")
def clear():
    """A network whose stride, padding and normalisation clean images show."""
    return trained(built("chain:conv5/3p1,relu,flatten,fc,relu,fc", (8, 1, 5, 5), (32, 648), (10, 32)), 4, "0.5/0.5")


@pytest.fixture(scope="module")
def dense():
    """A network of dense layers, on pixels in [0, 1]."""
    return trained(built("chain:flatten,fc,relu,fc", (32, 784), (10, 32)), 8)


@pytest.mark.parametrize("prefix", ["", "net.", "module.model."])
@pytest.mark.parametrize("text", NETWORKS)
def test_a_written_chain_gives_the_logits_of_the_original_network(tmp_path, text, prefix):
    torch.manual_seed(0)
    module = NETWORKS[text]()
    for layer in module:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    loaded = load(saved(tmp_path, module, prefix), arch=text, shape=SHAPE, classes=10)
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(loaded.classifier(x), module.eval()(x))
    assert loaded.classifier.architecture == text


@pytest.mark.parametrize("text", NETWORKS)
def test_the_text_of_a_chain_is_read_back_as_the_same_chain(text):
    assert chains.written(chains.parse(text)) == text


def test_equal_chains_have_equal_texts():
    written = chains.written(chains.parse(" chain:Conv4x4/1p0, ReLU, maxpool2/2, leakyrelu0.01,flatten ,fc"))
    assert written == "chain:conv4,relu,maxpool2,leakyrelu,flatten,fc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chain:", "no layer of a chain is called ''"),
        ("chain:conv4,rleu,fc", "did you mean relu"),
        ("chain:conv,relu", "write convKERNEL/STRIDEpPADDING, as conv3/2p1"),
        ("chain:conv0,relu", "needs a kernel and a stride from 1"),
        ("chain:conv99999,relu", "cannot be read"),
        ("chain:build", "a factory in your own chain.py is written chain.py:build"),
        ("chain:" + ",".join(["relu"] * 201), "201 layers, more than 200"),
        ("chain:conv4,flatten,fc", "the chain has 2 layers with weights, and the file has 4"),
        ("chain:conv3,conv4,flatten,fc,fc", "layer 0 of the chain, conv3: its kernel in the file is 4x4"),
        ("chain:conv4,conv4,fc,fc", "it gets images; write flatten before it"),
        ("chain:conv4,conv4,flatten,fc,fc", "its weights are for 294 numbers, and it gets 2,904"),
        ("chain:fc,conv4,flatten,fc,fc", "the file has no dense layer here"),
        ("chain:bn,conv4,flatten,fc,fc", "the file has no batch norm"),
        ("chain:conv4/20,conv4,flatten,fc,fc", "its kernel is larger than the 2x2 pixels that it gets"),
        ("chain:maxpool2p2,conv4,conv4,flatten,fc,fc", "padding of pooling is half of its kernel at most"),
    ],
)
def test_a_chain_that_does_not_fit_is_refused_with_the_layer_that_does_not(tmp_path, text, message):
    module = next(iter(NETWORKS.values()))()
    assert message in refusal(saved(tmp_path, module), arch=text)


def test_a_chain_of_a_file_without_numbered_layers_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"conv.weight": torch.zeros(4, 1, 3, 3), "fc.weight": torch.zeros(10, 4)}, path)
    assert "has no numbered layers like 0.weight" in refusal(path, arch="chain:conv3,gap,flatten,fc")


def test_a_chain_is_no_code():
    assert not named_factory("chain:conv3,relu,flatten,fc")
    assert named_factory("chain.py:build")


def test_of_candidates_every_one_fits_and_computes_what_its_network_computes():
    module = next(iter(NETWORKS.values()))().eval()
    contents = Contents(module.state_dict(), nested=nested(module.state_dict()))
    (layers,) = numbered(contents)
    candidates, x = Candidates(layers.layers, SHAPE), torch.rand(2, *SHAPE)
    with torch.no_grad():
        found = dict(candidates.logits(x, weights_of_layers(contents, layers)))
    assert len(found) == candidates.count() > 10
    assert chains.parse("chain:conv4/2p1,relu,conv4/2p1,relu,flatten,fc,relu,fc") in found
    for chain, logits in list(found.items())[::7]:
        network = chains.build(chain, layers.shapes, SHAPE)
        network.load_state_dict({k: contents.tensors[name] for k, name in layers.place(chain).names.items()})
        with torch.no_grad():
            assert torch.allclose(network.eval()(x), logits, atol=1e-5)


def test_the_chain_and_its_normalisation_are_inferred_and_stated_in_full(tmp_path, clear):
    loaded = load(saved(tmp_path, clear), shape=SHAPE, classes=10, clean=CLEAN)
    assert loaded.classifier.architecture == "chain:conv5/3p1,relu,flatten,fc,relu,fc"
    assert loaded.classifier.normalisation == "0.5/0.5"
    (note,) = loaded.notes
    for part in (
        "chain: conv 8 5x5/3 pad 1, relu, flatten, fc 32, relu, fc 10; normalisation 0.5/0.5 inferred: clean accuracy",
        "--arch chain:conv5/3p1,relu,flatten,fc,relu,fc --normalise 0.5/0.5 is the same",
    ):
        assert part in note
    assert "inferred from clean images, and ReLU is assumed" in loaded.inferred.caution
    typed = load(
        *(saved(tmp_path, clear),), arch=loaded.inferred.architecture, normalise="0.5/0.5", shape=SHAPE, classes=10
    )
    assert typed.classifier.identity() == loaded.classifier.identity()


def test_dense_layers_are_a_chain_too(tmp_path, dense):
    loaded = load(saved(tmp_path, dense), shape=SHAPE, classes=10, clean=CLEAN, normalise="none")
    assert loaded.classifier.architecture == "chain:flatten,fc,relu,fc"


def test_a_typed_normalisation_is_not_inferred(tmp_path, clear):
    loaded = load(saved(tmp_path, clear), shape=SHAPE, classes=10, clean=CLEAN, normalise="0.5/0.5")
    assert "normalisation" not in loaded.notes[0].partition("; --arch")[0].partition(";")[2]
    assert loaded.classifier.normalisation == "0.5/0.5"


def test_where_two_chains_are_as_good_both_are_named_and_neither_is_taken(tmp_path):
    # On images of one grey each, maximum and average are the same.
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    values = {
        "0.weight": [[[[1.0]]]],
        "0.bias": [0.0],
        "4.weight": [[-1 / 16] * 16, [1 / 16] * 16],
        "4.bias": [0.5, -0.5],
    }
    module.load_state_dict({key: torch.tensor(value) for key, value in values.items()})
    y = torch.arange(40) % 2
    grey = Split.whole("grey", (0.25 + 0.5 * y).view(-1, 1, 1, 1).expand(-1, 1, 8, 8), y, 2)
    with pytest.raises(UserError) as error:
        load(saved(tmp_path, module), shape=(1, 8, 8), classes=2, clean=grey, normalise="none")
    message = str(error.value)
    assert "several candidates are as good on 40 clean images" in message
    for pool in ("maxpool2", "maxpool3/2p1"):
        assert f"--arch chain:conv1,relu,{pool},flatten,fc --normalise none (100.0%)" in message


def test_a_network_that_classifies_nothing_is_not_inferred(tmp_path):
    module = built("chain:conv5/3,relu,flatten,fc", (4, 1, 5, 5), (10, 256))
    assert "make it a good classifier" in refusal(saved(tmp_path, module), clean=CLEAN)


def test_another_activation_is_not_taken_for_relu_where_images_show_it(tmp_path):
    module = trained(built("chain:flatten,fc,tanh,fc", (32, 784), (10, 32)), 8)
    message = refusal(saved(tmp_path, module), clean=CLEAN, normalise="none")
    assert "tanh is better than the usual choice" in message
    assert "--arch chain:flatten,fc,tanh,fc --normalise none (" in message


def test_without_images_a_chain_is_named_with_what_to_type(tmp_path, clear):
    message = refusal(saved(tmp_path, clear))
    assert "holds the layers of a chain (0 conv 8x1x5x5, 3 fc 32x648, 5 fc 10x32)" in message
    assert "--data" in message
    assert "--arch 'chain:" in message
    few = datasets.load("digits:test").take(range(13))
    assert "14 images or more" in refusal(saved(tmp_path, clear), clean=few)


def test_layers_beside_other_weights_are_not_taken_for_the_whole_network(tmp_path, clear):
    path = saved(tmp_path, clear, "features.", **{"head.scale": torch.ones(10)})
    assert "matches no architecture" in refusal(path, clean=CLEAN)


def test_layers_that_fit_no_image_are_refused_with_their_shapes(tmp_path, clear):
    with pytest.raises(UserError, match=r"0 conv 8x1x5x5.* fit images of 1x8x8 with no usual stride"):
        load(saved(tmp_path, clear), clean=CLEAN.whole("small", CLEAN.x[..., :8, :8], CLEAN.y, 10), shape=(1, 8, 8))


@pytest.mark.parametrize("normalise", [None, "none"])
def test_an_unknown_normalisation_is_inferred_unless_none_is_typed(tmp_path, clear, normalise):
    arch = "chain:conv5/3p1,relu,flatten,fc,relu,fc"
    loaded = load(saved(tmp_path, clear), arch=arch, normalise=normalise, shape=SHAPE, classes=10, clean=CLEAN)
    assert loaded.classifier.normalisation == (normalise or "0.5/0.5")
    if normalise is None:
        assert "normalisation 0.5/0.5 inferred: clean accuracy" in loaded.notes[0]
        assert "--normalise none switches it off" in loaded.notes[0]


def test_pixels_from_0_to_1_stay_where_no_normalisation_is_clearly_better(tmp_path, dense):
    path = saved(tmp_path, dense)
    loaded = load(path, arch="chain:flatten,fc,relu,fc", shape=SHAPE, classes=10, clean=CLEAN)
    assert loaded.classifier.normalisation == "none"
    (note,) = loaded.notes
    assert note.startswith("no normalisation is known, so the network gets pixels in [0, 1]; --normalise changes that;")
    assert "no usual one is clearly" in note


def test_pixels_from_0_to_1_that_others_surpass_are_a_caution_where_none_is_clearly_the_best():
    class Brightest(nn.Module):
        """Answers correctly unless it gets pixels from 0 to 1, whatever else the normalisation is."""

        def forward(self, x):
            wrong = (x.flatten(1).amin(dim=1) >= 0)[:, None]
            y = next(labels)[: len(x)]
            return torch.where(wrong, F.one_hot((y + 1) % 10, 10), F.one_hot(y, 10)).float()

    normalisations = 3  # none, digits, 0.5/0.5
    parts = [part for images in (64, 500) for part in CLEAN.y[:images].split(BATCH) * normalisations]
    labels = iter(parts)
    found = inferred_normalisation(Brightest(), CLEAN, torch.device("cpu"))
    assert found.normalisation is None
    assert "no usual one is clearly the best" in found.caution
    assert found.caution.endswith("--normalise sets another")


def test_the_exact_test_counts_the_images_on_which_only_one_is_correct():
    assert exact_p(0, 0) == 1
    assert exact_p(10, 0) == 2**-10
    assert exact_p(2, 1) == 0.5


def test_a_candidate_with_equal_answers_is_not_clearly_better_however_sure_it_is():
    y = torch.arange(1000) % 10
    logits = F.one_hot(y, 10) * 3.0 + torch.rand(1000, 10)
    sure, unsure = Answers.of(logits, y), Answers.of(logits + torch.rand(1000, 10), y)
    assert sure.accuracy == unsure.accuracy
    assert not sure.clearly_better(unsure)
    assert sure.clearly_better(Answers.of(logits.roll(1, 0), y))


def test_nan_is_never_correct():
    assert Answers.of(torch.full((20, 2), torch.nan), torch.zeros(20, dtype=torch.long)).accuracy == 0


def test_functions_are_the_same_up_to_float_noise_only():
    logits = torch.rand(5, 10)
    assert same_function(logits, logits * (1 + 1e-6))
    assert not same_function(logits, logits * 1.01)


@pytest.mark.costly
def test_of_random_chains_none_is_inferred_wrongly(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    outcomes = runpy.run_path(str(BENCHMARKS / "chain_inference.py"))["outcomes"]
    found = [outcomes(number, tmp_path) for number in (2, 22, 28, 29, 55, 67)]
    for what in ("without a hint", "with --arch"):
        assert not [row for row in found if row[what].startswith("wrong")]


def test_images_of_another_size_are_refused_before_anything_is_inferred(tmp_path):
    module = ARCHITECTURES["lenet"].build(SHAPE, 10)
    small = Split.whole("small", CLEAN.x[:, :, :20, :20], CLEAN.y, 10)
    with pytest.raises(UserError, match="reads 1x28x28 images, but those of the data are 1x20x20"):
        load(saved(tmp_path, module), shape=(1, 20, 20), classes=10, clean=small)
