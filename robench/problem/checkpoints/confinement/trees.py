"""What a program returns, as a tree without tensors: containers by kind, and tensors by number.

The text of a tree comes from the program's process, so whatever it holds becomes a plain container or nothing.
"""

from collections import namedtuple
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from torch import Tensor

from .tensors import is_plain

Tree = list[Any]
"""["tensor", number], ["tuple" or "list", trees], ["dict", keys, trees], ["named", class, fields, trees] of a named
tuple, or ["other", class]."""

DEEPEST = 4  # containers within each other
PARTS = 1000  # of one container


class NoTree(Exception):  # noqa: N818
    """A text that is no tree of so many tensors."""


def taken_apart(returned: object, tensors: list[Tensor], depth: int = 0) -> Tree:
    """The tree of what was returned; appends its tensors."""
    if isinstance(returned, Tensor) and is_plain(returned):
        tensors.append(returned)
        return ["tensor", len(tensors) - 1]
    if isinstance(returned, Mapping | list | tuple) and depth < DEEPEST and len(returned) <= PARTS:
        if isinstance(returned, Mapping):
            named = {key: part for key, part in returned.items() if isinstance(key, str)}
            return ["dict", list(named), [taken_apart(part, tensors, depth + 1) for part in named.values()]]
        trees = [taken_apart(part, tensors, depth + 1) for part in returned]
        if fields := getattr(returned, "_fields", None):
            return ["named", type(returned).__name__, list(fields), trees]
        return ["tuple" if isinstance(returned, tuple) else "list", trees]
    return ["other", type(returned).__name__]


def put_together(tree: Any, tensors: list[Tensor], depth: int = 0) -> Any:
    """What was returned, with these tensors. Raises NoTree for what `taken_apart` does not make."""
    match tree:
        case ["tensor", int(number)] if 0 <= number < len(tensors):
            return tensors[number]
        case ["other", str(name)]:
            return type(_name(name), (), {})()
        case [kind, *about, list(trees)] if depth < DEEPEST and len(trees) <= PARTS:
            parts = [put_together(one, tensors, depth + 1) for one in trees]
            match kind, about:
                case "tuple", []:
                    return tuple(parts)
                case "list", []:
                    return parts
                case "dict", [list(keys)] if len(keys) == len(parts) and all(isinstance(k, str) for k in keys):
                    return dict(zip(keys, parts, strict=True))
                case "named", [str(name), list(fields)] if len(fields) == len(parts):
                    made = namedtuple(_name(name), [_name(field) for field in fields], rename=True)  # type: ignore[misc]
                    return made(*parts)
    raise NoTree


def _name(text: object) -> str:
    """The text if it can name a class or a field."""
    if not isinstance(text, str) or not text.isidentifier() or not text.isascii() or iskeyword(text):
        return "Unnamed"
    return text[:100]
