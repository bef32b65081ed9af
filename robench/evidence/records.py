"""The records of a run: plain values, without tensors, files or models.

The bounds are checked when a file is read. They are far beyond what robench writes, and keep a manipulated file from
running for hours.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import cached_property, reduce
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from .attack_key import AttackKey

MAX_EXAMPLES = 10**6  # of a plan
MAX_ITEMS = 2**20  # searches on one example
FARTHEST = 10**6  # of a parameter, such as pixels or degrees, as in problem.threats.base
MIN_MANY, MAX_PARAMS = 16, 2**17  # parameters of an image that are float32 bytes, as in problem.threats.base
MIN_SAMPLE = 5  # examples: where fewer of a sample stand, nothing follows from it, and all are searched
WHOLE = -1  # stands for the model where a measurement concerns no single example

Number = Annotated[int, Meta(ge=0, lt=2**31)]  # of an example, or a restart
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Total = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # of counts
Seconds = Annotated[float, Meta(ge=0, lt=1e15)]
Text = Annotated[str, Meta(max_length=10_000)]
ThreatText = Annotated[str, Meta(max_length=200)]

Few = Annotated[tuple[float, ...], Meta(max_length=3)]
Many = Annotated[bytes, Meta(min_length=4 * MIN_MANY, max_length=4 * MAX_PARAMS)]

Rejection = Literal["", "outside", "outside the box", "does not fool", "not finite"]
"""Why a claim was rejected, in the words of the summary file; empty if it was accepted."""


class ModelRecord(msgspec.Struct, frozen=True):
    """The evaluated classifier: `problem.classifier.Identity` and the name it had."""

    name: Text
    weights_sha256: Text
    architecture: Text
    normalisation: Text
    fingerprint: Annotated[tuple[float, ...], Meta(max_length=2**20)]


class PlannedAttack(msgspec.Struct, frozen=True):
    """An attack as it will be run: its name in the tables, its settings, and its items per example."""

    label: Text  # unique within its threat: pgd, or pgd-margin beside pgd-ce
    spec: Annotated[str, Meta(max_length=5000)]  # pgd(loss='margin', step_size=0.1, steps=40): the key of its evidence
    items: Annotated[int, Meta(ge=1, le=MAX_ITEMS)]  # searches of each unbroken example: restarts times targets
    # Which examples it searches; None: all. `sample`: those of so many that stand, and all if it breaks one of them.
    # `near`: those of whose clean margin earlier searches left at most this share. With both: those of either.
    near: Annotated[float, Meta(gt=0, lt=1)] | None = None
    sample: Annotated[int, Meta(ge=1, le=MAX_EXAMPLES)] | None = None

    @property
    def key(self) -> AttackKey:
        """The spec in its parts."""
        return AttackKey.parse(self.spec)


class PlannedThreat(msgspec.Struct, frozen=True):
    """A threat model with the attacks planned under it."""

    threat: ThreatText  # linf:8/255
    attacks: Annotated[tuple[PlannedAttack, ...], Meta(max_length=1000)]


class Shard(msgspec.Struct, frozen=True):
    """One of `count` parts of the examples of a plan; `index` counts from 1.

    It holds every `count`-th example, beginning at the `index`-th. So the parts differ by at most one example, and each
    has its share of a class whose examples stand together, as they do in folders of images: they take about the same
    time. Which part an example belongs to depends on its place in the plan alone.
    """

    index: Annotated[int, Meta(ge=1, le=MAX_EXAMPLES)]
    count: Annotated[int, Meta(ge=1, le=MAX_EXAMPLES)]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def places(self, examples: int) -> range:
        """The places, from 0, of its examples among so many."""
        return range(self.index - 1, examples, self.count)


class Plan(msgspec.Struct, frozen=True):
    """The question that a run answers, and the conditions under which its verdicts repeat exactly."""

    model: ModelRecord
    data: Text  # mnist:test
    data_sha256: Text  # of the examples below, in this order
    examples: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=MAX_EXAMPLES)]  # in split order
    protocol: Text
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    every_attack: bool
    threats: Annotated[tuple[PlannedThreat, ...], Meta(max_length=1000)]
    device: Text
    threads: Annotated[int, Meta(ge=1, lt=2**20)]
    precision: Text
    slots: Annotated[int, Meta(ge=1, lt=2**31)] = msgspec.field(name="lanes")
    curve: bool = False  # minimum-norm attacks search on for the smallest perturbation, to the end of their budget
    passes: Annotated[int, Meta(ge=1, le=10**4)] = (
        1  # over which every image is judged: more for a model that answers at random
    )
    eot: Annotated[int, Meta(ge=1, le=10**6)] = 1  # over which every answer is averaged in the search
    shards: Annotated[tuple[Shard, ...], Meta(max_length=MAX_EXAMPLES)] = ()  # that are searched; none: all examples


class Clean(msgspec.Struct, frozen=True):
    """The model's answer before any attack."""

    example: Number
    digest: str  # of the image and its label
    correct: bool
    margin: float  # best wrong logit minus the correct one: negative for a correct prediction
    tied: bool = False


