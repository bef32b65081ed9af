"""Checks that the objects of an archive have the types that its code declares.

torch takes the type of an attribute from the declaration, and reads the object's memory accordingly, without a check.
"""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .archive import shortened
from .inspection import Refused
from .pickles import Made, Pickle, Plain, Sequence, Table
from .source import Class

NUMBERS = {"number": ("int", "float", "bool", "complex"), "Scalar": ("int", "float", "bool", "complex")}
PLAIN = ("Tensor", "int", "float", "bool", "complex", "str", "Device", "NoneType")


def check(pickle: Pickle, classes: Mapping[str, Class]) -> None:
    """Raises Refused for the first object that differs from its class declaration, or value that is not of its type."""
    for made in pickle.objects:
        declared = classes[made.name]
        if declared.base == "Enum":
            continue
        if declared.state is not None:
            _check(made.state, declared.state, f"the state of {made.name}", classes)
            continue
        if not isinstance(made.state, Table):
            raise Refused(f"holds an object of {made.name} without attributes")
        slots = {key.value: value for key, value in made.state.pairs if isinstance(key, Plain)}
        for name, kind in declared.attributes.items():
            if name not in slots:
                raise Refused(f"holds an object of {made.name} without {name}")
            _check(slots[name], kind, f"{made.name}.{name}", classes)
            if isinstance(slots[name], Made) and hasattr(torch.jit.ScriptModule, name):
                raise Refused(f"has a submodule {made.name}.{name}, which would take the place of a method")
    for value, tag in pickle.tagged:
        try:
            kind = ast.parse(tag, mode="eval").body
        except (SyntaxError, ValueError):
            raise Refused(f"holds a value of type {shortened(tag)!r} in {pickle.record}") from None
        _check(value, kind, f"a value in {pickle.record}", classes)


def _check(value: Any, declared: ast.expr, where: str, classes: Mapping[str, Class]) -> None:
    if not fits(value, declared, classes):
        raise Refused(f"declares {where} as {shortened(ast.unparse(declared))} and holds something else there")


def fits(value: Any, declared: ast.expr, classes: Mapping[str, Class]) -> bool:
    """Whether a value has the declared type. No value has an unknown type."""
    if isinstance(declared, ast.Subscript):
        inner = declared.slice
        kinds = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        return _fits_parts(value, ast.unparse(declared.value), kinds, classes)
    text = ast.unparse(declared)
    if text in classes:
        return _fits_class(value, classes[text], classes)
    if text == "Any":
        return True
    return isinstance(value, Plain) and value.kind in NUMBERS.get(text, [text] if text in PLAIN else [])


def _fits_parts(value: Any, outer: str, kinds: list[ast.expr], classes: Mapping[str, Class]) -> bool:
    if outer == "Optional":
        return value == Plain("NoneType") or fits(value, kinds[0], classes)
    if outer == "Union":
        return any(fits(value, kind, classes) for kind in kinds)
    if outer == "Dict" and isinstance(value, Table):
        return _all(([k for k, _ in value.pairs], kinds[0]), ([v for _, v in value.pairs], kinds[1]), classes=classes)
    if isinstance(value, Sequence) and value.kind == outer == "List":
        return _all((value.items, kinds[0]), classes=classes)
    if isinstance(value, Sequence) and value.kind == outer == "Tuple":
        return _fits_each(value.items, kinds, classes)
    return False


def _fits_class(value: Any, declared: Class, classes: Mapping[str, Class]) -> bool:
    if declared.base == "NamedTuple" and isinstance(value, Sequence):
        return value.kind == "Tuple" and _fits_each(value.items, list(declared.attributes.values()), classes)
    return isinstance(value, Made) and value.name == declared.name


def _fits_each(values: list[Any], kinds: list[ast.expr], classes: Mapping[str, Class]) -> bool:
    return len(values) == len(kinds) and all(fits(v, kind, classes) for v, kind in zip(values, kinds, strict=True))


def _all(*groups: tuple[Iterable[Any], ast.expr], classes: Mapping[str, Class]) -> bool:
    return all(fits(value, kind, classes) for values, kind in groups for value in values)
