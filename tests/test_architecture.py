"""Imports point one way: the table of docs/architecture.md, enforced."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import robench

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "robench"

# What the modules under each name may import of ours, besides each other. The longest name that fits a module is
# its row; a module without a row is an error, so a new zone needs a line here and in docs/architecture.md.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "radius": set(),
    "renames": set(),
    "settings": {"errors"},
    "catalogue": set(),
    "catalogue.__main__": {"catalogue", "cli", "recipes", "protocols", "search", "problem", "settings", "errors"},
    "problem": {"radius", "renames", "errors"},
    "search": {"problem", "settings", "renames", "errors", "__version__"},
    "evidence": {"problem", "radius", "renames", "errors"},
    "evidence.attack_key": set(),
    "evidence.nesting": {"radius"},
    "evidence.records": {"evidence.attack_key"},
    "results": {"evidence.attack_key", "evidence.nesting", "evidence.records", "radius", "renames", "errors"},
    "analysis": {"problem", "errors"},
    "theory": {"results"},
    "reproduction": {"results", "problem", "errors"},
    "leaderboard": {"results", "evidence.nesting", "evidence.records", "errors", "__version__"},
    "recipes": {"search", "problem", "settings", "renames", "errors"},
    "protocols": {"evidence.attack_key", "search", "problem", "renames", "errors"},
    "doctor": {"search", "evidence", "problem", "errors", "__version__"},
    "masking": {"protocols", "search", "evidence", "results", "problem", "errors"},
    "evaluation": {
        *("masking", "protocols", "search", "evidence", "results", "problem", "radius", "renames", "errors"),
        "__version__",
    },
    "api": {"evaluation", "search", "results", "problem", "errors"},
    "testing": {"api", "evaluation", "doctor", "search", "results", "problem", "errors"},
    "attacks": {"search", "problem", "settings"},
    "cli": {
        *(
            "api",
            "evaluation",
            "masking",
            "doctor",
            "analysis",
            "leaderboard",
            "reproduction",
            "recipes",
            "protocols",
            "search",
            "evidence",
            "results",
        ),
        *("catalogue", "problem", "renames", "errors", "__version__"),
    },
    "__init__": {"api", "evaluation", "results", "problem", "errors"},
    "__main__": {"cli"},
}

# Other people's attack libraries, and what drags torch vision along: each in its own file under search/foreign/.
FOREIGN = {"foolbox", "eagerpy", "autoattack", "pyautoattack", "torchattacks", "art", "adv_lib"}
FOREIGN |= {"torchvision", "timm", "robustbench"}

WITHOUT_TORCH = ("catalogue", "results", "leaderboard", "evidence.records", "evidence.attack_key", "evidence.nesting")


@dataclass(frozen=True)
class Module:
    """A source file by its place in the package: `search.attack`, or `search` for search/__init__.py."""

    name: str
    source: str
    is_package: bool = False

    @property
    def imports(self) -> list[str]:
        """Full names of what it imports, also inside functions: `torch.nn`, `robench.search.attack`."""
        found = []
        for node in ast.walk(ast.parse(self.source)):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                # `from .. import protocols` may name modules or values: both count, as what is inside `base`.
                found += [f"{base}.{alias.name}" for alias in node.names]
        return found

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        inside = ["robench", *self.name.split(".")] if self.name != "__init__" else ["robench"]
        above = inside if self.is_package else inside[:-1]
        kept = above[: len(above) - (node.level - 1)]
        return ".".join([*kept, *([node.module] if node.module else [])])


def modules() -> Iterator[Module]:
    """Every source file of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        package = parts[-1] == "__init__"
        yield Module(".".join(parts[:-1] if package and len(parts) > 1 else parts), path.read_text(), package)


def row_of(name: str) -> str | None:
    """The longest row whose name is, or lies above, this one."""
    return max((row for row in ALLOWED if f"{name}.".startswith(f"{row}.")), key=len, default=None)


