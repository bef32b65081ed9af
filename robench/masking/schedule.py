"""The check for gradient masking, after the attacks: whether examples stand because gradients mislead.

Diagnostics measure the gradient. Attacks of another kind search a sample of what first-order attacks left. Where a
diagnostic is suspicious or they break something, the search goes on over all that stands: surrogate gradients first,
then attacks without gradients. First-order attacks search once more what those broke. Every find goes to the referee
and counts, like any other. `results.masking` turns the records into a verdict.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from ..errors import UserError, counted, unknown
from ..evidence.attack_key import AttackKey
from ..evidence.records import WHOLE, Evidence, MaskingDepth, MaskingState, Plan, PlannedAttack, Probe
from ..evidence.store import RunFile
from ..problem.classifier import Classifier
from ..problem.memory import out_of_memory
from ..problem.noise import keyed, text_key
from ..problem.split import Split
from ..problem.threats import Ball
from ..protocols import AttackChoice, Protocol, ThreatChoice
from ..protocols.cost import ROWS, Rate, measured_rate, of_protocol
from ..results.masking import indicators
from ..results.masking.comparison import compare, left_by_first_order, uncontrolled
from ..results.masking.verdict import AT_RANDOM, findings
from ..results.outcomes import answers, breaks
from . import diagnostics, surrogates
from .attacks import Effort, ascent_attacks, control, first_ascents, of_another_kind
from .script_graph import is_compiled
from .transfer import guides, imitates, imitation

MaskingLevel = Literal["on", "deep"]
"""How thorough a check is."""

MaskingRequest = Literal["auto", "off", "on", "deep"]
"""Which check is wanted; `auto` is `on` where the evaluation shows a sign of masking, else `off`."""

REQUESTS: tuple[MaskingRequest, ...] = ("auto", "off", "on", "deep")
CHECKED = ("linf", "l2", "l1")  # the norms for which `of_another_kind` chooses attacks
SHARE = 0.05  # of the time that the protocol would take if every example stood
MIN = 10.0  # seconds, if that share is less
ALL = 10**6  # examples: no data set has more
CONTROLLED = 100  # of the examples broken in a further search, how many first-order attacks search again
MORE_SHARE = 1.0  # of the same time, where a threat may be masked
MORE_MIN = 60.0  # seconds, if that share is less

Step = tuple[ThreatChoice, PlannedAttack, AttackChoice]


def requested(text: str) -> MaskingRequest:
    """The request of this name. Raises UserError for another word."""
    for known in REQUESTS:
        if text == known:
            return known
    raise unknown("level of --masking", text, REQUESTS)


@dataclass(frozen=True)
class Scope:
    """How much a check covers under each threat."""

    depth: MaskingDepth
    probed: int  # examples whose gradients are measured
    sampled: int  # examples that first-order attacks left, for attacks of another kind; all, where it may be masked
    controlled: int  # of those that were broken, how many first-order attacks search again
    limited: bool  # in time


SCOPES: Mapping[MaskingLevel, Scope] = {
    "on": Scope(MaskingDepth.ON, probed=40, sampled=32, controlled=10, limited=True),
    "deep": Scope(MaskingDepth.DEEP, probed=500, sampled=ALL, controlled=CONTROLLED, limited=False),
}


@dataclass(frozen=True)
class Search:
    """Attacks on some examples of a classifier, which may be a surrogate."""

    classifier: Classifier
    steps: Sequence[Step]
    examples: frozenset[int]  # numbers in the split
    again: bool  # also on examples that are broken already
    until: float  # of time.monotonic()
    note: str = ""  # what the user should know before it starts, as a sentence without its full stop


@dataclass
class MaskingCheck:
    """The measurements and searches of a check, in their order. Each search depends on the finds of the one before."""

    plan: Plan
    protocol: Protocol
    classifier: Classifier
    split: Split
    run: RunFile
    level: MaskingLevel
    spec: Callable[[AttackChoice], str]  # the key of an attack's evidence
    _started: float = field(default_factory=time.monotonic)

    def searches(self) -> Iterator[Search]:
        """Measure, then yield one search after the other. The caller runs each before it takes the next.

        Raises UserError if the memory is too small for the gradient of one image.
        """
        threats = [t for t in self.protocol.threats if t.threat.name in CHECKED]
        if not threats or not self._correct():
            return
        self._record(MaskingState(str(t.threat), started=self._scope.depth) for t in threats)
        whole = self._whole()
        cost = self._cost()
        for choice in threats:
            self._measure(choice)
            yield from self._of_threat(choice, whole, cost, len(threats))

    def _of_threat(
        self, choice: ThreatChoice, whole: Mapping[str, float], cost: float, threats: int
    ) -> Iterator[Search]:
        """The searches under one of several threats, each of which may take the same time."""
        threat, started = str(choice.threat), time.monotonic()
        assert isinstance(choice.threat, Ball), "only balls are checked"
        until = started + self._seconds(SHARE, MIN, cost) / threats
        sample = self._sample(threat, self._scope.sampled)
        # Nothing can change the answer of a constant model.
        constant = bool(whole.get("constant"))
        suspicious = set() if constant else suspicious_indicators(self.plan, self.run.evidence(), threat)
        deep = self._scope.depth is MaskingDepth.DEEP
        if not deep and not suspicious:
            others = of_another_kind(choice.threat.name, "on")
            yield self._assigned(self._search(self.classifier, choice, others, sample, until))
        more = deep or bool(suspicious) or self._may_be_masked(threat)
        sample = self._sample(threat, ALL) if more else sample
        if more and sample:
            seconds = self._seconds(MORE_SHARE, MORE_MIN, cost) / threats
            until = max(until, time.monotonic() + seconds)
            why = ", ".join(sorted(suspicious)) or "evidence of another kind"
            note = (
                f"{threat}: {why}; {counted(len(sample), 'example')} that first-order attacks left are searched further"
            )
            note += f", for up to {counted(round(seconds), 'second')}" if seconds < float("inf") else ""
            for search in self._further(choice, sample, suspicious, whole, until):
                yield replace(search, note=note)
                note = ""
        if not self._conclusive(threat):
            broken = uncontrolled(self.plan, self.run.evidence(), threat)
            max_controlled = CONTROLLED if more else self._scope.controlled
            controlled = frozenset([e for e in broken if e in sample][:max_controlled])
            # What is broken so far needs its control, so that takes its time whatever the search has taken.
            until = max(until, time.monotonic() + MIN / threats)
            yield self._search(self.classifier, choice, control(), controlled, until, again=True)

    def _further(
        self,
        choice: ThreatChoice,
        sample: frozenset[int],
        suspicious: Set[str],
        whole: Mapping[str, float],
        until: float,
    ) -> Iterator[Search]:
        """Everything on all that stands. Surrogates that have broken something get all their attacks."""
        assert isinstance(choice.threat, Ball), "only balls are checked"
        threat, effort = str(choice.threat), self._effort
        useful = []
        for name, surrogate in self._surrogates(choice.threat, whole, suspicious):
            first = self._search(surrogate, choice, first_ascents(), sample, until, surrogate=name)
            yield self._assigned(first)
            if effort == "deep" or self._yield(threat, name):
                useful.append((self._yield(threat, name), name, surrogate))
        for _, name, surrogate in sorted(useful, key=lambda one: -one[0]):
            rest = self._search(surrogate, choice, ascent_attacks(effort), sample, until, surrogate=name)
            yield self._assigned(rest)
        others = of_another_kind(choice.threat.name, effort)
        yield self._assigned(self._search(self.classifier, choice, others, sample, until))
        averaged = self.plan.passes > 1  # the model answers at random, so every gradient is a mean already
        if not averaged and (jumps(suspicious) or effort == "deep"):
            nearby = surrogates.smoothed(self.classifier, choice.threat)
            yield self._assigned(self._search(nearby, choice, first_ascents(), sample, until, surrogate="smoothed"))
        # Recorded at the end: before, an interruption would leave out searches that were never assigned.
        self._record([MaskingState(threat, widened=self._scope.depth)])

    def _assigned(self, search: Search) -> Search:
        """The search, recorded before it runs, so that one that time cuts short is known to be incomplete."""
        assigned = tuple((planned.spec, self._scope.depth) for _, planned, _ in search.steps)
        if search.steps:
            self._record([MaskingState(str(search.steps[0][0].threat), assigned=assigned)])
        return search

    def _may_be_masked(self, threat: str) -> bool:
        """Whether anything has broken significantly many of the sampled examples that the plan left."""
        found = compare(self.plan, self.run.evidence(), threat)
        return found.too_weak or found.significant or found.uncontrolled > 1

    def _conclusive(self, threat: str) -> bool:
        """Whether a diagnostic shows by itself that gradients mislead, so that no control is needed."""
        reading = findings(self.plan, self.run.evidence())[threat].indicators
        return any(indicator.conclusive for indicator in reading)

    def _yield(self, threat: str, surrogate: str) -> int:
        """The number of examples that the gradient of a surrogate has broken under a threat."""
        found = breaks(self.run.evidence(), threat)
        return len({claim.example for claim, _ in found if claim.key.surrogate == surrogate})

    def _any_yield(self, threat: str) -> bool:
        """Whether the gradient of any surrogate but an imitation has broken an example under a threat."""
        found = breaks(self.run.evidence(), threat)
        return any(claim.key.surrogate not in ("", "imitation") for claim, _ in found)

    @property
    def _effort(self) -> Effort:
        return "deep" if self._scope.depth is MaskingDepth.DEEP else "more"

    def _search(
        self,
        classifier: Classifier,
        choice: ThreatChoice,
        attacks: Sequence[AttackChoice],
        examples: frozenset[int],
        until: float,
        *,
        surrogate: str = "",
        again: bool = False,
    ) -> Search:
        def planned(attack: AttackChoice) -> PlannedAttack:
            key = replace(AttackKey.parse(self.spec(attack)), surrogate=surrogate)
            label = AttackKey(attack.label, surrogate=surrogate)
            return PlannedAttack(str(label), str(key), self._items(attack))

        steps = [(choice, planned(attack), attack) for attack in attacks]
        return Search(classifier, steps, examples, again, until)

    def _record(self, states: Iterable[MaskingState]) -> None:
        with self.run.writing():
            self.run.put_masking(states)

    @property
    def _scope(self) -> Scope:
        return SCOPES[self.level]

    def _items(self, choice: AttackChoice) -> int:
        return choice.restarts * max(1, min(choice.attack.targets, self.classifier.classes - 1))

    def _surrogates(
        self, threat: Ball, whole: Mapping[str, float], suspicious: Set[str]
    ) -> Iterator[tuple[str, Classifier]]:
        """The model with other gradients, each under the name that its evidence keys hold, the likeliest first."""
        differentiates = whole.get("inner gradients", 0) > 0
        dead_pixels = indicators.DEAD_PIXELS.name in suspicious
        x = self._images(self._correct()[:64]).x.to(self.classifier.device)
        inside = surrogates.opened(self.classifier, x)
        if not is_compiled(inside.module):
            bpda = surrogates.bpda(inside, differentiates=differentiates)
            yield "repaired", bpda
            near = surrogates.bpda(inside, differentiates=differentiates, sharpness=surrogates.SHARPNESS)
            if not surrogates.same_gradients(bpda, near, x[:16]):
                yield "near-thresholds", near
            inner = surrogates.inner_layer(inside, x, differentiates=differentiates)
            if inner is not None:
                yield "inside", inner
            if dead_pixels or self._effort == "deep":
                leaky = surrogates.bpda(inside, differentiates=differentiates, leak=surrogates.LEAKY_SLOPE)
                yield "leaking", leaky
        spread, probabilities = whole.get("spread", 1.0), whole.get("probabilities", 0) > 0
        if (probabilities and not whole.get("one-hot")) or not 1e-2 < spread < 1e2:
            yield "rescaled", surrogates.rescaled(self.classifier, spread or 1.0, probabilities=probabilities)
        astray = indicators.ASIDE.name in suspicious
        if not astray and not self._conclusive(str(threat)) and self._effort != "deep":
            return  # the model's own gradient is of some use, and then that of another network seldom adds to it
        for name, guide in guides(self.classifier, self.plan.data, self.plan.model.weights_sha256, x):
            yield f"transfer-from-{name}", surrogates.guided(self.classifier, guide)
        if imitates(self.classifier) and not self._any_yield(str(threat)):
            every = self._images(self._correct()[:512]).x.to(self.classifier.device)
            imitation_of_it = imitation(self.classifier, threat, every, self.plan.seed)
            yield "imitation", surrogates.guided(self.classifier, imitation_of_it)

    # Examples

    def _correct(self) -> list[int]:
        """The examples that are correct before any attack, in a shuffled order that is the same in every run."""
        correct = answers(self.run.evidence())
        return self._shuffled([e for e in self.plan.examples if correct.get(e, False)])

    def _shuffled(self, examples: Sequence[int]) -> list[int]:
        """The examples ordered by a hash of their numbers, so that a larger sample contains every smaller one."""
        if not examples:
            return []
        keys = keyed(self.plan.seed, torch.tensor(examples), text_key("masking"), restart=0).tolist()
        return [example for _, example in sorted(zip(keys, examples, strict=True))]

    def _images(self, examples: Sequence[int]) -> Split:
        row = {number: i for i, number in enumerate(self.split.numbers)}
        return self.split.take([row[e] for e in examples])

    def _sample(self, threat: str, size: int) -> frozenset[int]:
        """Examples that first-order attacks leave. The sample is recorded, because the verdict rests on it alone."""
        evidence = self.run.evidence()
        state = evidence.masking_state(threat)
        left = self._shuffled(left_by_first_order(self.plan, evidence, threat))
        before = frozenset(state.sampled)
        new = [e for e in left if e not in before][: max(0, size - len(before))]
        reached = max(self._scope.depth, state.reached)
        self._record([MaskingState(threat, reached=reached, sampled=tuple(sorted(new)))])
        return before | frozenset(new)

    # Measurements

    def _whole(self) -> Mapping[str, float]:
        """The measurements of the whole model by name. They are taken once."""
        known = {p.name: p.value for p in self.run.evidence().probes if (p.threat, p.example) == ("", WHOLE)}
        if not known:
            few = self._images(self._correct()[:16])
            found = self._measured(lambda: diagnostics.of_model(self.classifier, few, self.plan.seed))
            found.append(Probe("", WHOLE, "compiled", float(is_compiled(self.classifier.module))))
            with self.run.writing():
                self.run.put_probes(found)
            known = {p.name: p.value for p in found}
        return known

    def _measure(self, choice: ThreatChoice) -> None:
        """Measure the examples that have not been measured yet."""
        threat = choice.threat
        assert isinstance(threat, Ball), "only balls are measured"
        known = {p.example for p in self.run.evidence().probes if (p.threat, p.name) == (str(threat), "leads")}
        missing = [e for e in self._correct()[: self._scope.probed] if e not in known]
        if missing:
            images = self._images(missing)
            found = self._measured(lambda: diagnostics.of_threat(self.classifier, threat, images, self.plan.seed))
            with self.run.writing():
                self.run.put_probes(found)

    def _measured(self, measure: Callable[[], Iterator[diagnostics.Measured]]) -> list[Probe]:
        """The records of these measurements. A lack of memory is an error, never a measurement."""
        try:
            return [Probe(m.threat, m.example, m.name, m.value) for m in measure()]
        except Exception as error:
            if not out_of_memory(error):
                raise
        raise self._too_little_memory()

    def _cost(self) -> float:
        """The seconds that the protocol would take if every example stood; 0 for a model without a gradient."""
        if not self._scope.limited:
            return 0.0
        try:
            rate = self._rate()
        except RuntimeError as error:
            if out_of_memory(error):
                raise self._too_little_memory() from None
            return 0.0  # the protocol's attacks take no time at all
        each = rate.seconds(of_protocol(self.protocol, self.classifier.classes))
        return each * self.plan.eot * len(self._correct())

    def _seconds(self, share: float, minimum: float, cost: float) -> float:
        """The seconds that a part of the check may take under all threats."""
        return max(minimum, share * cost) if self._scope.limited else float("inf")

    def _rate(self) -> Rate:
        """The measured rate, in a batch that fits the memory."""
        rows = ROWS
        while True:
            try:
                return measured_rate(self.classifier, rows)
            except Exception as error:
                if rows == 1 or not out_of_memory(error):
                    raise
            rows //= 2

    def _too_little_memory(self) -> UserError:
        return UserError(
            f"the memory of {self.classifier.device} is too small to measure the model's gradient on one image; free"
            " some memory and type the command again, or leave out --masking"
        )


def suspicious_indicators(plan: Plan, evidence: Evidence, threat: str) -> set[str]:
    """The names of the indicators that are suspicious under a threat, without those that noise explains."""
    explained = {i.name for i in indicators.INDICATORS if plan.passes > 1 and i.measure in AT_RANDOM}
    return {i.name for i in indicators.read(plan, evidence, threat) if i.suspicious} - explained


def jumps(suspicious: Set[str]) -> bool:
    """Whether there is a gradient, but it is unlike those nearby, judging by the suspicious indicators."""
    unlike = {i.name for i in (indicators.DEAD_PIXELS, indicators.GAIN, indicators.ASIDE, indicators.MISLED)}
    return bool(suspicious & unlike) and indicators.ZERO.name not in suspicious
