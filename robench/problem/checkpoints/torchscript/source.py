"""Parses a source file of an archive, and checks the expressions in it that run while it is compiled.

torch evaluates the default of an argument, the value of a class constant and the fields of a named tuple immediately,
in an interpreter of its own, and they leave no trace in any graph: here they must be literals. TorchScript has the
syntax of Python. So that Python's parser agrees with torch's, the text is limited to what `torch.jit.save` writes:
printable ASCII, no comments, no line continuations, no string prefixes.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .archive import is_plain
from .inspection import Refused
from .operators import computes

WRITTEN = re.compile(rb"[\n -~]*")
TOKENS = {
    tokenize.NAME: re.compile(r"\w+"),
    tokenize.NUMBER: re.compile(r"(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?j?"),
    tokenize.STRING: re.compile(r"(['\"])(?!\1\1).*"),  # no prefix, no triple quotes
    tokenize.OP: re.compile(r"[^;]+"),
    **{kind: re.compile(r"\s*") for kind in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)},
    tokenize.ENDMARKER: re.compile(""),
}
"""The form of each kind of token. Comments are not allowed."""


@dataclass(frozen=True)
class Class:
    """A class of an archive. `state` is the type of the argument of its `__setstate__`, if it has one."""

    name: str  # qualified
    base: str
    attributes: Mapping[str, ast.expr]  # types by name
    methods: tuple[str, ...]
    state: ast.expr | None = None


@dataclass(frozen=True)
class Outline:
    """The definitions in one source file, by qualified names: `__torch__.net.Net`, `__torch__.net.relu`."""

    classes: tuple[Class, ...]
    functions: tuple[str, ...]


def outline(module: str, source: bytes) -> Outline:
    """The definitions in a source. Raises Refused if torch does not write it so, or it evaluates non-literals."""
    try:
        tree = _parsed(source)
    except (SyntaxError, tokenize.TokenError, RecursionError, ValueError):
        raise Refused(f"has code in {module} that is not written as torch.jit.save writes it") from None
    classes, functions = [], []
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            classes.append(_class(module, statement))
        elif isinstance(statement, ast.FunctionDef):
            _check_function(module, statement)
            functions.append(f"{module}.{statement.name}")
        elif not _is_version(statement):
            raise Refused(f"has a statement outside of classes and functions in {module}")
    return Outline(tuple(classes), tuple(functions))


def _parsed(source: bytes) -> ast.Module:
    if not WRITTEN.fullmatch(source):
        raise ValueError("not printable ASCII")
    text = source.decode()
    if re.search(r"\\\n| \n", text):
        raise ValueError("a continued line, or a trailing blank")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        written = TOKENS.get(token.type)
        if written is None or not written.fullmatch(token.string):
            raise ValueError(token.string)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not is_plain(node.value):
            raise ValueError("control characters")
    return tree


def _class(module: str, definition: ast.ClassDef) -> Class:
    name = f"{module}.{definition.name}"
    if definition.decorator_list or definition.keywords or len(definition.bases) > 1:
        raise Refused(f"has a class {name} that is not written as torch.jit.save writes it")
    base = ast.unparse(definition.bases[0]) if definition.bases else ""
    attributes: dict[str, ast.expr] = {}
    methods: list[str] = []
    state = None
    for statement in definition.body:
        if isinstance(statement, ast.FunctionDef):
            _check_function(name, statement)
            methods.append(statement.name)
            if statement.name == "__setstate__":
                state = _state(name, statement)
            continue
        for value in _evaluated(statement):
            if not is_literal(value):
                raise Refused(f"computes {ast.unparse(value)!r} while {name} is loaded")
        declared = _declared(statement)
        if declared is not None:
            attributes[declared[0]] = declared[1]
        elif not isinstance(statement, ast.Assign | ast.AnnAssign | ast.Pass):
            raise Refused(f"has a class {name} that is not written as torch.jit.save writes it")
    return Class(name, base, attributes, () if base.endswith("Interface") else tuple(methods), state)


def _state(name: str, function: ast.FunctionDef) -> ast.expr:
    arguments = function.args.args
    declared = arguments[1].annotation if len(arguments) == 2 else None
    if declared is None:
        raise Refused(f"has a __setstate__ in {name} that is not written as torch.jit.save writes it")
    return declared


def _declared(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    """Name and type of an attribute without a value: `fc : Tensor` or `__annotations__["0"] = Tensor`; else None."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is None:
        return statement.target.id, statement.annotation
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
        of, key = statement.targets[0].value, statement.targets[0].slice
        if isinstance(of, ast.Name) and of.id == "__annotations__" and isinstance(key, ast.Constant):
            return str(key.value), statement.value
    return None


def _evaluated(statement: ast.stmt) -> Iterator[ast.expr]:
    """The expressions in a statement of a class body that are evaluated."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield statement.value
    if isinstance(statement, ast.Assign) and (_declared(statement) is None or len(statement.targets) > 1):
        yield statement.value


def _check_function(owner: str, function: ast.FunctionDef) -> None:
    """Raises Refused for a non-literal default, an operator that may do more than compute, or a nested function."""
    name = f"{owner}.{function.name}"
    if function.decorator_list:
        raise Refused(f"has a decorator on {name}")
    for default in (*function.args.defaults, *function.args.kw_defaults):
        if default is not None and not is_literal(default):
            raise Refused(f"computes {ast.unparse(default)!r} while {name} is loaded")
    for node in ast.walk(function):
        kind = _operator(node)
        if kind is not None and not computes(kind):
            raise Refused(f"names {kind} in {name}, which is not on the list of operators that only compute")
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
    if any(isinstance(node, inner) for node in ast.walk(function) if node is not function):
        raise Refused(f"defines a function in {name}, as torch.jit.fork does")


def _operator(node: ast.AST) -> str | None:
    """The operator that `torch.relu` or `ops.prim.data` names; else None. Others are found only in the graph."""
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id == "torch":
        return f"aten::{node.attr}"
    if (
        isinstance(node.value, ast.Attribute)
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "ops"
    ):
        return f"{node.value.attr}::{node.attr}"
    return None


def is_literal(node: ast.expr) -> bool:
    """Whether an expression is a literal: numbers, text, constants of the file, lists and tuples of these."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and is_literal(node.operand)
    if isinstance(node, ast.BinOp):  # a complex number
        return isinstance(node.op, ast.Add | ast.Sub) and all(map(_is_number, (node.left, node.right)))
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(is_literal, node.elts))
    if isinstance(node, ast.Name):
        return node.id in ("inf", "nan")
    if isinstance(node, ast.Call):
        is_device = ast.unparse(node.func) == "torch.device" and not node.keywords
        return is_device and all(isinstance(argument, ast.Constant) for argument in node.args)
    # Members of enumerations are written by their qualified names.
    return re.fullmatch(r"CONSTANTS\.c\d+|__torch__(\.\w+)+", ast.unparse(node)) is not None


def _is_number(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, int | float | complex)


def _is_version(statement: ast.stmt) -> bool:
    """Whether a statement is `op_version_set = 1`, which torch 1.4 wrote."""
    return (
        isinstance(statement, ast.Assign)
        and ast.unparse(statement.targets[0]) == "op_version_set"
        and isinstance(statement.value, ast.Constant)
    )
