"""Names that changed before the first release. What was written or typed under an old one is read as the new one.

Run files, summaries, cards and protocols are translated in memory when they are read; no file is rewritten for it.
Noise is keyed with the old names, so that a search meets the noise it always met, and a recorded run can be resumed.
`docs/reference/renames.md` lists every rename for users.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

ATTACKS: Mapping[str, str] = {"random-poses": "random-transforms"}
"""Attacks, old to new."""

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "random-transforms": {"poses": "transforms"},
    "affine-rt": {"poses": "transforms"},
    "boundary": {"wide": "queries_per_step"},
    "hop-skip-jump": {"wide": "queries_per_step"},
    "pointwise": {"wide": "queries_per_step"},
    "salt-and-pepper": {"wide": "queries_per_step"},
}
"""Their settings, old to new, by the new name of the attack."""

RECIPE_SETTINGS: Mapping[str, str] = {"poses": "transforms"}
"""Settings of recipes, old to new."""

MODELS: Mapping[str, str] = {"mnist-eat-wide": "mnist-eat-l1r13", "mnist-eat-wider": "mnist-eat-l1r14"}
"""Bundled models, old to new."""

_SPEC = re.compile(r"([\w.:-]+)\((.*?)\)(.*)", re.DOTALL)


def attack(name: str) -> str:
    """The present name of an attack."""
    return ATTACKS.get(name, name)


def attack_setting(name: str, setting: str) -> str:
    """The present name of a setting of the attack that is now called `name`."""
    return SETTINGS.get(name, {}).get(setting, setting)


def model(name: str) -> str:
    """The present name of a bundled model."""
    return MODELS.get(name, name)


def environment(record: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run with the present name of a bundled model as its checkpoint."""
    return {key: model(value) if key == "checkpoint" else value for key, value in record.items()}


def recipe_setting(name: str) -> str:
    """The present name of a recipe's setting."""
    return RECIPE_SETTINGS.get(name, name)


@lru_cache(maxsize=4096)
def spec(text: str) -> str:
    """An attack as text, `random-poses(poses=10, steps=1)`, under its present names; what follows it stays.

    Text that is no attack is returned as it is.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        return text
    name = attack(match[1])
    new = SETTINGS.get(name, {})
    return _respelled(name, match[2], new, match[3]) if name != match[1] or new else text


@lru_cache(maxsize=4096)
def former_spec(text: str) -> str:
    """The reverse of `spec`: the same attack under the names it had before the first release."""
    match = _SPEC.fullmatch(text)
    if match is None or match[1] not in SETTINGS:
        return text
    name = next((old for old, new in ATTACKS.items() if new == match[1]), match[1])
    return _respelled(name, match[2], {new: old for old, new in SETTINGS[match[1]].items()}, match[3])


def former_recipe(text: str) -> str:
    """The repr of a recipe with the names its settings had before the first release."""
    for old, new in RECIPE_SETTINGS.items():
        text = re.sub(rf"\b{new}=", f"{old}=", text)
    return text


def _respelled(name: str, settings: str, names: Mapping[str, str], rest: str) -> str:
    """The attack with its settings renamed, in alphabetical order again."""
    pairs = (part.partition("=") for part in settings.split(", ") if part)
    renamed = sorted((names.get(key, key), value) for key, _, value in pairs)
    return f"{name}({', '.join(f'{key}={value}' for key, value in renamed)}){rest}"
