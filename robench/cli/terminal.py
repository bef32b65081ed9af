"""Safe printing: names from files must not move the cursor, change colours or imitate lines of robench."""

import json

import click

LONGEST = 1600  # characters of a message


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Prints text of any number of lines, with control characters escaped."""
    click.echo(plain(str(text)), err=err, nl=nl)


def plain(text: str) -> str:
    """The text with unprintable characters escaped as in JSON, except line breaks and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else json.dumps(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The text on one line, with unprintable characters escaped."""
    return plain(" ".join(text.split()))


def shortened(text: str) -> str:
    """The text without the middle of a very long one."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
