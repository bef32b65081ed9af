"""One attack under one threat: what it still has to do, and what it has found out so far."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .evidence.records import Claim, Effort, Failure, Plan, PlannedAttack, Probe, Spent, Verdict
from .evidence.referee import Referee, Ruling
from .evidence.store import RunFile
from .problem.split import Split
from .problem.threats import ThreatModel
from .protocols import AttackChoice
from .results.outcomes import outcomes
from .search.loop import Ended
from .search.queue import Item, Queue

RETRY = 1 << 20  # added to the draw of a search that is tried once more, with fresh noise
BLIND = "asked about no image inside the threat set at which the model answers numbers"
COMMIT_EVERY = 0.25  # seconds: what a killed run may have to do again


@dataclass(frozen=True)
class Court:
    """Where finds are brought: the referee, the images it compares with, every threat a find may count for."""

    referee: Referee
    split: Split
    threats: tuple[ThreatModel, ...]


@dataclass
class Attempt:
    """An attack under a threat on every example that still needs it. Made by `prepare`."""

    threat: ThreatModel
    planned: PlannedAttack
    court: Court
    run: RunFile
    queue: Queue
    spent: dict[int, Spent]  # by example number
    seconds: float  # over all sessions
    standing: int  # examples not yet known to break under the threat
    unbroken: set[int]  # their rows, as far as they are in the queue
    next_claim: int
    _found: list[tuple[Claim, Verdict, Tensor]] = field(default_factory=list)  # not yet written down
    _changed: set[int] = field(default_factory=set)
    _nan: set[int] = field(default_factory=set)
    _blind: set[int] = field(default_factory=set)
    _clock: float = field(default_factory=time.monotonic)

    def take(self, ended: Sequence[Ended]) -> None:
        """Judge what was found, note what was not, tell the queue, and write it down now and then."""
        broken = self._judge([(end, end.x_adv) for end in ended if end.x_adv is not None])
        for end in ended:
            if end.nan:
                self._nan.add(self._number(end.item))
            if end.blind:
                self._blind.add(self._number(end.item))
            elif end.item.row in broken:
                self.queue.drop(end.item.row)
            elif end.x_adv is not None and end.item.draw < RETRY:
                self.queue.waiting.append(end.item._replace(draw=end.item.draw + RETRY))
            else:
                self._note_spent(end)
        if ended and time.monotonic() - self._clock > COMMIT_EVERY:
            self.commit()

    def failed(self, error: str) -> None:
        """The attack raised: what was still to do stays open, with the error."""
        rows = {item.row for item in self.queue.waiting} | {item.row for _, item in self.queue.busy()}
        numbers = sorted(self.court.split.numbers[row] for row in rows - self.queue.dropped)
        with self.run.writing():
            self.run.put_failures(Failure(n, str(self.threat), self.planned.spec, error) for n in numbers)

    def commit(self) -> None:
        """Write down everything since the last time, or nothing of it."""
        now = time.monotonic()
        seconds = self.seconds + now - self._clock
        name = str(self.threat)
        with self.run.writing():
            for claim, verdict, image in self._found:
                self.run.put_judged(claim, verdict, image.numpy())
            self.run.put_spent(self.spent[number] for number in self._changed)
            self.run.put_probes(Probe(name, number, "nan", 1.0) for number in self._nan)
            self.run.put_failures(Failure(number, name, self.planned.spec, BLIND) for number in self._blind)
            self.run.put_effort([Effort(name, self.planned.spec, seconds)])
        self.seconds, self._clock = seconds, now
        for written in (self._found, self._changed, self._nan, self._blind):
            written.clear()

    def _judge(self, finds: Sequence[tuple[Ended, Tensor]]) -> set[int]:
        """Put every find before the referee, under every planned threat. Returns the rows it broke under ours."""
        if not finds:
            return set()
        rows = [end.item.row for end, _ in finds]
        x, y = self.court.split.x[rows], self.court.split.y[rows]
        exact = torch.stack([image for _, image in finds])
        rounded = (exact * 255).round() / 255  # what an image file can hold; kept where it serves as well
        logits = torch.split(self.court.referee.logits(torch.cat([exact, rounded])), len(rows))
        broken = set()
        for threat in self.court.threats:
            own = threat == self.threat
            as_found = self.court.referee.rule(threat, x, y, exact, logits[0])
            in_8_bits = self.court.referee.rule(threat, x, y, rounded, logits[1])
            for i, (end, _) in enumerate(finds):
                # What was found is judged; only where it holds may its rounding stand in for it.
                both = as_found[i].accepted and in_8_bits[i].accepted
                ruling, image = (in_8_bits[i], rounded[i]) if both else (as_found[i], exact[i])
                if own or ruling.accepted:
                    self._note_claim(threat, end, ruling, image)
                if own and ruling.accepted:
                    broken.add(end.item.row)
        self.standing -= len(broken & self.unbroken)
        self.unbroken -= broken
        return broken

    def _note_claim(self, threat: ThreatModel, end: Ended, ruling: Ruling, image: Tensor) -> None:
        own = threat == self.threat  # the search is paid for once, where it was made
        claim = Claim(
            id=self.next_claim,
            example=self._number(end.item),
            threat=str(threat),
            # Found by the way: not the work of the attack that is planned there under the same spec.
            attack=self.planned.spec if own else f"{self.planned.spec} under {self.threat}",
            draw=end.item.draw,
            target=end.item.target,
            forwards=end.forwards if own else 0,
            backwards=end.backwards if own else 0,
        )
        verdict = Verdict(claim.id, ruling.accepted, ruling.rejection, ruling.reason, ruling.size, ruling.margin)
        self._found.append((claim, verdict, image))
        self.next_claim += 1

    def _note_spent(self, end: Ended) -> None:
        number = self._number(end.item)
        so_far = self.spent.get(number, Spent(number, str(self.threat), self.planned.spec, 0, 0, 0))
        self.spent[number] = Spent(
            *(number, so_far.threat, so_far.attack),
            done=so_far.done | 1 << end.item.number,
            # What a rejected claim cost is on the claim.
            forwards=so_far.forwards + (end.forwards if end.x_adv is None else 0),
            backwards=so_far.backwards + (end.backwards if end.x_adv is None else 0),
        )
        self._changed.add(number)

    def _number(self, item: Item) -> int:
        return self.court.split.numbers[item.row]


def prepare(
    plan: Plan, run: RunFile, court: Court, threat: ThreatModel, planned: PlannedAttack, choice: AttackChoice
) -> Attempt:
    """What this attack still has to do, by what the run file holds."""
    evidence = run.evidence()
    split, name = court.split, str(threat)
    letters = outcomes(plan, evidence, name)
    spent = {s.example: s for s in evidence.spent if (s.threat, s.attack) == (name, planned.spec)}
    own = [(c, v) for c, v in evidence.judged() if (c.threat, c.attack) == (name, planned.spec)]
    mine = {c.example for c, v in own if v.accepted}
    turned_down = {(c.example, c.draw, c.target) for c, v in own if not v.accepted}
    todo = [
        row
        for row, (number, letter) in enumerate(zip(split.numbers, letters, strict=True))
        if letter in "SO" or (plan.every_attack and letter == "B" and number not in mine)
    ]
    aims = _aims(court, todo, choice.attack.targets)
    done = {row: spent[split.numbers[row]].done for row in todo if split.numbers[row] in spent}
    items = (
        item._replace(draw=item.draw + RETRY)
        if (split.numbers[item.row], item.draw, item.target) in turned_down
        else item
        for item in _items(todo, planned.items, done, aims)
    )
    return Attempt(
        threat=threat,
        planned=planned,
        court=court,
        run=run,
        queue=Queue(items, plan.lanes),
        spent=spent,
        seconds=sum((e.seconds for e in evidence.efforts if (e.threat, e.attack) == (name, planned.spec)), start=0.0),
        standing=letters.count("S") + letters.count("O"),
        unbroken={row for row in todo if letters[row] != "B"},
        next_claim=run.next_claim(),
    )


def _items(
    rows: Sequence[int], items: int, done: Mapping[int, int], aims: Callable[[int], Sequence[int]]
) -> Iterator[Item]:
    """Every search still to do: the first of every example, then the second, so that easy ones leave early."""
    for number in range(items):
        for row in rows:
            if not done.get(row, 0) >> number & 1:
                targets = aims(row)
                yield Item(row, number, draw=number // len(targets), target=targets[number % len(targets)])


def _aims(court: Court, rows: Sequence[int], targets: int) -> Callable[[int], Sequence[int]]:
    """The classes an example is aimed at: its likeliest wrong ones, by the referee's clean logits; -1 for none."""
    if not targets or not rows:
        return lambda _: (-1,)
    y = court.split.y[list(rows)]
    logits = court.referee.logits(court.split.x[list(rows)]).scatter(1, y[:, None], -torch.inf)
    likeliest = logits.topk(min(targets, logits.shape[1] - 1), dim=1).indices.tolist()
    by_row = dict(zip(rows, likeliest, strict=True))
    return lambda row: by_row[row]


def planned_items(choice: AttackChoice, classes: int) -> int:
    """How many searches an attack makes on each example it cannot break."""
    return choice.restarts * max(1, min(choice.attack.targets, classes - 1))
