"""Checks that compiled TorchScript uses only operators that compute."""

from collections.abc import Collection, Iterator
from typing import Any

import torch

from .archive import reason
from .inspection import Damaged, Refused
from .operators import computes

DEEPEST = 64  # levels of nested blocks; hand-written code has fewer than ten
_PLAIN = """
    AnyEnumType AnyListType AnyTupleType AnyType BoolType ComplexType DeviceObjType EnumType FloatType FunctionType
    IntType NoneType NumberType StringType TensorType
    """
PLAIN = frozenset(_PLAIN.split())
NESTING = frozenset(["DictType", "ListType", "OptionalType", "TupleType", "UnionType"])
UNSURE = frozenset(["AnyListType", "AnyTupleType", "AnyType", "ClassType", "TupleType"])
"""Types whose values torch uses without a check; it checks values of other types whenever they are used."""


def load(archive: bytes) -> tuple[Any, Any]:
    """The compiled functions of an archive, and its object. Raises Damaged if torch cannot read it."""
    unit: Any = torch._C.CompilationUnit()
    try:
        module = torch._C.import_ir_module_from_buffer(unit, archive, torch.device("cpu"), {}, False)  # type: ignore
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Damaged(reason(error)) from None
    return unit, module


def check(unit: Any, classes: Collection[str], *, inlined: bool) -> None:
    """Raises Refused for the first operator in any function that may do more than compute, or cannot be resolved.

    With `inlined`, also follows every call, including those of functions of torch itself.
    """
    for function in unit.get_functions():
        name = function.qualified_name.removeprefix("__torch__.")
        for node in _nodes(function.graph, name):
            _check_node(node, name, classes)
        if inlined:
            graph = function.graph.copy()
            torch._C._jit_pass_inline(graph)
            for node in _nodes(graph, name):
                _check_node(node, name, classes)
                if node.kind() in ("prim::CallFunction", "prim::CallMethod"):
                    raise Refused(f"makes a call in {name} that cannot be followed")


def read_source_ranges(unit: Any) -> None:
    """Reads the debug records that torch reads to show the source of an error. Raises Damaged if it cannot."""
    try:
        for function in unit.get_functions():
            for node in function.graph.nodes():
                node.sourceRange()
    except (RuntimeError, ValueError) as error:
        raise Damaged(reason(error)) from None


def _nodes(block: Any, name: str, depth: int = 0) -> Iterator[Any]:
    if depth > DEEPEST:
        raise Refused(f"nests blocks more than {DEEPEST} deep in {name}")
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner, name, depth + 1)


def _check_node(node: Any, name: str, classes: Collection[str]) -> None:
    kind = node.kind()
    if not computes(kind):
        raise Refused(f"uses {kind} in {name}, which is not on the list of operators that only compute")
    if any(node.kindOf(attribute) in ("g", "gs") for attribute in node.attributeNames()):
        raise Refused(f"has a graph inside {kind} in {name}")
    for value in (*node.inputs(), *node.outputs()):
        strange = _strange(value.type(), classes)
        if strange is not None:
            raise Refused(f"uses a value of type {strange} in {name}")
    if kind == "prim::unchecked_cast":
        _check_cast(node, name)


def _check_cast(node: Any, name: str) -> None:
    """Raises Refused for an unchecked cast of a class or a tuple to another: torch would read foreign memory.

    A cast from an optional, or to a supertype, is safe: torch detects None.
    """
    source, target = node.input().type(), node.output().type()
    narrows = source.kind() == "OptionalType" and source.getElementType() == target
    holds = narrows or source.kind() == "NoneType" or source.isSubtypeOf(target)
    if not holds and any(kind in UNSURE for kind in _kinds(target)):
        raise Refused(f"takes a {source.str()} for a {target.str()} unchecked in {name}")


def _kinds(held: Any) -> Iterator[str]:
    yield held.kind()
    if held.kind() in NESTING:
        for inner in held.containedTypes():
            yield from _kinds(inner)


def _strange(held: Any, classes: Collection[str]) -> str | None:
    """The first type in this one that is neither plain nor a class of the archive; None without one."""
    kind = held.kind()
    if kind in PLAIN or (kind == "ClassType" and held.annotation_str in classes):
        return None
    if kind not in NESTING:
        text: str = held.annotation_str
        return text
    return next((strange for inner in held.containedTypes() if (strange := _strange(inner, classes))), None)
