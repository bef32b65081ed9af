"""Every message that docs/troubleshooting.md quotes is one that the code can print."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
VALUE = "\0"  # stands for a value in a text of the code


@lru_cache
def texts() -> frozenset[str]:
    """Every text in the package but docstrings, with a mark where a value is put into it."""
    found = set()
    for path in sorted((ROOT / "robench").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        alone = {node.value for node in nodes if isinstance(node, ast.Expr)}  # docstrings
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in alone:
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else VALUE for p in node.values]
                found.add("".join(map(str, parts)))
    return frozenset(found)


def occurs(message: str) -> bool:
    """Whether one text of the code has the parts of a message between its dots, in their order."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.", message) if part.strip()]
    wanted = re.compile(".*".join(parts), re.S)
    return any(wanted.search(text) for text in texts())


def messages() -> list[str]:
    """The code in the first column of the page's tables, and at the beginning of its last list."""
    rows = re.findall(r"^\| `([^`]+)`", PAGE, re.M)
    return [*rows, *re.findall(r"^- \*\*`([^`]+)`", PAGE, re.M)]


@pytest.mark.costly
@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_occurs_in_the_code(message):
    assert len(message.replace("...", "").strip()) >= 8, "too short to find a message by"
    assert occurs(message)


def test_the_page_quotes_many_messages_each_once():
    assert len(messages()) > 100
    assert len(set(messages())) == len(messages())


@pytest.mark.costly
def test_a_message_that_the_code_lacks_is_not_found():
    assert not occurs("the moon is full; wait for another")
    assert not occurs("a card ... lies on the moon")
