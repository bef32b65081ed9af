"""What is printed: names from files must not move the cursor, change colours or pretend to be lines of ours."""

import json

import click


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Prints text of any number of lines, with control characters written out."""
    click.echo(plain(str(text)), err=err, nl=nl)


def plain(text: str) -> str:
    """The text with every character that cannot be shown, but for line breaks and tabs, as JSON writes it."""
    return "".join(c if c.isprintable() or c in "\n\t" else json.dumps(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The same on one line."""
    return plain(" ".join(text.split()))
