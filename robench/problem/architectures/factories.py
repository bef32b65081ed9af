"""The user's own networks: `module:factory` or `file.py:factory`, with or without arguments. Runs the user's code."""

import ast
import copy
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ...errors import UserError, described, unknown
from ..missing import FACTORY, missing_code
from .chain import is_chain

CLASSES = ("classes", "num_classes", "n_classes", "nb_classes", "nclasses", "num_class", "n_class", "num_labels")
CHANNELS = ("in_channels", "in_chans", "in_channel", "input_channels")
SHAPES = ("shape", "input_shape", "image_shape")
SIZES = ("img_size", "image_size")
"""Arguments that are filled in if a factory has them: the number of classes; the channels of an image; its
(channels, height, width); its height, or (height, width) if they differ."""

FILLED = (
    f"{', '.join(CLASSES[:2])} (the number of classes), {', '.join(CHANNELS[:2])} (the channels of an image), "
    f"{', '.join(SHAPES[:2])} (channels, height, width) and {SIZES[0]}"
)
EXAMPLE = "'file.py:build(depth=20, width=2.5, name=\"x\")'"
WRITTEN = re.compile(r"(?P<target>.*?\.py|[^():]+):(?P<name>[^():]*)(?P<arguments>\(.*\))?", re.DOTALL)


