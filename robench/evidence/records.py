"""What is written down. Plain values: no tensors, no files, no model."""

from collections.abc import Iterator
from typing import Literal

import msgspec

Rejection = Literal["", "outside", "outside the box", "does not fool", "not finite"]
"""Why a claim was turned down, in the words of the summary file; empty when it was accepted."""


class ModelRecord(msgspec.Struct, frozen=True):
    """Which classifier was asked about. Mirrors `problem.classifier.Identity`, with the name it went by."""

    name: str
    weights_sha256: str
    architecture: str
    normalisation: str
    fingerprint: tuple[float, ...]


class PlannedAttack(msgspec.Struct, frozen=True):
    """An attack as it will be run: what the tables call it, every number, how many items per example."""

    label: str  # unique within its threat: pgd, or pgd-margin beside pgd-ce
    spec: str  # pgd(loss='margin', step_size=0.1, steps=40): the key of its evidence
    items: int  # draws times targets: searches on each example before it counts as spent


class PlannedThreat(msgspec.Struct, frozen=True):
    """A threat model with the attacks that will be tried on it."""

    threat: str  # linf:8/255
    attacks: tuple[PlannedAttack, ...]


class Plan(msgspec.Struct, frozen=True):
    """The question a run answers, and the conditions under which its verdicts repeat exactly."""

    model: ModelRecord
    data: str  # mnist:test
    data_sha256: str  # of the examples below, in this order
    examples: tuple[int, ...]  # numbers in the split, in split order
    protocol: str
    seed: int
    every_attack: bool
    threats: tuple[PlannedThreat, ...]
    device: str
    threads: int
    precision: str
    lanes: int
    curve: bool = False  # minimum-norm attacks go on for the smallest perturbation, to the end of their budget
    passes: int = 1  # over which every image is judged: more than one where the model answers at random
    eot: int = 1  # over which every answer is averaged in the search


class Clean(msgspec.Struct, frozen=True):
    """The model's answer before any attack."""

    example: int
    digest: str  # of the image and its label
    correct: bool
    margin: float  # best wrong logit minus the right one: negative when correct
    tied: bool = False


class Claim(msgspec.Struct, frozen=True):
    """An attack says it has an image that fools the model under this threat. Nobody has checked yet."""

    id: int
    example: int
    threat: str
    attack: str  # PlannedAttack.spec
    draw: int
    target: int  # the class it aimed at, -1 when untargeted
    forwards: int  # spent on this item up to the find
    backwards: int
    witness: tuple[float, ...] = ()  # how the image was made, in threat models that need to know: tx, ty, angle


class Verdict(msgspec.Struct, frozen=True):
    """What the referee measured about one claim."""

    claim: int
    accepted: bool
    rejection: Rejection
    reason: str  # a sentence; empty when accepted
    size: float  # in the unit of the threat's radius
    margin: float  # best wrong logit minus the right one
    passes: int = 1  # over which it was judged; the margin is the mean of theirs


class Spent(msgspec.Struct, frozen=True):
    """Searches of one attack on one example under one threat that ended in vain."""

    example: int
    threat: str
    attack: str
    done: int  # a set of item numbers, as bits
    forwards: int
    backwards: int

    @property
    def draws(self) -> int:
        """How many items were spent."""
        return self.done.bit_count()


class Failure(msgspec.Struct, frozen=True):
    """An attack raised: its example stays open, with the error."""

    example: int
    threat: str
    attack: str
    error: str


class Effort(msgspec.Struct, frozen=True):
    """Seconds an attack has taken under one threat, over all sessions of the run."""

    threat: str
    attack: str
    seconds: float


class Probe(msgspec.Struct, frozen=True):
    """A measurement that a reader of the table should know of: taken in passing, or to look for gradient masking."""

    threat: str  # empty where it is about the model as such
    example: int  # -1 where it is about no single one
    name: str  # nan: the model answered NaN during a search; the others are those of search.probes
    value: float


class Evidence(msgspec.Struct, frozen=True):
    """Everything a run file knows. It may hold more than a plan asks for: other examples, threats, attacks."""

    clean: tuple[Clean, ...] = ()
    claims: tuple[Claim, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    spent: tuple[Spent, ...] = ()
    failures: tuple[Failure, ...] = ()
    efforts: tuple[Effort, ...] = ()
    probes: tuple[Probe, ...] = ()
    environment: dict[str, str] = {}  # msgspec copies defaults

    def judged(self) -> Iterator[tuple[Claim, Verdict]]:
        """Claims with their verdicts; a claim still unjudged is left out."""
        by_id = {v.claim: v for v in self.verdicts}
        return ((c, by_id[c.id]) for c in self.claims if c.id in by_id)
