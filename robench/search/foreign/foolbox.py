"""Any attack of Foolbox, by the name of its class: `foolbox:L2CarliniWagnerAttack(steps=1000)`.

Rauber et al. 2017, https://arxiv.org/abs/1707.04131; Foolbox 3, https://github.com/bethgelab/foolbox.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from ...errors import UserError, unknown
from ...problem.shapes import Inputs
from ...problem.threats import Ball
from ..attack import Batch
from .library import LOOPS, LibraryAttack, Network, Setting, library

PREFIX = "foolbox:"
NORMS = {math.inf: "linf", 2: "l2", 1: "l1", 0: "l0"}  # by the p of Foolbox's distance
OURS = ("distance", "tensorboard")  # the threat model decides the one, and nobody looks at the other


@dataclass(frozen=True)
class FoolboxAttack(LibraryAttack):
    """One attack of Foolbox with every argument of its constructor. `build` makes it.

    It runs with the defaults Foolbox gives it, and by `run` of its class: what Foolbox makes of the result (it
    raises for some attacks, and counts all-black images of others as successes) is not asked.
    """

    source: ClassVar[str] = "any attack of Foolbox 3, by the name of its class, https://github.com/bethgelab/foolbox"
    prefix: ClassVar[str] = PREFIX

    def attacked(self, network: Network, threat: Ball, batch: Batch) -> Inputs:
        foolbox = _library()
        attack = _made(self.kind, dict(self.settings), getattr(foolbox.distances, threat.name))
        asked = foolbox.PyTorchModel(network, bounds=(0, 1), device=batch.x.device)
        radius = {} if self.minimal else {"epsilon": threat.r}
        x_adv: Inputs = attack.run(asked, batch.x, foolbox.Misclassification(batch.y), **radius)
        return x_adv


def build(name: str, settings: Mapping[str, Any]) -> FoolboxAttack:
    """`foolbox:NAME` with arguments of that class. Raises UserError for what Foolbox does not have."""
    found = _class(name.removeprefix(PREFIX), PREFIX)
    parameters = _parameters(found)
    for setting in settings:
        if setting not in parameters:
            raise unknown(f"setting of {name}", setting, parameters)
    chosen = {setting: _chosen(name, parameter, settings) for setting, parameter in parameters.items()}
    try:
        attack = _made(found.__name__, chosen, distance=None)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} cannot be made with these settings ({type(error).__name__}: {error})") from None
    minimal = isinstance(attack, _library().attacks.base.MinimizationAttack)
    return FoolboxAttack(found.__name__, tuple(chosen.items()), _norms(attack), minimal)


def _library() -> Any:
    return library("foolbox", install="foolbox>=3.3.4,<4")


def names() -> list[str]:
    """`foolbox:NAME` of every attack of Foolbox; none where it is not installed."""
    try:
        return [f"{PREFIX}{name}" for name in _classes()]
    except UserError:
        return []


def _classes() -> dict[str, type[Any]]:
    """Every attack's class, by its name and by what Foolbox calls it in short."""
    attacks = _library().attacks
    return {
        key: value
        for key, value in vars(attacks).items()
        if inspect.isclass(value) and issubclass(value, attacks.Attack) and not inspect.isabstract(value)
    }


def _class(name: str, prefix: str = "") -> type[Any]:
    """An attack's class, by its name or by what Foolbox calls it in short; `prefix` is what is typed before it."""
    attacks, known = _library().attacks, _classes()
    if name not in known:
        alike = [key for key in known if key.lower() == name.lower()]
        raise unknown("attack of Foolbox", prefix + name, [prefix + key for key in alike or known])
    if hasattr(known[name], "feed"):
        raise UserError(
            f"{PREFIX}{name} wants images to choose from, which robench cannot feed it; take another attack"
        )
    if not issubclass(known[name], attacks.base.AttackWithDistance):
        raise UserError(
            f"{PREFIX}{name} measures no distance, so its images cannot be judged; take an attack of robench's own"
        )
    return known[name]


def _parameters(attack: type[Any]) -> dict[str, inspect.Parameter]:
    """The arguments of its constructor that a user may set."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(attack).parameters
    return {name: p for name, p in parameters.items() if p.kind in named and name not in OURS}


def _chosen(name: str, parameter: inspect.Parameter, settings: Mapping[str, Any]) -> Setting:
    """A setting, or its default."""
    setting, default = parameter.name, parameter.default
    if setting not in settings and default is inspect.Parameter.empty:
        raise UserError(f"{name} needs {setting}: write it like '{name}({setting}=10)'")
    value = settings.get(setting, default)
    if setting in LOOPS and isinstance(value, int) and value < 1:
        raise UserError(f"{name} cannot take {setting}={value}: it is a number of times, 1 or more")
    try:
        return _as(parameter.annotation, value)
    except TypeError:
        hint = "it has no default" if default is inspect.Parameter.empty else f"its default is {default!r}"
        raise UserError(f"{name} cannot take {setting}={value!r}; {hint}") from None


def _as(wanted: Any, value: Any) -> Setting:
    """The value as one of this type. An attack that is to begin with is named by its class. Raises TypeError."""
    if get_origin(wanted) is Union:
        for option in get_args(wanted):
            try:
                return _as(option, value)
            except TypeError:
                continue
    fits = value in get_args(wanted) if get_origin(wanted) is Literal else type(value) is wanted
    if fits or (isinstance(value, str) and inspect.isclass(wanted) and issubclass(wanted, _library().attacks.Attack)):
        return value  # type: ignore[no-any-return]
    if wanted is float and type(value) is int:  # 1 and 1.0 must give the same text, which is the key of the evidence
        return float(value)
    raise TypeError


def _made(kind: str, settings: dict[str, Any], distance: Any) -> Any:
    attack = _class(kind)
    if settings.get("init_attack") is not None:
        settings = settings | {"init_attack": _class(settings["init_attack"])()}
    given = {"distance": distance} if "distance" in inspect.signature(attack).parameters else {}
    return attack(**settings, **given)


def _norms(attack: Any) -> tuple[str, ...]:
    """The threat models it is made for: those of its distance, or all if it takes any."""
    try:
        return (NORMS[attack.distance.p],)
    except (AttributeError, ValueError):  # none was given to it, or it has forgotten to ask
        return tuple(NORMS.values())
