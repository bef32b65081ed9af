"""How models are made: one readable file per method."""

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

from .. import renames
from ..errors import UserError, unknown
from .adaptive import Adaptive
from .avg import Average
from .eat import ExtremeAdversarialTraining
from .max import Maximum
from .mng_ac import MetaNoiseGenerator
from .msd import MultiSteepestDescent
from .nat import Nat
from .pgd_at import PGDAdversarialTraining
from .recipe import Recipe
from .sat import StochasticAdversarialTraining
from .sat_ac import AdversarialConsistency
from .spatial_at import SpatialAdversarialTraining
from .trades import Trades

RECIPES: Mapping[str, type[Recipe]] = {
    r.name: r
    for r in (
        *(Nat, PGDAdversarialTraining, SpatialAdversarialTraining, Trades),
        *(Average, Maximum, MultiSteepestDescent, StochasticAdversarialTraining, AdversarialConsistency),
        *(MetaNoiseGenerator, ExtremeAdversarialTraining, Adaptive),
    )
}


def configure(name: str, data: str, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with the settings that suit a data set, changed as asked. Raises UserError for what it does not know."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    kind = RECIPES[name]
    known = {f.name: f.default for f in fields(kind) if f.name not in kind.unused()}
    settings = {renames.recipe_setting(key): value for key, value in settings.items()}
    for key, value in settings.items():
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
        _check(kind, key, value, known[key])
    asked = {key: float(value) if isinstance(known[key], float) else value for key, value in settings.items()}
    return kind(**{**kind.presets.get(data, {}), **asked})


def _check(kind: type[Recipe], key: str, value: Any, wanted: Any) -> None:
    """Raises UserError where the setting cannot be `value`; `wanted` is its default."""
    refusal = f"{kind.name} cannot take {key}={value!r}"
    whole = isinstance(wanted, float) and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not type(wanted) and not whole:
        form = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[type(wanted)]
        raise UserError(f"{refusal}: it must be {form}, like its default {wanted!r}")
    if key in kind.choices:
        if value not in kind.choices[key]:
            raise unknown(f"{key} of {kind.name}", value, kind.choices[key])
    elif not isinstance(wanted, bool):
        if not isfinite(value) or value < 0 or (value == 0 and key not in kind.may_be_zero):
            least = "0 or more" if key in kind.may_be_zero else "above 0"
            raise UserError(f"{refusal}: it must be {least}, and finite")
        if key in kind.max_one and value > 1:
            raise UserError(f"{refusal}: it is a share, 1 at most")
