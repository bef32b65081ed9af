"""Chooses the precision of the search if none is named: the first that is faster here and breaks the same examples.

The decision is a function of hardware, network, attacks and the first images of the data set. No clock is read, so
parts, shards and resumed runs of one evaluation choose the same precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ... import __version__
from ...errors import UserError, counted
from ...problem.classifier import Classifier
from ...problem.memory import out_of_memory
from ...problem.split import Split
from ...problem.threats import ThreatModel
from ..attack import AnyAttack, GradientAttack, ScoreAttack
from .engine import Engine
from .job import Job
from .precision import failure, has_hardware, saves_too_little
from .precision_cache import Decision, read, write
from .scheduler import Item, Waiting

EXAMPLES = 64  # correctly classified; a lower precision must break the same of them as float32
AMONG = 256  # images at the beginning of the data set, from which the examples are taken
STEPS = 40  # of the pilot's attack, at most
MAX_QUERIES = 1.1  # times those of float32: a lower precision is only tried if its steps are 1.2 times as fast
SEED = 0  # of the pilot, for every seed of the run


@dataclass(frozen=True)
class Choice:
    """A precision, and the reason for it."""

    precision: str
    reason: str
    failed: bool = False  # whether an error led to it, which the reason names


@dataclass(frozen=True)
class Pilot:
    """The attacks and images on which a lower precision is tried: the same for every part of one evaluation."""

    attacks: Sequence[tuple[ThreatModel, AnyAttack]]  # one for each threat
    begin: Split  # the first images of the whole data set, not of the part that is evaluated
    correct: Callable[[Split], Tensor]  # whether the model classifies each image correctly
    model: str  # text that identifies the model

    @classmethod
    def of(
        cls,
        choices: Sequence[tuple[ThreatModel, Sequence[AnyAttack]]],
        split: Split,
        correct: Callable[[Split], Tensor],
        model: str,
    ) -> "Pilot":
        """A pilot with each threat's first planned attack that searches in low precision and has no target class."""
        firsts = []
        for threat, attacks in choices:
            fit = [a for a in attacks if isinstance(a, GradientAttack | ScoreAttack) and not (a.targets or a.precise)]
            firsts += [(threat, replace(a, steps=min(a.steps, STEPS))) for a in fit[:1]]
        whole = split.uncut
        return cls(firsts, whole.take(range(min(AMONG, len(whole)))), correct, model)

    def examples(self) -> Split:
        """The first correctly classified images of the data set."""
        rows: list[int] = []
        for first in range(0, len(self.begin), EXAMPLES):
            some = range(first, min(first + EXAMPLES, len(self.begin)))
            correct = self.correct(self.begin.take(some)).tolist()
            rows += [row for row, is_correct in zip(some, correct, strict=True) if is_correct]
            if len(rows) >= EXAMPLES:
                break
        return self.begin.take(rows[:EXAMPLES])


def choose(classifier: Classifier, pilot: Pilot, slots: int) -> Choice:
    """The first precision below float32 that has hardware here, speeds up this network, and passes the pilot.

    It passes if the pilot's attacks break the same examples as in float32, with at most 1.1 times the queries.
    """
    device = classifier.device
    lower = [precision for precision in ("bfloat16", "tf32") if has_hardware(precision, device)]
    if not lower:
        return Choice("float32", "the device has no hardware for a lower precision")
    if not pilot.attacks:
        return Choice("float32", "no attack of this evaluation can search in another precision")
    try:
        if too_little := saves_too_little(classifier, slots):
            return Choice("float32", too_little)
    except Exception as error:
        if out_of_memory(error):
            raise
        return Choice("float32", f"the layers cannot be counted ({_text(error)})", failed=True)
    reasons, failed = [], False
    for precision in lower:
        choice = _tried(classifier, pilot, slots, precision)
        if choice.precision == precision:
            return choice
        reasons.append(choice.reason)
        failed |= choice.failed
    return Choice("float32", "; ".join(reasons), failed)


def named(classifier: Classifier, precision: str, x: Tensor) -> Choice:
    """The precision that the user named; float32 if the model fails in it on the first two images of `x`."""
    if why := failure(classifier, precision, x[:2]):
        return Choice("float32", f"not in {precision}: {why}", failed=True)
    return Choice(precision, "as named")


