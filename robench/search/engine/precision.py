"""How exactly the search computes. It may be rough, since whatever it finds is asked again in float32."""

import copy
import os
import platform

import torch
from torch import Tensor, nn

from ...errors import UserError, unknown
from ...problem.classifier import Classifier, arithmetic
from ...problem.shapes import Inputs, Logits
from ..attack import Model

PRECISIONS = ("float32", "tf32", "bfloat16")
VARIABLE = "ROBENCH_PRECISION"  # of the environment: the precision where none is named

# From how many multiply-adds a batch in rounded layers, and from what share of all of them, a lower precision makes
# steps at least 1.2 times as fast. Fewer, and casts and the first layer, which stays float32, take what is gained. For
# CPUs `benchmarks/precision_gain.py` measures it; for CUDA it is an estimate: as many as take a GPU half a
# millisecond in float32, against some twenty casts of a few microseconds.
WORTH = {"cpu": 200_000_000, "cuda": 4_000_000_000}
SHARE = 7 / 8

ROUNDING = 0.25  # of the spread of the logits: a model that changes them more in a lower precision computes otherwise


def checked(name: str | None, device: torch.device) -> str:
    """The precision a user named, by default in the environment, or `auto`.

    Raises UserError where it is unknown, or the device lacks it.
    """
    named = name or os.environ.get(VARIABLE) or "auto"
    if named not in (*PRECISIONS, "auto"):
        raise unknown("precision" if name else f"precision of {VARIABLE}", named, ("auto", *PRECISIONS))
    if named == "tf32" and device.type != "cuda":
        instead = "leave --precision out" if name else f"unset {VARIABLE}"
        raise UserError(f"tf32 is a precision of CUDA devices; {instead}, or take float32 or bfloat16")
    return named


def has_hardware(precision: str, device: torch.device) -> bool:
    """Whether the device multiplies matrices in a lower precision by itself; elsewhere bfloat16 is emulated."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            if precision == "tf32":
                return torch.cuda.get_device_capability() >= (8, 0)
            return precision == "bfloat16" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "bfloat16" or device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Not `_is_mkldnn_bf16_supported`: on these processors that is true from AVX512 on, without BF16 as well.
        queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in queries)  # gone in some version: no hardware
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def rounded(classifier: Classifier) -> Model:
    """The classifier in bfloat16, answering in float32.

    The weights of convolutions and dense layers are rounded once. The first of them stays float32: bfloat16
    steps by 1/256 near 1, and would round away the very changes of the image that are searched for.
    """
    if isinstance(classifier.module, torch.jit.ScriptModule):
        raise UserError("the layers of a TorchScript model cannot be rounded to bfloat16; leave --precision out")
    module = copy.deepcopy(classifier.module)
    device = classifier.device.type
    first, *others = _layers(module, classifier) or {nn.Identity(): 0}
    for layer in others:
        layer.weight.data = layer.weight.data.bfloat16()
    exactly = torch.autocast(device, enabled=False)(first.forward)
    first.forward = lambda x: exactly(x.float())

    def model(x: Inputs) -> Logits:
        with torch.autocast(device, dtype=torch.bfloat16):
            logits: Tensor = module(x.clone())  # it may write into its input
        return logits.float()

    return model


def failure(classifier: Classifier, precision: str, x: Inputs) -> str:
    """Why a model cannot be searched in this precision; empty where it can.

    From a forward and a backward pass on a few images: the model must not raise, and must answer as in float32 but
    for rounding.
    """
    if precision == "float32":
        return ""
    images = x.to(classifier.device)
    try:
        with torch.no_grad(), arithmetic(images.device):
            exact = classifier(images.clone())
        model = rounded(classifier) if precision == "bfloat16" else classifier
        with arithmetic(images.device, tf32=precision == "tf32"):
            leaf = images.clone().requires_grad_()
            logits = model(leaf)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), leaf)
    except UserError as error:
        return str(error).partition(";")[0]
    except Exception as error:  # networks fail at low precision in ways of their own; float32 is there for them
        return f"the model raises {type(error).__name__}: {' '.join(str(error).split())}"
    if logits.shape != exact.shape:
        return f"the model answers with logits of shape {tuple(logits.shape)}, not {tuple(exact.shape)}"
    spread = (exact.amax() - exact.amin()).clamp(min=1e-30)
    apart = ((logits.detach() - exact).abs().amax() / spread).item()
    if not apart <= ROUNDING:
        return f"it changes the logits by {apart:.0%} of their spread"
    return ""


def multiply_adds(classifier: Classifier) -> tuple[int, int]:
    """For one image: those of the layers that `rounded` rounds, and those of all convolutions and dense layers."""
    counts = list(_layers(classifier.module, classifier).values())
    return sum(counts[1:]), sum(counts)


def saves_too_little(classifier: Classifier, rows: int) -> str:
    """Why a lower precision saves too little on batches of so many rows; empty where steps are 1.2 times as fast.

    A function of the network and the kind of device, not of the moment as a measurement would be.
    """
    if isinstance(classifier.module, torch.jit.ScriptModule):
        return "the layers of a TorchScript model cannot be counted, nor rounded"
    rounded_ones, every = multiply_adds(classifier)
    least = WORTH.get(classifier.device.type, WORTH["cuda"])
    if rows * rounded_ones < least:
        return f"the network is small: {_millions(rows * rounded_ones)} multiply-adds a batch, below {_millions(least)}"
    if rounded_ones < SHARE * every:
        return f"the first layer, which stays float32, makes {1 - rounded_ones / every:.0%} of the multiply-adds"
    return ""


def _millions(n: int) -> str:
    return f"{n / 1e6:,.0f} million"


def _layers(module: nn.Module, classifier: Classifier) -> dict[nn.Module, int]:
    """The convolutions and dense layers, in the order in which a forward pass meets them, with their multiply-adds."""
    met: dict[nn.Module, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        values = inputs[0].numel() if transposed else output.numel()
        weight = layer.weight
        assert isinstance(weight, Tensor), "convolutions and dense layers have weights"
        met[layer] = met.get(layer, 0) + values * weight[0].numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        with torch.no_grad():
            module(torch.zeros(1, *classifier.shape, device=classifier.device))
    finally:
        for hook in hooks:
            hook.remove()
    return met
