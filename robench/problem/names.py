"""Names that come from files: they are printed, and become parts of file names, but never act as a path."""

from ..errors import UserError

LONGEST = 100  # characters
SHOWN = 80  # characters of a printed name
SEPARATORS = frozenset("/\\:")


def check(name: str, what: str) -> str:
    """The name. Raises UserError, which begins with `what`, if it could act as a path or cannot be printed."""
    fault = (
        ("is empty" if not name else "")
        or (f"has {len(name)} characters" if len(name) > LONGEST else "")
        or ("begins with a dot" if name.startswith(".") else "")
        or ("holds a slash, a backslash or a colon" if SEPARATORS & set(name) else "")
        or ("" if name.isprintable() else "holds characters that cannot be printed")
    )
    if fault:
        shown = ascii(name if len(name) <= LONGEST else f"{name[:LONGEST]}...")
        raise UserError(
            f"{what} {shown}, which {fault}; a name has 1 to {LONGEST} printable characters, no slash, "
            "backslash or colon, and no dot at its beginning"
        )
    return name


def as_file_name(text: str) -> str:
    """The text as a part of a file name. A name that `check` accepts is returned unchanged."""
    safe = "".join(c if c.isprintable() and c not in SEPARATORS else "-" for c in text)
    return safe.lstrip(".")[:LONGEST] or "unnamed"


def shown(name: str) -> str:
    """A name from a file in printable form: on one line, and not too long."""
    text = name if name.isprintable() else name.encode("unicode_escape").decode()
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
