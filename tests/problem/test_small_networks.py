"""The networks for small images, written out as functions of their state dicts, with the keys of the public code."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from robench.problem.architectures import named
from scripts.reference_logits import filled, shapes_of, uniform

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class Layers:
    """The layers of a state dict by their keys; every tensor must be read."""

    def __init__(self, state):
        self.state = state
        self.unread = {key for key in state if not key.endswith("num_batches_tracked")}

    def take(self, key):
        self.unread.discard(key)
        return self.state.get(key)

    def has(self, key):
        return f"{key}.weight" in self.state

    def conv(self, key, x, stride=1, padding=0, groups=1):
        return F.conv2d(x, self.take(f"{key}.weight"), self.take(f"{key}.bias"), stride, padding, groups=groups)

    def norm(self, key, x):
        mean, var, scale, shift = (
            self.take(f"{key}.{part}")[:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def dense(self, key, x):
        return x @ self.take(f"{key}.weight").T + self.take(f"{key}.bias")

    def conv_norm(self, conv, norm, x, **settings):
        return self.norm(norm, self.conv(conv, x, **settings))


def resnet(layers, x, depth):
    x = layers.conv_norm("conv1", "bn1", x, padding=1).relu()
    for stage, blocks in enumerate(DEPTHS[depth], start=1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            if depth < 50:
                inner = layers.conv_norm(f"{at}.conv1", f"{at}.bn1", x, stride=stride, padding=1).relu()
                out = layers.conv_norm(f"{at}.conv2", f"{at}.bn2", inner, padding=1)
            else:
                inner = layers.conv_norm(f"{at}.conv1", f"{at}.bn1", x).relu()
                inner = layers.conv_norm(f"{at}.conv2", f"{at}.bn2", inner, stride=stride, padding=1).relu()
                out = layers.conv_norm(f"{at}.conv3", f"{at}.bn3", inner)
            if block == 0 and (stage > 1 or depth >= 50):
                x = layers.conv_norm(f"{at}.shortcut.0", f"{at}.shortcut.1", x, stride=stride)
            x = (out + x).relu()
    return layers.dense("linear", F.avg_pool2d(x, 4).flatten(1))


def preactresnet(layers, x, depth):
    x = layers.conv("conv1", x, padding=1)
    for stage, blocks in enumerate(DEPTHS[depth], start=1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            active = layers.norm(f"{at}.bn1", x).relu()
            inner = layers.norm(f"{at}.bn2", layers.conv(f"{at}.conv1", active)).relu()
            inner = layers.norm(f"{at}.bn3", layers.conv(f"{at}.conv2", inner, stride=stride, padding=1)).relu()
            carried = layers.conv(f"{at}.shortcut.0", active, stride=stride) if block == 0 else x
            x = layers.conv(f"{at}.conv3", inner) + carried
    if layers.has("bn"):
        x = layers.norm("bn", x).relu()
    return layers.dense("linear", F.avg_pool2d(x, 4).flatten(1))


def cifar_resnet(layers, x, option):
    x = layers.conv_norm("conv1", "bn1", x, padding=1).relu()
    for stage in (1, 2, 3):
        for block in range(3):
            at, grows = f"layer{stage}.{block}", block == 0 and stage > 1
            inner = layers.conv_norm(f"{at}.conv1", f"{at}.bn1", x, stride=1 + grows, padding=1).relu()
            out = layers.conv_norm(f"{at}.conv2", f"{at}.bn2", inner, padding=1)
            if grows and option == "A":
                quarter = out.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            elif grows:
                x = layers.conv_norm(f"{at}.shortcut.0", f"{at}.shortcut.1", x, stride=2)
            x = (out + x).relu()
    return layers.dense("linear", x.mean((2, 3)))


def vgg(layers, x, plan, norms):
    place = 0
    for convolutions in plan:
        for _ in range(convolutions):
            x = layers.conv(f"features.{place}", x, padding=1)
            x = (layers.norm(f"features.{place + 1}", x) if norms else x).relu()
            place += 2 + norms
        x = F.max_pool2d(x, 2, 2)
        place += 1
    return layers.dense("classifier", x.flatten(1))


def densenet(layers, x):
    x = layers.conv("conv1", x, padding=1)
    for block, number in enumerate((6, 12, 24, 16), start=1):
        for place in range(number):
            at = f"dense{block}.{place}"
            inner = layers.conv(f"{at}.conv1", layers.norm(f"{at}.bn1", x).relu())
            new = layers.conv(f"{at}.conv2", layers.norm(f"{at}.bn2", inner).relu(), padding=1)
            x = torch.cat([new, x], 1)
        if block < 4:
            at = f"trans{block}"
            x = F.avg_pool2d(layers.conv(f"{at}.conv", layers.norm(f"{at}.bn", x).relu()), 2)
    return layers.dense("linear", F.avg_pool2d(layers.norm("bn", x).relu(), 4).flatten(1))


def mobilenet(layers, x):
    plan = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    x = layers.conv_norm("conv1", "bn1", x, padding=1).relu()
    place = 0
    for expansion, maps, blocks, first in plan:
        for stride in (first, *[1] * (blocks - 1)):
            at, inner = f"layers.{place}", expansion * x.shape[1]
            out = layers.conv_norm(f"{at}.conv1", f"{at}.bn1", x).relu()
            out = layers.conv_norm(f"{at}.conv2", f"{at}.bn2", out, stride=stride, padding=1, groups=inner).relu()
            out = layers.conv_norm(f"{at}.conv3", f"{at}.bn3", out)
            if stride == 1 and x.shape[1] != maps:
                x = layers.conv_norm(f"{at}.shortcut.0", f"{at}.shortcut.1", x)
            x = out + x if stride == 1 else out
            place += 1
    x = layers.conv_norm("conv2", "bn2", x).relu()
    return layers.dense("linear", F.avg_pool2d(x, 4).flatten(1))


def dm_wide_resnet(layers, x, activation):
    x = layers.conv("init_conv", x, padding=1)
    for group in (0, 1, 2):
        for block in (0, 1):
            at, stride = f"layer.{group}.block.{block}", 2 if group and not block else 1
            active = activation(layers.norm(f"{at}.batchnorm_0", x))
            carried = x if block else layers.conv(f"{at}.shortcut", active, stride=stride)
            around = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
            inner = layers.norm(f"{at}.batchnorm_1", layers.conv(f"{at}.conv_0", F.pad(active, around), stride=stride))
            x = carried + layers.conv(f"{at}.conv_1", activation(inner), padding=1)
    return layers.dense("logits", F.avg_pool2d(activation(layers.norm("batchnorm", x)), 8).flatten(1))


def trades(layers, x):
    at = "feature_extractor"
    x = layers.conv(f"{at}.conv2", layers.conv(f"{at}.conv1", x).relu()).relu()
    x = F.max_pool2d(x, 2, 2)
    x = layers.conv(f"{at}.conv4", layers.conv(f"{at}.conv3", x).relu()).relu()
    x = F.max_pool2d(x, 2, 2).flatten(1)
    x = layers.dense("classifier.fc2", layers.dense("classifier.fc1", x).relu()).relu()
    return layers.dense("classifier.fc3", x)


def advertorch(layers, x):
    x = F.max_pool2d(layers.conv("conv1", x, padding=1).relu(), 2)
    x = F.max_pool2d(layers.conv("conv2", x, padding=1).relu(), 2).flatten(1)
    return layers.dense("linear2", layers.dense("linear1", x).relu())


WRITTEN_OUT = {
    "resnet18": (resnet, 18),
    "resnet50": (resnet, 50),
    "preactresnet50": (preactresnet, 50),
    "preactresnet50-no-final-bn": (preactresnet, 50),
    "cifar-resnet20": (cifar_resnet, "A"),
    "cifar-resnet20-b": (cifar_resnet, "B"),
    "vgg11": (vgg, (1, 1, 2, 2, 2), False),
    "vgg16-bn": (vgg, (2, 2, 3, 3, 3), True),
    "densenet121-k12": (densenet,),
    "mobilenetv2": (mobilenet,),
    "dm-wrn-16-2": (dm_wide_resnet, F.silu),
    "dm-wrn-16-2-relu": (dm_wide_resnet, F.relu),
    "trades-mnist": (trades,),
    "lenet5-advertorch": (advertorch,),
}


@pytest.mark.costly
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_network_computes_what_the_public_code_does_from_its_keys(name):
    shape = (1, 28, 28) if name in ("trades-mnist", "lenet5-advertorch") else (3, 32, 32)
    forward, *settings = WRITTEN_OUT[name]
    network = named(name).build(shape, 10).eval()
    state = filled(shapes_of(network))
    network.load_state_dict(state)
    layers, x = Layers(state), torch.from_numpy(uniform("images", (2, *shape))) + 0.5
    with torch.no_grad():
        expected = forward(layers, x, *settings)
        assert (network(x) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not layers.unread


def wide_resnet_weights(depth, factor):
    """Each block has two norms and two convolutions, and the first of a group a 1x1 convolution: figure 1 (d)."""
    blocks, widths = (depth - 4) // 6, (16, 16 * factor, 32 * factor, 64 * factor)
    total = 27 * 16 + 2 * widths[-1] + 10 * widths[-1] + 10
    for before, maps in pairwise(widths):
        total += 2 * before + 2 * maps + 9 * before * maps + 9 * maps**2 + before * maps
        total += (blocks - 1) * (4 * maps + 18 * maps**2)
    return total


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # pytorch-cifar's networks: 11.17, 21.28, 23.52, 42.51 and 58.16 million
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("resnet101", 42_512_970),
        ("resnet152", 58_156_618),
        # no norm at the beginning and in shortcuts, and those of wider blocks have as many maps as come in
        ("preactresnet34-no-final-bn", 21_282_122 - 2 * (64 + 128 + 256 + 512 + 64 + 128 + 256)),
        ("preactresnet50-no-final-bn", 23_509_066),
        ("preactresnet50", 23_509_066 + 2 * 2048),
        # table 6 of He et al. 2016: 0.27, 0.46, 0.66, 0.85 and 1.7 million
        ("cifar-resnet20", 269_722),
        ("cifar-resnet32", 464_154),
        ("cifar-resnet44", 658_586),
        ("cifar-resnet56", 853_018),
        ("cifar-resnet110", 1_727_962),
        # two 1x1 convolutions of 16 to 32 and 32 to 64 maps, each with a norm
        ("cifar-resnet20-b", 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ("vgg11-bn", 9_231_114),
        ("vgg13-bn", 9_416_010),
        ("vgg16-bn", 14_728_266),
        ("vgg19-bn", 20_040_522),
        ("vgg16", 14_728_266 - 2 * 4224),  # without two numbers for each of its 4224 maps
        ("densenet121", 6_956_298),
        ("densenet121-k12", 1_000_618),
        ("mobilenetv2", 2_296_922),
        ("wrn-28-10", wide_resnet_weights(28, 10)),
        ("wrn-34-20", wide_resnet_weights(34, 20)),
        ("wrn-70-16", wide_resnet_weights(70, 16)),
        ("wrn-40-4", wide_resnet_weights(40, 4)),
        ("dm-wrn-70-16", wide_resnet_weights(70, 16)),
    ],
)
def test_the_number_of_weights_is_the_published_one(name, count):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in named(name).build((3, 32, 32), 10).parameters()) == count


@pytest.mark.parametrize(("name", "count"), [("trades-mnist", 312_202), ("lenet5-advertorch", 648_226)])
def test_the_number_of_weights_for_mnist_is_that_of_the_public_code(name, count):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in named(name).build((1, 28, 28), 10).parameters()) == count
