"""Which precision the search takes where none is named: the first that pays on this device and loses nothing.

The decision is a function of hardware, network, attacks and the beginning of the data set, never of the moment: halves,
shards and resumed runs of one question come to the same one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import __version__
from ..errors import UserError, counted
from ..problem.classifier import Classifier
from ..problem.memory import out_of_memory
from ..problem.split import Split
from ..problem.threats import ThreatModel
from .attack import AnyAttack, GradientAttack, ScoreAttack
from .job import Job
from .loop import Engine
from .precision import failure, has_hardware, saves_too_little
from .precision_cache import Decision, read, write
from .queue import Item, Waiting

EXAMPLES = 64  # that the model gets right, and a lower precision must break as float32 does
AMONG = 256  # the first of the data set
STEPS = 40  # of the pilot's attack at most
COSTLIER = 1.1  # times the queries of float32 a lower precision may need; steps are 1.2 times as fast at least
SEED = 0  # of the pilot, whatever the seed of the run


@dataclass(frozen=True)
class Choice:
    """A precision, and why."""

    precision: str
    reason: str
    failed: bool = False  # something raised on the way to it, which the reason tells


@dataclass(frozen=True)
class Pilot:
    """What a lower precision is tried on: the same for every part of one question."""

    attacks: Sequence[tuple[ThreatModel, AnyAttack]]  # one for each threat
    begin: Split  # the beginning of the whole data set, not of the part at hand
    correct: Callable[[Split], Tensor]  # where the model is right before any attack
    model: str  # text that differs between models

    @classmethod
    def of(
        cls,
        choices: Sequence[tuple[ThreatModel, Sequence[AnyAttack]]],
        split: Split,
        correct: Callable[[Split], Tensor],
        model: str,
    ) -> "Pilot":
        """From the attacks planned under each threat: the first that searches in low precision and aims at no class."""
        firsts = []
        for threat, attacks in choices:
            fit = [a for a in attacks if isinstance(a, GradientAttack | ScoreAttack) and not (a.targets or a.precise)]
            firsts += [(threat, replace(a, steps=min(a.steps, STEPS))) for a in fit[:1]]
        whole = split.uncut
        return cls(firsts, whole.take(range(min(AMONG, len(whole)))), correct, model)

    def examples(self) -> Split:
        """The first of the data set that the model gets right."""
        rows: list[int] = []
        for first in range(0, len(self.begin), EXAMPLES):
            some = range(first, min(first + EXAMPLES, len(self.begin)))
            right = self.correct(self.begin.take(some)).tolist()
            rows += [row for row, is_right in zip(some, right, strict=True) if is_right]
            if len(rows) >= EXAMPLES:
                break
        return self.begin.take(rows[:EXAMPLES])


def choose(classifier: Classifier, pilot: Pilot, lanes: int) -> Choice:
    """The first precision below float32 that has hardware here, pays for this network, and that the pilot agrees to.

    The pilot agrees where its attacks break the same examples as in float32 with at most 1.1 times the queries.
    """
    device = classifier.device
    lower = [precision for precision in ("bfloat16", "tf32") if has_hardware(precision, device)]
    if not lower:
        return Choice("float32", "the device has no hardware for a lower precision")
    if not pilot.attacks:
        return Choice("float32", "no attack of this question could search in another")
    try:
        if too_little := saves_too_little(classifier, lanes):
            return Choice("float32", too_little)
    except Exception as error:
        if out_of_memory(error):
            raise
        return Choice("float32", f"the layers cannot be counted ({_text(error)})", failed=True)
    reasons, failed = [], False
    for precision in lower:
        choice = _tried(classifier, pilot, lanes, precision)
        if choice.precision == precision:
            return choice
        reasons.append(choice.reason)
        failed |= choice.failed
    return Choice("float32", "; ".join(reasons), failed)


def named(classifier: Classifier, precision: str, x: Tensor) -> Choice:
    """The precision that was named; float32 where this model cannot be searched in it, from two images of `x`."""
    if why := failure(classifier, precision, x[:2]):
        return Choice("float32", f"not in {precision}: {why}", failed=True)
    return Choice(precision, "as named")


def notes(choice: Choice, asked: str, before: Sequence[str], device: torch.device) -> list[str]:
    """What a user should know of a choice, in a run that was searched in the precisions `before`."""
    told = []
    if choice.failed:
        told.append(f"searching in {choice.precision}: {choice.reason}")
    elif asked == "auto" and choice.precision != "float32":
        told.append(f"searching in {choice.precision}, judging in float32: {choice.reason}")
    if choice.precision == "bfloat16" and not has_hardware("bfloat16", device):
        told.append("this device emulates bfloat16, which is slow; --precision float32 is faster")
    if before and choice.precision not in before:
        told.append(f"this run was searched in {' and '.join(before)} so far, and goes on in {choice.precision}")
    return told


def _tried(classifier: Classifier, pilot: Pilot, lanes: int, precision: str) -> Choice:
    """This precision where nothing speaks against it, else float32; as it was decided before, if it was."""
    if why := failure(classifier, precision, pilot.begin.x[:2]):
        return Choice("float32", f"not in {precision}: {why}", failed=True)
    key = _key(classifier, pilot, lanes, precision)
    if (known := read(key)) is not None and known.precision in (precision, "float32"):
        return Choice(known.precision, known.reason)
    choice = _compared(classifier, pilot, lanes, precision)
    if not choice.failed:  # an error is met again, and noted again
        write(key, Decision(choice.precision, choice.reason))
    return choice


def _compared(classifier: Classifier, pilot: Pilot, lanes: int, precision: str) -> Choice:
    """What the pilot says of this precision."""
    examples = pilot.examples()
    if not len(examples):
        return Choice("float32", "the model gets no example of a pilot right")
    exact_queries = rough_queries = 0
    for threat, attack in pilot.attacks:
        try:
            exactly, queries = _broken(classifier, threat, attack, examples, lanes, "float32")
            roughly, more = _broken(classifier, threat, attack, examples, lanes, precision)
        except _PilotError as error:  # it has shown nothing, so nothing is taken for shown
            return Choice("float32", f"a pilot of {attack.name} under {threat} failed ({error})", failed=True)
        if apart := len(exactly ^ roughly):
            others = counted(apart, "example")
            return Choice("float32", f"a pilot in {precision} breaks {others} under {threat} otherwise than in float32")
        exact_queries, rough_queries = exact_queries + queries, rough_queries + more
    ratio = f"{rough_queries / max(exact_queries, 1):.2f} times the queries of float32"
    if rough_queries > COSTLIER * exact_queries:
        return Choice("float32", f"a pilot in {precision} makes {ratio}")
    return Choice(precision, f"a pilot on {counted(len(examples), 'image')} breaks the same, with {ratio}")


class _PilotError(Exception):
    """The pilot's attack, or the model in it, raised."""


def _broken(
    classifier: Classifier, threat: ThreatModel, attack: AnyAttack, examples: Split, lanes: int, precision: str
) -> tuple[set[int], int]:
    """The rows on which one restart of the attack finds something, and the queries it makes."""
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(examples))))
    try:
        ended = [end for some in Engine(classifier, examples, SEED, lanes, precision).work([job]) for end in some]
    except UserError:
        raise
    except Exception as error:
        raise _PilotError(_text(error)) from error
    for text in (job.error, *(end.error for end in ended)):
        if text:
            raise _PilotError(" ".join(text.split()))
    return {end.item.row for end in ended if end.x_adv is not None}, sum(end.forwards + end.backwards for end in ended)


def _key(classifier: Classifier, pilot: Pilot, lanes: int, precision: str) -> dict[str, str]:
    """All that the decision is a function of."""
    device = classifier.device
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "robench": __version__,
        "torch": str(torch.__version__),
        "hardware": f"{device.type} {processor}",
        "threads": str(torch.get_num_threads()),
        "rows": str(lanes),
        "precision": precision,
        "model": pilot.model,
        "data": pilot.begin.sha256,
        "attacks": " | ".join(f"{threat} {attack.spec}" for threat, attack in pilot.attacks),
    }


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
