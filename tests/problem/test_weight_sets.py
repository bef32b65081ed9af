"""Where the weights of a network are looked up in a file, which of several are taken, and what lies beside them."""

import time

import pytest
import safetensors.torch
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.checkpoints.places import Wanted, find, is_copy

from .test_layouts import CODE, SHAPE, at, made, pair, split

DIGITS = (1, 28, 28)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def loaded(held, path="m.pt", **settings):
    torch.save(held, path)
    return load(path, **{"arch": "net.py:Net", "shape": SHAPE, "classes": 5} | settings)


def refusal(held, **settings):
    with pytest.raises(UserError) as error:
        loaded(held, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(classifier, network):
    x = torch.rand(3, *classifier.shape)
    with torch.no_grad():
        return torch.equal(classifier(x), network(x))


def digits(seed=0, name="digits-cnn"):
    torch.manual_seed(seed)
    return ARCHITECTURES[name].build(DIGITS, 10).eval()


# Prefixes


@pytest.mark.parametrize("outer", ["module.", "_orig_mod.", "net.", "model.backbone.", "a.b.c.d.e.", "0.", "modèle."])
@pytest.mark.parametrize("inner", ["", "module.", "model."])
def test_prefixes_stack_in_any_order(folder, outer, inner):
    network = made(0)
    assert same(loaded(at(outer + inner, network.state_dict())).classifier, network)
    assert same(loaded({"x": at(inner + outer, network.state_dict())}).classifier, network)


def test_a_prefix_ends_at_the_end_of_a_part_of_a_name():
    wanted = Wanted.like({"weight": (1,), "bias": (1,)})
    assert find(["my_weight", "my_bias", "xweight", "xbias"], wanted)[0].spelling == "with _ for the dots of the keys"
    assert find(["xweight", "xbias"], wanted) == []
    assert [place.prefixes for place in find(["a.weight", "a.bias", "b.weight"], wanted)] == [("a.",)]


def test_a_key_of_the_network_is_no_prefix_although_it_begins_like_one(folder):
    (folder / "own.py").write_text(
        "from torch import nn\nclass Own(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.model, self.module = nn.Linear(64, 5), nn.Linear(64, 5)\n"
        "    def forward(self, x): return self.model(x.flatten(1)) + self.module(x.flatten(1))\n"
    )
    torch.manual_seed(0)
    first, second = nn.Linear(64, 5), nn.Linear(64, 5)
    weights = at("model.", first.state_dict()) | at("module.", second.state_dict())
    for held in (weights, at("module.", weights), {"model": weights}):
        classifier = loaded(held, arch="own.py:Own").classifier
        x = torch.rand(2, *SHAPE)
        assert torch.equal(classifier(x), first(x.flatten(1)) + second(x.flatten(1)))


def test_layers_in_dictionaries_of_their_own_are_read(folder):
    network, nested = made(0), {}
    for key, value in network.state_dict().items():
        layer, _, name = key.partition(".")
        nested.setdefault(layer, {})[name] = value
    assert same(loaded(nested).classifier, network)


def test_parts_are_joined_only_if_each_layer_lies_in_one_part(folder):
    network, other = made(0), made(1)
    body, head = split(network.state_dict())
    assert same(loaded(at("backbone.", body) | head).classifier, network)
    copies = at("momentum_backbone.", split(other.state_dict())[0]) | at("momentum_head.", split(other.state_dict())[1])
    assert same(loaded(at("backbone.", body) | at("head.", head) | copies).classifier, network)
    two_heads = at("backbone.", body) | at("head_a.", head) | at("head_b.", split(other.state_dict())[1])
    assert "it lacks fc.weight (5x144), fc.bias (5)" in refusal(two_heads)
    picked = loaded({"one": at("backbone.", body) | at("head.", head), "two": copies}, weights="two")
    assert same(picked.classifier, other)


def test_prefixes_are_found_in_time_proportional_to_the_number_of_names(folder):
    seconds = {}
    for count in (2_000, 20_000):
        names = [f"module.blocks.{i}.attention.projection.weight" for i in range(count)]
        wanted = Wanted.of(digits())
        begun = time.perf_counter()
        assert find([*names, *at("net.", digits().state_dict())], wanted)[0].prefixes == ("net.",)
        seconds[count] = time.perf_counter() - begun
    assert seconds[20_000] < 100 * max(seconds[2_000], 0.001)  # ten times is wanted, a hundred times is quadratic


@pytest.mark.costly
def test_the_same_weights_are_the_same_model_in_parts(folder):
    torch.manual_seed(0)
    network = ARCHITECTURES["preactresnet18"].build((3, 32, 32), 10)
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value += 7
    weights = network.state_dict()
    parts = {("head." if key.startswith("linear") else "backbone.") + key: value for key, value in weights.items()}
    whole, put_together = (loaded(held, arch=None, shape=(3, 32, 32), classes=10) for held in (weights, parts))
    assert "weights read in parts, from backbone and head" in put_together.notes
    assert whole.classifier.identity() == put_together.classifier.identity()


# Several sets


@pytest.mark.parametrize("name", ["ema", "model_ema.", "swa", "teacher.net.", "encoder_k.", "module.momentum_encoder."])
def test_an_average_or_a_copy_is_known_by_its_name(name):
    assert is_copy(name)


@pytest.mark.parametrize("name", ["", "module.", "schema.", "kernel.", "keyboard.", "encoder_q.", "targets_net."])
def test_other_names_are_of_no_copy(name):
    assert not is_copy(name)


@pytest.mark.parametrize("key", ["b", "b.", "b.module", "module", "b.module."])
def test_a_set_is_picked_by_its_key_or_by_a_prefix(folder, key):
    network, other = made(0), made(1)
    picked = loaded({"a": other.state_dict(), "b": at("module.", network.state_dict())}, weights=key)
    assert same(picked.classifier, network)
    assert "weights read from b, with the prefix module." in picked.notes


def test_a_missing_set_of_weights_is_refused_with_those_that_fit(folder):
    one, other = made(0).state_dict(), made(1).state_dict()
    held = {"state_dict": one, "state_dict_ema": other, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    message = refusal(held, weights="state_dict_em")
    assert (
        message
        == "m.pt has no weights under state_dict_em; did you mean state_dict_ema? it has state_dict, state_dict_ema"
    )
    assert "it has one set of weights: leave --weights out" in refusal(one, weights="ema")
    assert "is ambiguous: a.x, b.x; write one of them in full" in refusal(
        {"a": {"x": one}, "b": {"x": other}}, weights="x"
    )
    digits_sets = {"first": digits(0).state_dict(), "second": digits(1).state_dict()}
    assert "it has first, second" in refusal(digits_sets, arch=None, weights="third", shape=DIGITS, classes=10)


def test_a_copy_in_another_precision_is_a_second_set(folder):
    weights = made(0).state_dict()
    for kind in (torch.float16, torch.float8_e4m3fn):
        held = {"model": weights, "small": {k: v.to(kind) if v.is_floating_point() else v for k, v in weights.items()}}
        assert loaded(held).notes[0].startswith("2 sets of weights fit and differ (model, small): model is used")


def test_equal_copies_are_no_second_set(folder):
    weights = made(0).state_dict()
    notes = loaded({"model": weights, "best": {key: value.clone() for key, value in weights.items()}}).notes
    assert notes[:2] == ("weights read from model", "not used: best (equal weights)")


def test_sets_are_picked_among_registered_architectures_too(folder):
    one, other = digits(0), digits(1)
    held = {"a": one.state_dict(), "b": other.state_dict()}
    for arch in (None, "digits-cnn"):
        picked = loaded(held, arch=arch, weights="b", shape=DIGITS, classes=10)
        assert same(picked.classifier, other)


def test_the_state_of_an_optimiser_is_never_used_as_weights(folder):
    network, other = made(0), made(1)
    moments = {"optimizer": {"exp_avg": other.state_dict()}, "opt": {"averages": [*other.state_dict().values()]}}
    assert same(loaded({"some_network": network.state_dict()} | moments).classifier, network)
    assert "holds the state of an optimiser and no weights" in refusal(moments)
    assert "holds the state of an optimiser and no weights" in refusal(moments, arch=None)
    averages = {"optimizer": {"exp_avgs": [*digits(1).state_dict().values()]}, "odd": {"a": torch.ones(3)}}
    assert "no architecture that robench knows" in refusal(averages, arch=None, shape=DIGITS, classes=10)


# What else is in the file


def test_a_training_state_is_not_listed_and_other_tensors_are(folder):
    network = made(0)
    held = {
        "net": network.state_dict() | {f"head{i}.weight": torch.ones(2, i + 1) for i in range(5)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "rng_state": torch.ones(5),
        "best_acc": torch.tensor(0.9),
        "memory_bank": torch.ones(7, 7),
        "prototypes": {"a": torch.ones(2), "b": torch.ones(2)},
    }
    assert loaded(held).notes[1] == (
        "not used: head0.weight (2x1), head1.weight (2x2), head2.weight (2x3) and 2 more; memory_bank (1 tensor), "
        "prototypes (2 tensors)"
    )


def test_a_known_architecture_with_unused_tensors_must_be_named(folder):
    network = digits()
    held = network.state_dict() | {"bn.weight": torch.ones(32)}
    message = refusal(held, arch=None, shape=DIGITS, classes=10)
    assert (
        "has all weights of digits-cnn, and also bn.weight (32); if the network does not use these, type --arch"
        in message
    )
    named = loaded(held, arch="digits-cnn", shape=DIGITS, classes=10)
    assert same(named.classifier, network)
    assert named.notes[0] == "not used: bn.weight (32)"
    beside = at("model.", network.state_dict()) | {"criterion.weight": torch.ones(10)}
    assert same(loaded(beside, arch=None, shape=DIGITS, classes=10).classifier, network)


def test_a_wrong_architecture_is_refused_with_the_right_one(folder):
    message = refusal(digits().state_dict(), arch="lenet", shape=DIGITS, classes=10)
    assert "its weights are those of digits-cnn: type --arch digits-cnn" in message


def test_names_from_a_file_are_printed_on_one_line_and_not_in_full(folder):
    held = made(0).state_dict() | {"\x1b[31mred\nline": torch.ones(2), "x" * 300: torch.ones(2)}
    (note, *_) = loaded(held).notes
    assert note.isprintable()
    assert r"\x1b[31mred\nline (2)" in note
    assert "x" * 100 not in note


# Normalisation beside the weights


def normalised(network, mean=0.25, std=0.5):
    return nn.Sequential(Shift(mean, std), network)


class Shift(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.m, self.s = mean, std

    def forward(self, x):
        return (x - self.m) / self.s


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    ("mean", "std", "prefix"),
    [
        ("mu", "sigma", ""),
        ("mean", "std", ""),
        ("_mean", "_std", "model."),
        ("normalizer.new_mean", "normalizer.new_std", "model."),
        ("model.mu", "model.sigma", "model."),
        ("normalize.mean", "normalize.std", "model.net."),
        ("0.mean", "0.std", "1."),
        ("module.0.mean", "module.0.std", "module.1."),
        ("MEAN", "STD", ""),
        ("dataset_mean", "dataset_std", ""),
        ("mean_", "std_", ""),
    ],
)
def test_a_normalisation_in_the_file_is_used_whatever_its_names_and_shape(folder, mean, std, prefix, shape):
    network = made(0)
    found = loaded(pair(mean, std, *shape) | at(prefix, network.state_dict()))
    assert found.classifier.normalisation == "0.25/0.5"
    assert same(found.classifier, normalised(network))
    assert f"normalisation 0.25/0.5, from {mean} and {std} in the file" in found.notes


@pytest.mark.costly
def test_each_channel_has_its_own_numbers_and_is_the_same_as_when_it_is_typed(folder):
    network = ARCHITECTURES["preactresnet18"].build((3, 32, 32), 10)
    buffers = {
        "mu": torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1),
        "sigma": torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1),
    }
    settings = {"arch": "preactresnet18", "shape": (3, 32, 32), "classes": 10}
    from_file = loaded(network.state_dict() | buffers, **settings).classifier
    assert from_file.normalisation == "0.4914,0.4822,0.4465/0.2471,0.2435,0.2616"
    assert from_file.identity().same_as(
        loaded(network.state_dict(), normalise=from_file.normalisation, **settings).classifier.identity()
    )


def test_the_normalise_option_takes_precedence_over_the_file(folder):
    network = made(0)
    found = loaded(pair("mu", "sigma", 1) | network.state_dict(), normalise="none")
    assert same(found.classifier, network)
    assert (
        "--normalise none takes precedence over the normalisation in the file (mu and sigma: 0.25/0.5)" in found.notes
    )


@pytest.mark.parametrize("persistent", [True, False])
def test_a_network_that_normalises_by_itself_does_so_once(folder, persistent):
    (folder / "own.py").write_text(
        CODE + "import torch\nclass Own(Net):\n    def __init__(self):\n        super().__init__(5)\n"
        f"        self.register_buffer('mu', torch.tensor([0.25]), persistent={persistent})\n"
        f"        self.register_buffer('sigma', torch.tensor([0.5]), persistent={persistent})\n"
        "    def forward(self, x): return super().forward((x - self.mu) / self.sigma)\n"
    )
    network = made(0)
    found = loaded(pair("mu", "sigma", 1) | network.state_dict(), arch="own.py:Own")
    assert found.classifier.normalisation == "none"
    assert same(found.classifier, normalised(network))


def test_a_network_that_normalises_by_itself_does_so_once_however_its_keys_are_written(folder):
    (folder / "own.py").write_text(
        CODE + "import torch\nclass Norm(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('mean', torch.ones(1))\n        self.register_buffer('std', torch.ones(1))\n"
        "    def forward(self, x): return (x - self.mean) / self.std\n"
        "class Own(Net):\n    def __init__(self):\n        super().__init__(5)\n        self.norm = Norm()\n"
        "    def forward(self, x): return super().forward(self.norm(x))\n"
    )
    network = made(0)
    held = pair("norm_mean", "norm_std", 1) | {k.replace(".", "_"): v for k, v in network.state_dict().items()}
    found = loaded(held, arch="own.py:Own")
    assert found.classifier.normalisation == "none"
    assert same(found.classifier, normalised(network))


def test_the_normalisation_of_a_copy_is_not_the_networks(folder):
    network = made(0)
    found = loaded(network.state_dict() | pair("teacher.mean", "teacher.std", 1))
    assert found.classifier.normalisation == "none"


def test_of_two_normalisations_the_nearer_is_used_and_that_of_a_copy_never(folder):
    network = made(0)
    held = pair("mean", "std", 1, m=0.1, s=0.9) | pair("model.normalize.mean", "model.normalize.std", 1)
    held |= at("model.net.", network.state_dict()) | pair("attacker.mean", "attacker.std", 1, m=0.3, s=0.3)
    found = loaded(held)
    assert same(found.classifier, normalised(network))
    assert found.notes[-1].endswith("in the file, the pair nearest to the weights")


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        (pair("mean", "std", 1, 8, 8), "mean and std are 1x8x8 and 1x8x8 instead of 1, one for each channel"),
        (pair("mean", "std", 3), "3 numbers each instead of 1"),
        (pair("mean", "std", 1, 1, 3, 1, 1), "3 numbers each instead of 1"),
        (pair("mean", "std", 1, s=0.0), "0.25/0.0, which is no mean and standard deviation"),
        (pair("mean", "std", 1, m=float("nan")), "which is no mean and standard deviation"),
    ],
)
def test_an_unusable_normalisation_is_refused(folder, buffers, message):
    network = made(0)
    answer = refusal(buffers | network.state_dict())
    assert message in answer
    assert "--normalise none" in answer
    assert same(loaded(buffers | network.state_dict(), normalise="none").classifier, network)


