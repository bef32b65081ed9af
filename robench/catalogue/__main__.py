"""Writes the catalogue: `python -m robench.catalogue`."""

import functools
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from .. import protocols
from .. import settings as settings_of
from ..cli.architectures import architecture_entry
from ..cli.costs import costs
from ..errors import UserError
from ..problem import threats
from ..problem.architectures import ARCHITECTURES
from ..problem.datasets import DATASETS, DataSet
from ..problem.threats import THREATS, ThreatModel
from ..protocols import AttackChoice, Protocol
from ..protocols.suites import ABOUT, SUITES, attacked
from ..recipes import RECIPES, configure
from ..recipes.recipe import Recipe
from ..search import attack as interface
from ..search.attack import AnyAttack
from ..search.attacks import ATTACKS
from ..search.foreign import foolbox
from . import FILE, Entry, Setting

MODEL = "digits-adv-linf"  # the bundled model of the examples
READS: tuple[tuple[type[Any], str], ...] = (
    (interface.GradientAttack, "gradients"),
    (interface.ScoreAttack, "logits"),
    (interface.LabelAttack, "labels"),
    (interface.ForeignAttack, "the whole model"),
)
TRIED = ((), ("linf:0.2",), ("rt:3px,30deg",), ("linf:0.2", "l2:2"), ("linf:0.2", "l2:2", "l1:10"))
"""Threats of the example of a recipe: the first that it trains against."""


def made() -> dict[str, list[Entry]]:
    """The catalogue, from the classes."""
    return {
        "attacks": [*map(_attack, ATTACKS.values()), *map(_suite, SUITES), _foolbox()],
        "threats": list(map(_threat, THREATS.values())),
        "protocols": [_protocol(_read(name)) for name in protocols.names()],
        "recipes": recipes(),
        "data": list(map(_data, DATASETS.values())),
        "architectures": list(map(architecture_entry, ARCHITECTURES.values())),
    }


def encoded(entries: Mapping[str, Sequence[Entry]]) -> bytes:
    """The content of the file: a line for each value, so that branches merge."""
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def recipes() -> list[Entry]:
    """Those of the catalogue, from the classes."""
    return list(map(_recipe, RECIPES.values()))


def _attack(kind: type[AnyAttack]) -> Entry:
    reads = next(text for base, text in READS if issubclass(kind, base))
    example = f"robench evaluate {MODEL} --threat {THREATS[kind.threats[0]].form} --attack {kind.name}"
    facts = {"threats": ", ".join(kind.threats), "reads": reads}
    return Entry(kind.name, kind.source, facts, _about(kind), _settings(kind), example=example)


def _suite(name: str) -> Entry:
    facts = {"threats": ", ".join(attacked(name)), "reads": "see its attacks"}
    details = "\n".join(
        f"{threat:<5} {', '.join(str(entry.get('label', entry['attack'])) for entry in entries)}"
        for threat, entries in SUITES[name].items()
    )
    return Entry(
        name, ABOUT[name], facts, details=details, example=f"robench evaluate {MODEL} --threat l2:2 --attack {name}"
    )


def _foolbox() -> Entry:
    example = f"robench evaluate {MODEL} --threat l2:2 --attack 'foolbox:DDNAttack(steps=20)'"
    facts = {"threats": ", ".join(foolbox.NORMS.values()), "reads": "the whole model"}
    return Entry(f"{foolbox.PREFIX}NAME", foolbox.FoolboxAttack.source, facts, example=example)


def _threat(kind: type[ThreatModel]) -> Entry:
    facts = {
        "attacks": ", ".join(a.name for a in ATTACKS.values() if kind.name in a.threats),
        "protocols": ", ".join(
            name for name in protocols.names() if any(t.threat.name == kind.name for t in _read(name).threats)
        ),
    }
    protocol = "" if _fits("quick", kind.form) else " --protocol standard"
    example = f"robench evaluate {MODEL} --threat {kind.form}{protocol}"
    return Entry(kind.form, kind.meaning, facts, _about(kind), example=example, also=(kind.name,))