def complaints(module: Module) -> list[str]:
    """What a module imports and may not."""
    row = row_of(module.name)
    if row is None:
        return [f"{module.name} is in no zone of the table"]
    may = ALLOWED[row] | {row}
    found = []
    for name in module.imports:
        first, _, inner = name.partition(".")
        if first == "robench" and not any(f"{inner}.".startswith(f"{zone}.") for zone in may):
            found.append(f"{module.name} imports {name}; {row} may import {', '.join(sorted(may))}")
        if first in FOREIGN and not module.name.startswith("search.foreign."):
            found.append(f"{module.name} imports {first}, which only search/foreign/ may")
        if first == "ray" and module.name != "evaluation.workers.ray_actors":
            found.append(f"{module.name} imports Ray, which only evaluation/workers/ray_actors.py may")
        if row in WITHOUT_TORCH and first == "torch":
            found.append(f"{module.name} imports {first}; results are functions of records, without tensors")
    return found


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.name)
def test_imports_point_one_way(module):
    assert complaints(module) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("problem.losses", "from ..search.attack import Attack"),
        ("problem.threats.lp", "from ...search import engine"),
        ("problem.split", "from .. import evidence"),
        ("problem.split", "import robench.results.summary"),
        ("search.engine.engine", "from ...evidence.referee import Referee"),
        ("search.engine.engine", "def late():\n    from robench.evidence import store"),
        ("search.attacks.pgd", "from ...results.outcomes import Outcome"),
        ("evidence.referee", "from ..search.engine.best_seen import BestSeen"),
        ("evidence.referee", "if True:\n    import robench.search as quietly"),
        ("evidence.records", "from ..problem.classifier import Identity"),
        ("results.tables", "from ..evidence.store import RunFile"),
        ("results.tables", "from ..evidence import store"),
        ("results.tables", "import torch"),
        ("results.tables", "from torch import Tensor"),
        ("catalogue", "import torch"),
        ("catalogue", "from ..search.attacks import ATTACKS"),
        ("recipes.nat", "from ..evaluation.runner import Evaluation"),
        ("protocols", "from ..evidence.records import Plan"),
        ("evaluation.runner", "from ..cli.display import Display"),
        ("evaluation.attack_run", "from .. import cli"),
        ("api", "from robench.cli.main import main"),
        ("evaluation.environment", "from ..api import evaluate"),
        ("masking.schedule", "from ..evaluation.runner import Evaluation"),
        ("doctor.cases", "from ..evaluation.runner import Evaluation"),
        ("doctor.attacks", "import torchattacks"),
        ("errors", "from . import evaluate"),
        ("search.attacks.pgd", "import foolbox"),
        ("cli.train", "from torchvision import models"),
        ("problem.losses", "from autoattack.autopgd_base import APGDAttack"),
        ("somewhere", "import math"),
        ("evaluation.workers.driver", "import ray"),
    ],
)
def test_a_planted_violation_is_seen(name, source):
    package = name in ("protocols", "catalogue")
    assert len(complaints(Module(name, source, package))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "problem.losses",
            "import torch\nfrom torch import nn\nfrom .shapes import Logits\nfrom ..errors import unknown",
        ),
        ("search.attacks.pgd", "from ...problem.losses import margin\nfrom ..attack import State"),
        ("search.foreign.foolbox", "import foolbox"),
        ("results.tables", "import pandas\nfrom ..evidence.records import Plan"),
        ("evidence.store", "from .records import Claim"),
        ("evaluation.environment", "from .. import __version__"),
        ("evaluation.workers.ray_actors", "import ray"),
        ("cli.evaluate", "from .. import api\nfrom ..recipes import RECIPES"),
    ],
)
def test_an_import_along_the_table_is_no_violation(name, source):
    assert complaints(Module(name, source)) == []


def test_every_row_of_the_table_has_modules():
    assert {row_of(module.name) for module in modules()} == set(ALLOWED)


def test_the_documented_table_is_the_enforced_one():
    text = (ROOT / "docs" / "architecture.md").read_text()
    lines = text.partition("<!-- import table -->")[2].partition("\n\n")[0].strip().splitlines()[2:]
    documented = {}
    for line in lines:
        zone, imports = (cell.strip() for cell in line.strip("|").split("|"))
        documented[zone.strip("`")] = {name.strip(" `") for name in imports.split(",") if name.strip(" `—")}
    enforced = {row: {name for name in may if name != "__version__"} for row, may in ALLOWED.items()}
    assert documented == {row: may for row, may in enforced.items() if not row.startswith("__")}


def run_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter in which `import torch` fails."""
    blocked = f"import sys; sys.modules['torch'] = None; sys.path.insert(0, {str(ROOT)!r}); {code}"
    return subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)


@pytest.mark.processes
def test_results_can_be_imported_where_torch_is_missing():
    names = [f"robench.{m.name}" for m in modules() if row_of(m.name) in WITHOUT_TORCH]
    assert len(names) > 5
    done = run_without_torch(f"import {', '.join(names)}")
    assert done.returncode == 0, done.stderr


def test_that_check_notices_torch():
    done = run_without_torch("import robench.evidence.referee")
    assert done.returncode == 1
    assert "torch" in done.stderr


def test_help_does_not_wait_for_torch():
    done = run_without_torch("sys.argv = ['robench', '--help']; from robench.cli.main import main; main()")
    assert done.returncode == 0, done.stderr
    assert "Usage: robench" in done.stdout


def test_the_public_names_are_few_importable_and_documented():
    assert set(robench.__all__) == {
        "NotMeasuredError",
        "Split",
        "Summary",
        "UserError",
        "__version__",
        "evaluate",
        "load_images",
        "load_run",
    }
    for name in robench.__all__:
        assert getattr(robench, name).__doc__, name
    page = (ROOT / "docs" / "how-to" / "own-model.md").read_text()
    assert all(f"robench.{name}" in page for name in robench.__all__)


def test_all_lists_what_type_checkers_and_the_interpreter_see():
    (block,) = [
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for_checkers = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert for_checkers | {"__version__"} == set(robench.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="evalaute"):
        robench.evalaute  # noqa: B018
