"""How much accuracy an image classifier keeps, against more than one kind of attack, with evidence.

`robench.evaluate(net, "mnist", threats=["linf:0.3"], examples=100)` answers with a `Summary`.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Summary", "UserError", "__version__", "evaluate", "load_run"]

if TYPE_CHECKING:
    from .api import evaluate, load_run
    from .errors import UserError
    from .results.summary import Summary


def __getattr__(name: str) -> Any:
    """Imported when asked for: the command line must not wait for torch to print its help."""
    if name == "evaluate":
        from .api import evaluate

        return evaluate
    if name == "load_run":
        from .api import load_run

        return load_run
    if name == "Summary":
        from .results.summary import Summary

        return Summary
    if name == "UserError":
        from .errors import UserError

        return UserError
    raise AttributeError(f"module 'robench' has no attribute {name!r}")
