"""`robench list`: attacks, threats, models and so on, one line each, with their sources."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import click

from .. import protocols, renames
from ..errors import UserError, unknown
from ..problem.architectures import ARCHITECTURES
from ..problem.checkpoints.cards import Card, read_card
from ..problem.checkpoints.zoo import has_weights, zoo_addresses, zoo_card, zoo_names
from ..problem.datasets import DATASETS
from ..problem.threats import THREATS
from ..protocols.suites import ABOUT, SUITES, attacked
from ..recipes import RECIPES
from ..search.attacks import ATTACKS
from ..search.foreign import foolbox
from .costs import CostedModel, costs
from .options import debug_option
from .terminal import echo

Lines = Iterator[tuple[str, str]]


def _attacks() -> Lines:
    for a in ATTACKS.values():
        yield a.name, f"{a.source} [{', '.join(a.threats)}]"
    for name in SUITES:
        yield name, f"{ABOUT[name]} [{', '.join(attacked(name))}]"
    yield f"{foolbox.PREFIX}NAME", f"{foolbox.FoolboxAttack.source} [{', '.join(foolbox.NORMS.values())}]"


def _threats() -> Lines:
    return ((t.form, t.meaning) for t in THREATS.values())


def _protocols() -> Lines:
    return ((name, protocols.read(protocols.HERE / f"{name}.toml").description) for name in protocols.names())


def _recipes() -> Lines:
    return ((r.name, r.source) for r in RECIPES.values())


def _data() -> Lines:
    return ((d.name, f"{'x'.join(map(str, d.shape))}, {d.classes} classes. {d.about}") for d in DATASETS.values())


def _models() -> Lines:
    for name in zoo_names():
        card = read_card(zoo_card(name))
        threats = card.settings.get("threats", [])
        against = f" against {', '.join(threats)}" if threats else ""
        made = f"{card.architecture} on {card.data}, recipe {card.recipe}{against}."
        yield name, " ".join(filter(None, (made, _measured(card), _weights(name, card))))


def _weights(name: str, card: Card) -> str:
    """Whether the weights are here, or how to get them."""
    if has_weights(zoo_card(name), card):
        return "Its weights are here."
    servers = [urlsplit(url).hostname or url for url in zoo_addresses(card)]
    fetched = f"fetched from {' or '.join(servers)}, or " if servers else ""
    return f"Its weights are to be {fetched}trained."


def _measured(card: Card) -> str:
    """The measured accuracies of its card."""
    found = card.measured
    if not found:
        return ""
    shares = ", ".join(f"{key} {100 * value:.1f}" for key, value in found.items() if isinstance(value, float))
    return f"Of {found['examples']} under {found['protocol']}, percent: {shares}."


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

PRESENT: dict[str, Callable[[str], str]] = {"attacks": renames.attack, "models": renames.model}
"""Functions from a former name to the present one, by kind."""


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@click.argument("only", metavar="[NAME]", required=False)
@debug_option
@click.option("-v", "--verbose", is_flag=True, help="With protocols and models: all their settings.")
@click.option("--model", metavar="NAME|FILE", help="With protocols -v: estimate their cost for this model.")
def command(kind: str, only: str | None, verbose: bool, model: str | None) -> None:
    """List what robench offers, one line each, with its source.

    \b
    robench list attacks
    robench list protocols -v
    robench list protocols tramer2019-mnist-lp -v --model mnist-adv-linf
    """
    if kind not in KINDS:
        raise unknown("list", kind, KINDS)
    if model is not None and (kind != "protocols" or not verbose):
        raise UserError("--model estimates the cost of protocols; write robench list protocols -v --model NAME")
    costed = CostedModel.named(model) if model is not None else None
    rows = list(KINDS[kind]())
    if only is not None:
        names = [name for name, _ in rows]
        present = PRESENT.get(kind, str)(only)
        if present not in names:
            raise unknown(kind.removesuffix("s"), only, names)
        rows = [row for row in rows if row[0] == present]
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        echo(f"{name:<{width}}  {text}")
        if verbose and kind == "protocols":
            path = protocols.HERE / f"{name}.toml"
            echo(f"\n{path.read_text()}\n{costs(protocols.read(path), costed)}\n")
        if verbose and kind == "models":
            echo("\n" + zoo_card(name).read_text())
