"""Names that come from files: they are shown, and become part of file names, but never say where a file lies."""

from ..errors import UserError

LONGEST = 100  # characters
SEPARATORS = frozenset("/\\:")


def check(name: str, what: str) -> str:
    """The name. Raises UserError, which begins with `what`, where it could be taken for a path or cannot be shown."""
    wrong = (
        ("is empty" if not name else "")
        or (f"has {len(name)} characters" if len(name) > LONGEST else "")
        or ("begins with a dot" if name.startswith(".") else "")
        or ("holds a slash, a backslash or a colon" if SEPARATORS & set(name) else "")
        or ("" if name.isprintable() else "holds characters that cannot be shown")
    )
    if wrong:
        shown = ascii(name if len(name) <= LONGEST else f"{name[:LONGEST]}...")
        raise UserError(
            f"{what} {shown}, which {wrong}; a name has 1 to {LONGEST} characters that can be shown, no slash, "
            "backslash or colon, and no dot at its beginning"
        )
    return name


def as_file_name(text: str) -> str:
    """The text as a part of a file name. What `check` accepts stays as it is."""
    safe = "".join(c if c.isprintable() and c not in SEPARATORS else "-" for c in text)
    return safe.lstrip(".")[:LONGEST] or "unnamed"
