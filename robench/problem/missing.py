"""Files that a user named and that do not exist. Does not import torch, so the command line refuses them at once."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from ..errors import UserError

FACTORY = "write file.py:factory, module:factory or 'file.py:factory(depth=20)'"
ATTACK = "write file.py:Class or 'file.py:Class(steps=50)'"

SENTENCES: dict[str, Callable[[object], str]] = {
    "run": lambda path: f"there is no run file {path}; `robench evaluate` writes them to runs/ unless --run says else",
    "baseline": lambda path: f"there is no baseline {path}; write one with robench evaluate CHECKPOINT --json {path}",
    "claims": lambda path: f"there is no file {path}; name an .npz file with an array x_adv",
    "images": lambda path: f"there is no file {path}; --data takes the name of a data set or the path of an .npz file",
    "folder": lambda path: (
        f"there is no folder {path}; --data takes the name of a data set, a folder of images or an .npz file"
    ),
    "protocol": lambda path: f"there is no protocol file {path}; `robench list protocols` lists the bundled ones",
    "weights": lambda path: f"there is no file {path}; name the weights with --weights",
}
"""A sentence for each kind of file: what is missing, and what to type instead."""


def missing(kind: str, path: object) -> UserError:
    """The error for a missing file of this kind."""
    return UserError(SENTENCES[kind](path))


def missing_code(given: str, target: str, form: str) -> UserError:
    """The error for a missing Python file, which suggests a similar name, or else `form`. `given` begins it."""
    path = Path(target).expanduser()
    files = [p.name for p in path.parent.glob("*.py") if p.is_file()]
    near = get_close_matches(path.name, files, n=1, cutoff=0.75)
    return UserError(
        f"{given}: there is no file {target}; {f'did you mean {path.parent / near[0]}?' if near else form}"
    )
