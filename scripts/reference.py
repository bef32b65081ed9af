"""Writes the pages of docs/reference that follow from the code: the commands, and the catalogue of names.

    python scripts/reference.py           # write them
    python scripts/reference.py --check   # exit 1 if a committed page differs

Imports no torch: commands come from click, names from `robench/catalogue/catalogue.json`.
"""

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from robench.catalogue import Entry, Setting, catalogue
from robench.cli.main import COMMANDS, robench

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MARK = "<!-- Written by scripts/reference.py. Change the code that it reads, and run it again. -->"
KINDS = {
    "attacks": (
        "All attacks",
        "Every attack with its settings, the defaults, and the values that each takes. An attack is written "
        "`pgd(steps=200, restarts=10)`; `restarts` goes with all of them. [Attacks](../attacks.md) compares them.",
    ),
    "threats": (
        "All threat models",
        "Every kind of threat model, written here with the radius of its example. Radii are for pixels in [0, 1]. "
        "[Threat models](../../concepts/threat-models.md) explains what they are.",
    ),
    "protocols": (
        "All protocols",
        "Every named protocol with its threats, its attacks and every number. [Protocols](../protocols.md) explains "
        "how they were chosen, and how to write one.\n\n"
        "The tables have the costs of an example. One that no attack breaks costs the last total; one that an attack "
        "breaks costs more than the total above its row, and at most that in its row. A gradient is a forward and a "
        "backward pass. A free slot starts the next attack early, which adds queries; an image found under one threat "
        "may break its example under another, which saves some.",
    ),
    "recipes": (
        "All recipes",
        "Every way to train a model, with its settings, the defaults, and the values that each takes. "
        "[Recipes](../recipes.md) compares them.",
    ),
    "data": ("All data sets", "Every data set with a name. [Data](../data.md) has your own images as well."),
    "architectures": (
        "All architectures",
        "Every architecture that is recognised by its weights, or named with `--arch`. "
        "[Checkpoints](../checkpoints.md) explains how to bring your own.",
    ),
}
"""The kinds of the catalogue: the title of their page, and how it begins."""

LEGEND = "\n\nstanding: "
"""Begins what the costs of every protocol end with; the page has it once."""


def pages() -> dict[str, str]:
    """Every page, by its path below docs/reference."""
    written = {"commands/index.md": index()} | {f"commands/{name}.md": command_page(name) for name in COMMANDS}
    written |= {f"catalogue/{kind}.md": catalogue_page(kind) for kind in KINDS}
    return {path: f"{MARK}\n\n{_wrapped(text).strip()}\n" for path, text in written.items()}


def _wrapped(text: str) -> str:
    """The page with lines of at most 120 columns; blocks of code and tables keep theirs."""
    pieces = re.split(r"^(```.*?^```)$", text, flags=re.M | re.S)
    return "".join(
        piece if piece.startswith("```") else re.sub(r"^(?!\|).{121,}$", _filled, piece, flags=re.M) for piece in pieces
    )


