"""One attack under one threat: its remaining searches, and its results so far."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..evidence.records import (
    Claim,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    PassedOver,
    Plan,
    PlannedAttack,
    Probe,
    Verdict,
)
from ..evidence.referee import Decision, Referee
from ..evidence.store import RunFile
from ..problem.split import Split
from ..problem.threats import ThreatModel
from ..problem.threats.base import stacked
from ..protocols import AttackChoice
from ..results.outcomes import answers, is_exhausted, outcomes
from ..search.attack import ForeignAttack
from ..search.engine.job import Ended, Job
from ..search.engine.scheduler import Item, Waiting
from .rounds import Nearness, Part, SampleResult, passed_over, sample
from .target_classes import TargetClasses

RETRY = 1 << 20  # added to the restart of a search that is repeated with new noise
NO_QUERY_INSIDE = "asked about no image inside the threat set at which the model answers numbers"
NO_START = "found no start: none of the images it tried fools the model"

Broken = tuple[str, int]
"""A threat, as text, and a row of the split that is broken under it."""


@dataclass
class ClaimCounts:
    """The number of claims about each example so far; read from the run file when one is needed first."""

    recorded: Callable[[int], int]  # by example, when this was made
    _so_far: dict[int, int] = field(default_factory=dict)

    def of(self, example: int) -> int:
        """The number of claims about an example."""
        if example not in self._so_far:
            self._so_far[example] = self.recorded(example)
        return self._so_far[example]

    def add(self, example: int) -> None:
        """Takes in one more, before it is written down."""
        self._so_far[example] = self.of(example) + 1


@dataclass(frozen=True)
class ClaimContext:
    """What is needed to judge finds: the referee, the clean images, and every threat that a find may count for.

    All attack runs of an evaluation share it, and note in it how near their searches come.
    """

    referee: Referee
    split: Split
    threats: tuple[ThreatModel, ...]
    claim_ids: Iterator[int]
    claims: ClaimCounts
    nearness: Nearness = field(default_factory=Nearness)

    def numbered(self, examples: Iterable[int]) -> list[int]:
        """A number for each new claim, unique among the claims about its example."""
        more: Counter[int] = Counter()
        numbers = []
        for example in examples:
            more[example] += 1
            numbers.append(self.claims.of(example) + more[example])
        return numbers


@dataclass
class AttackRun:
    """An attack under a threat on every example that still needs it. `prepare` creates it."""

    threat: ThreatModel
    planned: PlannedAttack
    context: ClaimContext
    job: Job
    targets: TargetClasses
    every_attack: bool
    exhausted: dict[int, Exhausted]  # by example number
    seconds: float  # over all sessions
    standing: int  # examples not yet known to break under the threat, of those that this process searches
    elsewhere: int  # examples likewise that other shards search
    unbroken: set[int]  # their rows in the split, of those that the job searches
    passed_over: Sequence[PassedOver] = ()  # what its plan allows not to search
    _found: list[tuple[Claim, Verdict, Tensor]] = field(default_factory=list)  # not yet written
    _changed: set[int] = field(default_factory=set)
    _nan: set[int] = field(default_factory=set)
    _no_query_inside: set[int] = field(default_factory=set)
    _raised: dict[int, str] = field(default_factory=dict)

    def take(self, ended: Sequence[Ended]) -> set[Broken]:
        """Judge the finds, and record the searches without one. Returns what is now known to be broken."""
        broken = self._judge([(end, end.x_adv) for end in ended if end.x_adv is not None])
        for end in ended:
            if end.nan:
                self._nan.add(self._number(end.item))
            if end.dropped:
                self._record_exhausted(end, done=False)
            elif end.error:
                self._raised[self._number(end.item)] = end.error
            elif end.no_query_inside:
                self._no_query_inside.add(self._number(end.item))
            elif (str(self.threat), end.item.row) in broken:
                if not self.job.smallest:  # else another search may find a smaller one
                    self.job.drop(end.item.row)
            elif end.interrupted:
                pass  # its find was rejected, so the search is still to do
            elif end.x_adv is not None and end.item.restart < RETRY:
                self.job.waiting.add(end.item._replace(restart=end.item.restart + RETRY))
            else:
                self._record_exhausted(end, done=True)
                nearness = self.context.nearness
                nearness.note(str(self.threat), self.planned.spec, self._number(end.item), end.margin)
        return broken

    def drop_broken(self, broken: Iterable[Broken]) -> None:
        """Stop searching rows that any attack has broken under this threat, unless every attack is requested."""
        rows = {row for threat, row in broken if threat == str(self.threat)} & self.unbroken
        self.standing -= len(rows)
        self.unbroken -= rows
        for row in rows if not self.every_attack else ():
            self.job.drop(row)

    def write(self, run: RunFile) -> None:
        """Write everything since the last call, within a transaction of the caller."""
        name = str(self.threat)
        self._record_target_cost()
        for claim, verdict, image in self._found:
            run.put_judged(claim, verdict, image.numpy())
        run.put_exhausted(self.exhausted[number] for number in self._changed)
        run.put_probes(Probe(name, number, "nan", 1.0) for number in self._nan)
        why = NO_START if self.job.attack.comes_from_outside else NO_QUERY_INSIDE
        failures = [Failure(number, name, self.planned.spec, why) for number in self._no_query_inside]
        failures += [Failure(number, name, self.planned.spec, error) for number, error in self._raised.items()]
        if self.job.error:  # the remaining searches stay open
            numbers = sorted(self.context.split.numbers[row] for row in self.job.unfinished)
            failures += [Failure(number, name, self.planned.spec, self.job.error) for number in numbers]
        run.put_failures(failures)
        run.put_effort([Effort(name, self.planned.spec, self.seconds)])

    def written(self) -> None:
        """Forget what the transaction of `write` has stored. Call it when that has succeeded."""
        for written in (self._found, self._changed, self._nan, self._no_query_inside, self._raised):
            written.clear()

    def _judge(self, finds: Sequence[tuple[Ended, Tensor]]) -> set[Broken]:
        """Let the referee judge every find, under every planned threat."""
        if not finds:
            return set()
        rows = [end.item.row for end, _ in finds]
        x, y = self.context.split.x[rows], self.context.split.y[rows]
        exact = torch.stack([image for _, image in finds])
        rounded = (exact * 255).round() / 255  # the nearest 8-bit image; retained if it breaks the example too
        params = stacked([end.params for end, _ in finds])
        referee, n = self.context.referee, len(finds)
        if referee.passes == 1:
            both = referee.predict(torch.cat([exact, rounded]), y.repeat(2))
            predictions, predictions_rounded = both.part(0, n), both.part(n, 2 * n)
        else:  # for a stochastic model a rounded image would be a second attempt
            rounded, predictions = exact, referee.predict(exact, y)
            predictions_rounded = predictions
        nth = self.context.numbered(self._number(end.item) for end, _ in finds)
        threats = self.context.threats
        as_found = [referee.rule(threat, x, exact, predictions, params, nth) for threat in threats]
        in_8_bits = [referee.rule(threat, x, rounded, predictions_rounded, params, nth) for threat in threats]
        # The find itself is judged. If it is accepted, its rounding may replace it, except in a search for the smallest
        # perturbation, because rounding makes it larger. An image that is stored counts in every threat set it lies in.
        replaced = [
            [f.accepted and r.accepted and not self.job.smallest for f, r in zip(*decisions, strict=True)]
            for decisions in zip(as_found, in_8_bits, strict=True)
        ]
        stored_rounded = [any(by_threat) for by_threat in zip(*replaced, strict=True)]
        broken = set()
        for place, threat in enumerate(threats):
            for i, (end, _) in enumerate(finds):
                found, rounding = as_found[place][i], in_8_bits[place][i]
                takes_rounding = replaced[place][i] or (stored_rounded[i] and not found.accepted and rounding.accepted)
                decision, image = (rounding, rounded[i]) if takes_rounding else (found, exact[i])
                if threat == self.threat or decision.accepted:
                    self._note_claim(threat, end, decision, image)
                if decision.accepted:
                    broken.add((str(threat), end.item.row))
        return broken

    def _note_claim(self, threat: ThreatModel, end: Ended, decision: Decision, image: Tensor) -> None:
        own = threat == self.threat  # the cost of a search counts once, under its own threat
        claim = Claim(
            id=next(self.context.claim_ids),
            example=self._number(end.item),
            threat=str(threat),
            # A find under another threat is not the work of the attack that is planned there under the same spec.
            attack=self.planned.spec if own else str(replace(self.planned.key, found_under=str(self.threat))),
            restart=end.item.restart,
            target=end.item.target,
            forwards=end.forwards if own else 0,
            backwards=end.backwards if own else 0,
            params=end.params,
        )
        r = decision
        verdict = Verdict(claim.id, r.accepted, r.rejection, r.reason, r.size, r.margin, r.passes)
        self._found.append((claim, verdict, image))
        self.context.claims.add(claim.example)

    def _record_exhausted(self, end: Ended, *, done: bool) -> None:
        """Record a search without a find, and its cost. A dropped search has a cost too, but is not done."""
        in_claim = end.x_adv is not None  # the claim records the cost of a rejected find
        forwards, backwards = (0, 0) if in_claim else (end.forwards, end.backwards)
        self._add_exhausted(self._number(end.item), int(done) << end.item.number, forwards, backwards)

    def _record_target_cost(self) -> None:
        """Record the gradients that ordered the target classes, a forward and a backward pass each."""
        for row, gradients in self.targets.take_cost().items():
            self._add_exhausted(self.context.split.numbers[row], 0, gradients, gradients)

    def _add_exhausted(self, number: int, done: int, forwards: int, backwards: int) -> None:
        so_far = self.exhausted.get(number, Exhausted(number, str(self.threat), self.planned.spec, 0, 0, 0))
        self.exhausted[number] = Exhausted(
            *(number, so_far.threat, so_far.attack),
            done=so_far.done | done,
            forwards=so_far.forwards + forwards,
            backwards=so_far.backwards + backwards,
        )
        self._changed.add(number)

    def _number(self, item: Item) -> int:
        return self.context.split.numbers[item.row]


@dataclass(frozen=True)
class Remaining:
    """What evidence leaves to one attack under one threat, on the examples of a plan or of a part of it."""

    exhausted: dict[int, Exhausted]  # by example
    rejected: set[tuple[int, int, int]]  # example, restart and target of rejected finds
    letters: str  # the outcomes
    todo: list[int]  # the examples to search, in the order of the plan
    unbroken: set[int]  # the examples that stand or are open
    standing: set[int]  # of these, those that are not left to other shards
    skipped: list[PassedOver]

    def left(self, example: int, planned: PlannedAttack) -> int:
        """The number of items that are still to do on an example."""
        done = self.exhausted[example].done if example in self.exhausted else 0
        return (((1 << planned.items) - 1) & ~done).bit_count()

    @property
    def passed_over(self) -> list[PassedOver]:
        """What the plan allows not to search."""
        return [p for p in self.skipped if p.example in self.standing]


def remaining(
    plan: Plan,
    evidence: Evidence,
    threat: str,
    planned: PlannedAttack,
    nearness: Nearness,
    result: SampleResult,
    *,
    every_attack: bool,
    part: Part = "all",
    among: frozenset[int] | None = None,
    own: Set[int] | None = None,
    sampled: Set[int] = frozenset(),
) -> Remaining:
    """What is left to do, by the evidence about the examples of a plan, which may be a part of the whole one.

    `result` is what the attack has done on its sample of the whole, `sampled`.
    """
    letters, answered = outcomes(plan, evidence, threat), answers(evidence)
    exhausted = {s.example: s for s in evidence.exhausted if (s.threat, s.attack) == (threat, planned.spec)}
    judged = [(c, v) for c, v in evidence.judged() if (c.threat, c.attack) == (threat, planned.spec)]
    mine = {c.example for c, v in judged if v.accepted}
    rejected = {(c.example, c.restart, c.target) for c, v in judged if not v.accepted}
    todo = [
        number
        for number, letter in zip(plan.examples, letters, strict=True)
        if number in answered  # otherwise the model raises on the clean image
        and (letter in "SO" or (every_attack and letter == "B" and number not in mine))
        and (among is None or number in among)
    ]
    skipped: list[PassedOver] = []
    if among is None and not every_attack:
        ended = {number for number, record in exhausted.items() if is_exhausted(planned, record.done)}
        skipped = passed_over(plan, threat, planned, part, nearness, ended, result)
    unbroken = {number for number, letter in zip(plan.examples, letters, strict=True) if letter in "SO"}
    not_now = {p.example for p in skipped}
    if part == "sample":
        not_now |= set(plan.examples) - sampled
    todo = [number for number in todo if number not in not_now and (own is None or number in own)]
    standing = unbroken if own is None else unbroken & own
    return Remaining(exhausted, rejected, letters, todo, unbroken, standing, skipped)


def searches_all(plan: Plan, choice: AttackChoice) -> bool:
    """Whether the attack also searches examples that others have broken."""
    return plan.every_attack or (plan.curve and choice.attack.minimises)


def prepare(
    plan: Plan,
    run: RunFile,
    context: ClaimContext,
    threat: ThreatModel,
    planned: PlannedAttack,
    choice: AttackChoice,
    *,
    part: Part = "all",
    among: frozenset[int] | None = None,
    again: bool = False,
    own: Set[int] | None = None,
) -> AttackRun:
    """The remaining searches of this attack, according to the run file.

    With `among`, only on examples with these numbers; with `again`, also on those that others have broken. With `own`,
    examples with other numbers are left to other shards.
    """
    evidence, split, name = run.evidence(), context.split, str(threat)
    smallest = plan.curve and choice.attack.minimises
    every_attack = searches_all(plan, choice) if among is None else smallest or again
    found = remaining(
        *(plan, evidence, name, planned, context.nearness, SampleResult.of(plan, run, name, planned)),
        every_attack=every_attack,
        part=part,
        among=among,
        own=own,
        sampled=sample(plan.examples, planned) if part == "sample" else frozenset(),
    )
    wanted = set(found.todo)
    todo = [row for row, number in enumerate(split.numbers) if number in wanted]
    targets, dropped = TargetClasses(context.referee, split, threat, choice.attack, todo), set[int]()
    exhausted = found.exhausted
    done = {row: exhausted[split.numbers[row]].done for row in todo if split.numbers[row] in exhausted}
    items = (
        item._replace(restart=item.restart + RETRY)
        if (split.numbers[item.row], item.restart, item.target) in found.rejected
        else item
        for item in _items(todo, planned.items, done, targets, dropped)
    )
    waiting = Waiting(items, {row: found.left(split.numbers[row], planned) for row in todo})
    return AttackRun(
        threat=threat,
        planned=planned,
        context=context,
        job=Job(threat, choice.attack, waiting, smallest, part == "near", _eot(plan, choice), dropped=dropped),
        targets=targets,
        every_attack=every_attack,
        exhausted=exhausted,
        seconds=sum((e.seconds for e in evidence.efforts if (e.threat, e.attack) == (name, planned.spec)), start=0.0),
        standing=len(found.standing),
        elsewhere=len(found.unbroken - found.standing),
        unbroken={row for row in todo if found.letters[row] != "B"},
        passed_over=found.passed_over,
    )


def _eot(plan: Plan, choice: AttackChoice) -> int:
    """The passes that each answer averages. Libraries own their loops, so their queries are not averaged."""
    return 1 if isinstance(choice.attack, ForeignAttack) else plan.eot


def _items(
    rows: Sequence[int], items: int, done: Mapping[int, int], targets: TargetClasses, dropped: Collection[int]
) -> Iterator[Item]:
    """Every remaining search: the first of every example, then the second, so that easy examples leave early."""
    for number in range(items):
        for row in rows:
            if row not in dropped and not done.get(row, 0) >> number & 1:
                classes = targets.of(row, dropped)
                yield Item(row, number, restart=number // len(classes), target=classes[number % len(classes)])
