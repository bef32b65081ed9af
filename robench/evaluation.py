"""The story on one page: plan, what is missing, search, judge, record.

Search proposes, evidence decides, results only read.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol as Interface
from typing import runtime_checkable

import torch

from . import __version__
from .attempt import Attempt, Court, planned_items, prepare
from .errors import UserError
from .evidence.records import Clean, ModelRecord, Plan, PlannedAttack, PlannedThreat
from .evidence.referee import Referee, fooled
from .evidence.store import RunFile
from .problem.classifier import Classifier, Identity
from .problem.losses import margin
from .problem.split import Split
from .protocols import AttackChoice, Protocol, ThreatChoice
from .results.summary import Summary, summarise
from .search.loop import Ended, search


@runtime_checkable
class Progress(Interface):
    """What an evaluation tells while it works."""

    def clean(self, summary: Summary) -> None:
        """The clean accuracy is known."""

    def attacking(self, threat: str, attack: str) -> None:
        """Another attack begins."""

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        """So many examples may still stand under the threat; the run has made so many queries of the model since it
        was started, and has about so many to go.
        """


class Silence:
    """A progress that tells nothing."""

    def clean(self, summary: Summary) -> None:
        pass

    def attacking(self, threat: str, attack: str) -> None:
        pass

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        pass


@dataclass
class Evaluation:
    """One question being answered into one run file."""

    plan: Plan
    protocol: Protocol
    classifier: Classifier  # searched; whatever happens to it there, the referee has weights of its own
    referee: Referee
    split: Split
    run: RunFile
    environment: dict[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silence)
    deadline: float = float("inf")  # of time.monotonic()
    _asked: int = 0  # queries since the start, for the progress

    def answer(self) -> Summary:
        """Do what is missing, then sum up. Stopped anywhere, the same call later goes on from there."""
        self._begin()
        self.progress.clean(self.summary())
        court = Court(self.referee, self.split, tuple(choice.threat for choice in self.protocol.threats))
        for choice, planned, attack_choice in self._steps():
            attempt = prepare(self.plan, self.run, court, choice.threat, planned, attack_choice)
            if attempt.queue and time.monotonic() < self.deadline:
                self.progress.attacking(str(choice.threat), planned.label)
                self._try(attempt, attack_choice)
        return self.summary()

    def _steps(self) -> list[tuple[ThreatChoice, PlannedAttack, AttackChoice]]:
        """Every attack under every threat, in the order of the protocol."""
        return [
            (choice, planned_attack, attack_choice)
            for planned, choice in zip(self.plan.threats, self.protocol.threats, strict=True)
            for planned_attack, attack_choice in zip(planned.attacks, choice.attacks, strict=True)
        ]

    def _queries_after(self, attempt: Attempt) -> int:
        """What is left when this attack is done, if as many examples stand under every threat as may under this one."""
        steps = self._steps()
        here = next(i for i, (c, p, _) in enumerate(steps) if (c.threat, p) == (attempt.threat, attempt.planned))
        return attempt.standing * sum(
            planned.items * choice.attack.visits(threat.threat) for threat, planned, choice in steps[here + 1 :]
        )

    def summary(self) -> Summary:
        """The answer so far."""
        return summarise(self.plan, self.run.evidence(), __version__)

    def _try(self, attempt: Attempt, choice: AttackChoice) -> None:
        visits = choice.attack.visits(attempt.threat)
        with self.run.writing():  # it is tried again: what went wrong before is forgotten
            self.run.clear_failures(str(attempt.threat), attempt.planned.spec)
        try:
            for ended in self._search(attempt, choice):
                attempt.take(ended)
                left = attempt.queue.left(visits) + self._queries_after(attempt)
                self.progress.moved(attempt.standing, self._asked + attempt.queue.asked, left)
                if time.monotonic() > self.deadline:
                    break
        finally:
            self._asked += attempt.queue.asked
            attempt.commit()

    def _search(self, attempt: Attempt, choice: AttackChoice) -> Iterator[list[Ended]]:
        """Searches as they end. Whatever an attack raises, its examples stay open, with the reason.

        What judging, writing or telling raises is not the attack's fault, and does not come by here.
        """
        try:
            yield from search(self.classifier, attempt.threat, choice.attack, self.split, attempt.queue, self.plan.seed)
        except UserError:
            raise
        except Exception as error:
            attempt.failed(f"{type(error).__name__}: {error}")

    def _begin(self) -> None:
        """The question and the answers before any attack. What is refused has written nothing."""
        before = self.run.plan()
        if before is not None:
            _refuse_another_run(before, self.plan, str(self.run.path))
        clean = self._clean_answers()
        with self.run.writing():
            self.run.put_plan(self.plan, self.environment)
            self.run.put_clean(clean)

    def _clean_answers(self) -> list[Clean]:
        """Those that are not yet known. Raises UserError when the model cannot be judged by its answers."""
        known = {c.example: c.digest for c in self.run.evidence().clean}
        for number, digest in zip(self.split.numbers, self.split.digests, strict=True):
            if known.get(number, digest) != digest:
                raise UserError(
                    f"{self.run.path} holds another image as example {number} of {self.split.name};"
                    " name another file with --run"
                )
        missing = self.split.take([row for row, number in enumerate(self.split.numbers) if number not in known])
        if not len(missing):
            return []
        logits = self.referee.logits(missing.x)
        _refuse_not_finite(missing, logits)
        _refuse_random(missing, self.referee)
        gaps = margin(logits, missing.y).tolist()
        correct = (~fooled(logits, missing.y)).tolist()
        answers = zip(missing.numbers, missing.digests, correct, gaps, strict=True)
        return [Clean(n, digest, right, gap, tied=gap == 0) for n, digest, right, gap in answers]


def make_plan(
    classifier: Classifier, split: Split, protocol: Protocol, *, seed: int, every_attack: bool, lanes: int
) -> Plan:
    """The question, with the conditions under which its verdicts repeat exactly."""
    identity = classifier.identity()
    return Plan(
        model=ModelRecord(
            classifier.name,
            *(identity.weights_sha256, identity.architecture, identity.normalisation, identity.fingerprint),
        ),
        data=split.name,
        data_sha256=split.sha256,
        examples=split.numbers,
        protocol=protocol.name,
        seed=seed,
        every_attack=every_attack,
        threats=tuple(_planned(choice, classifier.classes) for choice in protocol.threats),
        device=str(classifier.device),
        threads=torch.get_num_threads(),
        precision="float32",
        lanes=lanes,
    )


def identity_of(model: ModelRecord) -> Identity:
    """The identity a run file remembers."""
    return Identity(model.weights_sha256, model.architecture, model.normalisation, model.fingerprint)


def _planned(choice: ThreatChoice, classes: int) -> PlannedThreat:
    attacks = (PlannedAttack(a.label, a.attack.spec, planned_items(a, classes)) for a in choice.attacks)
    return PlannedThreat(str(choice.threat), tuple(attacks))


def _refuse_another_run(before: Plan, now: Plan, path: str) -> None:
    if not identity_of(before.model).same_as(identity_of(now.model)):
        raise UserError(
            f"{path} holds a run of another model ({before.model.name}, weights {before.model.weights_sha256[:8]});"
            " name another file with --run"
        )
    if (before.data, before.seed) != (now.data, now.seed):
        raise UserError(
            f"{path} holds a run on {before.data} with seed {before.seed}, not on {now.data} with seed {now.seed};"
            " name another file with --run"
        )


def _refuse_not_finite(split: Split, logits: torch.Tensor) -> None:
    bad = (~logits.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"the model answers NaN or infinite logits on {len(bad)} of {len(split)} clean images (first: example"
            f" {split.numbers[bad[0]]} of {split.name}); look for an overflow or a division by 0 in its forward pass"
        )


def _refuse_random(split: Split, referee: Referee) -> None:
    first = split.x[:8]
    apart = (referee.logits(first) - referee.logits(first)).abs().amax().item()
    if apart > 0:
        raise UserError(
            f"the model gives different logits for the same images (up to {apart:.3g} apart), and random models"
            " cannot be judged yet; switch its randomness off, for example dropout that stays on in eval mode"
        )