class Claim(msgspec.Struct, frozen=True):
    """An attack reports an image that fools the model under this threat. The referee has yet to check it."""

    id: Count
    example: Number
    threat: ThreatText
    attack: Text  # PlannedAttack.spec
    restart: Number = msgspec.field(name="draw")
    target: Annotated[int, Meta(ge=-1, lt=2**31)]  # the target class, -1 for an untargeted search
    forwards: Count  # of this item up to the find
    backwards: Count
    # The parameters of the image, for threat models that need them: tx, ty and angle, or more as float32 bytes.
    params: Few | Many = msgspec.field(default=(), name="witness")

    @property
    def key(self) -> AttackKey:
        """The attack in its parts."""
        return AttackKey.parse(self.attack)


class Verdict(msgspec.Struct, frozen=True):
    """The referee's measurements of one claim, and its decision."""

    claim: Count
    accepted: bool
    rejection: Rejection
    reason: str  # a sentence; empty if accepted
    size: float  # in the unit of the threat's radius
    margin: float  # best wrong logit minus the correct one
    passes: Annotated[int, Meta(ge=1, le=10**4)] = 1  # over which it was judged; the margin is their mean


class Exhausted(msgspec.Struct, frozen=True):
    """Searches of one attack on one example under one threat that found nothing."""

    example: Number
    threat: ThreatText
    attack: Text
    done: int  # a set of item numbers, as bits
    forwards: Count
    backwards: Count

    @property
    def key(self) -> AttackKey:
        """The attack in its parts."""
        return AttackKey.parse(self.attack)

    @property
    def restarts(self) -> int:
        """The number of exhausted items."""
        return self.done.bit_count()


class Failure(msgspec.Struct, frozen=True):
    """An attack that raised an error. The example stays open."""

    example: Number
    threat: ThreatText
    attack: Text
    error: str

    @property
    def key(self) -> AttackKey:
        """The attack in its parts."""
        return AttackKey.parse(self.attack)


class Effort(msgspec.Struct, frozen=True):
    """The seconds that an attack has taken under one threat, over all sessions of the run."""

    threat: ThreatText
    attack: Text
    seconds: Seconds


class Probe(msgspec.Struct, frozen=True):
    """A measurement of the model: taken during a search, or by the diagnostics for gradient masking."""

    threat: ThreatText  # empty if it concerns the model under any threat
    example: Annotated[int, Meta(ge=-1, lt=2**31)]  # WHOLE if it concerns no single one
    name: Text  # nan: the model answered NaN during a search; the others are those of masking.diagnostics
    value: float


class Nearest(msgspec.Struct, frozen=True):
    """How near the searches of the first round came to the boundary, of all that found nothing."""

    example: Number
    threat: ThreatText
    left: float  # the smallest share of the clean margin that a queried member of the threat set left: 1 is none gained


