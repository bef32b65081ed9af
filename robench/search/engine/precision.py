"""The precision of the search. It may be low, because every result of the search is verified in float32."""

import os
import platform

import torch

from ...errors import UserError, unknown
from ...problem.classifier import Classifier, arithmetic
from ...problem.multiply_adds import MultiplyAdds
from ...problem.shapes import Inputs
from .rounding import rounded
from .trial import gradients_apart

PRECISIONS = ("float32", "tf32", "bfloat16")
VARIABLE = "ROBENCH_PRECISION"  # of the environment: the precision if none is named

# The smallest number of multiply-adds per batch in rounded layers, and their smallest share of all, with which a lower
# precision makes steps at least 1.2 times as fast. Below, conversions and the layers that stay in float32 use up the
# gain. For CPUs, `benchmarks/precision_gain.py` measures both. For CUDA they are estimates: the number that takes a GPU
# half a millisecond in float32, compared with some twenty conversions of a few microseconds.
WORTH = {"cpu": 200_000_000, "cuda": 4_000_000_000}
SHARE = {"cpu": 7 / 10, "cuda": 7 / 8}

ROUNDING = 0.25  # of the spread of the logits: a larger change in a lower precision is not a rounding error
TURNED = 0.5  # of the length of the gradient, likewise: units that switch turn it by up to a seventh in small networks


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


def failure(classifier: Classifier, precision: str, x: Inputs) -> str:
    """The reason why a model cannot be searched in this precision; empty if it can.

    The check makes forward and backward passes on a few images: the model must not raise, and its logits and gradients
    must equal those in float32 up to rounding. So a model that replaces its own weights is refused.
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
        return f"the model raises {type(error).__name__}: {_message(error)}"
    if logits.shape != exact.shape:
        return f"the model returns logits of shape {tuple(logits.shape)}, not {tuple(exact.shape)}"
    spread = (exact.amax() - exact.amin()).clamp(min=1e-30)
    apart = ((logits.detach() - exact).abs().amax() / spread).item()
    if not apart <= ROUNDING:
        return f"it changes the logits by {apart:.0%} of their spread"
    if precision == "bfloat16":
        turned = gradients_apart(classifier, model, images)
        if turned == float("inf"):
            return "there the model has gradients, and in float32 it has none"
        if not turned <= TURNED:  # NaN too
            return f"it changes the gradients by {turned:.0%} of their length"
    return ""


def multiply_adds(classifier: Classifier) -> tuple[int, int]:
    """The multiply-adds of the rounded model for one image: those in bfloat16, and all, of convolutions and products.

    Raises UserError if the model cannot be rounded.
    """
    model = rounded(classifier)
    image = torch.zeros(1, *classifier.shape, device=classifier.device)
    with torch.no_grad(), arithmetic(classifier.device), MultiplyAdds() as counting:
        model(image)
    return counting.rounded, counting.total


def saves_too_little(classifier: Classifier, rows: int) -> str:
    """The reason why a lower precision saves too little on batches of `rows`; empty if steps are 1.2 times as fast.

    This is a function of the network and the kind of device. A measurement would vary from run to run.
    """
    try:
        in_rounded, total = multiply_adds(classifier)
    except UserError as error:
        return str(error).partition(";")[0]
    kind = classifier.device.type
    minimum, share = WORTH.get(kind, WORTH["cuda"]), SHARE.get(kind, SHARE["cuda"])
    if rows * in_rounded < minimum:
        return f"the network is small: {_millions(rows * in_rounded)} multiply-adds a batch, below {_millions(minimum)}"
    if in_rounded < share * total:
        return f"layers that stay in float32 make {1 - in_rounded / total:.0%} of the multiply-adds"
    return ""


def _millions(n: int) -> str:
    return f"{n / 1e6:,.0f} million"


def _message(error: Exception) -> str:
    """The message of an error on one line; of one in TorchScript, what follows the program's text."""
    lines = str(error).split("\n")
    if "TorchScript" in lines[0]:
        lines = [line.partition("Error: ")[2] for line in lines if "Error: " in line][-1:] or lines[:1]
    return " ".join(" ".join(lines).split())
