"""One round of an evaluation, divided into leases."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from ...evidence.records import Effort, Evidence
from ...results.outcomes import Outcome, outcomes
from ...results.parts import parts_of
from ..rounds import Round, sample
from ..runner import Evaluation
from .leases import LeaseQueue
from .messages import Lease, Moved, Report


@dataclass
class RoundSearch:
    """The leases of one round, and what their workers have found."""

    evaluation: Evaluation
    one: Round
    queue: LeaseQueue
    _deciding: frozenset[int] = field(init=False)  # examples on which the attacks of the round depend
    _decided: Evidence = field(init=False)  # about these, when the round began, or when examples came back
    _seconds: dict[tuple[str, str], float] = field(init=False)  # of each attack, over all sessions
    _of_lease: dict[int, dict[tuple[str, str], float]] = field(default_factory=dict)
    _queries: dict[int, tuple[int, int]] = field(default_factory=dict)  # made, and left, by lease
    _ended: tuple[int, int] = (0, 0)  # the same, of all leases that have ended
    _left: Counter[str] = field(default_factory=Counter)  # unbroken examples, by threat; shown as progress
    _ids: int = field(init=False)  # of the next claim

    def __post_init__(self) -> None:
        plan, run = self.evaluation.plan, self.evaluation.run
        self._ids = run.next_claim()
        self._deciding = deciding(self.evaluation)
        self._decided = self._about(self._deciding)
        self._seconds = {(e.threat, e.attack): e.seconds for e in run.shared().efforts}
        for part in parts_of(plan, run):
            for planned in plan.threats:
                letters = Counter(outcomes(part.plan, part.evidence, planned.threat))
                self._left[planned.threat] += letters[Outcome.STANDING.value] + letters[Outcome.OPEN.value]

    def lease(self, worker: int) -> Lease | None:
        """The next lease, for this worker; None where no example waits."""
        taken = self.queue.take(worker)
        if taken is None:
            return None
        number, examples = taken
        steps = self.evaluation.places(self.one)
        known = joined(self._decided, self._about(frozenset(examples) - self._deciding))
        return Lease(number, steps, self.one.part, examples, known)

    def give_back(self, worker: int) -> Sequence[int]:
        """Puts the examples of a lost worker back, with what it found on them. Returns them."""
        back = self.queue.give_back(worker)
        if back:
            self._decided = self._about(self._deciding)
        return back

    def _about(self, examples: Iterable[int]) -> Evidence:
        threats = [planned.threat for planned in self.evaluation.plan.threats]
        return self.evaluation.run.evidence_about(examples, threats)

    def store(self, worker: int, report: Report) -> None:
        """Writes down a report, within a transaction of the caller; nothing where the worker has lost the lease."""
        if not self.queue.holds(worker, report.lease):
            return
        run, records = self.evaluation.run, report.records
        for claim, verdict, image in records.judged:
            put = msgspec.structs.replace
            if verdict.accepted and not run.is_broken(claim.threat, claim.example):
                self._left[claim.threat] -= 1
            run.put_judged(put(claim, id=self._ids), put(verdict, claim=self._ids), image)
            self._ids += 1
        run.put_exhausted(records.exhausted)
        run.put_failures(records.failures)
        run.put_probes(records.probes)
        so_far = self._of_lease.setdefault(report.lease, {})
        for effort in records.efforts:
            place = effort.threat, effort.attack
            more = effort.seconds - so_far.get(place, 0.0)
            self._seconds[place] = self._seconds.get(place, 0.0) + more
            so_far[place] = effort.seconds
            run.put_effort([Effort(*place, self._seconds[place])])

    def finish(self, lease: int) -> None:
        """Ends a lease whose examples have been searched."""
        self.queue.finish(lease)
        self._of_lease.pop(lease, None)
        made, left = self._queries.pop(lease, (0, 0))
        self._ended = self._ended[0] + made, self._ended[1] + left

    def moved(self, message: Moved) -> None:
        """Shows how far the round has come."""
        self._queries[message.lease] = message.queries, message.left
        threat, label = message.attack
        made, left = (sum(column) for column in zip(self._ended, *self._queries.values(), strict=True))
        each = made + left
        waiting = len(self.queue.waiting) * each // max(1, self.queue.total - len(self.queue.waiting))
        self.evaluation.progress.attacking(threat, label)
        self.evaluation.progress.moved(self._left[threat], made, left + waiting)


def joined(one: Evidence, other: Evidence) -> Evidence:
    """The evidence about two sets of examples. Seconds are left out: a worker counts from 0."""
    return Evidence(
        clean=one.clean + other.clean,
        claims=one.claims + other.claims,
        verdicts=one.verdicts + other.verdicts,
        exhausted=one.exhausted + other.exhausted,
        nearest=one.nearest + other.nearest,
        passed_over=one.passed_over + other.passed_over,
    )


def deciding(evaluation: Evaluation) -> frozenset[int]:
    """The examples that decide whether attacks search more than a sample: the samples, and one that each has broken."""
    plan = evaluation.plan
    found = set[int]()
    for threat in plan.threats:
        for attack in threat.attacks:
            if attack.sample is not None and not plan.every_attack:
                found |= sample(plan.examples, attack)
                if (broken := evaluation.run.last_broken(threat.threat, attack.spec)) is not None:
                    found.add(broken)
    return frozenset(found)
