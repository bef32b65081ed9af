"""Attacks of the user's own: `file.py:Class(steps=50)` on the command line, or a class or an instance in Python.

Loading such a file runs its code. So only the command line and a Python caller may call `from_user`. Attacks that a
protocol, a run file, a summary or a card names are built by `attacks.build`, which loads no file.
"""

import copy
import hashlib
import inspect
import linecache
import math
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .. import settings as settings_of
from ..errors import UserError, described, unknown
from ..problem.architectures.factories import WRITTEN, literals
from ..problem.missing import ATTACK
from ..problem.threats import THREATS, ThreatModel
from ..settings import MAX
from .attack import AnyAttack, Attack, ForeignAttack, GradientAttack, LabelAttack, ScoreAttack
from .attacks import ATTACKS
from .code_file import imported
from .foreign.foolbox import FoolboxAttack

EXAMPLE = "'file.py:Class(steps=50, mode=\"fast\")'"
KINDS: tuple[type[Any], ...] = (GradientAttack, ScoreAttack, LabelAttack, ForeignAttack)
OF_PLAN = ("attack", "label", "restarts", "near", "sample")  # entries of a protocol, so no setting may have these names
OF_CLASS = ("name", "source", "spec", "threats", "reads")  # facts of every attack, so no setting may have these names
DIGITS = 12  # of the SHA-256, in hexadecimal
NAME = re.compile(rf"[\w.-]+@[0-9a-f]{{{DIGITS}}}:\w+")
"""The name of such an attack in the key of its evidence: the file, the digest of its source, the class."""

LOCAL = "<locals>"
_NAMED: set[type[Attack]] = set()  # the classes that `_named` has made

_WORD = re.compile(r"[\w.+-]*")


def names_file(text: str) -> bool:
    """Whether `text` names an attack in a file of Python code."""
    found = WRITTEN.fullmatch(text.strip())
    return found is not None and found["target"].endswith(".py")


def names_own(spec: str) -> bool:
    """Whether a key of evidence, or the name of the attack in it, belongs to an attack of the user's own."""
    return NAME.fullmatch(spec.partition("(")[0]) is not None


def not_run(name: str, option: str = "--attack") -> UserError:
    """The error for a protocol, a run or a summary that names an attack in a file. Its code does not run for that."""
    return UserError(
        f"{name[:200]} is an attack in a file of code, which runs only if you name it: type {option} file.py:Class"
    )


def from_user(given: object, *, local: bool = False) -> tuple[AnyAttack, str, dict[str, Any]]:
    """The attack that the user names, its label in tables, and the entries of OF_PLAN that the text sets.

    `given` is text, a class or an instance. Raises UserError for anything else, for an attack that cannot run, and for
    a class that is defined inside a function. `local` allows such a class, for callers that keep no evidence.
    """
    if isinstance(given, str):
        return _from_text(given)
    if isinstance(given, type):
        given = _made(_checked(given, given.__name__), given.__name__, {})
    if not isinstance(given, Attack):
        raise UserError(
            f"attacks holds {type(given).__name__}; name each attack by text, or give a class or an instance"
        )
    if type(given) in ATTACKS.values() or isinstance(given, FoolboxAttack):
        return typing.cast(AnyAttack, given), given.name, {}
    attack = _keyed(given, local=local)
    return attack, _label(attack), {}


@dataclass(frozen=True)
class Consent:
    """The classes of the user's own attacks that a command may run again, by their names in keys of evidence."""

    classes: Mapping[str, type[AnyAttack]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Iterable[object]) -> "Consent":
        """Consent to run the attacks that the user names: as `file.py:Class`, which runs the file now, or as a class or
        an instance.

        Raises UserError for anything else.
        """
        classes: dict[str, type[AnyAttack]] = {}
        for one in given:
            if isinstance(one, str):
                kind = _without_settings(one)
            else:
                kind = _checked(one if isinstance(one, type) else type(one), "the value given as an attack")
            classes[_named(kind).name] = kind
        return cls(classes)

    def attack(self, spec: str) -> AnyAttack:
        """The attack with this key. Raises UserError if the user did not name it, or its file has changed."""
        name, _, settings = spec.partition("(")
        kind = self.classes.get(name)
        if kind is not None:
            _, keywords = literals(spec, f"({settings}", EXAMPLE)
            return _keyed(_made(kind, spec, dict(keywords)))
        now = next((known for known in self.classes if shown(known) == shown(name)), None)
        if now is not None:
            raise UserError(f"{name} is on record, but the file is now {now}: an edited attack is another attack")
        raise not_run(name)


def refuse_unfit(attack: Attack, threat: ThreatModel) -> None:
    """Raises UserError if an attack of the user's own does not declare its number of queries."""
    if not names_own(attack.name):
        return
    numbers: dict[str, Callable[[], object]] = {
        "max_queries": lambda: attack.max_queries(threat),
        "queries_per_step": lambda: attack.queries_per_step,
    }
    for what, number in numbers.items():
        try:
            value = number()
        except Exception as error:  # of any kind: it is raised by the user's code
            raise UserError(f"{_label(attack)}: {what} under {threat} raised {described(error)}") from error
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX:
            raise UserError(
                f"{_label(attack)}: {what} under {threat} is {value!r}; it must be a whole number from 1 to {MAX:,}"
            )


