"""The check for gradient masking, after the attacks: whether examples stand because gradients mislead.

Diagnostics measure the gradient. Attacks of another kind search what first-order attacks left, and first-order attacks
search once more what those broke. Every find goes to the referee and counts, like any other. `results.masking` turns
the records into a verdict.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from ..errors import UserError, unknown
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
from ..results.masking.comparison import left_by_first_order, uncontrolled
from ..results.outcomes import answers
from ..search.attack import AnySteppedAttack
from ..search.attacks.apgd import APGD
from ..search.attacks.boundary import Boundary
from ..search.attacks.brendel_bethge import BrendelBethge
from ..search.attacks.fab import FAB
from ..search.attacks.hop_skip_jump import HopSkipJump
from ..search.attacks.pgd import PGD
from ..search.attacks.pointwise import Pointwise
from ..search.attacks.salt_and_pepper import SaltAndPepper
from ..search.attacks.square import Square
from . import diagnostics, surrogates

MaskingLevel = Literal["off", "on", "deep"]
"""How thorough the check is."""

LEVELS: tuple[MaskingLevel, ...] = ("off", "on", "deep")
CHECKED = ("linf", "l2", "l1")  # the norms for which `of_another_kind` chooses attacks
SHARE = 0.05  # of the time that the protocol would take if every example stood
MIN = 10.0  # seconds, if that share is less

Step = tuple[ThreatChoice, PlannedAttack, AttackChoice]


def level(text: str) -> MaskingLevel:
    """The level of this name. Raises UserError for another word."""
    for known in LEVELS:
        if text == known:
            return known
    raise unknown("level of --masking", text, LEVELS)


@dataclass(frozen=True)
class Scope:
    """How much a check covers under each threat."""

    depth: MaskingDepth
    probed: int  # examples whose gradients are measured
    sampled: int  # examples that first-order attacks left, for attacks of another kind
    controlled: int  # of those that were broken, how many first-order attacks search again
    limited: bool  # in time


SCOPES: Mapping[MaskingLevel, Scope] = {
    "on": Scope(MaskingDepth.ON, probed=40, sampled=32, controlled=10, limited=True),
    "deep": Scope(MaskingDepth.DEEP, probed=500, sampled=10**6, controlled=100, limited=False),
}


@dataclass(frozen=True)
class Search:
    """Attacks on some examples of a classifier, which may be a surrogate."""

    classifier: Classifier
    steps: Sequence[Step]
    examples: frozenset[int]  # numbers in the split
    again: bool  # also on examples that are broken already
    until: float  # of time.monotonic()


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
        seconds = self._allowed()
        for place, choice in enumerate(threats):
            self._measure(choice)
            until = self._started + seconds * (place + 1) / len(threats)
            yield from self._of_threat(choice, whole, until)

    def _of_threat(self, choice: ThreatChoice, whole: Mapping[str, float], until: float) -> Iterator[Search]:
        threat = str(choice.threat)
        assert isinstance(choice.threat, Ball), "only balls are checked"
        sample = self._sample(threat)
        deep = self._scope.depth is MaskingDepth.DEEP
        suspicious = suspicious_indicators(self.plan, self.run.evidence(), threat)
        if suspicious:  # a gradient that works is the cheapest attack of all
            yield from self._with_surrogates(choice, sample, whole, suspicious, until)
        others = self._search(self.classifier, choice, of_another_kind(choice.threat.name, self.level), sample, until)
        # Recorded before the search, so that one that time cuts short is known to be incomplete.
        assigned = tuple((planned.spec, self._scope.depth) for _, planned, _ in others.steps)
        self._record([MaskingState(threat, assigned=assigned)])
        yield others
        if not suspicious and deep:
            yield from self._with_surrogates(choice, sample, whole, suspicious, until)
        averaged = self.plan.passes > 1  # the model answers at random, so every gradient is a mean already
        if not averaged and (jumps(suspicious) or deep):
            halfway = (time.monotonic() + until) / 2  # expensive, and what is broken so far needs its control
            nearby = surrogates.smoothed(self.classifier, choice.threat)
            yield self._search(nearby, choice, ascent_attacks(self.level)[:2], sample, halfway, surrogate="smoothed")
        broken = uncontrolled(self.plan, self.run.evidence(), threat)
        controlled = frozenset([e for e in broken if e in sample][: self._scope.controlled])
        yield self._search(self.classifier, choice, control(), controlled, until, again=True)

    def _with_surrogates(
        self,
        choice: ThreatChoice,
        sample: frozenset[int],
        whole: Mapping[str, float],
        suspicious: Set[str],
        until: float,
    ) -> Iterator[Search]:
        dead_pixels = indicators.DEAD_PIXELS.name in suspicious
        for name, surrogate in self._surrogates(whole, dead_pixels):
            yield self._search(surrogate, choice, ascent_attacks(self.level), sample, until, surrogate=name)

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

    def _surrogates(self, whole: Mapping[str, float], dead_pixels: bool) -> Iterator[tuple[str, Classifier]]:
        """The model with other gradients, each under the name that its evidence keys hold."""
        differentiates = whole.get("inner gradients", 0) > 0
        x = self._images(self._correct()[:64]).x.to(self.classifier.device)
        if not whole.get("compiled"):
            yield "repaired", surrogates.bpda(self.classifier, differentiates=differentiates)
            if dead_pixels or self._scope.depth is MaskingDepth.DEEP:
                leaky = surrogates.bpda(self.classifier, differentiates=differentiates, leak=surrogates.LEAKY_SLOPE)
                yield "leaking", leaky
            inner = surrogates.inner_layer(self.classifier, x, differentiates=differentiates)
            if inner is not None:
                yield "inside", inner
        spread, probabilities = whole.get("spread", 1.0), whole.get("probabilities", 0) > 0
        if (probabilities and not whole.get("one-hot")) or not 1e-2 < spread < 1e2:
            yield "rescaled", surrogates.rescaled(self.classifier, spread or 1.0, probabilities=probabilities)

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

    def _sample(self, threat: str) -> frozenset[int]:
        """Examples that first-order attacks leave. The sample is recorded, because the verdict rests on it alone."""
        evidence = self.run.evidence()
        state = evidence.masking_state(threat)
        left = self._shuffled(left_by_first_order(self.plan, evidence, threat))
        before = frozenset(state.sampled)
        new = [e for e in left if e not in before][: max(0, self._scope.sampled - len(before))]
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
            found.append(Probe("", WHOLE, "compiled", float(surrogates.is_compiled(self.classifier))))
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

    def _allowed(self) -> float:
        """The seconds that the check may take, from its start."""
        if not self._scope.limited:
            return float("inf")
        try:
            rate = self._rate()
        except RuntimeError as error:
            if out_of_memory(error):
                raise self._too_little_memory() from None
            return MIN  # the model yields no gradient, so the protocol's attacks take no time at all
        each = rate.seconds(of_protocol(self.protocol, self.classifier.classes))
        return max(MIN, SHARE * each * self.plan.eot * len(self._correct()))

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
    """The names of the indicators that are suspicious under a threat."""
    return {i.name for i in indicators.read(plan, evidence, threat) if i.suspicious}


def jumps(suspicious: Set[str]) -> bool:
    """Whether there is a gradient, but it is unlike those nearby, judging by the suspicious indicators."""
    unlike = {indicators.DEAD_PIXELS.name, indicators.GAIN.name}
    return bool(suspicious & unlike) and indicators.ZERO.name not in suspicious


def of_another_kind(threat: str, level: MaskingLevel) -> list[AttackChoice]:
    """Attacks for one norm that read no gradient, or that start where the model is wrong already."""
    deep = level == "deep"
    square = _choice("square", Square(steps=5000 if deep else 150))
    if threat == "linf":
        return [square, _choice("hop-skip-jump", HopSkipJump(steps=10))] if deep else [square]
    # Expensive, so it comes last and takes the time that is left.
    outside = _choice("brendel-bethge", BrendelBethge(steps=200 if deep else 60))
    if threat == "l2":
        return [square, *([_choice("boundary", Boundary(steps=100))] if deep else []), outside]
    assert threat == "l1", f"no attack is chosen for {threat}"
    pointwise = _choice("pointwise", Pointwise(steps=500 if deep else 40))
    return [pointwise, square, *([_choice("salt-and-pepper", SaltAndPepper())] if deep else []), outside]


def ascent_attacks(level: MaskingLevel) -> list[AttackChoice]:
    """Attacks on a surrogate. Steps of one length come first: they work even if the loss itself does not change."""
    targets = 9 if level == "deep" else 3
    return [
        _choice("pgd", PGD(steps=40, random_start=False)),
        _choice("apgd-margin", APGD(loss="margin")),
        _choice("apgd-t", APGD(loss="dlr", targets=targets)),
    ]


def control() -> list[AttackChoice]:
    """First-order attacks on scale-free losses, with more gradients than `comparison.CONTROL` requires."""
    ascent = _choice("apgd-margin", APGD(loss="margin"), 2)
    return [ascent, _choice("apgd-t", APGD(loss="dlr", targets=4)), _choice("fab", FAB(targets=4, steps=50))]


def _choice(label: str, attack: AnySteppedAttack, restarts: int = 1) -> AttackChoice:
    return AttackChoice(label, attack, restarts)
