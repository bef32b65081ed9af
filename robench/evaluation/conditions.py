"""Conditions of a search that are found by trying: its precision, and passes over a model that answers at random."""

import msgspec

from ..evidence.records import Plan
from ..evidence.referee import Referee
from ..problem.classifier import Classifier
from ..problem.split import Split
from ..protocols import Protocol
from ..search.engine.pilot import Choice, Pilot, choose, named
from .planning import as_planned, averaging
from .recorded import identity_of


def settled_precision(plan: Plan, protocol: Protocol, classifier: Classifier, referee: Referee, split: Split) -> Choice:
    """The precision of the search: chosen where the plan says `auto`, else the named one, tried on a few images."""
    if plan.passes > 1:
        failed = plan.precision not in ("auto", "float32")
        return Choice("float32", "the model answers at random", failed=failed)
    if plan.precision != "auto":
        return named(classifier, plan.precision, split.x)
    choices = [(t.threat, [a.attack for a in t.attacks]) for t in protocol.threats]
    model = repr(identity_of(plan.model))
    pilot = Pilot.of(choices, split, lambda part: referee.predict(part.x, part.y).correct, model)
    return choose(classifier, pilot, plan.slots)


def stochastic(plan: Plan, protocol: Protocol, classes: int, passes: int) -> Plan:
    """The plan for a model that answers at random: each image is judged over many passes, and searches average."""
    eot = averaging(protocol)
    threats = tuple(as_planned(choice, classes, eot) for choice in protocol.threats)
    return msgspec.structs.replace(plan, threats=threats, passes=passes, eot=eot)
