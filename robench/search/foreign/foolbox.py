"""Any attack of Foolbox, by the name of its class: `foolbox:L2CarliniWagnerAttack(steps=1000)`.

Rauber et al. 2017, https://arxiv.org/abs/1707.04131; Foolbox 3, https://github.com/bethgelab/foolbox.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from ...errors import UserError, unknown
from ...problem.shapes import Inputs
from ...problem.threats import L0, L1, L2, Ball, Linf
from ..attack import Batch
from .library import LOOPS, LibraryAttack, Network, Setting, library

PREFIX = "foolbox:"
NORMS = {ball.p: ball.name for ball in (Linf, L2, L1, L0)}  # by the p of Foolbox's distance
OURS = ("distance", "tensorboard")  # the threat model decides the distance; logs are not used


@dataclass(frozen=True)
class FoolboxAttack(LibraryAttack):
    """One attack of Foolbox with every argument of its constructor. `build` makes it.

    It runs with Foolbox's defaults, through `run` of its class. Foolbox's own evaluation of the result is not used: it
    raises for some attacks, and counts all-black images of others as successes.
    """

    source: ClassVar[str] = "any attack of Foolbox 3, by the name of its class, https://github.com/bethgelab/foolbox"
    prefix: ClassVar[str] = PREFIX

    def attacked(self, network: Network, threat: Ball, batch: Batch) -> Inputs:
        foolbox = _library()
        attack = _made(self.kind, dict(self.settings), getattr(foolbox.distances, threat.name))
        wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device=batch.x.device)
        radius = {} if self.minimal else {"epsilon": threat.r}
        x_adv: Inputs = attack.run(wrapped, batch.x, foolbox.Misclassification(batch.y), **radius)
        return x_adv


def build(name: str, settings: Mapping[str, Any]) -> FoolboxAttack:
    """`foolbox:NAME` with arguments of that class. Raises UserError for unknown classes and arguments."""
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
    """The `foolbox:NAME` of every attack of Foolbox; empty if it is not installed."""
    try:
        return [f"{PREFIX}{name}" for name in _classes()]
    except UserError:
        return []


def _classes() -> dict[str, type[Any]]:
    """Every attack's class, by its name and by Foolbox's short name."""
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
        raise UserError(f"{PREFIX}{name} needs a set of images, which robench cannot provide; take another attack")
    if not issubclass(known[name], attacks.base.AttackWithDistance):
        raise UserError(
            f"{PREFIX}{name} measures no distance, so its images cannot be verified; take an attack of robench"
        )
    return known[name]


def _parameters(attack: type[Any]) -> dict[str, inspect.Parameter]:
    """The arguments of its constructor that users may set."""
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
        raise UserError(f"{name} cannot take {setting}={value}: it must be at least 1")
    try:
        return _as(parameter.annotation, value)
    except TypeError:
        hint = "it has no default" if default is inspect.Parameter.empty else f"its default is {default!r}"
        raise UserError(f"{name} cannot take {setting}={value!r}; {hint}") from None


def _as(wanted: Any, value: Any) -> Setting:
    """The value as this type. An attack for the start is given by the name of its class. Raises TypeError."""
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
    """The threat models of its distance, or all if it takes any distance."""
    try:
        return (NORMS[attack.distance.p],)
    except (AttributeError, ValueError):  # it has no distance, or an unknown one
        return tuple(NORMS.values())
