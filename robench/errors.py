"""What goes wrong on the user's side. The command line prints these as one line and exits with 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Says what was given, what was wanted, and what to type instead."""


def first_line(error: BaseException) -> str:
    """The line of an exception that says what happened: the first, but of TorchScript's traceback the last."""
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[-1] if "TorchScript" in lines[0] else lines[0]


def described(error: BaseException) -> str:
    """The class of an exception and its message, in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def are(number: int, noun: str) -> str:
    """The same with its verb: 1 image is, 2 images are."""
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


def unknown(kind: str, name: str, known: Iterable[str], more: Iterable[str] = ()) -> UserError:
    """No `kind` is called `name`: suggests the nearest names, also of those in `more`, else lists the known ones."""
    names = sorted(known)
    near = get_close_matches(name, [*names, *more], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names) or 'none'}"
    return UserError(f"no {kind} is called {name!r}; {hint}")
