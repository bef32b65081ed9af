"""Measures words, imports and sizes of the package, for `tests/test_structure.py` and as a table.

    python -m tests.structure             # this checkout
    python -m tests.structure ../before   # another one

Words come from `tests/vocabulary.toml`, which says why an exception is one.
"""

import argparse
import ast
import fnmatch
import functools
import io
import os
import re
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import msgspec

ROOT = Path(__file__).parents[1]

PREPOSITIONS = tuple(
    re.findall(
        r"\w+",
        "After Also And As At Before Beside Between But By Down For From In Into Not Of On Onto Or Out So To Towards "
        "Under Up Where With Without",
    )
)
"""A docstring that begins with one of these is a fragment, such as "Of the next ball."."""


@dataclass(frozen=True)
class Vocabulary:
    """Words that the package does not use, and where one of them is a contract or plain English."""

    identifiers: frozenset[str]  # not as a part of a name
    prose: tuple[str, ...]  # not in a text for users, a docstring or a comment; words or phrases
    allowed: tuple[tuple[str, str], ...]  # (pattern of "path:name", reason)

    @classmethod
    def read(cls, path: Path = ROOT / "tests" / "vocabulary.toml") -> "Vocabulary":
        """The committed lists."""
        table = msgspec.toml.decode(path.read_text())
        allowed = tuple((entry["where"], entry["why"]) for entry in table.get("allowed", []))
        return cls(frozenset(table["identifiers"]), tuple(table["prose"]), allowed)

    def allows(self, place: str) -> bool:
        """Whether a use at this place, as `Use.place` gives it, is an exception."""
        return any(fnmatch.fnmatchcase(place, pattern) for pattern, _ in self.allowed)


@dataclass(frozen=True)
class Use:
    """A word of the list, where it stands."""

    path: str
    line: int
    kind: str  # identifier, text, docstring or comment
    word: str
    name: str  # the identifier, or the text around the word

    @property
    def place(self) -> str:
        """What the pattern of an exception has to match."""
        return f"{self.path}:{self.name if self.kind == 'identifier' else f'{self.kind}:{self.word}'}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word} in the {self.kind} {self.name!r}"


