"""Reads files of `torch.save` and `pickle.dump`. Runs code in them only if they are trusted."""

import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ...errors import UserError, described
from ..architectures.factories import Factory, searching
from .nested import first
from .pickled_arrays import array_names
from .strict_pickles import RefusedError, is_tar, read_plain, read_tar
from .zips import AGAIN

TORCH = b"\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the first bytes of torch.save's old format, before zip
NO_CHECKPOINT = "is not a checkpoint that PyTorch reads; name a .safetensors or .pt file"
MEMORY = ("alloc", "memory")  # words in torch's error when memory runs out


def unpickled(path: Path, beginning: bytes, trust: bool, script: Factory | None) -> object:
    """The object in the file. With `trust`, its code runs, and names in `__main__` are taken from `script`.

    Raises UserError if it is damaged, or cannot be read without running its code.
    """
    if trust:
        return _trusted(path, beginning, script)
    try:
        if is_tar(beginning):
            return read_tar(path)
        if beginning.startswith(b"\x80") and TORCH not in beginning[:16]:
            return read_plain(path)
        with _quiet(), torch.serialization.safe_globals([*array_names()]):
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
        return loaded
    except pickle.UnpicklingError as error:
        raise _refused(path, beginning, str(error), script) from None
    except RefusedError as error:
        raise _would_run(path, [str(error)], script) from None
    except UserError:
        raise
    except (EOFError, OSError, RuntimeError, MemoryError) as error:
        raise _damaged(path, error) from None
    except Exception:  # a damaged file may raise anything
        raise UserError(f"{path} {NO_CHECKPOINT}") from None


def _trusted(path: Path, beginning: bytes, script: Factory | None) -> object:
    folders = [Path.cwd()] + ([script.file.expanduser().resolve().parent] if script and script.file else [])
    unpickler = _finding(script.home if script else None)
    try:
        with searching(folders[-1]), searching(folders[0]), _quiet():
            if beginning.startswith(b"\x80") and TORCH not in beginning[:16]:
                with path.open("rb") as file:
                    plain: object = unpickler.Unpickler(file).load()
                return plain
            loaded: object = torch.load(path, map_location="cpu", weights_only=False, pickle_module=unpickler)
        return loaded
    except pickle.UnpicklingError:
        raise UserError(f"{path} {NO_CHECKPOINT}") from None
    except _MissingError as error:
        where = f", and {script.target} does not" if script else " itself"
        raise UserError(
            f"{path} was saved by a script that defines {error}{where}; name the network in that script with --arch "
            "SCRIPT.py:NETWORK"
        ) from None
    except Exception as error:  # the file's own code may raise anything
        raise UserError(
            f"{path} could not be unpickled ({described(error)}); run robench where the classes "
            "of the model can be imported, or save its state_dict() and name the architecture with --arch"
        ) from error


class _MissingError(Exception):
    """The script lacks a name that the file needs."""


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # A newer pickle protocol than torch's own is either read or refused, so a warning adds nothing.
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        # torch itself uses TypedStorage to read quantised tensors.
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        yield


def _finding(script: ModuleType | None) -> Any:
    """A copy of the module `pickle` with an unpickler that resolves names in `__main__` in this script."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module != "__main__":
                return super().find_class(module, name)
            try:
                return reduce(getattr, name.split("."), script) if script else super().find_class(module, name)
            except AttributeError:
                raise _MissingError(name) from None

    finding = ModuleType("pickle")
    finding.__dict__.update(
        vars(pickle) | {"Unpickler": Unpickler, "load": lambda f, **how: Unpickler(f, **how).load()}
    )
    return finding


def _refused(path: Path, beginning: bytes, message: str, script: Factory | None) -> UserError:
    if not beginning.startswith((b"PK", b"\x80")):
        return UserError(f"{path} {NO_CHECKPOINT}")
    if "Unsupported operand" in message:
        return UserError(
            f"{path} was saved with another pickle protocol than PyTorch's own, which cannot be read safely; save it "
            "again without pickle_protocol=..., or add --trust-pickle if you trust who made the file"
        )
    found = re.search(r"GLOBAL (\S+)|but got <class '([\w.]+)'>", message)
    return _would_run(path, [found[1] or found[2]] if found else [], script)


def _would_run(path: Path, named: list[str], script: Factory | None) -> UserError:
    """The error for a file that names code which `torch.load` does not allow with `weights_only`."""
    try:
        named = [*named, *sorted({*torch.serialization.get_unsafe_globals_in_checkpoint(path)} - {*named, *_allowed()})]
    except Exception:  # it does not read the older formats; the first name found is reported
        named = named[:1]
    mains = first(name.removeprefix("__main__.") for name in named if name.startswith("__main__."))
    more = f" --arch SCRIPT.py:NETWORK, of the script that defines {mains}," if mains and not script else ""
    which = f" ({first(named)})" if named else ""
    return UserError(
        f"{path} is a pickle that would run code when it is read{which}, so it was not read; save only the model's "
        f"state_dict(), or add --trust-pickle{more} if you trust who made the file"
    )


def _allowed() -> set[str]:
    return {name for _, name in array_names()}


def _damaged(path: Path, error: Exception) -> UserError:
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and all(w in str(error) for w in MEMORY)):
        return UserError(f"{path} needs more memory than this machine has; run robench on a larger machine")
    return UserError(f"{path} is cut off or damaged; {AGAIN}")
