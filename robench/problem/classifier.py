"""The model under test as a function from pixels to logits."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from ..errors import UserError, described
from .identity import Identity
from .memory import out_of_memory
from .noise import keyed, uniform
from .randomness import seeded
from .shapes import Inputs, Logits

FINGERPRINT_IMAGES = 8


class Classifier:
    """A function from images in [0, 1] to logits. Normalisation happens inside.

    The module is put in eval mode and its weights are frozen: an evaluation differentiates only with
    respect to images. `architecture` and `normalisation` are texts that, with the weights, define the
    function; `shape` is (channels, height, width).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        architecture: str,
        shape: tuple[int, ...],
        classes: int,
        normalisation: str = "none",
    ):
        self.module = module.eval().requires_grad_(False)
        self.name = name
        self.architecture = architecture
        self.normalisation = normalisation
        self.shape = shape
        self.classes = classes

    def __call__(self, x: Inputs) -> Logits:
        # Copies both ways: the module may write into its input (`x.sub_(mean)`), or return a buffer that it reuses.
        logits: Tensor = self.module(x.clone())
        return logits.clone()

    @property
    def device(self) -> torch.device:
        """The device of the weights; the CPU for a module without weights."""
        tensor = next(chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def to(self, device: torch.device | str) -> "Classifier":
        """Moves the weights; returns itself."""
        self.module.to(device)
        return self

    def identity(self) -> Identity:
        """The identity of this classifier: a hash of the weights, and one forward pass of eight images in float32.

        The pass is seeded, so a stochastic model returns the same logits each time on the same kind of device.
        """
        keys = keyed(0, torch.arange(FINGERPRINT_IMAGES), restart=0)
        size = int(torch.tensor(self.shape).prod())
        images = uniform(keys, 0, size).view(-1, *self.shape)
        with torch.no_grad(), arithmetic(self.device), seeded(0, self.device):
            try:
                logits = self(images.to(self.device)).float().cpu()
            except Exception as error:  # whatever the model's own code raises
                if out_of_memory(error):
                    raise
                raise UserError(
                    f"{self.name} fails on eight images of noise, which robench uses to identify the model"
                    f" ({described(error)}); correct its forward pass"
                ) from error
        return Identity(
            weights_sha256=weights_sha256(self.module),
            architecture=self.architecture,
            normalisation=self.normalisation,
            fingerprint=tuple(logits.flatten().tolist()),
        )


@contextmanager
def arithmetic(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Computes in full float32, or with products in TF32, whatever autocast or precision the process has set.

    Otherwise a model's outputs would depend on the caller's settings.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def weights_sha256(module: nn.Module) -> str:
    """A hash of every parameter and buffer by name, shape, type and value; it does not depend on the file format."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        for part in _hashed(name, value):
            digest.update(part)
    return digest.hexdigest()


def _hashed(name: str, value: object) -> Iterator[bytes]:
    """What identifies a value of a state dict: quantised layers hold tuples, and types. Other objects say nothing."""
    if isinstance(value, Tensor):
        t = value.detach().cpu().contiguous()
        yield f"{name} {t.dtype} {tuple(t.shape)} ".encode()
        t = t.dequantize() if t.is_quantized else t
        yield t.view(torch.uint8).numpy().tobytes() if t.numel() and t.ndim else repr(t.tolist()).encode()
    elif isinstance(value, tuple | list):
        for place, part in enumerate(value):
            yield from _hashed(f"{name}.{place}", part)
    elif value is None or isinstance(value, str | int | float | torch.dtype):
        yield f"{name} {value} ".encode()
