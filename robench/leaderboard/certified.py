"""Certified lower bounds beside measured upper bounds: which contradict each other."""

import msgspec

from ..errors import UserError
from ..evidence.nesting import ball
from .entries import ModelResult


def with_certificates(model: ModelResult) -> ModelResult:
    """The row, with a note for each certified accuracy above a measured one.

    A certificate is about the whole test part, a measurement about some of its examples. So a certificate that lies
    above the accuracy may be true. Raises UserError if it lies above the 95 % interval, too: one of the two is wrong.
    """
    stated = model.card.certified if model.card else ()
    notes = []
    for threat in model.threats:
        for bound in (c for c in stated if implies(c.threat, threat.threat)):
            certificate = f"an accuracy of {bound.accuracy:g} under {bound.threat}"
            measured = f"at most {threat.share.accuracy:g} of these examples withstand {threat.threat}"
            if bound.accuracy > threat.share.ci95[1]:
                stated_by = f"the card of {model.name} certifies {certificate}"
                raise UserError(f"{stated_by}, but {measured}; correct the card, or leave it out")
            if bound.accuracy > threat.share.accuracy:
                notes.append(f"certified is {certificate} on the whole test part; {measured}")
    return msgspec.structs.replace(model, notes=(*model.notes, *dict.fromkeys(notes)))


def implies(certified: str, threat: str) -> bool:
    """Whether a lower bound under one threat is one under another: the same, or a smaller ball of the same norm."""
    (name, reach), (other, limit) = ball(certified), ball(threat)
    inside = name == other and reach is not None and limit is not None and limit <= reach
    return certified == threat or inside
