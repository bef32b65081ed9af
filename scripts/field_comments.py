"""Lets the API pages show what the comment beside a field says: this code base describes fields there."""

import io
import tokenize
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldComments(Extension):
    """Makes the comment at the end of a field its docstring, where it has none."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.lineno is not None:
            comment = _comment("\n".join(attr.lines))
            if comment:
                attr.docstring = Docstring(comment[0].upper() + comment[1:], parent=attr)


def _comment(source: str) -> str:
    """The comment in the lines of one field; empty if there is none."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source.strip()).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    return " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
