import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robench.errors import UserError
from robench.problem.architectures import ARCHITECTURES, factories
from robench.problem.architectures.normalise import Normalise, Normalised, canonical, normalised
from robench.problem.architectures.preactresnet import PreActBlock
from robench.problem.architectures.wide_resnet import BasicBlock, WideResNet
from robench.problem.checkpoints import recognition
from robench.problem.checkpoints.contents import Contents
from robench.problem.checkpoints.nested import nested
from robench.problem.datasets import DATASETS

SMALL = [
    "madry-mnist",
    "digits-cnn",
    "wong-kolter-mnist",
    "wong-kolter-mnist-wide",
    "lenet",
    "trades-mnist",
    "lenet5-advertorch",
    "strided-cnn",
]


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        # PROTOCOLS.md 3.1: 832 + 51 264 + 3 212 288 + 10 250
        ("madry-mnist", (1, 28, 28), 3_274_634),
        # LeCun et al. 1998 with every map connected: 156 + 2 416 + 48 120 + 10 164 + 850
        ("lenet", (1, 28, 28), 61_706),
        ("lenet", (1, 32, 32), 61_706),
        # published for the layout without a last batch norm; with it, 2 x 512 more
        ("preactresnet18-no-final-bn", (3, 32, 32), 11_171_146),
        ("preactresnet18", (3, 32, 32), 11_171_146 + 1024),
        ("preactresnet18-softplus", (3, 32, 32), 11_171_146 + 1024),
        # table 4 of the paper: 2.7M and 36.5M
        ("wrn-16-4", (3, 32, 32), 2_748_890),
        ("wrn-28-10", (3, 32, 32), 36_479_194),
        ("wrn-34-10", (3, 32, 32), 46_160_474),
        # another 16 -> 160 block, and three of 160 -> 160; of wrn-34-10 four
        ("wrn-28-10-trades", (3, 32, 32), 36_479_194 + 256_352 + 3 * 461_440),
        ("wrn-34-10-trades", (3, 32, 32), 46_160_474 + 256_352 + 4 * 461_440),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, shape, count):
    with torch.device("meta"):
        assert parameters(ARCHITECTURES[name].build(shape, 10)) == count


def test_the_small_cifar_network_has_the_weights_that_its_description_states():
    network = ARCHITECTURES["strided-cnn"].build((3, 32, 32), 10)
    # three convolutions with their batch norms, and the dense layer
    assert parameters(network) == (3 * 16 * 32 + 64) + (32 * 16 * 64 + 128) + (64 * 9 * 64 + 128) + (64 * 16 * 10 + 10)
    assert f"{parameters(network) / 1000:.0f} thousand weights" in ARCHITECTURES["strided-cnn"].description
    assert network(images(2, 3, 32, 32)).shape == (2, 10)


def test_the_digits_network_stays_clearly_under_300_kilobytes():
    assert 4 * parameters(ARCHITECTURES["digits-cnn"].build((1, 28, 28), 10)) < 250_000


@pytest.mark.costly
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_architecture_takes_other_channels_and_class_counts_and_no_image_below_its_smallest(architecture):
    smallest, width = architecture.smallest, architecture.accepted[2] + architecture.multiple
    with torch.device("meta"):
        network = architecture.build((2, smallest, width), 3).eval()
        assert network(torch.empty(2, 2, smallest, width)).shape == (2, 3)
        with pytest.raises(UserError, match="choose another architecture"):
            architecture.build((2, smallest - 1, width), 3)


@pytest.mark.costly
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_and_classes_are_read_off_a_state_dict(name):
    with torch.device("meta"):
        state = ARCHITECTURES[name].build((3, 32, 32), 7).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert ARCHITECTURES[name].read(shapes) == (3, 7)
    assert ARCHITECTURES[name].read({"weight": (10, 784)}) is None


@pytest.mark.parametrize("shape", [(1, 0, 28), (28, 28), (0, 28, 28)])
def test_images_that_no_network_of_the_family_can_read_are_refused(shape):
    for architecture in ARCHITECTURES.values():
        with pytest.raises(UserError, match=f"{architecture.name} reads images"):
            architecture.build(shape, 10)


