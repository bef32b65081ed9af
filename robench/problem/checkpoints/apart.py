"""Python processes that read what strangers made. They import this package, and nothing from the current folder."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
PROGRAM = """
import importlib.util, sys
name, folder, *sys.path[:] = sys.argv[2:]
spec = importlib.util.spec_from_file_location("robench", f"{folder}/__init__.py", submodule_search_locations=[folder])
sys.modules["robench"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["robench"])
importlib.import_module(name).main(sys.argv[1])
"""


def command(module: str, argument: str) -> list[str]:
    """The command that calls `main` of a module of this package with one argument, in an interpreter of its own."""
    # Modules are imported from where this process finds them, except the current folder, which may hold foreign code.
    here = Path.cwd()
    found = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    return [sys.executable, "-I", "-B", "-c", PROGRAM, argument, module, str(PACKAGE), *found]
