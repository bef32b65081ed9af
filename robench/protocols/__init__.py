"""Named evaluations: which threats, which attacks with every number, how many examples. One TOML file each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from .. import renames
from ..errors import UserError, unknown
from ..problem import subsets, threats, toml
from ..problem.missing import missing
from ..problem.threats import ThreatModel
from ..search import own_attack, targets
from ..search.attack import AnyAttack, Attack, AttackGiven
from ..search.attacks import ATTACKS, build, unknown_attack
from ..search.attacks import parse as parse_attack
from ..search.foreign.foolbox import PREFIX
from . import suites
from .suites import SUITES, Entry

MAX_SAMPLE = 10**6  # examples, as many as a plan holds
HERE = Path(__file__).parent

OWN_THREATS, OWN_ATTACKS = (
    "own threats",
    "own attacks",
)  # appended to a protocol's name if the command line replaced them

ASCENTS = (
    "param-ascent(loss='cross-entropy')",
    "param-ascent",
    "param-ascent(by='frank-wolfe')",
    "param-ascent(targets=9)",
)

# Attacks for threats that a protocol does not mention.
USUAL = {
    "l0": ["sigma-zero(steps=100)", "sigma-zero(steps=1000)", "pointwise"],  # as in standard-l0
    "rt": ["grid"],
    "rt-l2": ["grid"],
    "affine-lp": ["affine-lp(splits=11)"],
    "affine-rt": ["affine-rt(splits=11)"],
    "corruption": ["corruptions"],
    "patch": ["patch-pgd", "patch-pgd(begin='random', restarts=20)", "patch-pgd(targets=9)"],
    **{name: [*ASCENTS] for name in threats.PARAM_BALLS},
}

FORMERLY_USUAL = {"l0": ["pointwise"]}
"""What stood in `USUAL` before: run files that were planned with it are still true."""


@dataclass(frozen=True)
class AttackChoice:
    """An attack, with its number of restarts on each example.

    With `sample` it searches only those of so many examples that stand, and all if it breaks one of them. With `near`
    it waits until all other attacks have ended, and searches the examples of whose clean margin some search left at
    most this share. With both it does both.
    """

    label: str  # what tables call it; unique within its threat
    attack: AnyAttack
    restarts: int = 1
    near: float | None = None
    sample: int | None = None


@dataclass(frozen=True)
class ThreatChoice:
    """A threat model with its attacks, cheapest first."""

    threat: ThreatModel
    attacks: tuple[AttackChoice, ...]


@dataclass(frozen=True)
class Protocol:
    """Everything that defines an evaluation, except the model."""

    name: str
    description: str
    data: str  # the data set it is made for; empty: any
    examples: str | None  # a count, slice or sample, as --examples takes it; None: all
    seed: int
    threats: tuple[ThreatChoice, ...]
    eot: int | None = None  # passes to average over, for stochastic models; None: the default

    def __post_init__(self) -> None:
        if self.eot is not None and self.eot < 1:
            raise UserError(f"eot = {self.eot} is no number of passes; it must be a whole number, at least 1")
        labels = (attack.label for choice in self.threats for attack in choice.attacks)
        if strange := next((name for name in (self.name, self.data, *labels) if not name.isprintable()), None):
            raise UserError(f"the name {strange[:100]!a} contains unprintable characters; choose another")
        texts = [str(choice.threat) for choice in self.threats]
        if twice := next((t for t in texts if texts.count(t) > 1), None):
            raise UserError(f"the threat {twice} is named twice; name it once, with all its attacks")

    def with_threats(self, texts: Sequence[str], *, bare: bool = False) -> "Protocol":
        """This protocol with other threats, each with its attacks for the same norm; without attacks if `bare`."""
        chosen = [ThreatChoice(threats.parse(text), ()) if bare else self._choice(text) for text in texts]
        return replace(self, name=f"{self.name}, {OWN_THREATS}", threats=tuple(chosen))

    def with_attacks(self, named: Sequence[AttackGiven]) -> "Protocol":
        """This protocol with other attacks, each on every threat it can attack. Runs the code of files in `named`.

        Raises UserError for a threat that no attack fits, and for an attack that fits no threat.
        """
        if not self.threats:
            raise UserError(f"the protocol {self.name} has no threats; name one with --threat, or another protocol")
        entries = [_entry(attack) for attack in named]
        for entry in entries:
            if not any(_fits(entry, t.threat) for t in self.threats):
                raise _unfit(entry, self.threats[0].threat)
        chosen = []
        for t in self.threats:
            fit = [entry for entry in entries if _fits(entry, t.threat)]
            if not fit:
                others = " and ".join(_name(entry) for entry in entries)
                raise UserError(f"no attack is named for {t.threat} beside {others}; {_those_for(t.threat)}")
            chosen.append(ThreatChoice(t.threat, _choices(fit, t.threat)))
        return replace(self, name=f"{self.name}, {OWN_ATTACKS}", threats=tuple(chosen))

    def _choice(self, text: str) -> ThreatChoice:
        threat = threats.parse(text)
        for choice in self.threats:
            if choice.threat.name == threat.name:
                return ThreatChoice(threat, choice.attacks)
        if threat.name in USUAL:
            return ThreatChoice(threat, _choices(map(_entry, USUAL[threat.name]), threat))
        raise UserError(f"the protocol {self.name} has no attacks for {threat.name}; {_those_for(threat)}")


def formerly_usual(threat: ThreatModel) -> ThreatChoice | None:
    """The threat with the attacks that `USUAL` had for it before; None where they have not changed."""
    former = FORMERLY_USUAL.get(threat.name)
    return None if former is None else ThreatChoice(threat, _choices(map(_entry, former), threat))


def names() -> list[str]:
    """The names of the bundled protocols."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def former(name: str) -> list[Protocol]:
    """The protocols that had this name before, the first one first. Runs that were planned with them are true."""
    folder = HERE / "former"
    return [read(path) for path in (*folder.glob(f"{name}.toml"), *sorted(folder.glob(f"{name}.[0-9].toml")))]


