"""Settings of attacks and recipes: dataclass fields whose types say which values they take.

    steps: Count = 100
    momentum: Annotated[float, Bounds(0, below=1)] = 0.8
    loss: Literal["margin", "dlr"] = "margin"

`build` makes an instance from what a user typed; `check` validates an instance, and is called where one is made.
"""

import ast
import warnings
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import UserError, unknown

MAX = 10**9  # the largest whole number; beyond it, counters and seconds mean nothing

T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """The numbers from `low` to `high`. `above` and `below` are bounds that do not belong to the range."""

    low: int | float = -inf
    high: int | float = inf
    above: int | float = -inf
    below: int | float = inf
    even: bool = False
    why: str = ""  # a clause for the message

    def __contains__(self, value: int | float) -> bool:
        inside = self.low <= value <= self.high and self.above < value < self.below
        return inside and not (self.even and value % 2)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:,g}"
        if self.low > -inf and self.high < inf:
            return f"from {self.low:,g} to {self.high:,g}"
        low = f"above {self.above:,g}" if self.above > -inf else f"at least {self.low:,g}" if self.low > -inf else ""
        high = f"below {self.below:,g}" if self.below < inf else f"at most {self.high:,g}" if self.high < inf else ""
        return " and ".join(part for part in (low, high, "even" if self.even else "") if part)


@dataclass(frozen=True)
class Added:
    """Marks a setting that came after keys of evidence were in use: `named` leaves it out where it has its default.

    So the old text of an attack goes on to name the same search.
    """


Count = Annotated[int, Bounds(1)]
"""How many of something; at least one."""

Share = Annotated[float, Bounds(0, 1)]
NonNegative = Annotated[float, Bounds(0)]
Positive = Annotated[float, Bounds(above=0)]

Targets = Annotated[int, Bounds(0, why="0 aims at no class, 9 at the nine likeliest")]
"""The number of wrong classes that an attack aims at, one search each."""

NoTargets = Annotated[int, Bounds(0, 0, why="it aims at no class")]
"""The setting of attacks that aim at no class."""

TargetOrder = Annotated[Literal["logits", "first-order"], Added()]
"""The order of the wrong classes: by clean logit, highest first, or by first-order distance, nearest first."""

Schedule = Annotated[Literal["constant", "cosine"], Added()]
"""How a step size changes: not at all, or from its first value to 0 along half a cosine wave."""


