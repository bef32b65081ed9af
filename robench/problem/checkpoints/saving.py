"""Writes weights, with what is needed to read them."""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from .. import durable
from ..architectures.normalise import canonical
from .nested import by


def save(
    module: nn.Module,
    path: Path,
    *,
    architecture: str,
    normalisation: str,
    shape: tuple[int, ...],
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Writes the weights, and the metadata needed to read them, to a safetensors file; returns its SHA-256.

    The write is atomic. float16 halves the file, and rounds the weights.
    """
    tensors = {
        # A clone of each: tied weights are written twice, because the format has no shared tensors.
        key: (t.to(dtype) if t.is_floating_point() else t).detach().cpu().contiguous().clone()
        for key, t in module.state_dict().items()
    }
    metadata = {
        "format": "pt",
        "architecture": architecture,
        "normalisation": canonical(normalisation, shape[0]),
        "shape": by(shape),
        "classes": str(classes),
    }
    durable.replace(path, _in_order(safetensors.torch.save(tensors, metadata)))
    return durable.sha256(path)


def is_half(path: Path) -> bool:
    """Whether a file written by `save` holds float16 weights."""
    with safetensors.safe_open(path, framework="pt") as file:
        return any(file.get_slice(key).get_dtype() == "F16" for key in file.keys())  # noqa: SIM118, it is not a mapping


def _in_order(contents: bytes) -> bytes:
    """The file's contents with a sorted header: the library writes metadata in an order that differs between runs."""
    start = 8 + int.from_bytes(contents[:8], "little")
    header = json.dumps(json.loads(contents[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + contents[start:]
