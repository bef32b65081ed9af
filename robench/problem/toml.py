"""Reads TOML files of limited size and nesting. Does not import torch."""

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import UserError, counted
from . import durable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 2**18  # of a file: cards and protocols have a few thousand
MAX_PARTS = 50  # of a dotted key: the parser needs memory with the square of their number

T = TypeVar("T")

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
"""What msgspec calls a type, and what a reader of TOML does."""

_PLACE = r"(?: - at `\$\.?(.*)`)?"
_WRONG = re.compile(rf"Expected `([^`]+)`( of length)?(?: ([<>]=?) (\S+))?(?:, got `?(\w+)`?)?{_PLACE}")
_MISSING = re.compile(rf"Object missing required field `(.*?)`{_PLACE}")
_LIMITS = {">=": "of at least", "<=": "of at most", ">": "above", "<": "below"}

# A string or a comment. Keys end at the signs of _ENDS, outside of strings.
_TEXT = re.compile(r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)
_ENDS = re.compile(r"[=,{}\[\]\n]")


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises UserError, which names the file, if it is none, too large or nested deeply."""
    try:
        text = durable.read(path, MAX_BYTES).decode()
        if any(key.count(".") >= MAX_PARTS for key in _ENDS.split(_TEXT.sub("", text))):
            raise UserError(f"{path} has a key of more than {MAX_PARTS} parts; write shorter keys")
        return tomllib.loads(text)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; write it with fewer brackets") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except ValueError:  # Python reads whole numbers of at most 4,300 digits
        raise UserError(f"{path} holds a number with too many digits; write a smaller one") from None


def converted(table: dict[str, Any], kind: type[T]) -> T:
    """The table as a value of this type. Raises UserError that names the wrong or missing key, in a reader's words."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UserError(in_words(str(error))) from None


def in_words(message: str) -> str:
    """What msgspec says of a wrong value, with the names that TOML has for types.

    Expected `int`, got `str` - at `$.classes`: `classes` must be a whole number, and is a text.
    """
    if match := _MISSING.fullmatch(message):
        return f"`{match[1]}` is missing" + (f" in `{match[2]}`" if match[2] else "")
    if match := _WRONG.fullmatch(message):
        expected, length, sign, limit, got, place = match.groups()
        wanted = " or ".join(KINDS.get(name, name) for name in expected.split(" | ") if name != "null")
        if sign:
            size = counted(int(limit), "character" if expected == "str" else "value") if length else limit
            wanted += f" {_LIMITS[sign]} {size}"
        return f"{f'`{place}`' if place else 'it'} must be {wanted}" + (
            f", and is {KINDS.get(got, got)}" if got else ""
        )
    return f"{message[:1].lower()}{message[1:].replace('$.', '')}"