def notes(choice: Choice, requested: str, before: Sequence[str], device: torch.device) -> list[str]:
    """Notes for the user on a choice, in a run that was searched in the precisions `before`."""
    texts = []
    if choice.failed:
        texts.append(f"searching in {choice.precision}: {choice.reason}")
    elif requested == "auto" and choice.precision != "float32":
        texts.append(f"searching in {choice.precision}, verifying in float32: {choice.reason}")
    if choice.precision == "bfloat16" and not has_hardware("bfloat16", device):
        texts.append("this device emulates bfloat16, which is slow; --precision float32 is faster")
    if before and choice.precision not in before:
        texts.append(f"this run was searched in {' and '.join(before)} so far, and goes on in {choice.precision}")
    return texts


def _tried(classifier: Classifier, pilot: Pilot, slots: int, precision: str) -> Choice:
    """This precision if it passes the pilot, else float32. A cached decision is used again."""
    if why := failure(classifier, precision, pilot.begin.x[:2]):
        return Choice("float32", f"not in {precision}: {why}", failed=True)
    key = _key(classifier, pilot, slots, precision)
    if (known := read(key)) is not None and known.precision in (precision, "float32"):
        return Choice(known.precision, known.reason)
    choice = _compared(classifier, pilot, slots, precision)
    if not choice.failed:  # errors are not cached: they are noted in every run
        write(key, Decision(choice.precision, choice.reason))
    return choice


def _compared(classifier: Classifier, pilot: Pilot, slots: int, precision: str) -> Choice:
    """The result of the pilot for this precision."""
    examples = pilot.examples()
    if not len(examples):
        return Choice("float32", "the model classifies no image of the pilot correctly")
    exact_queries = rough_queries = 0
    for threat, attack in pilot.attacks:
        try:
            exactly, queries = _broken(classifier, threat, attack, examples, slots, "float32")
            roughly, more = _broken(classifier, threat, attack, examples, slots, precision)
        except _PilotError as error:  # a failed pilot proves nothing
            return Choice("float32", f"a pilot of {attack.name} under {threat} failed ({error})", failed=True)
        if apart := len(exactly ^ roughly):
            count = counted(apart, "example")
            return Choice("float32", f"a pilot in {precision} differs from float32 on {count} under {threat}")
        exact_queries, rough_queries = exact_queries + queries, rough_queries + more
    ratio = f"{rough_queries / max(exact_queries, 1):.2f} times the queries of float32"
    if rough_queries > MAX_QUERIES * exact_queries:
        return Choice("float32", f"a pilot in {precision} makes {ratio}")
    return Choice(precision, f"a pilot on {counted(len(examples), 'image')} breaks the same examples, with {ratio}")


class _PilotError(Exception):
    """The pilot's attack, or the model in it, raised."""


def _broken(
    classifier: Classifier, threat: ThreatModel, attack: AnyAttack, examples: Split, slots: int, precision: str
) -> tuple[set[int], int]:
    """The rows that one restart of the attack breaks, and the queries it makes."""
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(examples))))
    try:
        ended = [end for some in Engine(classifier, examples, SEED, slots, precision).work([job]) for end in some]
    except UserError:
        raise
    except Exception as error:
        raise _PilotError(_text(error)) from error
    for text in (job.error, *(end.error for end in ended)):
        if text:
            raise _PilotError(" ".join(text.split()))
    return {end.item.row for end in ended if end.x_adv is not None}, sum(end.forwards + end.backwards for end in ended)


def _key(classifier: Classifier, pilot: Pilot, slots: int, precision: str) -> dict[str, str]:
    """Everything that the decision depends on."""
    device = classifier.device
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "robench": __version__,
        "torch": str(torch.__version__),
        "hardware": f"{device.type} {processor}",
        "threads": str(torch.get_num_threads()),
        "rows": str(slots),
        "precision": precision,
        "model": pilot.model,
        "data": pilot.begin.sha256,
        "attacks": " | ".join(f"{threat} {attack.spec}" for threat, attack in pilot.attacks),
    }


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
