"""Which code and files a command uses.

A run file or a summary may name them, but only the command line makes code run.
"""

import shlex
from collections.abc import Mapping

from ..errors import UserError
from ..problem.architectures.factories import named_factory
from ..problem.checkpoints.hubs.names import is_hub_file, package_of
from ..problem.checkpoints.zoo import zoo_names


def architecture(typed: str | None, environment: Mapping[str, str], source: str, option: str = "--arch") -> str | None:
    """The architecture on the command line, else the built-in one that the file `source` names, if any.

    Raises UserError where the file names a factory, as that is code.
    """
    named = _readable(environment.get("arch", ""), source)
    if typed is None and named and named_factory(named):
        raise UserError(
            f"{source} names the architecture {named}, which is code; if you trust it, type "
            f"{option} {shlex.quote(named)}"
        )
    return typed or named or None


def checkpoint(
    typed: str | None, environment: Mapping[str, str], model: str, source: str, option: str, *, trust_pickle: bool
) -> str:
    """The checkpoint on the command line, else the one that the file `source` names, else the bundled model `model`.

    Raises UserError where there is none, or where the file names one whose code would run, or that is not here yet.
    """
    if typed is not None:
        return typed
    named = _readable(environment.get("checkpoint", ""), source) or (model if model in zoo_names() else "")
    if not named:
        raise UserError(f"{source} does not name its model; name it with {option}")
    if trust_pickle and named not in zoo_names():
        raise UserError(
            f"{source} names the model {named}; to run code of that file, type {option} {shlex.quote(named)}"
        )
    _refuse_fetched(named, source, option)
    return named


def _refuse_fetched(named: str, source: str, option: str) -> None:
    """Raises UserError for a model that runs code of a package, or would be downloaded: only the user starts that."""
    typed = f"{option} {shlex.quote(named)}"
    if package := package_of(named):
        raise UserError(f"{source} names the model {named}, which code of {package} makes; to run it, type {typed}")
    if is_hub_file(named):
        from ..problem.checkpoints.hubs import huggingface  # imports network libraries, so only when needed

        if not huggingface.is_here(named):
            raise UserError(
                f"{source} names the model {named}, which is not on this machine; to download it, type {typed}"
            )


def data(typed: str | None, environment: Mapping[str, str], planned: str, source: str) -> str:
    """The data on the command line, else those that the file `source` names, else the planned ones.

    Raises UserError where the file names something unreadable.
    """
    return typed or _readable(environment.get("data", ""), source) or planned


def _readable(text: str, source: str) -> str:
    if not text.isprintable():
        raise UserError(f"{source} names {text!a}, which cannot be a file or an architecture; it is damaged")
    return text
