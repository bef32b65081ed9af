"""The precision of the search. It may be low, because every result of the search is verified in float32."""

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
VARIABLE = "ROBENCH_PRECISION"  # of the environment: the precision if none is named

# The smallest number of multiply-adds per batch in rounded layers, and their smallest share of all, with which a lower
# precision makes steps at least 1.2 times as fast. Below, casts and the first layer, which stays float32, use up the
# gain. For CPUs, `benchmarks/precision_gain.py` measures it. For CUDA it is an estimate: the number that takes a GPU
# half a millisecond in float32, compared with some twenty casts of a few microseconds.
WORTH = {"cpu": 200_000_000, "cuda": 4_000_000_000}
SHARE = 7 / 8

ROUNDING = 0.25  # of the spread of the logits: a larger change in a lower precision is not a rounding error


def checked(name: str | None, device: torch.device) -> str:
    """The precision that the user named, else the one of the environment, else `auto`.

    Raises UserError if it is unknown, or if the device does not have it.
    """
    named = name or os.environ.get(VARIABLE) or "auto"
    if named not in (*PRECISIONS, "auto"):
        raise unknown("precision" if name else f"precision of {VARIABLE}", named, ("auto", *PRECISIONS))
    if named == "tf32" and device.type != "cuda":
        instead = "leave --precision out" if name else f"unset {VARIABLE}"
        raise UserError(f"tf32 is a precision of CUDA devices; {instead}, or take float32 or bfloat16")
    return named


def has_hardware(precision: str, device: torch.device) -> bool:
    """Whether the device has hardware for matrix products in a lower precision; otherwise bfloat16 is emulated."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            if precision == "tf32":
                return torch.cuda.get_device_capability() >= (8, 0)
            return precision == "bfloat16" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "bfloat16" or device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Not `_is_mkldnn_bf16_supported`: on these processors it is true with any AVX512, even without BF16.
        queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(
            getattr(torch.cpu, name, bool)() for name in queries
        )  # missing in some version of torch: no hardware
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def rounded(classifier: Classifier) -> Model:
    """The classifier in bfloat16, answering in float32.

    The weights of convolutions and dense layers are rounded once. The first layer stays float32: near 1, neighbouring
    bfloat16 numbers are 1/256 apart, so that rounding would remove small perturbations of the image.
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
    """The reason why a model cannot be searched in this precision; empty if it can.

    The check makes a forward and a backward pass on a few images: the model must not raise, and its logits must equal
    those in float32 up to rounding.
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
    except Exception as error:  # whatever the model's own code raises; float32 remains
        return f"the model raises {type(error).__name__}: {' '.join(str(error).split())}"
    if logits.shape != exact.shape:
        return f"the model returns logits of shape {tuple(logits.shape)}, not {tuple(exact.shape)}"
    spread = (exact.amax() - exact.amin()).clamp(min=1e-30)
    apart = ((logits.detach() - exact).abs().amax() / spread).item()
    if not apart <= ROUNDING:
        return f"it changes the logits by {apart:.0%} of their spread"
    return ""


def multiply_adds(classifier: Classifier) -> tuple[int, int]:
    """The multiply-adds for one image: in the layers that `rounded` rounds, and in all convolutions and dense ones."""
    counts = list(_layers(classifier.module, classifier).values())
    return sum(counts[1:]), sum(counts)


def saves_too_little(classifier: Classifier, rows: int) -> str:
    """The reason why a lower precision saves too little on batches of `rows`; empty if steps are 1.2 times as fast.

    This is a function of the network and the kind of device. A measurement would vary from run to run.
    """
    if isinstance(classifier.module, torch.jit.ScriptModule):
        return "the layers of a TorchScript model cannot be counted, nor rounded"
    in_rounded, total = multiply_adds(classifier)
    minimum = WORTH.get(classifier.device.type, WORTH["cuda"])
    if rows * in_rounded < minimum:
        return f"the network is small: {_millions(rows * in_rounded)} multiply-adds a batch, below {_millions(minimum)}"
    if in_rounded < SHARE * total:
        return f"the first layer, which stays float32, makes {1 - in_rounded / total:.0%} of the multiply-adds"
    return ""


def _millions(n: int) -> str:
    return f"{n / 1e6:,.0f} million"


def _layers(module: nn.Module, classifier: Classifier) -> dict[nn.Module, int]:
    """The convolutions and dense layers in the order of a forward pass, with their multiply-adds for one image."""
    counts: dict[nn.Module, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        values = inputs[0].numel() if transposed else output.numel()
        weight = layer.weight
        assert isinstance(weight, Tensor), "convolutions and dense layers have weights"
        counts[layer] = counts.get(layer, 0) + values * weight[0].numel()

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
    return counts
