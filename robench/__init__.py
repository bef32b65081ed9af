"""How much accuracy an image classifier keeps, against more than one kind of attack, with evidence.

`robench.evaluate(net, "mnist", threats=["linf:0.3"], examples=100)` answers with a `Summary`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["NotMeasuredError", "Split", "Summary", "UserError", "__version__", "evaluate", "load_images", "load_run"]

if TYPE_CHECKING:
    from .api import evaluate, load_run
    from .errors import UserError
    from .evaluation.export import load_images
    from .problem.split import Split
    from .results.measured import NotMeasuredError
    from .results.summary import Summary

_HOMES = {
    "NotMeasuredError": "results.measured",
    "Split": "problem.split",
    "Summary": "results.notebook",
    "UserError": "errors",
    "evaluate": "api",
    "load_images": "evaluation.export",
    "load_run": "api",
}


def __getattr__(name: str) -> Any:
    """Imported on first use: the command line must not wait for torch to print its help."""
    if name not in _HOMES:
        raise AttributeError(f"module 'robench' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
