"""Networks that the user brings: `module:factory` or `file.py:factory`. This runs the user's code."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from ...errors import UserError, unknown


def named_factory(text: str) -> bool:
    """Whether `text` names a factory rather than a registered architecture."""
    return ":" in text


def canonical(text: str) -> str:
    """The text without the folders of its file: a network is the same one wherever it is evaluated from."""
    target, _, name = text.rpartition(":")
    return f"{Path(target).name}:{name}" if target.endswith(".py") else text


def build(text: str, shape: tuple[int, ...] | None, classes: int | None) -> nn.Module:
    """Calls the factory, with `shape` and `classes` as keywords if it names them and they are known.

    Raises UserError when it cannot be imported or called, or makes no network.
    """
    target, _, name = text.rpartition(":")
    home = _import(target, text)
    factory = getattr(home, name, None)
    if factory is None:
        offers = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"factory in {target}", name, offers)
    if not callable(factory):
        raise UserError(f"--arch {text} is {type(factory).__name__}, not a function or class that makes a network")
    known = {"shape": shape, "classes": classes}
    try:
        made = factory(**{key: known[key] for key in _accepted(factory) if known.get(key) is not None})
    except (Exception, SystemExit) as error:
        raise UserError(
            f"--arch {text} failed with {type(error).__name__}: {_line(error)}; "
            "it is called without arguments but shape=(C, H, W) and classes=K, if it names them"
        ) from error
    if not isinstance(made, nn.Module):
        raise UserError(f"--arch {text} made {type(made).__name__}, not a torch.nn.Module")
    return made


def _import(target: str, text: str) -> ModuleType:
    if target.endswith(".py") and not Path(target).is_file():
        raise UserError(f"--arch {text}: there is no file {target}; write file.py:factory or module:factory")
    try:
        if target.endswith(".py"):
            return _import_file(Path(target))
        with searching(Path.cwd()):
            return importlib.import_module(target)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"--arch {text}: importing {target} failed with {type(error).__name__}: {_line(error)}"
        ) from error


def _import_file(path: Path) -> ModuleType:
    # The full path in the name keeps two files called net.py apart.
    spec = importlib.util.spec_from_file_location(f"robench_arch_{path.resolve().as_posix()}", path)
    assert spec is not None, f"{path} ends in .py"
    assert spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with searching(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def searching(folder: Path) -> Iterator[None]:
    """Modules are looked for in `folder` first; nothing is written there."""
    sys.path.insert(0, str(folder))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(folder))


def _accepted(factory: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some built-in callables have none
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or "no message"
