"""How exactly the search computes. It may be rough, since whatever it finds is asked again in float32."""

import copy
import statistics
import time
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..errors import UserError, unknown
from ..problem.classifier import Classifier, arithmetic
from ..problem.shapes import Inputs, Logits
from .attack import Model

PRECISIONS = ("float32", "tf32", "bfloat16")
TIMED = 5  # steps


def checked(name: str, device: torch.device) -> str:
    """The precision a user asked for, or `auto`. Raises UserError where it is unknown, or the device lacks it."""
    if name not in (*PRECISIONS, "auto"):
        raise unknown("precision", name, ("auto", *PRECISIONS))
    if name == "tf32" and device.type != "cuda":
        raise UserError("tf32 is a precision of CUDA devices; leave --precision out, or take float32 or bfloat16")
    return name


def rounded(classifier: Classifier) -> Model:
    """The classifier in bfloat16, answering in float32.

    The weights of convolutions and dense layers are rounded once. The first of them stays float32: bfloat16
    steps by 1/256 near 1, and would round away the very changes of the image that are searched for.
    """
    if isinstance(classifier.module, torch.jit.ScriptModule):
        raise UserError("the layers of a TorchScript model cannot be rounded to bfloat16; leave --precision out")
    module = copy.deepcopy(classifier.module)
    device = classifier.device.type
    first, *others = _layers(module, classifier) or [nn.Identity()]
    for layer in others:
        layer.weight.data = layer.weight.data.bfloat16()
    exactly = torch.autocast(device, enabled=False)(first.forward)
    first.forward = lambda x: exactly(x.float())

    def model(x: Inputs) -> Logits:
        with torch.autocast(device, dtype=torch.bfloat16):
            logits: Tensor = module(x)
        return logits.float()

    return model


def speed_up(classifier: Classifier, precision: str, rows: int) -> float:
    """How many times as fast as float32 a precision is here, forward and backward on so many rows."""
    if (gain := _gain_of_a_layer(precision, classifier.device)) < 0.5:
        return gain  # without the hardware for it a large network would take minutes to say the same
    return _gain(classifier, precision, rows)


@lru_cache
def _gain_of_a_layer(precision: str, device: torch.device) -> float:
    """The same of one small convolution: asked once, it takes milliseconds."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours
        layers = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3), nn.Flatten()).to(device)
    return _gain(Classifier(layers, name="", architecture="", shape=(32, 16, 16), classes=0), precision, rows=8)


def _gain(classifier: Classifier, precision: str, rows: int) -> float:
    model = rounded(classifier) if precision == "bfloat16" else classifier
    x = torch.full((rows, *classifier.shape), 0.5, device=classifier.device)
    return _seconds(classifier, x, tf32=False) / _seconds(model, x, tf32=precision == "tf32")


def _seconds(model: Model, x: Tensor, tf32: bool) -> float:
    """The median of a few steps, after one that does not count."""
    taken = []
    for _ in range(TIMED + 1):
        begun = time.perf_counter()
        with arithmetic(x.device, tf32=tf32):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def _layers(module: nn.Module, classifier: Classifier) -> list[nn.Module]:
    """The convolutions and dense layers, in the order in which a forward pass meets them."""
    met: dict[nn.Module, None] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: met.setdefault(layer))
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    with torch.no_grad():
        module(torch.zeros(1, *classifier.shape, device=classifier.device))
    for hook in hooks:
        hook.remove()
    return list(met)