def _from_text(text: str) -> tuple[AnyAttack, str, dict[str, Any]]:
    kind, keywords = _read(text)
    settings = {key: value for key, value in keywords if key not in OF_PLAN}
    of_plan = {key: value for key, value in keywords if key in OF_PLAN}
    if "attack" in of_plan:
        raise UserError(f"{kind.__name__} has no setting called attack; name every attack with an --attack of its own")
    attack = _keyed(_made(kind, f"--attack {text}", settings))
    return attack, _label(attack), of_plan


def _read(text: str) -> tuple[type[AnyAttack], tuple[tuple[str, Any], ...]]:
    """The class that `text` names, and the settings in it. Runs the code of the file."""
    given = f"--attack {text}"
    found = WRITTEN.fullmatch(text.strip())
    if found is None or not found["name"].strip().isidentifier():
        raise UserError(f"{given} cannot be read; {ATTACK}")
    name = found["name"].strip()
    positional, keywords = literals(given, found["arguments"] or "()", EXAMPLE)
    if positional:
        raise UserError(f"{given} has a setting without a name; write settings like steps=50")
    home = imported(found["target"], given)
    kind = getattr(home, name, None)
    if kind is None:
        offers = [key for key, value in vars(home).items() if _is_own(value, home)]
        raise unknown(f"attack in {found['target']}", name, offers)
    if not isinstance(kind, type):
        raise UserError(f"{given} is {type(kind).__name__}, not a class; {ATTACK}")
    return _checked(kind, given), keywords


def _without_settings(text: str) -> type[AnyAttack]:
    if not names_file(text):
        raise UserError(f"--attack {text} is no attack of your own; write file.py:Class")
    kind, settings = _read(text)
    if settings:
        raise UserError(f"--attack {text} has settings, and those on record are used; write file.py:{kind.__name__}")
    return kind


def _is_own(value: object, home: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Attack) and value.__module__ == home.__name__


# The class


def _checked(kind: type[Any], given: str) -> type[AnyAttack]:
    """The same class. Raises UserError unless it is an attack that the engine can run."""
    if not issubclass(kind, KINDS):
        kinds = ", ".join(k.__name__ for k in KINDS)
        raise UserError(f"{given} is no attack; derive the class from one of {kinds} of robench.attacks")
    if sum(issubclass(kind, k) for k in KINDS) > 1:
        raise UserError(f"{given} is of several kinds; derive it from one of {', '.join(k.__name__ for k in KINDS)}")
    if missing := sorted(kind.__abstractmethods__):
        raise UserError(
            f"{given} lacks {' and '.join(missing)}; define {'it' if len(missing) == 1 else 'them'} in the class"
        )
    if not is_dataclass(kind) or (_annotated(kind) and "__dataclass_fields__" not in vars(kind)):
        raise UserError(f"{given} is no dataclass; write @dataclass(frozen=True) above the class")
    base = next(k for k in KINDS if issubclass(kind, k))
    attack = typing.cast(type[AnyAttack], kind)
    if attack.reads != base.reads:
        raise UserError(
            f"{given} declares reads = {attack.reads!r}, but a {base.__name__} reads {base.reads}; leave it out"
        )
    threats = getattr(kind, "threats", ())
    if not isinstance(threats, tuple) or not threats:
        raise UserError(f"{given} names no threat model; write threats: ClassVar[tuple[str, ...]] = ('linf', 'l2')")
    for threat in threats:
        if threat not in THREATS:
            raise unknown(f"threat model, which {given} declares,", str(threat), THREATS)
    for setting in fields(kind):
        if setting.name in OF_PLAN:
            raise UserError(f"{given} has a setting called {setting.name}, a word of protocols; choose another name")
        if setting.name in OF_CLASS:
            raise UserError(
                f"{given} has a setting called {setting.name}, which every attack has already; choose another name"
            )
    return attack


def _annotated(kind: type[Any]) -> bool:
    """Whether the class itself, not a base, declares a setting."""
    own = vars(kind).get("__annotations__") or inspect.get_annotations(kind)
    return any("ClassVar" not in str(annotation) for annotation in own.values())


# Its settings


def _made(kind: type[AnyAttack], given: str, settings: Mapping[str, Any]) -> AnyAttack:
    """An instance. Raises UserError for an unknown setting, a value out of range, and a missing setting."""
    required = [f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in settings]:
        example = ", ".join(f"{name}=..." for name in missing)
        raise UserError(
            f"{given} needs {' and '.join(missing)}; write {kind.__name__}({example}), or give defaults in the class"
        )
    try:
        return settings_of.build(kind, settings, hidden=[f.name for f in fields(kind) if not f.init])
    except UserError:
        raise
    except Exception as error:  # of any kind: it is raised by the user's code
        raise UserError(f"{given} cannot be made with these settings ({described(error)})") from error