class PassedOver(msgspec.Struct, frozen=True):
    """An example that a planned attack did not search.

    Either it searches only near examples, and no earlier search came near this one; or it broke nothing on its sample.
    """

    example: Number
    threat: ThreatText
    attack: Text
    rule: Literal["near", "sample"]
    value: float  # when this was decided: the share left as in `Nearest`, or the number of sampled examples


class MaskingDepth(IntEnum):
    """How thorough a check for gradient masking is."""

    NONE = 0
    ON = 1
    DEEP = 2


class MaskingState(msgspec.Struct, frozen=True):
    """How far the check for gradient masking has come under one threat. Parts at their defaults are not known yet."""

    threat: ThreatText
    started: MaskingDepth = MaskingDepth.NONE  # of the last check; recorded before any threat is examined
    reached: MaskingDepth = MaskingDepth.NONE  # the greatest depth at which examples were sampled
    sampled: tuple[Number, ...] = ()  # examples for attacks of another kind, in ascending order
    # The attacks of another kind that search the sample, by their keys, and the depth that last assigned them.
    assigned: tuple[tuple[Text, MaskingDepth], ...] = ()
    widened: MaskingDepth = MaskingDepth.NONE  # the greatest depth at which all that stands was searched further

    def joined(self, other: "MaskingState") -> "MaskingState":
        """Everything that either of two records about the same threat holds."""
        assert self.threat == other.threat, "only records about one threat are joined"
        depths = dict(self.assigned)
        for attack, depth in other.assigned:
            depths[attack] = max(depth, depths.get(attack, depth))
        return MaskingState(
            self.threat,
            max(self.started, other.started),
            max(self.reached, other.reached),
            tuple(sorted({*self.sampled, *other.sampled})),
            tuple(sorted(depths.items())),
            max(self.widened, other.widened),
        )


class Evidence(msgspec.Struct, frozen=True, dict=True):
    """Everything that a run file records. It may exceed the plan: other examples, threats, attacks."""

    clean: tuple[Clean, ...] = ()
    claims: tuple[Claim, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    exhausted: tuple[Exhausted, ...] = ()
    failures: tuple[Failure, ...] = ()
    efforts: tuple[Effort, ...] = ()
    probes: tuple[Probe, ...] = ()
    masking: tuple[MaskingState, ...] = ()
    nearest: tuple[Nearest, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    environment: dict[str, str] = {}  # msgspec copies defaults

    def judged(self) -> Iterator[tuple[Claim, Verdict]]:
        """The claims that have a verdict, with it."""
        by_id = {v.claim: v for v in self.verdicts}
        return ((c, by_id[c.id]) for c in self.claims if c.id in by_id)

    @cached_property
    def accepted(self) -> dict[str, tuple[tuple[Claim, Verdict], ...]]:
        """The accepted claims with their verdicts, each pair once, by the threat under which they were found."""
        claims = {claim.id: claim for claim in self.claims}
        pairs = dict.fromkeys((claims[v.claim], v) for v in self.verdicts if v.accepted and v.claim in claims)
        return grouped((claim.threat, (claim, verdict)) for claim, verdict in pairs)

    @cached_property
    def exhausted_under(self) -> dict[str, tuple[Exhausted, ...]]:
        """The exhausted searches by threat."""
        return grouped((s.threat, s) for s in self.exhausted)

    @cached_property
    def passed_over_by(self) -> dict[tuple[str, str], tuple[PassedOver, ...]]:
        """The examples that were passed over, by threat and attack."""
        return grouped(((p.threat, p.attack), p) for p in self.passed_over)

    def masking_state(self, threat: str) -> MaskingState:
        """The state of the check for gradient masking under one threat, from all records about it."""
        return reduce(MaskingState.joined, (s for s in self.masking if s.threat == threat), MaskingState(threat))


K = TypeVar("K")
V = TypeVar("V")


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, tuple[V, ...]]:
    """The values of each key, in their order."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in groups.items()}
