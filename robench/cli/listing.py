"""`robench list`: what is there, one line each, with its source."""

from collections.abc import Callable, Iterator

import click

from .. import protocols
from ..errors import unknown
from ..problem.architectures import ARCHITECTURES
from ..problem.checkpoints.cards import read_card, zoo_card, zoo_names
from ..problem.datasets import DATASETS
from ..problem.threats import THREATS
from ..recipes import RECIPES
from ..search.attacks import ATTACKS
from .options import debug_option

Lines = Iterator[tuple[str, str]]


def _attacks() -> Lines:
    return ((a.name, f"{a.source} [{', '.join(a.threats)}]") for a in ATTACKS.values())


def _threats() -> Lines:
    return ((f"{t.name}:RADIUS", t.meaning) for t in THREATS.values())


def _protocols() -> Lines:
    return ((name, protocols.read(protocols.HERE / f"{name}.toml").description) for name in protocols.names())


def _recipes() -> Lines:
    return ((r.name, r.source) for r in RECIPES.values())


def _data() -> Lines:
    return ((d.name, f"{'x'.join(map(str, d.shape))}, {d.classes} classes. {d.about}") for d in DATASETS.values())


def _models() -> Lines:
    for name in zoo_names():
        card = read_card(zoo_card(name))
        yield name, f"{card.architecture} on {card.data}, recipe {card.recipe}. {card.notes}".strip()


def _architectures() -> Lines:
    return ((a.name, a.description) for a in ARCHITECTURES.values())


KINDS: dict[str, Callable[[], Lines]] = {
    "attacks": _attacks,
    "threats": _threats,
    "protocols": _protocols,
    "recipes": _recipes,
    "data": _data,
    "models": _models,
    "architectures": _architectures,
}


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@debug_option
@click.option("-v", "--verbose", is_flag=True, help="With protocols and models: all their numbers.")
def command(kind: str, verbose: bool) -> None:
    """What is there, one line each, with its source.

    \b
    robench list attacks
    robench list protocols -v
    """
    if kind not in KINDS:
        raise unknown("list", kind, KINDS)
    rows = list(KINDS[kind]())
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"{name:<{width}}  {text}")
        if verbose and kind == "protocols":
            click.echo("\n" + (protocols.HERE / f"{name}.toml").read_text())
        if verbose and kind == "models":
            click.echo("\n" + zoo_card(name).read_text())
