"""ONNX files: their graph becomes a PyTorch module, with gradients. Imports the package onnx when a file is read."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from .importing import Imported, import_onnx

__all__ = ["Imported", "is_onnx", "load_onnx"]

_BEGINNING = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
"""A version of the format, and the tag of one of the next fields."""


def is_onnx(path: Path, beginning: bytes) -> bool:
    """Whether a file is ONNX, by its name or its first bytes."""
    return path.suffix == ".onnx" or _BEGINNING.match(beginning) is not None


def load_onnx(path: Path, forward_only: Callable[[bytes], nn.Module]) -> tuple[Imported, str]:
    """The network in an ONNX file, and a text that identifies its content. Raises UserError.

    `forward_only` makes a network without gradients from the content of a file, where robench cannot import the graph.
    """
    imported, data = import_onnx(path, forward_only)
    return imported, f"onnx:{hashlib.sha256(data).hexdigest()[:16]}"