@dataclass
class Graph:
    """Who imports whom."""

    edges: dict[str, set[str]] = field(default_factory=dict)

    def components(self) -> list[list[str]]:
        """Strongly connected components, what is imported first. Tarjan 1972."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        found: list[list[str]] = []

        def visit(node: str) -> None:
            index[node] = low[node] = len(index)
            stack.append(node)
            for other in sorted(self.edges.get(node, ())):
                if other not in index:
                    visit(other)
                    low[node] = min(low[node], low[other])
                elif other in stack:
                    low[node] = min(low[node], index[other])
            if low[node] == index[node]:
                component = []
                while not component or component[-1] != node:
                    component.append(stack.pop())
                found.append(component)

        for node in sorted(self.edges):
            if node not in index:
                visit(node)
        return found

    def layers(self) -> int:
        """The length of the longest chain of imports."""
        level: dict[str, int] = {}
        for component in self.components():
            below = [level[o] for n in component for o in self.edges[n] if o not in component]
            level |= dict.fromkeys(component, 1 + max(below, default=0))
        return max(level.values())

    def cycles(self) -> list[list[str]]:
        """Groups that import each other in a circle."""
        return [sorted(component) for component in self.components() if len(component) > 1]


def sources(root: Path) -> Iterator[Path]:
    """Every module of the package."""
    return iter(sorted((root / "robench").rglob("*.py")))


def words_of(name: str) -> list[str]:
    """The words of an identifier: `_next_look` and `NextLook` are next, look."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def uses(root: Path, vocabulary: Vocabulary) -> Iterator[Use]:
    """Every use of a word of the list that is no exception."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, vocabulary.prose))})\b", re.IGNORECASE)
    for path in sources(root):
        place, text = str(path.relative_to(root)), path.read_text()
        docstrings = {node.lineno for node in _docstrings(_parsed(text))}
        seen: set[str] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string not in seen:
                for word in vocabulary.identifiers.intersection(words_of(token.string)):
                    if not vocabulary.allows(f"{place}:{token.string}"):
                        yield Use(place, token.start[0], "identifier", word, token.string)
                seen.add(token.string)
            kind = {tokenize.COMMENT: "comment", tokenize.STRING: "text"}.get(token.type, "")
            if token.start[0] in docstrings and kind == "text":
                kind = "docstring"
            if not kind or (kind == "text" and " " not in token.string):  # keys, not sentences
                continue
            for match in pattern.finditer(re.sub(r"`[^`\n]*`", "``", token.string)):
                around = token.string[max(0, match.start() - 30) : match.end() + 30].replace("\n", " ")
                if not vocabulary.allows(f"{place}:{kind}:{match[0].lower()}"):
                    line = token.start[0] + token.string[: match.start()].count("\n")
                    yield Use(place, line, kind, match[0].lower(), around)


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement


def fragments(root: Path) -> Iterator[str]:
    """Docstrings that are no sentences."""
    for path in sources(root):
        for node in _docstrings(_parsed(path.read_text())):
            assert isinstance(node.value, ast.Constant)
            text = str(node.value.value).strip()
            first = text.split(None, 1)[0] if text else ""
            the_same = re.match(r"The same(\.|,| when| with| as)", text)
            ended = re.search(r"[.:)\]]$|https?://\S+$", text.partition("\n\n")[0].strip())
            if first in PREPOSITIONS or the_same or not ended:
                yield f"{path.relative_to(root)}:{node.lineno}: {text.splitlines()[0]}"


def imports(root: Path) -> Graph:
    """The imports between modules, those inside functions included, those for type checkers not."""
    names = {_module(root, path): path for path in sources(root)}
    graph = Graph({name: set() for name in names})
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tree = _parsed(path.read_text())
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    target = f"{base}.{alias.name}"
                    target = target if target in names else base
                    if target in names and target != name and target != "robench":
                        graph.edges[name].add(target)
    return graph


def packages(graph: Graph) -> Graph:
    """The same between packages and top-level modules."""
    edges: dict[str, set[str]] = {}
    holders = {name.rpartition(".")[0] for name in graph.edges}

    def unit(name: str) -> str:
        return name if name in holders or name.count(".") == 1 else name.rpartition(".")[0]

    for name, others in graph.edges.items():
        mine = edges.setdefault(unit(name), set())
        mine |= {unit(other) for other in others} - {unit(name)}
    return Graph(edges)


def _module(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def longest_function(root: Path) -> tuple[int, str]:
    """Lines, and where."""
    found = []
    for path in sources(root):
        for node in ast.walk(_parsed(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((lines, f"{path.relative_to(root)}:{node.name}"))
    return max(found)


def longest_file(root: Path) -> tuple[int, str]:
    """Lines, and which."""
    return max((len(path.read_text().splitlines()), str(path.relative_to(root))) for path in sources(root))


def path_of_examples() -> tuple[set[str], int]:
    """Modules that `--examples` crosses from the command to the referee, and calls of `Classifier.identity`.

    The modules are those on the stack when the rows are read, and when the referee first rules on a claim. It
    evaluates a bundled model in an empty folder, with the package that is imported.
    """
    from robench.cli.main import main as command

    crossed: set[str] = set()
    seen: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_name
        if event != "call" or not frame.f_globals.get("__name__", "").startswith("robench."):
            return
        seen[name] += name in ("rows_of", "rule", "identity")
        if name in ("rows_of", "rule") and seen[name] == 1:
            above: FrameType | None = frame
            while above is not None:
                crossed.add(above.f_globals.get("__name__", ""))
                above = above.f_back

    words = "robench evaluate digits-nat --threat linf:0.1 --attack pgd(steps=2) --examples 20 --quiet --json -"
    before, arguments = Path.cwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), suppress(SystemExit):
        try:
            os.chdir(folder)
            sys.argv = words.split()
            sys.setprofile(profile)
            command()
        finally:
            sys.setprofile(None)
            os.chdir(before)
            sys.argv = arguments
    return {name for name in crossed if name.startswith("robench.")}, seen["identity"]


def table(root: Path) -> str:
    """Every measure, one line each."""
    by_kind = Counter(use.kind for use in uses(root, Vocabulary.read()))
    files = imports(root)
    units = packages(files)
    rows = {f"words of the list in {kind}s": by_kind[kind] for kind in ("identifier", "text", "docstring", "comment")}
    rows["docstrings that are no sentences"] = len(list(fragments(root)))
    rows |= {"modules": len(files.edges), "imports between modules": sum(map(len, files.edges.values()))}
    rows["cycles of modules"] = len(files.cycles())
    rows |= {"packages and top-level modules": len(units.edges), "their layers": units.layers()}
    rows |= {"imports between them": sum(map(len, units.edges.values())), "their cycles": len(units.cycles())}
    lines = [f"{name:<36}{value:>6}" for name, value in rows.items()]
    lines += ["{:<36}{:>6}  {}".format(name, *found) for name, found in (
        ("longest function, lines", longest_function(root)), ("longest file, lines", longest_file(root)))]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="a checkout")
    parser.add_argument("--uses", action="store_true", help="list every use of a word of the list, and every fragment")
    parser.add_argument("--path", action="store_true", help="evaluate a model: modules that --examples crosses")
    parser.add_argument("--under", default="", help="only paths that begin so")
    options = parser.parse_args()
    root = options.root.resolve()
    if options.path:
        crossed, hashed = path_of_examples()
        print(*sorted(crossed), f"{len(crossed)} modules; the identity of a model is computed {hashed} times", sep="\n")
    elif options.uses:
        found = [*map(str, uses(root, Vocabulary.read())), *(f"{text}  [fragment]" for text in fragments(root))]
        print("\n".join(line for line in found if line.startswith(options.under)))
    else:
        print(table(root))


if __name__ == "__main__":
    main()