def test_layers_with_a_mean_and_more_or_for_something_else_are_no_normalisation(folder):
    network = made(0)
    for more in (
        pair("stats.mean", "stats.std", 1) | {"stats.count": torch.ones(1)},
        pair("prior.mu", "prior.sigma", 64),
        pair("acc_mean", "acc_std", 1),
    ):
        assert loaded(network.state_dict() | more).classifier.normalisation == "none"


def test_settings_that_resemble_a_normalisation_are_only_mentioned(folder):
    network = made(0)
    held = {"state_dict": network.state_dict(), "hyper_parameters": {"data": {"mean": [0.1307], "std": (0.3081,)}}}
    found = loaded(held)
    assert same(found.classifier, network)
    assert "hyper_parameters.data.mean and hyper_parameters.data.std in the file may be meant" in found.notes[-1]
    assert "--normalise 0.1307/0.3081 uses them" in found.notes[-1]


def test_metadata_take_precedence_over_a_normalisation_beside_the_weights(folder):
    network = digits()
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()} | pair("mu", "sigma", 1)
    safetensors.torch.save_file(tensors, "m.safetensors", {"architecture": "digits-cnn", "normalisation": "none"})
    found = load("m.safetensors", shape=DIGITS, classes=10)
    assert same(found.classifier, network)
    assert "none, from m.safetensors, takes precedence over the normalisation in the file" in found.notes[-1]