def _filled(line: re.Match[str]) -> str:
    hanging = " " * (len(line[0]) - len(line[0].lstrip(" -")))
    return textwrap.fill(line[0], 120, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def index() -> str:
    """The page of all commands."""
    rows = "\n".join(f"| [`{name}`]({name}.md) | {about} |" for name, about in COMMANDS.items())
    return f"""# Commands

| command | what it does |
| --- | --- |
{rows}

`robench COMMAND --help` prints what these pages have. Every command prints its result on standard output and notes on
standard error, reports invalid input in one sentence, and ends with one of the [exit codes](../exit-codes.md).
`--debug` adds a traceback to an error.
"""


def command_page(name: str) -> str:
    """What `robench NAME --help` prints, as a page."""
    context = click.Context(robench, info_name="robench", **robench.context_settings)
    command = robench.get_command(context, name)
    assert command is not None, name
    assert command.help is not None, name
    inner = click.Context(command, info_name=name, parent=context)
    usage = " ".join(command.collect_usage_pieces(inner))
    text, examples = _paragraphs(command.help)
    parts = [f"# robench {name}", *text, f"```text\nUsage: robench {name} {usage}\n```"]
    if examples:
        parts += ["## Examples", f"```sh\n{examples}\n```"]
    records = [
        r for p in command.get_params(inner) if (r := p.get_help_record(inner)) and r[1]
    ]  # arguments have no help
    parts += ["## Options", "\n".join(_option(*record) for record in records)]
    return "\n\n".join(parts)


def _paragraphs(text: str) -> tuple[list[str], str]:
    """The text of a command's help as Markdown, and its examples. A paragraph marked \\b keeps its lines."""
    found, examples = [], ""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.split("\n")
        if lines[0] != "\b":
            found.append(_prose(" ".join(lines)))
        elif all(line.startswith("robench ") for line in lines[1:]):
            examples = "\n".join(lines[1:])
        else:
            rows = [re.split(r"  +", line, maxsplit=1) for line in lines[1:]]
            found.append("\n".join(f"- `{name}`: {_prose(about)}" for name, about in rows))
    return found, examples


def _option(names: str, about: str) -> str:
    """An option as an item; what click adds in brackets, such as the default, comes last."""
    text, *notes = re.split(r"  \[([^\]]*)\]", about)
    shown = [_note(note) for added in notes for note in added.split("; ") if note]
    return " ".join([f"- `{names}`: {_prose(text)}", *shown])


def _note(note: str) -> str:
    name, colon, value = note.partition(": ")
    if "x" in name and re.search("[<>]", name):
        return f"Range: `{name}`."
    return f"{name.capitalize()}{colon}{_prose(value)}."


CODE = re.compile(
    r"(--[a-z][\w-]*(?: [A-Z]{2,}\b)?"  # an option
    r"|(?<![\w.])[\w./*-]*\.(?:npz|png|csv|parquet|toml|json|pyc?|ptk?|pth|safetensors)\b(?::\w+)?)"  # a file
)


def _prose(text: str) -> str:
    """Plain text as Markdown: options and files become code, signs of Markdown stay what they are."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else CODE.sub(r"`\1`", re.sub(r"([*<>|\[\]])", r"\\\1", piece))
        for piece in pieces
    )


def catalogue_page(kind: str) -> str:
    """A page with every entry of one kind."""
    title, beginning = KINDS[kind]
    return "\n\n".join([f"# {title}", beginning, *(part for e in catalogue()[kind] for part in _entry(kind, e))])


def _entry(kind: str, entry: Entry) -> Iterator[str]:
    yield f"## `{entry.name}`"
    summary = entry.summary[0].upper() + entry.summary[1:].rstrip(".")
    if not entry.about:
        yield f"{_linked(summary)}."
    yield from (_linked(paragraph) for text in entry.about.split("\n\n") for paragraph in _joined(text))
    facts = {"source": entry.summary} if entry.about and "http" in entry.summary else {}
    facts |= {name: value for name, value in entry.facts.items() if value}
    facts |= {"also written": ", ".join(entry.also)} if entry.also else {}
    if facts:
        yield "\n".join(_fact(name, value) for name, value in facts.items())
    if entry.settings:
        yield "\n".join(
            ["| setting | default | meaning and values |", "| --- | --- | --- |", *map(_setting, entry.settings)]
        )
    if entry.details:
        yield f"```text\n{entry.details.partition(LEGEND)[0]}\n```"
    yield f"```sh\n{entry.example}\n```"


def _joined(text: str) -> Iterator[str]:
    """A paragraph of a docstring without its line ends; a list has a line for each item."""
    before, *items = re.split(r"^\* ", text, flags=re.M)
    if before.strip():
        yield " ".join(before.split())
    if items:
        yield "\n".join(f"- {' '.join(item.split())}" for item in items)


def _fact(name: str, value: str) -> str:
    """A fact as an item; one of several lines has them below it."""
    lines = value.split("\n")
    if len(lines) == 1 and " is " not in value:
        return f"- {name}: {_linked(value)}"
    below = [re.sub(r"^(\S+) is (.*?\))(.*)$", r"    - \1: `\2`\3", line) for line in lines]
    return f"- {name}:\n" + "\n".join(below)


def _setting(setting: Setting) -> str:
    meaning = f"{setting.about} ({setting.values})" if setting.about else setting.values
    return f"| `{setting.name}` | `{setting.default}` | {_linked(meaning)} |"


def _linked(text: str) -> str:
    """Plain text as Markdown, with its addresses as links."""
    pieces = re.split(r"(https?://[^\s,;)]*[^\s,;:).])", text)
    return "".join(f"<{p}>" if p.startswith("http") else _prose(p) for p in pieces)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Writes the pages of docs/reference that follow from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a committed page differs")
    check = parser.parse_args().check
    different = [path for path, text in pages().items() if not _same(FOLDER / path, text)]
    if check:
        print(*(f"docs/reference/{path} differs; run python scripts/reference.py" for path in different), sep="\n")
        sys.exit(bool(different))
    for path in different:
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(pages()[path])


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    main()