def _refuse_settings(attack: Attack) -> None:
    """Raises UserError for a value that a key of evidence cannot hold, or that no search can have."""
    for f in fields(attack):
        name, value = f.name, getattr(attack, f.name)
        minimum = {"steps": 1, "targets": 0}.get(name, -MAX)
        if isinstance(value, int) and not isinstance(value, bool) and not minimum <= value <= MAX:
            bounds = f"from {minimum:,} to {MAX:,}"
        elif isinstance(value, float) and not math.isfinite(value):
            bounds = "that is finite"
        elif isinstance(value, str) and not _WORD.fullmatch(value):
            bounds = ""
        elif value is None or type(value) in (bool, int, float, str):
            continue
        else:
            bounds = ""
        wanted = f"a number {bounds}" if bounds else "a number, True, False, None or a plain word"
        raise UserError(f"{type(attack).__name__} cannot take {name}={value!r}: write {wanted}")


# The key of its evidence


def _keyed(attack: Attack, *, local: bool = False) -> AnyAttack:
    """The same attack with the name that keys its evidence, whatever `name` the class declares."""
    _refuse_settings(attack)
    kind = type(attack)
    _checked(kind, kind.__name__)
    if kind in _NAMED:
        return typing.cast(AnyAttack, attack)
    keyed = copy.copy(attack)
    object.__setattr__(keyed, "__class__", _named(kind, local))
    return typing.cast(AnyAttack, keyed)


class _Fixed:
    """A text on the class that an instance cannot replace."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __get__(self, instance: object, owner: type) -> str:
        return self.value

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError("the name of an attack is fixed: it keys its evidence")


@cache
def _named(kind: type[Attack], local: bool = False) -> type[Attack]:
    """A subclass with the name that keys the evidence."""
    file, source = ("local", b"") if local and LOCAL in kind.__qualname__ else _source(kind)
    digest = hashlib.sha256(source).hexdigest()[:DIGITS]
    name = f"{file}@{digest}:{kind.__name__}"
    if not NAME.fullmatch(name):
        raise UserError(f"{file}: rename the file, with letters, digits, dots, hyphens and underscores alone")
    source_line = getattr(kind, "source", f"{kind.__name__} in {file}")
    # `spec` and `name` are robench's: a class that wrote its own key could take over the evidence of another attack.
    named = type(
        kind.__name__,
        (kind,),
        {
            "name": _Fixed(name),
            "source": source_line,
            "spec": Attack.spec,
            "__module__": kind.__module__,
            "__doc__": kind.__doc__,
        },
    )
    _NAMED.add(named)
    return named


def _label(attack: Attack) -> str:
    """The label of the attack in tables: `my_attack.py:MyAttack`."""
    return shown(attack.name)


def shown(name: str) -> str:
    """A name or a key of evidence without the digest of the source."""
    return re.sub(r"@[0-9a-f]+:", ":", name)


def _source(kind: type[Any]) -> tuple[str, bytes]:
    """The name of the file that defines a class, and the source that keys its evidence.

    Raises UserError if the source cannot be read, or would not determine the class.
    """
    if LOCAL in kind.__qualname__:
        raise UserError(
            f"{kind.__name__} is defined inside a function, whose variables the key of its evidence does not cover; "
            "define it at the top level of a file"
        )
    home = sys.modules.get(kind.__module__)
    if home is not None and isinstance(source := getattr(home, "__robench_source__", None), bytes):
        return Path(str(home.__file__)).name, source
    try:
        path = Path(inspect.getfile(kind))
        if path.suffix == ".py" and path.is_file():
            return path.name, _as_imported(kind, path)
    except (TypeError, OSError):
        pass
    lines = [line for code in _codes(kind) for line in linecache.getlines(code.co_filename)]  # a notebook
    if not lines:
        raise UserError(f"the source of {kind.__name__} keys its evidence, but cannot be read; put it into a file")
    return "notebook", "".join(lines).encode()


def _as_imported(kind: type[Any], path: Path) -> bytes:
    """The source of the file that Python imported a class from. Raises UserError if the file has changed since."""
    source = path.read_bytes()
    if not hasattr(sys.modules.get(kind.__module__), "@pytest_ar"):  # pytest rewrites the assertions of a test file
        now = set(_inside(compile(source, str(path), "exec", dont_inherit=True)))
        written = [code for code in _codes(kind) if Path(code.co_filename) == path]
        if any(code not in now for code in written):
            raise UserError(f"{path.name} has changed since {kind.__name__} was imported from it; restart Python")
    return source


def _inside(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inside(constant)


def _codes(kind: type[Any]) -> list[CodeType]:
    functions = [value.fget if isinstance(value, property) else value for value in vars(kind).values()]
    return [function.__code__ for function in functions if inspect.isfunction(function)]
