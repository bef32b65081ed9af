"""The lists of `robench list`."""

import msgspec

from ..catalogue import Entry
from ..errors import UserError, unknown
from ..problem.checkpoints.zoo import zoo_card
from . import columns
from .offered import KINDS, entries, named, protocol_file
from .terminal import echo

FORMS = ("table", "json")


def run(kind: str, only: str | None, verbose: bool, model: str | None, form: str) -> None:
    """Runs the command; commands/list.py documents its options."""
    if kind not in KINDS:
        raise unknown("list", kind, KINDS)
    if form not in FORMS:
        raise unknown("format of a list", form, FORMS)
    if model is not None and (kind != "protocols" or not verbose):
        raise UserError("--model estimates the cost of protocols; write robench list protocols -v --model NAME")
    listed = entries(kind)
    if only is not None:
        listed = named(kind, only)
        if not listed:
            raise unknown(KINDS[kind].one, only, [entry.name for entry in entries(kind)])
    if form == "json":
        echo(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())
    elif verbose and kind == "protocols":
        costs = _costs(listed, model)
        echo("\n\n".join(_whole(e, protocol_file(e.name).read_text(), costs[e.name]) for e in listed))
    elif verbose and kind == "models":
        echo("\n\n".join(_whole(e, zoo_card(e.name).read_text()) for e in listed))
    else:
        echo(_table(kind, listed))


def _table(kind: str, listed: tuple[Entry, ...]) -> str:
    """A row for each entry; on a terminal below headings."""
    facts = KINDS[kind].columns
    rows = [[entry.name, *(entry.facts.get(key, "") for key in facts), entry.summary] for entry in listed]
    within = columns.width()
    headings = [[KINDS[kind].one, *facts, "what it is"]] if within is not None else []
    return columns.aligned([*headings, *rows], within)


def _whole(entry: Entry, *texts: str) -> str:
    """An entry with texts from the package below it."""
    return "\n\n".join([f"{entry.name}  {entry.summary}", *(text.rstrip() for text in texts)])


def _costs(listed: tuple[Entry, ...], model: str | None) -> dict[str, str]:
    """What the protocols cost, by name; for a model if one is named."""
    if model is None:
        return {entry.name: entry.details for entry in listed}
    from ..protocols import read  # with a model, which needs torch
    from .costs import CostedModel, costs

    costed = CostedModel.named(model)
    return {entry.name: costs(read(protocol_file(entry.name)), costed) for entry in listed}
