"""Records without a table of their own: run files hold them among the probes.

These are the state of a check for gradient masking, how near searches came, and what attacks passed over.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from .. import renames
from .records import WHOLE, MaskingDepth, MaskingState, Nearest, PassedOver, Probe

_STARTED, _REACHED, _SAMPLED, ASSIGNED, _WIDENED = "begun", "depth", "sampled", "shown ", "widened"
STATES = (_STARTED, _REACHED, _SAMPLED, _WIDENED)
_DEPTHS = {float(depth): depth for depth in MaskingDepth if depth is not MaskingDepth.NONE}


def is_state(probe: Probe) -> bool:
    """Whether a row is part of the state of a masking check."""
    return probe.name in STATES or probe.name.startswith(ASSIGNED)


def states(probes: Iterable[Probe]) -> Iterator[MaskingState]:
    """One record for each threat that these probes are about."""
    by_threat: dict[str, list[Probe]] = {}
    for probe in probes:
        by_threat.setdefault(probe.threat, []).append(probe)
    for threat, rows in by_threat.items():
        depths = {p.name: _DEPTHS[p.value] for p in rows if p.name != _SAMPLED}
        yield MaskingState(
            threat,
            started=depths.pop(_STARTED, MaskingDepth.NONE),
            reached=depths.pop(_REACHED, MaskingDepth.NONE),
            widened=depths.pop(_WIDENED, MaskingDepth.NONE),
            sampled=tuple(sorted(p.example for p in rows if p.name == _SAMPLED)),
            assigned=tuple(
                sorted((renames.spec(name.removeprefix(ASSIGNED)), depth) for name, depth in depths.items())
            ),
        )


def refuse_no_state(probe: Probe) -> None:
    """Raises ValueError where a row among the probes is no part of a state."""
    if probe.name == _SAMPLED:
        if probe.example == WHOLE or probe.value != 1:
            raise ValueError("sampled: expected an example, with the value 1")
    elif probe.example != WHOLE or probe.value not in _DEPTHS:
        raise ValueError(f"{probe.name}: expected 1 or 2, and no example")


def probes_of(state: MaskingState) -> Iterator[Probe]:
    """The rows that hold what the record knows."""
    if state.started:
        yield Probe(state.threat, WHOLE, _STARTED, float(state.started))
    if state.reached:
        yield Probe(state.threat, WHOLE, _REACHED, float(state.reached))
    if state.widened:
        yield Probe(state.threat, WHOLE, _WIDENED, float(state.widened))
    for attack, depth in state.assigned:
        yield Probe(state.threat, WHOLE, f"{ASSIGNED}{attack}", float(depth))
    for example in state.sampled:
        yield Probe(state.threat, example, _SAMPLED, 1.0)


def former_names(state: MaskingState) -> Iterator[str]:
    """Names of rows that hold the same assignments under former names of the attacks."""
    for attack, _ in state.assigned:
        if (former := renames.former_spec(attack)) != attack:
            yield f"{ASSIGNED}{former}"


_NEAREST = "margin left"
_PASSED_OVER: dict[Literal["near", "sample"], str] = {"near": "too far for ", "sample": "no find in the sample of "}


def is_of_round(probe: Probe) -> bool:
    """Whether a row states how near searches came, or what an attack passed over."""
    return probe.name == _NEAREST or probe.name.startswith(tuple(_PASSED_OVER.values()))


def nearest(probes: Iterable[Probe]) -> Iterator[Nearest]:
    """How near searches came, from the rows that state it."""
    return (Nearest(p.example, p.threat, p.value) for p in probes if p.name == _NEAREST)


def passed_over(probes: Iterable[Probe]) -> Iterator[PassedOver]:
    """What attacks passed over, from the rows that state it."""
    for probe in probes:
        for rule, prefix in _PASSED_OVER.items():
            if probe.name.startswith(prefix):
                attack = renames.spec(probe.name.removeprefix(prefix))
                yield PassedOver(probe.example, probe.threat, attack, rule, probe.value)


def probe_of(record: Nearest | PassedOver) -> Probe:
    """The row that holds the record."""
    if isinstance(record, Nearest):
        return Probe(record.threat, record.example, _NEAREST, record.left)
    return Probe(record.threat, record.example, f"{_PASSED_OVER[record.rule]}{record.attack}", record.value)