def load(text: str, data: str) -> Protocol:
    """A protocol by name or file. `standard` and `exhaustive` mean the data set's own where there is one."""
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            raise missing("protocol", text)
        return read(path)
    if text in ("standard", "exhaustive") and f"{text}-{data}" in names():
        text = f"{text}-{data}"
    if text not in names():
        raise unknown("protocol", text, names())
    return read(HERE / f"{text}.toml")


def default_name(data: str) -> str:
    """The default protocol: `quick` for digits, else the data set's `standard`."""
    return "quick" if data == "digits" else "standard"


def read(path: Path) -> Protocol:
    """A protocol from its file. Raises UserError with the file and the wrong entry."""
    table = toml.read(path)
    try:
        _refuse_unknown("entry", table, ("name", "description", "data", "examples", "seed", "eot", "threat"))
        choices = [_threat_choice(entry) for entry in table["threat"]]
        examples = table.get("examples")
        if examples is not None:
            subsets.refuse_unreadable(str(examples))
        return Protocol(
            name=str(table.get("name", path.stem)),
            description=str(table.get("description", "")),
            data=str(table.get("data", "")),
            examples=None if examples is None else str(examples),
            seed=_whole(table, "seed", 0),
            threats=tuple(choices),
            eot=_whole(table, "eot", 1) if "eot" in table else None,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except KeyError as error:
        raise UserError(f"{path} lacks or misspells {error}; `robench list protocols -v` shows complete ones") from None
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise UserError(
            f"{path} is not laid out as a protocol; `robench list protocols -v` shows complete ones"
        ) from None


def _whole(table: dict[str, Any], name: str, default: int) -> int:
    """The whole number under this name. Raises UserError where it is none."""
    value = table.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name} = {value!r} is no whole number; write one, as {name} = {default}")
    return value


def _threat_choice(entry: Any) -> ThreatChoice:
    if not isinstance(entry, dict):
        raise TypeError("an entry of [[threat]] is a table")
    _refuse_unknown("entry of [[threat]]", entry, ("threat", "attacks"))
    threat = threats.parse(str(entry["threat"]))
    for entry_of_attack in entry["attacks"]:
        if not _fits(entry_of_attack, threat):
            raise _unfit(entry_of_attack, threat)
    return ThreatChoice(threat, _choices(entry["attacks"], threat))


def _those_for(threat: ThreatModel) -> str:
    """A hint: the attacks to type for this threat."""
    names = [name for name, attack in ATTACKS.items() if threat.name in attack.threats]
    return f"name some with --attack ({', '.join(names)})"


