"""Training recipes: one readable file per method."""

from collections.abc import Mapping
from typing import Any

from .. import renames
from .. import settings as settings_of
from ..errors import unknown
from .adaptive import Adaptive
from .ant import Ant
from .avg import Average
from .eat import ExtremeAdversarialTraining
from .max import Maximum
from .mng_ac import MetaNoiseGenerator
from .msd import MultiSteepestDescent
from .nat import Nat
from .nfgsm import NoiseFGSM
from .pgd_at import PGDAdversarialTraining
from .ramp import Ramp
from .recipe import Recipe
from .rst import RobustSelfTraining
from .sat import StochasticAdversarialTraining
from .sat_ac import AdversarialConsistency
from .spatial_at import SpatialAdversarialTraining
from .trades import Trades

RECIPES: Mapping[str, type[Recipe]] = {
    r.name: r
    for r in (
        *(Nat, PGDAdversarialTraining, SpatialAdversarialTraining, Trades),
        *(Average, Maximum, MultiSteepestDescent, StochasticAdversarialTraining, AdversarialConsistency),
        *(MetaNoiseGenerator, ExtremeAdversarialTraining, Adaptive, Ramp),
        *(NoiseFGSM, Ant, RobustSelfTraining),
    )
}


def setting(text: str) -> Any:
    """The value of a setting, as users type it: true and false may be written in small letters."""
    value = settings_of.literal(text)
    return {"true": True, "false": False}.get(text.lower(), value) if value == text else value


def configure(name: str, data: str, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with the settings that suit a data set, changed by `settings`.

    Raises UserError for unknown names and for values out of range.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    kind = RECIPES[name]
    given = settings_of.renamed(kind, settings, renames.recipe_setting, hidden=kind.unused())
    return settings_of.build(kind, {**kind.presets.get(data, {}), **given}, hidden=kind.unused())
