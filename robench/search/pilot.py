"""Which precision the search takes, when nobody says: the fastest that loses nothing."""

from dataclasses import dataclass

from ..problem.classifier import Classifier
from ..problem.split import Split
from ..problem.threats import ThreatModel
from .attack import AnyAttack
from .job import Job
from .loop import Engine
from .precision import speed_up
from .queue import Item, Waiting

WORTH = 1.2  # times as fast a lower precision must be before it is considered
PILOT = 64  # examples that it must break as float32 does


@dataclass(frozen=True)
class Choice:
    """A precision, and why."""

    precision: str
    reason: str


def choose(
    classifier: Classifier, pilots: list[tuple[ThreatModel, AnyAttack]], split: Split, lanes: int, seed: int
) -> Choice:
    """The fastest precision that loses nothing, as far as a pilot tells.

    A lower one is taken when it is faster on this device and the pilots (attacks on the examples of `split`,
    which the model gets right) break the same examples as in float32.
    """
    if not pilots:
        return Choice("float32", "no attack of this question could try another")
    reasons = []
    for precision in ("bfloat16", "tf32") if classifier.device.type == "cuda" else ("bfloat16",):
        try:
            ratio = speed_up(classifier, precision, lanes)
        except Exception as error:  # networks fail at low precision in ways of their own; float32 is there for them
            reasons.append(f"{precision} fails on this model ({type(error).__name__}: {error})")
            continue
        if ratio < WORTH:
            reasons.append(f"{precision} is {ratio:.2g} times as fast here")
            continue
        apart = sum(
            len(
                _broken(classifier, threat, attack, split, lanes, seed, precision)
                ^ _broken(classifier, threat, attack, split, lanes, seed, "float32")
            )
            for threat, attack in pilots
        )
        if not apart:
            return Choice(precision, f"{ratio:.2g} times as fast as float32 here, and a pilot breaks the same examples")
        reasons.append(f"a pilot in {precision} breaks {apart} examples other than in float32")
    return Choice("float32", "; ".join(reasons))


def _broken(
    classifier: Classifier,
    threat: ThreatModel,
    attack: AnyAttack,
    split: Split,
    lanes: int,
    seed: int,
    precision: str,
) -> set[int]:
    """The rows on which one draw of the attack finds something."""
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(split))))
    ended = Engine(classifier, split, seed, lanes, precision).work([job])
    return {end.item.row for some in ended for end in some if end.x_adv is not None}