def _entry(named: AttackGiven) -> Entry:
    """An attack that the user names as an entry of a protocol; an attack of the user's own is an instance in it."""
    if not isinstance(named, str) or own_attack.names_file(named):
        attack, label, of_plan = own_attack.from_user(named)
        return {"attack": attack, "label": label, **of_plan}
    name, settings = parse_attack(named)
    if "attack" in settings:
        raise UserError(f"{name} has no setting called attack; name every attack with an --attack of its own")
    return {"attack": name, **settings}


def _name(entry: Entry) -> str:
    if isinstance(entry["attack"], Attack):
        return str(entry["label"])
    return renames.attack(str(entry["attack"]))


def _attacked(entry: Entry) -> Sequence[str]:
    """The names of the threats that the attack, or the suite, attacks."""
    if isinstance(entry["attack"], Attack):
        return entry["attack"].threats
    name = _name(entry)
    return suites.attacked(name) if name in SUITES else build(*_name_and_settings(entry)).threats


def _fits(entry: Entry, threat: ThreatModel) -> bool:
    return threat.name in _attacked(entry)


def _unfit(entry: Entry, threat: ThreatModel) -> UserError:
    return UserError(f"{_name(entry)} does not attack {threat.name}; it attacks {', '.join(_attacked(entry))}")


def _choices(entries: Iterable[Entry], threat: ThreatModel) -> tuple[AttackChoice, ...]:
    return _labelled([_attack_choice(e, threat) for entry in entries for e in suites.expanded(entry, threat.name)])


def _refuse_unknown_attack(name: str) -> None:
    if own_attack.names_file(name) or own_attack.names_own(name):
        raise own_attack.not_run(name)
    if name not in SUITES and name not in ATTACKS and not name.startswith(PREFIX):
        raise unknown_attack(name, SUITES)


def _name_and_settings(entry: Entry) -> tuple[str, dict[str, Any]]:
    name = _name(entry)
    _refuse_unknown_attack(name)
    settings = {key: value for key, value in entry.items() if key not in own_attack.OF_PLAN}
    return name, settings


def _attack_choice(entry: Entry, threat: ThreatModel) -> AttackChoice:
    name, restarts = _name(entry), entry.get("restarts", 1)
    if not isinstance(restarts, int) or isinstance(restarts, bool) or restarts < 1:
        raise UserError(f"{name} cannot take restarts={restarts!r}: it needs a whole number, at least 1")
    of_plan = (restarts, _near(name, entry.get("near")), _sample(name, entry.get("sample")))
    if isinstance(given := entry["attack"], Attack):
        attack: Any = given
        own_attack.refuse_unfit(attack, threat)
        targets.refuse_unfit(attack, threat)
        return AttackChoice(str(entry["label"]), attack, *of_plan)
    return AttackChoice(str(entry.get("label", name)), build(*_name_and_settings(entry)), *of_plan)


def _near(name: str, given: object) -> float | None:
    """The share of the clean margin that an entry names. Raises UserError where it is none."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1:
        raise UserError(f"{name} cannot take near={given!r}: it needs a share of the clean margin, such as near=0.1")
    return float(given)


def _sample(name: str, given: object) -> int | None:
    """The number of examples that an entry names. Raises UserError where it is none."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_SAMPLE:
        raise UserError(f"{name} cannot take sample={given!r}: it needs a number of examples, such as sample=20")
    return given


def _labelled(choices: Iterable[AttackChoice]) -> tuple[AttackChoice, ...]:
    """The choices with labels made unique by numbers: pgd, pgd-2."""
    unique: list[AttackChoice] = []
    for choice in choices:
        taken = {other.label for other in unique}
        numbered = (f"{choice.label}-{n}" if n > 1 else choice.label for n in count(1))
        unique.append(replace(choice, label=next(label for label in numbered if label not in taken)))
    if not unique:
        raise UserError("no attack is named; name one, such as pgd")
    if all(choice.near is not None and choice.sample is None for choice in unique):
        raise UserError(f"{unique[0].label} takes near={unique[0].near} with no attack before it; leave near out")
    specs = [choice.attack.spec for choice in unique]
    if twice := next((s for s in specs if specs.count(s) > 1), None):
        raise UserError(f"{twice} is named twice; name it once, with as many restarts as both together")
    return tuple(unique)


def _refuse_unknown(kind: str, table: dict[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise unknown(kind, key, known)