@dataclass(frozen=True)
class Factory:
    """A function or class that makes a network, and the arguments that the user wrote for it."""

    text: str  # as written by the user
    target: str  # file.py, or a module
    name: str
    positional: tuple[object, ...] = ()
    keywords: tuple[tuple[str, object], ...] = ()  # sorted by name

    @classmethod
    def parse(cls, text: str) -> "Factory":
        """The factory in a text such as `file.py:build(depth=20, name="x")`; arguments are literals, and no code runs.

        Raises UserError if it cannot be read.
        """
        found = WRITTEN.fullmatch(text.strip())
        if found is None or not found["name"].strip():
            raise UserError(f"--arch {text} cannot be read; {FACTORY}")
        positional, keywords = literals(f"--arch {text}", found["arguments"] or "()")
        return cls(text, found["target"], found["name"].strip(), positional, keywords)

    @property
    def file(self) -> Path | None:
        """The file with the code; None for a module."""
        return Path(self.target) if self.target.endswith(".py") else None

    @property
    def canonical(self) -> str:
        """The text without the folders of its file, so that it does not depend on the current folder."""
        return self._written(self.file.name if self.file else self.target)

    @property
    def placed(self) -> str:
        """The text with the file's full path."""
        return self._written(str(self.file.expanduser().resolve()) if self.file else self.target)

    @cached_property
    def home(self) -> ModuleType:
        """The imported file or module. Raises UserError if it is missing, or the import fails."""
        return _import(self.target, self.text)

    def build(self, shape: tuple[int, ...] | None, classes: int | None, *, defaults: bool = False) -> nn.Module:
        """The network that the factory returns. Known arguments in `FILLED` that the user did not write are filled in;
        with `defaults`, only those without a default.

        Raises UserError if it cannot be imported or called, or does not return a network.
        """
        factory = self._callable()
        if isinstance(factory, nn.Module):
            return copy.deepcopy(factory)  # the file has already made the network
        parameters = _parameters(factory)
        values = self.filled(shape, classes, defaults=defaults) | dict(self.keywords)
        if parameters is not None:
            self._check(parameters, values)
        try:
            made = factory(*self.positional, **values)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"--arch {self.text} failed with {described(error)}; it was called as "
                f"{_call(self.name, self.positional, values)}, and arguments can be written behind its name"
            ) from error
        if not isinstance(made, nn.Module):
            raise UserError(f"--arch {self.text} made {type(made).__name__}, not a torch.nn.Module")
        return made

    def filled(self, shape: tuple[int, ...] | None, classes: int | None, *, defaults: bool = False) -> dict[str, Any]:
        """The arguments that `build` fills in."""
        factory = self._callable()
        parameters = {} if isinstance(factory, nn.Module) else _parameters(factory) or {}
        written = {*list(parameters)[: len(self.positional)], *(name for name, _ in self.keywords)}
        return {
            name: value
            for name, value in _known(shape, classes).items()
            if name in parameters
            and name not in written
            and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
            and not (defaults and parameters[name].default is not inspect.Parameter.empty)
        }

    def makes(self, module: nn.Module) -> bool:
        """Whether this factory is the class of a module that was unpickled with the factory's file as `__main__`."""
        return type(module) is _attribute(self.home, self.name)

    def _callable(self) -> Callable[..., object]:
        factory = _attribute(self.home, self.name)
        if factory is None:
            offers = [key for key, value in vars(self.home).items() if callable(value) and not key.startswith("_")]
            raise unknown(f"factory in {self.target}", self.name, offers)
        if not callable(factory):
            raise UserError(
                f"--arch {self.text} is {type(factory).__name__}, not a function or class that makes a network"
            )
        made: Callable[..., object] = factory
        return made

    def _check(self, parameters: Mapping[str, inspect.Parameter], values: Mapping[str, object]) -> None:
        """Raises UserError for an argument that the factory does not accept, or one that is missing."""
        kinds = {p.kind for p in parameters.values()}
        named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        by_place = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        takes = f"it takes {', '.join(map(_shown, _plain(parameters))) or 'no arguments'}"
        if len(self.positional) > len(by_place) and inspect.Parameter.VAR_POSITIONAL not in kinds:
            raise UserError(f"--arch {self.text} has {len(self.positional)} positional arguments; {takes}")
        for name in values:
            if name not in named and inspect.Parameter.VAR_KEYWORD not in kinds:
                near = get_close_matches(name, named, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise UserError(f"--arch {self.text}: {self.name} has no argument {name!r}; {hint}{takes}")
            if name in by_place[: len(self.positional)]:
                raise UserError(f"--arch {self.text} gives {name} twice; write it once")
        lacking = [
            p.name
            for p in _plain(parameters)
            if p.default is p.empty and p.name not in values and p.name not in by_place[: len(self.positional)]
        ]
        if lacking:
            example = _call(self.name, self.positional, dict(self.keywords), *(f"{name}=..." for name in lacking))
            call = shlex.quote(f"{self.target}:{example}")
            raise UserError(
                f"--arch {self.text}: {self.name} needs {' and '.join(lacking)}; write --arch {call} "
                f"(filled in are {FILLED})"
            )

    def _written(self, target: str) -> str:
        call = _call(self.name, self.positional, dict(self.keywords))
        return f"{target}:{call if self.positional or self.keywords else self.name}"


def named_factory(text: str) -> bool:
    """Whether `text` names a factory rather than a registered architecture or a chain."""
    return ":" in text and not is_chain(text)


def canonical(text: str) -> str:
    """The text of a factory without the folders of its file, with arguments sorted by name."""
    return Factory.parse(text).canonical


def placed(text: str) -> str:
    """The text of a factory with the full path of its file."""
    return Factory.parse(text).placed


def file_of(text: str) -> Path | None:
    """The file with the code of a factory; None if the text names no file."""
    found = WRITTEN.fullmatch(text)
    return Path(found["target"]) if found and found["target"].endswith(".py") else None


def build(text: str, shape: tuple[int, ...] | None, classes: int | None) -> nn.Module:
    """The network of the factory that `text` names. Raises UserError."""
    return Factory.parse(text).build(shape, classes)


def literals(
    given: str, written: str, example: str = EXAMPLE
) -> tuple[tuple[object, ...], tuple[tuple[str, object], ...]]:
    """The literals in the parentheses of a call: positional ones, and the others by name. No code runs.

    Raises UserError if they cannot be read; `given` is the option and its text for the message.
    """
    try:
        call = ast.parse(f"f{written}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no call")
        keywords = {k.arg or "**": ast.literal_eval(k.value) for k in call.keywords}
        if "**" in keywords or len(keywords) < len(call.keywords):
            raise ValueError("each argument has a name of its own")
        return tuple(map(ast.literal_eval, call.args)), tuple(sorted(keywords.items()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UserError(f"the arguments in {given} cannot be read; write literals, like {example}") from None


def _known(shape: tuple[int, ...] | None, classes: int | None) -> dict[str, Any]:
    known: dict[str, Any] = {} if classes is None else dict.fromkeys(CLASSES, classes)
    if shape is not None:
        known |= dict.fromkeys(CHANNELS, shape[0]) | dict.fromkeys(SHAPES, shape)
        known |= dict.fromkeys(SIZES, shape[1] if len(set(shape[1:])) == 1 else shape[1:])
    return known


def _call(name: str, positional: tuple[object, ...], keywords: Mapping[str, object], *more: str) -> str:
    return f"{name}({', '.join([*map(repr, positional), *(f'{k}={v!r}' for k, v in keywords.items()), *more])})"


def _plain(parameters: Mapping[str, inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _shown(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return parameter.name
    literal = isinstance(parameter.default, bool | int | float | str | tuple | None)
    return f"{parameter.name}={parameter.default!r}" if literal else f"{parameter.name}=..."


def _attribute(home: object, name: str) -> Any:
    for part in name.split("."):
        home = getattr(home, part, None)
    return home


def _parameters(factory: Callable[..., object]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(factory).parameters
    except (ValueError, TypeError):  # some built-in callables have none
        return None


def _import(target: str, text: str) -> ModuleType:
    path = Path(target).expanduser()
    if target.endswith(".py") and not path.is_file():
        raise missing_code(f"--arch {text}", target, FACTORY)
    try:
        if target.endswith(".py"):
            return _import_file(path)
        with searching(Path.cwd()):
            return importlib.import_module(target)
    except (Exception, SystemExit) as error:
        raise UserError(f"--arch {text}: importing {target} failed with {described(error)}") from error


def _import_file(path: Path) -> ModuleType:
    # The full path in the name keeps two files called net.py apart.
    spec = importlib.util.spec_from_file_location(f"robench_arch_{path.resolve().as_posix()}", path)
    assert spec is not None, f"{path} ends in .py"
    assert spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses need their module here
    with searching(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def searching(folder: Path) -> Iterator[None]:
    """Puts `folder` first on the import path, and writes no bytecode there."""
    sys.path.insert(0, str(folder))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(folder))