@functools.cache
def _read(name: str) -> Protocol:
    return protocols.read(protocols.HERE / f"{name}.toml")


def _fits(protocol: str, threat: str) -> bool:
    """Whether the protocol has attacks for this threat."""
    try:
        return bool(protocols.load(protocol, "digits").with_threats([threat]).threats)
    except UserError:
        return False


def _protocol(protocol: Protocol) -> Entry:
    facts = {
        "data": protocol.data or "any",
        "examples": protocol.examples or "all",
        "threats": ", ".join(str(choice.threat) for choice in protocol.threats),
        "seed": str(protocol.seed),
    }
    if protocol.eot is not None:
        facts["passes"] = f"{protocol.eot}, of a model that answers at random"
    facts |= {f"under {choice.threat}": "\n".join(map(_choice, choice.attacks)) for choice in protocol.threats}
    example = f"robench evaluate model.pt --data {protocol.data or 'mnist'} --protocol {protocol.name}"
    return Entry(protocol.name, protocol.description, facts, details=costs(protocol, None), example=example)


def _choice(choice: AttackChoice) -> str:
    """An attack of a protocol with every number, and on which examples it runs."""
    parts = [f"{choice.label} is {choice.attack.spec}"]
    parts += [f"{choice.restarts} restarts"] if choice.restarts > 1 else []
    parts += [f"on a sample of {choice.sample} first"] if choice.sample is not None else []
    parts += [f"near the boundary (within {choice.near:g} of the clean margin)"] if choice.near is not None else []
    return ", ".join(parts)


def _recipe(kind: type[Recipe]) -> Entry:
    facts = {
        f"for {data}": ", ".join(f"{key}={value!r}" for key, value in preset.items())
        for data, preset in kind.presets.items()
    }
    against = "".join(f" --threat {threat}" for threat in _trained(kind.name))
    pseudo = " --pseudo-labelled more.npz" if kind.self_training else ""
    example = f"robench train {kind.name} --data digits{pseudo}{against}"
    return Entry(kind.name, kind.source, facts, _about(kind), _settings(kind, kind.unused()), example=example)


def _trained(recipe: str) -> tuple[str, ...]:
    """Threats that the recipe trains against; none if it needs none."""
    for texts in TRIED:
        try:
            configure(recipe, "digits", {}).check(tuple(map(threats.parse, texts)))
        except UserError:
            continue
        return texts
    raise AssertionError(f"{recipe} trains against none of {TRIED}; add threats that it takes")


def _data(data: DataSet) -> Entry:
    facts = {
        "images": "x".join(map(str, data.shape)),
        "classes": str(data.classes),
        "parts": ", ".join(data.parts),
        "licence": data.licence,
    }
    if data.mean:
        facts["mean"] = ", ".join(f"{value:.4f}" for value in data.mean)
        facts["std"] = ", ".join(f"{value:.4f}" for value in data.std)
    if "test" in data.parts:
        facts["protocol"] = protocols.load(protocols.default_name(data.name), data.name).name
        name = f"{data.name}/fog@3" if data.name == "cifar10-c" else data.name
        example = f"robench evaluate model.pt --data {name}"
    else:
        example = f"robench train nat --data {data.name} --no-evaluation"
    return Entry(data.name, data.about, facts, example=example)


def _about(kind: type[Any]) -> str:
    """The docstring of a class."""
    return inspect.cleandoc(kind.__doc__ or "")


def _settings(kind: type[Any], hidden: Collection[str] = ()) -> tuple[Setting, ...]:
    comments = dict(_comments(kind))
    return tuple(
        Setting(name, default, values, comments.get(name, ""))
        for name, default, values in settings_of.described(kind, hidden)
    )


def _comments(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """The comments behind the fields of a class, those of its bases first."""
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("robench."):
            yield from _own_comments(base)


@functools.cache
def _own_comments(kind: type[Any]) -> list[tuple[str, str]]:
    return re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(kind), re.M)


if __name__ == "__main__":
    FILE.write_bytes(encoded(made()))