def literal(text: str) -> Any:
    """The value that a text names as in Python, such as 0.1, None or (1, 2); the text itself where it names none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's opinion on texts such as 1if
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: nested too deeply
            return text


def build(kind: type[T], settings: Mapping[str, Any], hidden: Collection[str] = ()) -> T:
    """An instance of this dataclass; settings that are not given have their defaults.

    `hidden` are fields that cannot be set. Raises UserError for unknown names, and `check` for values.
    """
    rules = {name: rule for name, rule in _rules(cast(Any, kind)).items() if name not in hidden}
    for name in settings:
        if name not in rules:
            raise unknown(f"setting of {_name(kind)}", name, rules)
    values = {name: rules[name].read(value) for name, value in settings.items()}
    for name, value in values.items():
        rules[name].check(_name(kind), name, value)
    return kind(**values)


def renamed(
    kind: type[Any], settings: Mapping[str, Any], present: Callable[[str], str], hidden: Collection[str] = ()
) -> dict[str, Any]:
    """The settings of this dataclass under their present names; `present` translates a former name.

    `hidden` are fields that cannot be set. Raises UserError if a setting is given under both names.
    """
    rules = _rules(cast(Any, kind)).keys() - hidden
    result: dict[str, Any] = {}
    for given, value in settings.items():
        name = present(given) if present(given) in rules else given
        if name in result:
            former = next(key for key in settings if key != name and present(key) == name)
            raise UserError(f"{_name(kind)} is given {name} twice: {former} is its former name; write {name} alone")
        result[name] = value
    return result


def check(instance: Any) -> None:
    """Raises UserError if a field of this dataclass has a value that its type excludes."""
    for name, rule in _rules(instance.__class__).items():
        rule.check(_name(instance), name, getattr(instance, name))


def described(kind: type[Any], hidden: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """The settings of a dataclass as text: name, default, and which values it takes. `hidden` are left out."""
    for name, rule in _rules(cast(Any, kind)).items():
        if name not in hidden:
            yield name, "" if rule.default is MISSING else str(rule.default), rule.values


def named(instance: Any) -> dict[str, Any]:
    """The settings of a dataclass that a key of evidence names."""
    values = {name: (getattr(instance, name), rule) for name, rule in _rules(instance.__class__).items()}
    return {name: value for name, (value, rule) in values.items() if not (rule.added and value == rule.default)}


@dataclass(frozen=True)
class _Rule:
    """What the type of a field says about its values."""

    kind: Any  # bool, int, float, str or a Literal; anything else is not checked
    bounds: Bounds
    optional: bool  # None is a value
    default: Any
    added: bool  # it came after keys of evidence were in use

    def read(self, value: Any) -> Any:
        """1 as 1.0 where a real number is wanted: both must give the same text, which is the key of the evidence."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if self.kind is float and whole and abs(value) <= MAX else value

    @property
    def values(self) -> str:
        """The values of the field as text; empty where they are not checked."""
        if get_origin(self.kind) is Literal:
            text = f"one of {', '.join(map(str, get_args(self.kind)))}"
        else:
            text = f"{_NOUNS.get(self.kind, '')}, {self.bounds}".strip(", ")
        return f"{text}; or None" if text and self.optional else text

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises UserError if the field `name` of `owner` cannot have this value."""
        if not self._allows(value):
            raise self._refusal(owner, name, value)

    def _allows(self, value: Any) -> bool:
        if value is None and self.optional:
            return True
        if get_origin(self.kind) is Literal:
            return value in get_args(self.kind)
        if self.kind not in (int, float):
            return self.kind not in _NOUNS or type(value) is self.kind
        return self._of_kind(value) and _finite(value) and value in self.bounds

    def _refusal(self, owner: str, name: str, value: Any) -> UserError:
        """One sentence: what was given, and what is wanted."""
        if get_origin(self.kind) is Literal and isinstance(value, str):
            return unknown(f"{name} of {owner}", value, get_args(self.kind))
        why = f"{self.bounds.why}; " if self.bounds.why and self._of_kind(value) else ""
        example = "" if self.default in (MISSING, None) else f", like its default {self.default!r}"
        return UserError(f"{owner} cannot take {name}={value!r}: {why}it must be {self._wanted(value)}{example}")

    def _wanted(self, value: Any) -> str:
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(get_args(self.kind))}"
        if self._of_kind(value):
            if _finite(value):
                return str(self.bounds)
            return f"no more than {MAX:,}" if isinstance(value, int) else f"a finite number, {self.bounds}".rstrip(", ")
        return f"{_NOUNS[self.kind]}, {self.bounds}".rstrip(", ")

    def _of_kind(self, value: Any) -> bool:
        """Whether it is a number, and a whole one where that is wanted."""
        kind = int if self.kind is int else int | float
        return self.kind in (int, float) and isinstance(value, kind) and not isinstance(value, bool)


_NOUNS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _finite(value: int | float) -> bool:
    return abs(value) <= MAX if isinstance(value, int) else isfinite(value)


def _name(owner: Any) -> str:
    kind = owner if isinstance(owner, type) else type(owner)
    return str(getattr(owner, "name", kind.__name__))


@lru_cache
def _rules(kind: Hashable) -> dict[str, _Rule]:
    """The rule of every field of a dataclass."""
    types = get_type_hints(kind, include_extras=True)
    return {f.name: _rule(types[f.name], f.default) for f in fields(cast(Any, kind))}


def _rule(wanted: Any, default: Any) -> _Rule:
    options = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    given = [option for option in options if option is not NoneType]
    base = given[0] if len(given) == 1 else object
    kind, *extras = get_args(base) if get_origin(base) is Annotated else (base,)
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), Bounds())
    return _Rule(kind, bounds, len(given) < len(options), default, any(isinstance(e, Added) for e in extras))
