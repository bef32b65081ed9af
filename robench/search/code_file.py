"""Runs a file of Python code that the user names, and nothing but the bytes that key the evidence of its attacks."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

from ..errors import UserError, described
from ..problem.architectures.factories import searching
from ..problem.missing import ATTACK, missing_code


class _FromSource(SourceFileLoader):
    """Runs exactly the bytes that key the evidence, never cached bytecode."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.source, self.path)
        return code


def imported(target: str, given: str) -> ModuleType:
    """The module in a file, whose code this runs. Raises UserError if the file is missing, or its code fails."""
    path = Path(target).expanduser()
    if not path.is_file():
        raise missing_code(given, target, ATTACK)
    try:
        source = path.read_bytes()
        return _run(path.resolve(), source)
    except (Exception, SystemExit) as error:
        raise UserError(f"{given}: importing {target} failed with {described(error)}") from error


def _run(path: Path, source: bytes) -> ModuleType:
    name = f"robench_attack_{path.as_posix()}"  # the full path distinguishes files of the same name
    spec = spec_from_loader(name, loader := _FromSource(name, str(path), source), origin=str(path))
    assert spec is not None, "a loader was given"
    module = module_from_spec(spec)
    module.__file__ = str(path)
    vars(module)["__robench_source__"] = source
    sys.modules[name] = module  # dataclasses need their module here
    with searching(path.parent):
        loader.exec_module(module)
    return module
