"""The speed-up of a step in a lower precision, network by network, and the decision of `--precision auto`.

    python benchmarks/precision_gain.py [--device cuda] [--precision bfloat16] [--threads N]

A step is a forward pass and an input gradient, on batches as the engine makes them. Both precisions run in turn, and
the median of the ratios counts, because machines are noisy. Every network is measured as a module, and traced by
TorchScript against itself. `--precision auto` decides by the two counts in the table, never by a clock; the thresholds
(`WORTH` and `SHARE` in robench/search/engine/precision.py) are set so that every network in lower precision is at
least 1.2 times as fast here, in both forms.
"""

import argparse
from statistics import median

import torch
from measuring import seconds, traced, write_results
from tabulate import tabulate
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier, arithmetic
from robench.search.attack import Model
from robench.search.engine.precision import has_hardware, multiply_adds, saves_too_little
from robench.search.engine.rounding import rounded, with_rounded_gradients

MIN_SECONDS = 0.02  # of one measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--networks", nargs="*", help="their names; all by default, and only then a file is written")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    rows = SLOTS[device.type]
    table = [
        _measured(name, classifier.to(device), rows, args.precision, args.rounds)
        for name, classifier in networks()
        if not args.networks or name in args.networks
    ]
    hardware = "has" if has_hardware(args.precision, device) else "has no"
    notes = [
        f"Batches of {rows} images; this device {hardware} hardware for {args.precision}. Near to the boundary the"
        " logits are those of float32, and only gradients are rough. Synthetic networks have random weights: conv8x3@64"
        " has 3 convolutions of 8 channels after the first, on images of 64x64.",
        f"Command: python benchmarks/precision_gain.py --precision {args.precision} --threads {args.threads}"
        f" --rounds {args.rounds}",
    ]
    if args.networks:
        print(tabulate(table, headers="keys", tablefmt="pipe", floatfmt=".2f"))
        return
    write_results(f"precision-gain-{args.precision}", f"What a step gains in {args.precision}", table, notes, device)


def networks() -> list[tuple[str, Classifier]]:
    """The networks: of bundled models, one for CIFAR-10, and synthetic ones from small to large."""
    found = [(name, load(name).classifier) for name in ("digits-adv-linf", "mnist-adv-linf")]
    architectures = [("lenet", (1, 28, 28)), ("preactresnet18", (3, 32, 32))]
    made = [(name, _classifier(ARCHITECTURES[name].build(shape, 10), shape)) for name, shape in architectures]
    for channels, depth, size in [
        (8, 3, 16),
        (16, 3, 16),
        (32, 3, 16),
        (64, 3, 16),
        (16, 1, 32),
        (16, 3, 32),
        (8, 3, 64),
        (16, 1, 64),
        (8, 2, 64),
        (8, 1, 112),
    ]:
        made.append((f"conv{channels}x{depth}@{size}", _classifier(_convolutions(channels, depth), (3, size, size))))
    for channels, size in [(16, 32), (32, 32), (16, 64), (128, 16)]:
        made.append((f"separable{channels}x4@{size}", _classifier(_separable(channels, 4), (3, size, size))))
    for width, depth in [(256, 2), (512, 3), (1024, 3), (2048, 2), (2048, 3)]:
        made.append((f"dense{width}x{depth}", _classifier(_dense(width, depth), (1, 28, 28))))
    return found + made


def _measured(name: str, classifier: Classifier, rows: int, precision: str, rounds: int) -> dict[str, object]:
    program = _classifier(traced(classifier.module, classifier.shape), classifier.shape)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    exact, ratio = _timed(classifier, rows, precision, rounds)
    rounded_ones, every = multiply_adds(classifier)
    return {
        "network": name,
        "million multiply-adds a batch, rounded": f"{rows * rounded_ones / 1e6:,.0f}",
        "of all": f"{rounded_ones / every:.1%}",
        "float32 ms": 1000 * exact,
        "times as fast": ratio,
        "near the boundary": _timed(classifier, rows, precision, rounds, near=True)[1],
        "as TorchScript": _timed(program, rows, precision, rounds)[1],
        "auto may take it": "no" if saves_too_little(classifier, rows) else "yes",
    }


def _timed(classifier: Classifier, rows: int, precision: str, rounds: int, near: bool = False) -> tuple[float, float]:
    """The seconds of a step in float32, and how many times as fast one in lower precision is: medians.

    Near to the boundary the logits are those of float32.
    """
    device = classifier.device
    x = torch.rand(rows, *classifier.shape, device=device)
    lower: Model = classifier
    if precision == "bfloat16":
        lower = with_rounded_gradients(classifier, x) if near else rounded(classifier)

    def steps(model: Model, times: int, tf32: bool = False) -> None:
        with arithmetic(device, tf32=tf32):
            for _ in range(times):
                leaf = x.clone().requires_grad_()
                torch.autograd.grad(model(leaf).sum(), leaf)

    for _ in range(3):  # TorchScript optimises a program in its second pass
        steps(classifier, 1)
    steps(lower, 1, tf32=precision == "tf32")
    times = max(1, round(MIN_SECONDS / seconds(lambda: steps(classifier, 1), device)))
    exact, rough = [], []
    for _ in range(rounds):
        exact.append(seconds(lambda: steps(classifier, times), device) / times)
        rough.append(seconds(lambda: steps(lower, times, tf32=precision == "tf32"), device) / times)
    return median(exact), median(a / b for a, b in zip(exact, rough, strict=True))


def _classifier(module: nn.Module, shape: tuple[int, ...]) -> Classifier:
    return Classifier(module, name="", architecture="", shape=shape, classes=10)


def _convolutions(channels: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def _separable(channels: int, depth: int) -> nn.Module:
    """Alternating depthwise and pointwise convolutions, as in MobileNet."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def _dense(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


if __name__ == "__main__":
    main()
