"""Reads TOML files of limited size and nesting. Does not import torch."""

import re
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import durable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 2**18  # of a file: cards and protocols have a few thousand
MAX_PARTS = 50  # of a dotted key: the parser needs memory with the square of their number

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
