"""Errors in the user's input. The command line prints each as one line and exits with code 2."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(ValueError):
    """Invalid input. The message says what was given, what was wanted, and what to type instead."""


class ProgramEnded(BaseException):
    """The process in which a program of a stranger ran has ended, so no answer will come. The message is a sentence.

    It is no Exception: what survives any error of a model, such as an attack of another library, must not take the
    missing answer for a property of the model.
    """


@contextmanager
def ended_programs_as_user_errors() -> Iterator[None]:
    """Raises UserError in place of ProgramEnded, for callers in Python; also a decorator."""
    try:
        yield
    except ProgramEnded as ended:
        raise UserError(str(ended)) from None


def first_line(error: BaseException) -> str:
    """The line of an exception's message that says what happened: the first one, or the last of a TorchScript trace."""
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[-1] if "TorchScript" in lines[0] else lines[0]


def described(error: BaseException) -> str:
    """The class of an exception and its message, on one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 image, 2 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def are(number: int, noun: str) -> str:
    """A number, its noun and the verb: 1 image is, 2 images are."""
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


def unknown(kind: str, name: str, known: Iterable[str], more: Iterable[str] = ()) -> UserError:
    """The error for an unknown `name`: suggests similar names from `known` and `more`, or else lists `known`."""
    names = sorted(known)
    near = get_close_matches(name, [*names, *more], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names) or 'none'}"
    return UserError(f"no {kind} is called {name!r}; {hint}")
