"""One thing in full, for `robench show`."""

import os
import re

import msgspec

from ..catalogue import Entry, Setting
from ..errors import UserError, unknown
from . import columns
from .columns import aligned, wrapped
from .offered import KINDS, entries, named
from .terminal import echo


def run(name: str, form: str) -> None:
    """Runs the command; commands/show.py documents its options."""
    if form not in ("text", "json"):
        raise unknown("format", form, ("text", "json"))
    found = [(kind, entry) for kind in KINDS for entry in named(kind, name)]
    found = found or [("architectures", entry) for entry in _member(name)]
    if not found:
        raise _unknown(name)
    if form == "json":
        things = [{"kind": KINDS[kind].one, **msgspec.to_builtins(entry)} for kind, entry in found]
        echo(msgspec.json.format(msgspec.json.encode(things), indent=2).decode())
    else:
        echo("\n\n\n".join(_shown(KINDS[kind].one, entry, columns.width()) for kind, entry in found))


def _member(name: str) -> list[Entry]:
    """A member of a family of architectures that no list has. Their names have numbers; others wait for no torch."""
    if not re.search(r"\d", name):
        return []
    from .architectures import member

    return member(name)


def _shown(kind: str, entry: Entry, within: int | None) -> str:
    """What it is, its facts, its settings with defaults and ranges, and a command that uses it."""
    facts = [["  " + key, text] for key, text in entry.facts.items()]
    first, *others = ("\n".join(wrapped(text, within, 2)) for text in _description(entry))
    parts = [
        f"{entry.name} ({kind})\n{first}",
        *others,
        aligned(facts, within) if facts else "",
        "Settings\n" + _settings(entry.settings, within) if entry.settings else "",
        entry.details,
        f"Example\n  {entry.example}" if entry.example else "",
    ]
    return "\n\n".join(part for part in parts if part.strip())


def _description(entry: Entry) -> list[str]:
    """Its paragraphs: the line of the list, unless its links or its words follow anyway, and the text about it."""
    about = [" ".join(paragraph.split()) for paragraph in entry.about.split("\n\n") if paragraph.strip()]
    sources = _links(entry.summary)
    repeated = bool(sources) and sources <= _links(entry.about)
    repeated |= bool(about) and _words(entry.summary) <= _words(about[0])
    return about if repeated else [entry.summary, *about]


def _words(text: str) -> set[str]:
    """The words of a sentence, without those that say nothing by themselves."""
    return set(re.findall(r"[^\W_]+", text.lower())) - {"a", "all", "an", "of", "the", "to"}


def _links(text: str) -> set[str]:
    return set(re.findall(r"https?://\S*[^\s.,;:)]", text))


def _settings(settings: tuple[Setting, ...], within: int | None) -> str:
    rows = [[f"  {s.name}", s.default, f"{s.about} ({s.values})" if s.about else s.values] for s in settings]
    return aligned([["  name", "default", "meaning and values"], *rows], within)


def _unknown(name: str) -> UserError:
    """The nearest names of any kind, or where to find names."""
    if os.path.isfile(name) or name.endswith(".robench"):
        return UserError(
            f"{name} is a file, and robench show takes a name; robench report prints a run file, robench inspect shows"
            " a checkpoint"
        )
    every = sorted({entry.name for kind in KINDS for entry in entries(kind)})
    error = unknown("attack, threat, protocol, recipe, data set, model or architecture", name, every)
    if "did you mean" in str(error):
        return error
    return UserError(f"{str(error).partition(';')[0]}; robench list {'|'.join(KINDS)} shows the names")
