"""After the attacks: is it the model that stands, or its gradient that misleads?

Probes look at the gradient, attacks of another kind at what first-order attacks left, first-order attacks once more
at what fell to others. What is found goes to the referee like everything else, and counts. What it amounts to is said
in results/masking.py.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import torch

from ..errors import unknown
from ..evidence.records import Evidence, Plan, PlannedAttack, Probe
from ..evidence.store import RunFile
from ..problem.classifier import Classifier
from ..problem.noise import keyed, text_key
from ..problem.split import Split
from ..problem.threats import Ball
from ..protocols import AttackChoice, Protocol, ThreatChoice
from ..protocols.cost import measured_rate, of_protocol
from ..results.masking import verdict as masking
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
from . import diagnostics as probes
from . import surrogates as surrogates

MaskingLevel = Literal["off", "on", "deep"]
"""How closely to look."""

LEVELS: tuple[MaskingLevel, ...] = ("off", "on", "deep")
SHARE = 0.05  # of the time that the protocol would take were every example to stand
MIN = 10.0  # seconds, where that share is less

Step = tuple[ThreatChoice, PlannedAttack, AttackChoice]


def level(text: str) -> MaskingLevel:
    """One of them. Raises UserError for another word."""
    for known in LEVELS:
        if text == known:
            return known
    raise unknown("level of --masking", text, LEVELS)


@dataclass(frozen=True)
class Depth:
    """How much is looked at."""

    probed: int  # examples whose gradients are measured
    sampled: int  # examples that first-order attacks left and others are shown
    settled: int  # of those that fell, how many first-order attacks are shown again
    limited: bool  # in time


DEPTHS = {
    "on": Depth(probed=40, sampled=32, settled=10, limited=True),
    "deep": Depth(probed=500, sampled=10**6, settled=100, limited=False),
}


@dataclass(frozen=True)
class Search:
    """Attacks on some examples, of a classifier that may have been remedied."""

    classifier: Classifier
    steps: Sequence[Step]
    examples: frozenset[int]  # numbers in the split
    again: bool  # also on examples that are broken already
    until: float  # of time.monotonic()


@dataclass
class MaskingCheck:
    """What has to be looked at, in turn. Each search depends on what the one before it has found."""

    plan: Plan
    protocol: Protocol
    classifier: Classifier
    split: Split
    run: RunFile
    depth: MaskingLevel
    spec: Callable[[AttackChoice], str]  # the key of an attack's evidence
    _begun: float = field(default_factory=time.monotonic)

    def searches(self) -> Iterator[Search]:
        """Measure, then name one search after the other; the caller makes each before it asks for the next."""
        depth = DEPTHS[self.depth]
        threats = [t for t in self.protocol.threats if isinstance(t.threat, Ball) and t.threat.name != "l0"]
        if not threats or not self._correct():
            return
        with self.run.writing():
            begun = [Probe(str(t.threat), probes.WHOLE, masking.BEGUN, self._level) for t in threats]
            self.run.put_probes(begun)
        whole = self._whole()
        seconds = self._allowed(depth)
        for place, choice in enumerate(threats):
            self._measure(choice, depth)
            until = self._begun + seconds * (place + 1) / len(threats)
            yield from self._of_threat(choice, depth, whole, until)

    def _of_threat(self, choice: ThreatChoice, depth: Depth, whole: dict[str, float], until: float) -> Iterator[Search]:
        threat = str(choice.threat)
        assert isinstance(choice.threat, Ball), "only balls are looked at"
        sample = self._sample(threat, depth)
        doubted = any(i.suspicious for i in masking.indicators(self.plan, self.run.evidence(), threat))
        if doubted:  # a gradient that works is the cheapest of all
            yield from self._with_surrogates(choice, sample, whole, until)
        others = self._search(self.classifier, choice, of_another_kind(choice.threat.name, self.depth), sample, until)
        self._announce(others)
        yield others
        if not doubted and self.depth == "deep":
            yield from self._with_surrogates(choice, sample, whole, until)
        averaged = self.plan.passes > 1  # it answers at random, so every gradient is a mean already
        if not averaged and (self._jumps(threat) or self.depth == "deep"):
            halfway = (time.monotonic() + until) / 2  # dear; what has fallen so far needs its control
            nearby = surrogates.smoothed(self.classifier, choice.threat)
            yield self._search(nearby, choice, ascent_attacks(self.depth)[:2], sample, halfway, surrogate="smoothed")
        broken = masking.unsettled(self.plan, self.run.evidence(), threat)
        settle = frozenset([e for e in broken if e in sample][: depth.settled])
        yield self._search(self.classifier, choice, control(), settle, until, again=True)

    def _jumps(self, threat: str) -> bool:
        """Whether there is a gradient, but it is unlike what is nearby."""
        odd = {i.name for i in masking.indicators(self.plan, self.run.evidence(), threat) if i.suspicious}
        return bool(odd & {masking.BLIND, masking.GAIN}) and masking.ZERO not in odd

    def _with_surrogates(
        self, choice: ThreatChoice, sample: frozenset[int], whole: dict[str, float], until: float
    ) -> Iterator[Search]:
        shown = masking.indicators(self.plan, self.run.evidence(), str(choice.threat))
        blind = any(i.suspicious and i.name == masking.BLIND for i in shown)
        for name, surrogate in self._surrogates(whole, blind):
            yield self._search(surrogate, choice, ascent_attacks(self.depth), sample, until, surrogate=name)

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
        by = f"{masking.BY}{surrogate}" if surrogate else ""
        steps = [(choice, PlannedAttack(f"{a.label}{by}", f"{self.spec(a)}{by}", self._items(a)), a) for a in attacks]
        return Search(classifier, steps, examples, again, until)

    def _announce(self, search: Search) -> None:
        """Write down what the sample is to be shown to, so that a search that time cuts short is seen to be short."""
        with self.run.writing():
            self.run.put_probes(
                Probe(str(choice.threat), probes.WHOLE, f"{masking.SHOWN}{planned.spec}", self._level)
                for choice, planned, _ in search.steps
            )

    @property
    def _level(self) -> float:
        return masking.DEEP if self.depth == "deep" else masking.ON

    def _items(self, choice: AttackChoice) -> int:
        return choice.restarts * max(1, min(choice.attack.targets, self.classifier.classes - 1))

    def _surrogates(self, whole: dict[str, float], blind: bool) -> Iterator[tuple[str, Classifier]]:
        """The model with gradients put right, in one way after the other."""
        differentiates = whole.get("inner gradients", 0) > 0
        x = self._images(self._correct()[:64]).x.to(self.classifier.device)
        if not whole.get("compiled"):
            yield "repaired", surrogates.bpda(self.classifier, differentiates=differentiates)
            if blind or self.depth == "deep":
                yield (
                    "leaking",
                    surrogates.bpda(self.classifier, differentiates=differentiates, leak=surrogates.LEAKY_SLOPE),
                )
            if (inner := surrogates.inside(self.classifier, x, differentiates=differentiates)) is not None:
                yield "inside", inner
        spread, probabilities = whole.get("spread", 1.0), whole.get("probabilities", 0) > 0
        if (probabilities and not whole.get("one-hot")) or not 1e-2 < spread < 1e2:
            yield "rescaled", surrogates.rescaled(self.classifier, spread or 1.0, probabilities=probabilities)

    # What is looked at

    def _correct(self) -> list[int]:
        """The examples that are right before any attack, in an order of their own, the same in every run."""
        correct = answers(self.run.evidence())
        return self._shuffled([e for e in self.plan.examples if correct.get(e, False)])

    def _shuffled(self, examples: Sequence[int]) -> list[int]:
        """By a hash of the number, so that a larger sample holds every smaller one."""
        if not examples:
            return []
        keys = keyed(self.plan.seed, torch.tensor(examples), text_key("masking"), restart=0).tolist()
        return [example for _, example in sorted(zip(keys, examples, strict=True))]

    def _images(self, examples: Sequence[int]) -> Split:
        row = {number: i for i, number in enumerate(self.split.numbers)}
        return self.split.take([row[e] for e in examples])

    def _sample(self, threat: str, depth: Depth) -> frozenset[int]:
        """Of what first-order attacks leave; written down, because what is said later is said of the sample."""
        evidence = self.run.evidence()
        held = {p.example for p in evidence.probes if (p.threat, p.name) == (threat, masking.SAMPLED)}
        left = self._shuffled(masking.left_by_gradients(self.plan, evidence, threat))
        new = [e for e in left if e not in held][: max(0, depth.sampled - len(held))]
        looked = max(self._level, _value(evidence, threat, probes.WHOLE, masking.DEPTH))
        with self.run.writing():
            self.run.put_probes([Probe(threat, probes.WHOLE, masking.DEPTH, looked)])
            self.run.put_probes(Probe(threat, e, masking.SAMPLED, 1.0) for e in new)
        return frozenset(new) | frozenset(held)

    # What is measured

    def _whole(self) -> dict[str, float]:
        """The probes of the model as such; measured once."""
        known = {p.name: p.value for p in self.run.evidence().probes if (p.threat, p.example) == ("", probes.WHOLE)}
        if not known:
            few = self._images(self._correct()[:16])
            found = [_probe(m) for m in probes.of_model(self.classifier, few, self.plan.seed)]
            compiled = float(surrogates.is_compiled(self.classifier))
            found.append(Probe("", probes.WHOLE, "compiled", compiled))
            with self.run.writing():
                self.run.put_probes(found)
            known = {p.name: p.value for p in found}
        return known

    def _measure(self, choice: ThreatChoice, depth: Depth) -> None:
        """The probes of each example; those that are there are not taken again."""
        threat = str(choice.threat)
        assert isinstance(choice.threat, Ball), "only balls are probed"
        known = {p.example for p in self.run.evidence().probes if (p.threat, p.name) == (threat, "leads")}
        missing = [e for e in self._correct()[: depth.probed] if e not in known]
        if missing:
            found = probes.of_threat(self.classifier, choice.threat, self._images(missing), self.plan.seed)
            measured = [_probe(m) for m in found]
            with self.run.writing():
                self.run.put_probes(measured)

    def _allowed(self, depth: Depth) -> float:
        """Seconds from the beginning."""
        if not depth.limited:
            return float("inf")
        try:
            rate = measured_rate(self.classifier)
        except RuntimeError:  # no gradient can be had, so the protocol's attacks take no time at all
            return MIN
        each = rate.seconds(of_protocol(self.protocol, self.classifier.classes))
        return max(MIN, SHARE * each * self.plan.eot * len(self._correct()))


def of_another_kind(threat: str, depth: MaskingLevel) -> list[AttackChoice]:
    """Attacks that read no gradient, or start where the model is wrong already, for one norm."""
    deep = depth == "deep"
    square = _choice("square", Square(steps=5000 if deep else 150))
    if threat == "linf":
        return [square, _choice("hop-skip-jump", HopSkipJump(steps=10))] if deep else [square]
    outside = _choice("brendel-bethge", BrendelBethge(steps=200 if deep else 60))  # dear: last, for what time is left
    if threat == "l2":
        return [square, *([_choice("boundary", Boundary(steps=100))] if deep else []), outside]
    assert threat == "l1", f"no attack is chosen for {threat}"
    pointwise = _choice("pointwise", Pointwise(steps=500 if deep else 40))
    return [pointwise, square, *([_choice("salt-and-pepper", SaltAndPepper())] if deep else []), outside]


def ascent_attacks(depth: MaskingLevel) -> list[AttackChoice]:
    """Attacks on a remedied model: steps of one length first, which climb where the loss itself tells nothing."""
    targets = 9 if depth == "deep" else 3
    return [
        _choice("pgd", PGD(steps=40, random_start=False)),
        _choice("apgd-margin", APGD(loss="margin")),
        _choice("apgd-t", APGD(loss="dlr", targets=targets)),
    ]


def control() -> list[AttackChoice]:
    """First-order attacks on losses that scale does not saturate: more gradients than `masking.CONTROL` asks for."""
    ascent = _choice("apgd-margin", APGD(loss="margin"), 2)
    return [ascent, _choice("apgd-t", APGD(loss="dlr", targets=4)), _choice("fab", FAB(targets=4, steps=50))]


def _choice(label: str, attack: AnySteppedAttack, restarts: int = 1) -> AttackChoice:
    return AttackChoice(label, attack, restarts)


def _probe(measured: probes.Measured) -> Probe:
    return Probe(measured.threat, measured.example, measured.name, measured.value)


def _value(evidence: Evidence, threat: str, example: int, name: str) -> float:
    wanted = (threat, example, name)
    return max((p.value for p in evidence.probes if msgspec.structs.astuple(p)[:3] == wanted), default=0.0)
