"""Checkpoints: which file is meant, what it holds, and the classifier in it."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["Loaded", "load", "locate", "save"]

if TYPE_CHECKING:
    from .loading import Loaded, load
    from .locating import locate
    from .saving import save

_HOMES = {"Loaded": "loading", "load": "loading", "locate": "locating", "save": "saving"}


def __getattr__(name: str) -> Any:
    """Imported on first use: cards and names of bundled models are read without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