def test_images_are_a_whole_number_of_patches():
    with pytest.raises(UserError, match="sides of at least 16 pixels that are multiples of 16, not 3x224x230"):
        ARCHITECTURES["vit-tiny-16"].build((3, 224, 230), 10)


def test_the_residual_network_has_the_keys_of_the_common_layout():
    with torch.device("meta"):
        keys = list(ARCHITECTURES["preactresnet18"].build((3, 32, 32), 10).state_dict())
    assert keys[0] == "conv1.weight"
    assert {"layer1.0.bn1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.running_var"} < set(keys)
    # a shortcut has weights exactly where the maps change
    shortcuts = [key for key in keys if "shortcut" in key]
    assert shortcuts == [f"layer{n}.0.shortcut.0.weight" for n in (2, 3, 4)]
    assert {"bn.weight", "bn.running_mean", "linear.weight", "linear.bias"} < set(keys)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_is_the_formula_of_the_paper(stride):
    torch.manual_seed(0)
    block = PreActBlock(4, 4 * stride, stride, F.relu).eval()
    for norm in (block.bn1, block.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = images(3, 4, 8, 8)

    def normed(norm, maps):
        scaled = (maps - norm.running_mean[:, None, None]) / (norm.running_var + norm.eps).sqrt()[:, None, None]
        return scaled.clamp(min=0)

    inner = normed(block.bn1, x)
    outer = F.conv2d(normed(block.bn2, F.conv2d(inner, block.conv1.weight, stride=stride, padding=1)),
                     block.conv2.weight, padding=1)  # fmt: skip
    carried = x if stride == 1 else F.conv2d(inner, block.shortcut[0].weight, stride=2)
    with torch.no_grad():
        assert torch.allclose(block(x), carried + outer, atol=1e-5)


def test_the_narrow_residual_network_has_half_the_maps_and_the_same_keys():
    with torch.device("meta"):
        narrow, usual = (ARCHITECTURES[name].build((3, 32, 32), 10).state_dict()
                         for name in ("preactresnet18-narrow", "preactresnet18"))  # fmt: skip
    assert [*narrow] == [*usual]
    for key, weight in usual.items():
        fixed = {10, 3, 1}  # classes, channels and kernel sides
        assert narrow[key].shape == tuple(side if side in fixed else side // 2 for side in weight.shape)


def test_the_wide_residual_network_has_the_keys_of_the_public_code():
    with torch.device("meta"):
        state, longer = (ARCHITECTURES[name].build((3, 32, 32), 10).state_dict()
                         for name in ("wrn-28-10", "wrn-28-10-trades"))  # fmt: skip
    parts = [*dict.fromkeys(key.partition(".")[0] for key in state)]
    assert parts == ["conv1", "block1", "block2", "block3", "bn1", "fc"]
    assert [key for key in state if "convShortcut" in key] == [
        f"block{n}.layer.0.convShortcut.weight" for n in (1, 2, 3)
    ]
    layers = {"bn1.weight", "bn1.running_var", "conv1.weight", "bn2.bias", "conv2.weight"}
    assert {f"block{n}.layer.{b}.{layer}" for n in (1, 2, 3) for b in range(4) for layer in layers} < set(state)
    assert state["block3.layer.3.conv2.weight"].shape == (640, 640, 3, 3)
    assert {*longer} - {*state} == {f"sub_{key}" for key in state if key.startswith("block1")}


@pytest.mark.parametrize(("maps", "stride"), [(4, 1), (8, 2), (8, 1)])
def test_a_block_of_the_wide_residual_network_is_the_formula_of_the_paper(maps, stride):
    torch.manual_seed(0)
    block = BasicBlock(4, maps, stride).eval()
    x = images(3, 4, 8, 8)
    for norm in (block.bn1, block.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        inner = block.bn1(x).clamp(min=0)
        middle = block.bn2(F.conv2d(inner, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
        carried = x if maps == 4 else F.conv2d(inner, block.convShortcut.weight, stride=stride)
        assert torch.allclose(block(x), carried + F.conv2d(middle, block.conv2.weight, padding=1), atol=1e-5)


@pytest.mark.parametrize("name", ["wrn-28-10", "wrn-28-10-trades"])
def test_a_file_is_recognised_with_and_without_the_unused_block(name):
    with torch.device("meta"):
        state = ARCHITECTURES[name].build((3, 32, 32), 10).state_dict()
    weights = {f"module.{key}": torch.zeros(()).expand(weight.shape) for key, weight in state.items()}
    found = recognition.matches(Contents(weights, nested=nested(weights)), likely=())
    assert found[0].architecture.name == name
    assert not found[0].beside


def test_the_wide_residual_network_is_its_layers_in_order_and_passes_no_image_through_the_unused_block():
    torch.manual_seed(0)
    network = WideResNet((3, 8, 8), 5, depth=10, factor=2, unused_block=True).eval()
    assert [getattr(network, f"block{n}").layer[0].conv1.stride[0] for n in (1, 2, 3)] == [1, 2, 2]
    x = images(2, 3, 8, 8)
    with torch.no_grad():
        before = network(x)
        for weight in network.sub_block1.parameters():
            weight.fill_(float("nan"))
        assert torch.equal(network(x), before)
        maps = network.block3(network.block2(network.block1(network.conv1(x))))
        assert torch.allclose(before, network.fc(network.bn1(maps).relu().mean((2, 3))), atol=1e-6)
        assert maps.shape == (2, 128, 2, 2)


def test_the_softplus_network_uses_beta_one_everywhere_the_other_uses_relu():
    torch.manual_seed(0)
    smooth = ARCHITECTURES["preactresnet18-softplus"].build((3, 8, 8), 2).eval()
    x = torch.linspace(-3, 3, 13)
    activations = [m.activation for m in smooth.modules() if hasattr(m, "activation")]
    assert len(activations) == 9  # eight blocks and the last norm
    for activation in activations:
        assert torch.allclose(activation(x), (1 + x.exp()).log(), atol=1e-6)


def test_normalisation_is_what_the_training_scripts_do():
    layer = Normalise((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    x = images(2, 3, 5, 4)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 2.0)]):
        assert torch.allclose(layer(x)[:, channel], (x[:, channel] - mean) / std)


@pytest.mark.parametrize("name", SMALL)
def test_a_normalised_network_keeps_the_keys_of_the_network_and_reads_them_back(name):
    torch.manual_seed(0)
    build = ARCHITECTURES[name].build
    network = build((1, 28, 28), 10).eval()
    outer = normalised(network, "mnist", 1).eval()
    assert isinstance(outer, Normalised)
    assert list(outer.state_dict()) == list(network.state_dict())
    other = normalised(build((1, 28, 28), 10), "mnist", 1).eval()
    other.load_state_dict(outer.state_dict())
    x = images(4, 1, 28, 28)
    assert torch.equal(other(x), network((x - 0.1307) / 0.3081))


def test_a_normalised_network_trains_the_network_inside():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
    outer = normalised(network, "0.5/0.5", 1)
    outer.eval()
    assert not network[1].training
    outer(images(2, 1, 2, 2)).sum().backward()
    assert network[2].weight.grad is not None


@pytest.mark.parametrize(
    ("text", "channels", "expected"),
    [
        ("none", 3, "none"),
        ("0/1", 3, "none"),
        ("0.5/0.25", 3, "0.5,0.5,0.5/0.25,0.25,0.25"),
        ("0.50, 0.5,.5/0.25", 3, "0.5,0.5,0.5/0.25,0.25,0.25"),
        ("mnist", 1, "0.1307/0.3081"),
        ("mnist", 3, "0.1307,0.1307,0.1307/0.3081,0.3081,0.3081"),
        ("imagenet", 3, "0.485,0.456,0.406/0.229,0.224,0.225"),
    ],
)
def test_equal_normalisations_have_equal_texts(text, channels, expected):
    assert canonical(text, channels) == expected
    assert canonical(expected, channels) == expected


@pytest.mark.parametrize("name", [name for name, data in DATASETS.items() if data.mean])
def test_a_data_set_names_its_own_mean_and_deviation(name):
    data = DATASETS[name]
    mean, std = canonical(name, data.shape[0]).split("/")
    assert tuple(map(float, mean.split(","))) == data.mean
    assert tuple(map(float, std.split(","))) == data.std


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifar", "did you mean cifar10"),
        ("0.5", "no normalisation is called"),
        ("0.5/", "cannot be read"),
        ("a,b,c/1", "cannot be read"),
        ("0/1/2", "cannot be read"),
        ("0.1,0.2/0.5", "is for 2 channels, but the images have 3"),
        ("0/0", "above 0"),
        ("0/-1", "above 0"),
        ("nan/1", "finite"),
        ("0/inf", "finite"),
    ],
)
def test_a_normalisation_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        canonical(text, 3)


NETS = """
from torch import nn

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def sized(shape, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

class Net(nn.Linear):
    def __init__(self, *, classes):
        super().__init__(3, classes)

def demanding(depth): ...
def failing(): raise KeyError("no such layer")
def wrong(): return 3
number = 4
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("import no_such_library_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    yield tmp_path
    sys.modules.pop("my_nets", None)


@pytest.mark.parametrize("home", ["my_nets.py", "my_nets"])
def test_a_factory_comes_from_a_file_or_from_a_module_in_the_current_folder(nets, home):
    assert factories.build(f"{home}:plain", (1, 28, 28), 10)[1].in_features == 784
    sized = factories.build(f"{home}:sized", (2, 3, 4), 5)
    assert (sized[1].in_features, sized[1].out_features) == (24, 5)
    assert factories.build(f"{home}:Net", (2, 3, 4), 5).out_features == 5
    assert str(nets) not in sys.path


def test_a_factory_gets_only_arguments_whose_values_are_known(nets):
    assert factories.build("my_nets.py:sized", (2, 3, 4), None)[1].out_features == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_nets.py:plane", "did you mean plain"),
        ("my_nest.py:plain", "there is no file my_nest.py"),
        ("no_such_module_here:plain", "ModuleNotFoundError"),
        ("broken.py:plain", "no_such_library_anywhere"),
        ("my_nets.py:number", "is int, not a function"),
        ("my_nets.py:wrong", "made int, not a torch.nn.Module"),
        ("my_nets.py:failing", "KeyError: 'no such layer'"),
        ("my_nets.py:demanding", "depth"),
    ],
)
def test_a_factory_that_makes_no_network_is_refused_in_one_line(nets, text, message):
    with pytest.raises(UserError, match=message) as error:
        factories.build(text, (1, 28, 28), 10)
    assert "\n" not in str(error.value)


def test_the_canonical_name_of_a_network_does_not_depend_on_its_folder(nets):
    assert factories.canonical(f"{nets}/my_nets.py:plain") == factories.canonical("my_nets.py:plain")
    assert factories.canonical("package.nets:plain") == "package.nets:plain"


def test_madry_pools_twice_so_a_pixel_shift_by_four_moves_features_by_one():
    torch.manual_seed(0)
    network = ARCHITECTURES["madry-mnist"].build((1, 28, 28), 10)
    x = torch.zeros(1, 1, 28, 28)
    x[..., 8:12, 8:12] = images(4, 4)

    def features(x):
        hidden = F.max_pool2d(network.conv1(x).relu(), 2)
        return F.max_pool2d(network.conv2(hidden).relu(), 2)

    there = features(x.roll((4, 4), (2, 3)))
    assert there.shape == (1, 64, 7, 7)
    # away from the border, where padding shows
    assert torch.allclose(there[..., 2:6, 2:6], features(x)[..., 1:5, 1:5], atol=1e-6)
