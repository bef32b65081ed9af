"""How models are made: one readable file per method."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import UserError, unknown
from .adaptive import Adaptive
from .avg import Average
from .max import Maximum
from .msd import MultiSteepestDescent
from .nat import Nat
from .pgd_at import PGDAdversarialTraining
from .recipe import Recipe
from .sat import StochasticAdversarialTraining
from .spatial_at import SpatialAdversarialTraining
from .trades import Trades

RECIPES: Mapping[str, type[Recipe]] = {
    r.name: r
    for r in (
        *(Nat, PGDAdversarialTraining, SpatialAdversarialTraining, Trades),
        *(Average, Maximum, MultiSteepestDescent, StochasticAdversarialTraining, Adaptive),
    )
}


def configure(name: str, data: str, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with the settings that suit a data set, changed as asked. Raises UserError for what it does not know."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    kind = RECIPES[name]
    known = {f.name: f.default for f in fields(kind)}
    for key, value in settings.items():
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
        wanted = known[key]
        whole = isinstance(wanted, float) and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not type(wanted) and not whole:
            raise UserError(f"{name} cannot take {key}={value!r}; its default is {wanted!r}")
        if not isinstance(wanted, bool) and (value < 0 or (value == 0 and key != "warmup")):
            raise UserError(f"{name} cannot take {key}={value!r}: it must be above 0")
    return kind(**{**kind.presets.get(data, {}), **settings})
